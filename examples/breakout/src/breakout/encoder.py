"""From the image to features. Yours: `copier update` never touches this file."""

from collections.abc import Mapping

import jax
from flax import linen as nn


class BoardEncoder(nn.Module):
    """A layer over the whole board.

    A matrix product, because convolutions inside `lax.scan` are very slow on a CPU, and a board of
    10 x 10 is small enough for it.

    Attributes:
      features: how many.
    """

    features: int = 128

    @nn.compact
    def __call__(
        self, observation: Mapping[str, jax.Array], normalized: Mapping[str, jax.Array]
    ) -> jax.Array:
        """Encodes observations.

        Args:
          observation: "pixels/board" is (..., 10, 10, 4) float32, as the environment returned it.
          normalized: the same, since images are not normalised.

        Returns:
          (..., features) float32.
        """
        board = observation["pixels/board"]
        return nn.relu(nn.Dense(self.features)(board.reshape(*board.shape[:-3], -1)))
