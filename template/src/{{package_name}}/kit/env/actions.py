"""Action spaces: what an environment's `step` takes and how PPO chooses it.

Each space is one class with the same members:

  size: what `Env.action_size` says.
  shape, dtype: of one action.
  sample(key, shape): uniformly random actions, (*shape, *self.shape).
  distribution(): the policy's distribution, as Brax's PPO takes it.
  held(): constant actions that reach every extreme, by name.
"""

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env
from brax.training import distribution
from flax import linen as nn

from ..errors import UsageError


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


NEVER = -1e9  # a logit; infinity would give NaN gradients

ActionSpace = Continuous | Discrete | MultiDiscrete


def action_space_of(env: Env) -> ActionSpace:
    """What `env` says of its actions as `action_space`; Brax's own environments are continuous.

    Raises:
      UsageError: that is an action space of another package.
    """
    space = getattr(env, "action_space", None)
    return Continuous(env.action_size) if space is None else known_space(space)


def abstract(space: ActionSpace, *batch: int) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a batch of actions."""
    return jax.ShapeDtypeStruct((*batch, *space.shape), space.dtype)


def known_space(space: Any) -> ActionSpace:
    """`space`, if it is one of the three above.

    Raises:
      UsageError: it is something else, such as a space of Gymnasium's; says what to use instead.
    """
    if isinstance(space, ActionSpace):
        return space
    kind = type(space)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    raise UsageError(f"The action space is a {name}: {_instead_of(space)}.")


def _instead_of(space: Any) -> str:
    """The action space here that is closest to one of another package, as code or a sentence."""
    kind, three = type(space).__name__, "Continuous(n), Discrete(n) or MultiDiscrete((n, m))"
    if isinstance(space, property | functools.cached_property) or inspect.isroutine(space):
        return "write action_space = ... in the body of the class, no property and no method"
    if isinstance(space, type):
        return f"it has to be one of {three}"
    if kind == "Discrete":
        first = int(getattr(space, "start", 0))
        return f"use Discrete({int(space.n)})" + f", whose choices start at 0, not {first}" * (
            first != 0
        )
    if kind == "Box":
        size = int(np.prod(space.shape))
        return f"use Continuous({size}), numbers in [-1, 1], which `step` scales to its own range"
    if kind == "MultiDiscrete":
        counts = tuple(map(int, np.ravel(getattr(space, "nvec", ()))))
        return f"use MultiDiscrete({counts})" if counts else "use MultiDiscrete((n, m))"
    if kind == "MultiBinary":
        return f"use MultiDiscrete((2,) * {int(np.prod(space.n))})"
    if kind in ("Tuple", "tuple", "list"):
        return (
            "several actions at once are not supported, but for choices, MultiDiscrete((n, m)), "
            "and numbers, Continuous(n), of which `step` can also make choices (x > 0)"
        )
    if kind in ("Dict", "dict"):
        return (
            "a dict is not supported, nor are several agents: use one Continuous(n) or "
            "MultiDiscrete((n, m)), which `step` divides among the names or the agents, or train "
            "one agent and let `step` act for the others"
        )
    return f"use {three}"


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
