"""The learning rate over the updates of a run."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def linear_schedule(update: ArrayLike, num_updates: int) -> jax.Array:
    """The share of the learning rate that the schedule `linear` uses in an update.

    1 in the first half of a run; then it falls to 0. Some seeds learn late, and a rate that falls
    from the start leaves them too little.

    Args:
      update: int32 of any shape, counted from 0.
      num_updates: those of the whole run.
    """
    left = 1 - jnp.asarray(update) / num_updates
    return jnp.clip(2 * left, 0.0, 1.0)


def follow_kl(learning_rate: jax.Array, kl: jax.Array, desired: float) -> jax.Array:
    """Brax's adaptive learning rate: between 1e-5 and 1e-2, by a factor of 1.5 at a time."""
    slower = jnp.maximum(learning_rate / 1.5, 1e-5)
    faster = jnp.minimum(learning_rate * 1.5, 1e-2)
    learning_rate = jnp.where(kl > 2 * desired, slower, learning_rate)
    return jnp.where((kl < desired / 2) & (kl > 0), faster, learning_rate)
