"""Action spaces: what an environment's `step` takes and how PPO chooses it.

From the template: changes of yours are kept, `copier update` merges new versions in.

Each space is one class with the same members:

  size: what `Env.action_size` says.
  shape, dtype: of one action.
  sample(key, shape): uniformly random actions, (*shape, *self.shape).
  distribution(): the policy's distribution, as Brax's PPO takes it.
  held(): constant actions that reach every extreme, by name; `check` tries them all.
  parts(): how many choices each part of an action has, by name; None for a number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env
from brax.training import distribution
from flax import linen as nn

from .errors import UsageError


@dataclass(frozen=True)
class Continuous:
    """`size` numbers in [-1, 1]: (size,) float32, from a tanh-squashed normal."""

    size: int

    dtype = jnp.dtype("float32")

    def __post_init__(self) -> None:
        _refuse_less_than_one(self, self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    def sample(self, key: jax.Array, shape: Sequence[int] = ()) -> jax.Array:
        shape = (*shape, *self.shape)
        return jax.random.uniform(key, shape, jnp.float32, minval=-1.0, maxval=1.0)

    def distribution(self) -> distribution.ParametricDistribution:
        return distribution.NormalTanhDistribution(event_size=self.size)

    def held(self) -> dict[str, Any]:
        return {
            name: np.full(self.shape, value, np.float32)
            for name, value in (("zero", 0.0), ("+1", 1.0), ("-1", -1.0))
        }

    def parts(self) -> dict[str, int | None]:
        return {f"action[{i}]": None for i in range(self.size)}


@dataclass(frozen=True)
class Discrete:
    """One of `size` choices: () int32, from a categorical distribution."""

    size: int

    shape = ()
    dtype = jnp.dtype("int32")

    def __post_init__(self) -> None:
        _refuse_less_than_one(self, self.size)

    def sample(self, key: jax.Array, shape: Sequence[int] = ()) -> jax.Array:
        return jax.random.randint(key, tuple(shape), 0, self.size, jnp.int32)

    def distribution(self) -> distribution.ParametricDistribution:
        return CategoricalDistribution((self.size,), event_ndims=0)

    def held(self) -> dict[str, Any]:
        return {f"choice {i}": np.int32(i) for i in range(min(self.size, 16))}

    def parts(self) -> dict[str, int | None]:
        return {"action": self.size}


@dataclass(frozen=True)
class MultiDiscrete:
    """One choice for each component: (size,) int32, from a categorical for each.

    Attributes:
      num_choices: how many choices each component has, such as `(3, 3, 2)`.
    """

    num_choices: tuple[int, ...]

    dtype = jnp.dtype("int32")

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_choices", tuple(self.num_choices))  # a list will do
        _refuse_less_than_one(self, *self.num_choices)

    @property
    def size(self) -> int:
        return len(self.num_choices)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    def sample(self, key: jax.Array, shape: Sequence[int] = ()) -> jax.Array:
        most = jnp.asarray(self.num_choices, jnp.int32)
        return jax.random.randint(key, (*shape, *self.shape), 0, most, jnp.int32)

    def distribution(self) -> distribution.ParametricDistribution:
        return CategoricalDistribution(self.num_choices, event_ndims=1)

    def held(self) -> dict[str, Any]:
        last = np.array(self.num_choices, np.int32) - 1
        return {f"choice {i}": np.minimum(i, last) for i in range(min(max(self.num_choices), 16))}

    def parts(self) -> dict[str, int | None]:
        return {f"action[{i}]": count for i, count in enumerate(self.num_choices)}


NEVER = -1e9  # a logit; infinity would give NaN gradients

ActionSpace = Continuous | Discrete | MultiDiscrete


def action_space_of(env: Env) -> ActionSpace:
    """What `env` says of its actions as `action_space`; Brax's own environments are continuous."""
    return getattr(env, "action_space", None) or Continuous(env.action_size)


def _refuse_less_than_one(space: ActionSpace, *sizes: int) -> None:
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UsageError(f"{space} is no action space: each size has to be a whole number above 0.")


class CategoricalDistribution(distribution.ParametricDistribution):
    """Independent categoricals, parametrised by their logits, one after the other.

    Args:
      num_choices: of each categorical.
      event_ndims: 0 for a single one, whose samples have no axis; 1 for samples (..., n).
    """

    def __init__(self, num_choices: Sequence[int], event_ndims: int) -> None:
        super().__init__(
            param_size=sum(num_choices),
            postprocessor=distribution.IdentityPostprocessor(),
            event_ndims=event_ndims,
            reparametrizable=False,
        )
        self._num_choices = tuple(num_choices)

    def create_dist(self, parameters: jax.Array) -> "Categorical":
        # Components with fewer choices than the others get choices that are never taken.
        most, ends = max(self._num_choices), np.cumsum(self._num_choices)
        logits = [
            jnp.pad(
                part,
                [(0, 0)] * (part.ndim - 1) + [(0, most - part.shape[-1])],
                constant_values=NEVER,
            )
            for part in jnp.split(parameters, ends[:-1], axis=-1)
        ]
        return Categorical(jnp.stack(logits, axis=-2) if self._event_ndims else logits[0])


class Categorical:
    """What Brax's loss and acting ask of a distribution; samples are (...) int32.

    Args:
      logits: (..., num_choices) float32; `NEVER` for a choice that is never taken.
    """

    def __init__(self, logits: jax.Array) -> None:
        self._log_probs = nn.log_softmax(logits)
        self._probs = jnp.exp(self._log_probs)
        # Brax's loss reports mean, minimum and maximum of these, whatever the distribution.
        self.loc = self._probs
        self.scale = jnp.sqrt(self._probs * (1 - self._probs))

    def sample(self, seed: jax.Array) -> jax.Array:
        return jax.random.categorical(seed, self._log_probs).astype(jnp.int32)

    def mode(self) -> jax.Array:
        return jnp.argmax(self._log_probs, axis=-1).astype(jnp.int32)

    def log_prob(self, x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(self._log_probs, x[..., None], axis=-1)[..., 0]

    def entropy(self) -> jax.Array:
        return -jnp.sum(self._probs * self._log_probs, axis=-1)

    def kl_divergence(self, old_dist: "Categorical") -> jax.Array:
        """KL(old_dist || self)."""
        return jnp.sum(old_dist._probs * (old_dist._log_probs - self._log_probs), axis=-1)
