"""Episodes of a batch of environments, followed step by step, and how their states are compared."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from ...env.episodes import strip_weak_types
from ...ppo.networks import PRIVILEGED
from ...trace.calls import leaves

DECISIONS = 64  # of a plan


@dataclass(frozen=True)
class Outcome:
    """One episode from each of B starts.

    Attributes:
      returns: sums of rewards, (B,) float32.
      lengths: actions taken, (B,) int32.
      ended: whether it ended by itself, and not at the time limit, (B,) bool.
      rewards: the smallest and the largest reward that was met, planning included.
      late: mean reward of a step in about the last quarter of the time limit, (B,) float32.
    """

    returns: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray
    rewards: tuple[float, float]
    late: np.ndarray | float = 0.0


class Followed(NamedTuple):
    """What was met on the way, (rows,) each; `watched` is what `watch` found at any step."""

    returns: Any
    lengths: Any
    ended: Any
    low: Any
    high: Any
    watched: Any


def follow(
    env: Env,
    act: Callable[[jax.Array, State], jax.Array],
    state: State,
    alive: jax.Array,
    steps: Any,
    watch: Callable[[jax.Array, State, jax.Array], Any] = lambda t, state, alive: (),
) -> tuple[State, jax.Array, Followed]:
    """Steps a batch until its episodes are over, or for so many `steps`.

    Args:
      env: batched; an episode's `done` stays, as with `wrap_for_evaluation`.
      act: the number of the step, from 0, and the state before it -> actions, (rows, ...).
      state: (rows, ...) states.
      alive: which episodes go on, (rows,) bool.
      watch: the number of a step, the state after it, and whose step it was -> booleans, (rows,)
        each.

    Returns:
      The states, which episodes still go on, and what was met.
    """

    def goes_on(carry: Any) -> jax.Array:
        t, _, alive, _ = carry
        return (t < steps) & jnp.any(alive)

    def step(carry: Any) -> Any:
        t, state, alive, seen = carry
        state = strip_weak_types(env.step(state, act(t, state)))
        over = alive & (state.done > 0)
        cut_off = state.info.get("truncation", jnp.zeros_like(state.done)) > 0
        reward = jnp.where(alive, state.reward, 0.0)
        seen = Followed(
            seen.returns + reward,
            seen.lengths + alive,
            seen.ended | over & ~cut_off,
            jnp.where(alive, jnp.minimum(seen.low, reward), seen.low),
            jnp.where(alive, jnp.maximum(seen.high, reward), seen.high),
            jax.tree.map(jnp.logical_or, seen.watched, watch(t, state, alive)),
        )
        return t + 1, state, alive & ~over, seen

    zero = jnp.zeros(alive.shape, jnp.float32)
    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(watch, jnp.int32(0), state, alive))
    seen = Followed(zero, zero.astype(jnp.int32), zero > 0, zero + jnp.inf, zero - jnp.inf, nothing)
    return jax.lax.while_loop(goes_on, step, (jnp.int32(0), state, alive, seen))[1:]


def take_rows(tree: Any, rows: Any, batch: int) -> Any:
    """Rows of (batch, ...) leaves; leaves that the batch shares stay as they are."""
    return jax.tree.map(lambda x: x[rows] if jnp.shape(x)[:1] == (batch,) else x, tree)


def with_other_keys(state: Any, keys: Collection[str], key: jax.Array, scenario: Any) -> Any:
    """`state` with other random keys at the paths `keys`.

    Rows with the same number in `scenario`, (rows,) int, are given the same keys.
    """
    found = leaves(state)
    for i, (path, x) in enumerate(found.items()):
        if path in keys:
            fresh, shape = jax.random.fold_in(key, i), x.shape[:-1]
            if x.dtype != jnp.uint32:  # a typed key
                fresh = jax.random.key(jax.random.bits(fresh), impl=jax.random.key_impl(x))
                shape = x.shape
            found[path] = jax.random.split(fresh, (max(scenario) + 1, *shape[1:]))[scenario]
    return jax.tree.unflatten(jax.tree.structure(state), found.values())


def observed(obs: Any) -> Any:
    """What the policy may see of an observation."""
    if isinstance(obs, Mapping):
        return {name: x for name, x in obs.items() if not name.startswith(PRIVILEGED)}
    return obs


def differs(tree: Any, partner: np.ndarray, keys: Collection[str] = ()) -> jax.Array:
    """Which rows differ from their partner by more than rounding, (rows,) bool, but for `keys`."""
    found = jnp.zeros(partner.shape, bool)
    for path, x in leaves(tree).items():
        if path not in keys and jnp.shape(x)[:1] == partner.shape:
            x = x.astype(jnp.float32).reshape(len(partner), -1)
            y = x[partner]
            far = jnp.abs(x - y) > 1e-5 + 1e-4 * jnp.maximum(jnp.abs(x), jnp.abs(y))
            found |= jnp.any(far, axis=1)
    return found
