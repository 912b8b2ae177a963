"""From image and vector to features. Yours: `copier update` never touches this file."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from .env import IMAGE_SHAPE


def split_observation(observation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cuts flat observations into image and vector.

    Args:
      observation: (..., OBSERVATION_SIZE) float32. PPO calls it with two leading dimensions, time
        and environment; acting with one or none.

    Returns:
      The image, (..., height, width, channels), and the vector, (..., VECTOR_SIZE).
    """
    image, vector = jnp.split(observation, [math.prod(IMAGE_SHAPE)], axis=-1)
    return image.reshape(image.shape[:-1] + IMAGE_SHAPE), vector


class HybridEncoder(nn.Module):
    """A layer over patches of the image, a layer over the vector, and their features side by side.

    The image is cut into at most `grid` x `grid` patches, and the same matrix is applied to each.
    That is a convolution whose stride equals its kernel size. It is written as a matrix product,
    because convolutions inside `lax.scan` are very slow on a CPU.

    Attributes:
      grid: the largest number of patches along a side; it bounds the number of parameters.
      channels: features of each patch.
      features: features of the whole image, and as many of the vector.
    """

    grid: int = 8
    channels: int = 16
    features: int = 64

    @nn.compact
    def __call__(self, observation: jax.Array, normalized: jax.Array) -> jax.Array:
        """Encodes observations.

        Args:
          observation: (..., OBSERVATION_SIZE) float32, as the environment returned it. The image is
            taken from here, because pixels have a scale already.
          normalized: the same, normalised by the running statistics. The vector is taken from here.

        Returns:
          (..., 2 * features) float32.
        """
        image, _ = split_observation(observation)
        _, vector = split_observation(normalized)
        patches = nn.swish(nn.Dense(self.channels, name="patches")(self._patches(image)))
        patches = patches.reshape(*patches.shape[:-2], -1)
        image_features = nn.swish(nn.Dense(self.features, name="image")(patches))
        vector_features = nn.swish(nn.Dense(self.features, name="vector")(vector))
        return jnp.concatenate([image_features, vector_features], axis=-1)

    def _patches(self, image: jax.Array) -> jax.Array:
        """(..., height, width, channels) to (..., patches, values of a patch)."""
        *batch, height, width, channels = image.shape
        tall, wide = -(-height // self.grid), -(-width // self.grid)  # size of a patch, rounded up
        rows, columns = -(-height // tall), -(-width // wide)
        padding = [(0, rows * tall - height), (0, columns * wide - width), (0, 0)]
        image = jnp.pad(image, [(0, 0)] * len(batch) + padding)
        image = image.reshape(*batch, rows, tall, columns, wide, channels)
        image = jnp.swapaxes(image, -4, -3)  # rows, columns, tall, wide, channels
        return image.reshape(*batch, rows * columns, tall * wide * channels)
