"""A planner on the environment itself: what can be reached without learning.

From the template: changes of yours are kept, `copier update` merges new versions in.

The cross-entropy method (de Boer et al. 2005, A Tutorial on the Cross-Entropy Method) searches
sequences of decisions; when an eighth of the best one is taken it searches again. As in iCEM
(Pinneri et al. 2020, arXiv:2008.06389) noise is correlated in time and the elites are kept. A
decision is an action that is held for several steps, so that the same program plans a few steps
ahead or a whole episode.
"""

import functools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from .actions import ActionSpace
from .check.stages import abstract
from .check.tracing import leaves, random_keys
from .pytrees import is_typed_key, raw
from .rollout import strip_weak_types

DECISIONS = 64  # of a plan
ITERATIONS = 10  # of a search
ELITES = 1 / 20  # share of the plans
SPREAD = 1.0  # standard deviation of the noise when a search begins
CORRELATION = 0.8  # of the noise of two decisions that follow each other, in every other plan


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
    act: Callable[[jax.Array], jax.Array],
    state: State,
    alive: jax.Array,
    steps: Any,
    watch: Callable[[State, jax.Array], Any] = lambda state, alive: (),
) -> tuple[State, jax.Array, Followed]:
    """Steps a batch until its episodes are over, or for so many `steps`.

    Args:
      env: batched; an episode's `done` stays, as with `wrap_for_evaluation`.
      act: the number of the step -> actions, (rows, ...).
      state: (rows, ...) states.
      alive: which episodes go on, (rows,) bool.
      watch: the state after a step, and whose step it was -> booleans, (rows,) each.

    Returns:
      The states, which episodes still go on, and what was met.
    """

    def goes_on(carry: Any) -> jax.Array:
        t, _, alive, _ = carry
        return (t < steps) & jnp.any(alive)

    def step(carry: Any) -> Any:
        t, state, alive, seen = carry
        state = strip_weak_types(env.step(state, act(t)))
        over = alive & (state.done > 0)
        cut_off = state.info.get("truncation", jnp.zeros_like(state.done)) > 0
        reward = jnp.where(alive, state.reward, 0.0)
        seen = Followed(
            seen.returns + reward,
            seen.lengths + alive,
            seen.ended | over & ~cut_off,
            jnp.where(alive, jnp.minimum(seen.low, reward), seen.low),
            jnp.where(alive, jnp.maximum(seen.high, reward), seen.high),
            jax.tree.map(jnp.logical_or, seen.watched, watch(state, alive)),
        )
        return t + 1, state, alive & ~over, seen

    zero = jnp.zeros(alive.shape, jnp.float32)
    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(watch, state, alive))
    seen = Followed(zero, zero.astype(jnp.int32), zero > 0, zero + jnp.inf, zero - jnp.inf, nothing)
    return jax.lax.while_loop(goes_on, step, (jnp.int32(0), state, alive, seen))[1:]


class Planner:
    """Plans in `env`, from the true state, which holds what no observation may show.

    Random keys in the state are replaced while it searches: it does not know the random numbers
    that will come. A plan is parameters of the policy's distribution, whose mode is the action, so
    that continuous and discrete actions are searched in the same way.

    Args:
      env: as `follow` takes it.
      space: its actions.
      num_plans: how many plans are compared at a time for each episode.
    """

    def __init__(self, env: Env, space: ActionSpace, num_plans: int = 256) -> None:
        self._env, self._space, self._num_plans = env, space, num_plans
        self._keys: frozenset[str] | None = None
        distribution = space.distribution()
        self._width = distribution.param_size

        @jax.jit
        def follow_plans(
            state: State, alive: jax.Array, plans: jax.Array, hold: Any, steps: Any
        ) -> tuple[State, jax.Array, Followed]:
            by_time = jnp.moveaxis(plans.reshape(-1, *plans.shape[2:]), 0, 1)
            return follow(env, lambda t: distribution.mode(by_time[t // hold]), state, alive, steps)

        self._follow = follow_plans

    def run(
        self,
        start: State,
        key: jax.Array,
        *,
        horizon: int,
        limit: int,
        maximise: Literal["returns", "lengths"] = "returns",
        deadline: float = np.inf,
    ) -> Outcome | None:
        """Plays an episode from each of B states.

        Args:
          start: (B, ...) states that `env.reset` gave.
          key: (2,) uint32, consumed.
          horizon: how many steps a plan spans; if more than DECISIONS, each decision is held.
          limit: the time limit, in actions.
          maximise: what to plan for.
          deadline: on the clock of `time.monotonic`.

        Returns:
          None if the deadline passed before all episodes ended, or would pass in the first search.
        """
        batch, count = start.done.shape[0], self._num_plans
        rows = np.repeat(np.arange(batch), count)
        # The rows of an episode are copies of one state, so that one program searches and acts.
        state, alive = take_rows(start, rows, batch), jnp.ones(batch * count, bool)
        mean = jnp.zeros((batch, DECISIONS, self._width))
        elites = jnp.zeros((batch, max(1, int(ELITES * count)), *mean.shape[1:]))
        hold = -(-horizon // DECISIONS)
        decisions = max(1, horizon // hold // 8)  # that are taken before the next search
        late_from, met, taken = limit - max(1, limit // 4), [], []
        if self._keys is None:
            action = abstract(self._space, batch * count)
            self._keys = random_keys(self._env.step, state, action)
        # Gives up where even the first search would take too long, as with MJX on a CPU.
        plans = jnp.zeros((batch, count, *mean.shape[1:]))
        for _ in range(2):  # the first time it is compiled
            now = time.monotonic()
            jax.block_until_ready(self._follow(state, alive, plans, hold, 1))
        if now + ITERATIONS * min(limit, horizon) * (time.monotonic() - now) > deadline:
            return None
        for begin in range(0, limit, decisions * hold):
            left = limit - begin
            std = jnp.full(mean.shape, SPREAD)
            for _ in range(ITERATIONS):
                if time.monotonic() > deadline:
                    return None
                key, key_plans, key_state = jax.random.split(key, 3)
                plans = _propose(key_plans, mean, std, elites, count)
                tried = with_other_keys(state, key_state, self._keys)
                *_, seen = self._follow(tried, alive, plans, hold, min(left, horizon))
                mean, std, elites = _fit(mean, std, plans, getattr(seen, maximise), elites.shape[1])
                met.append((jnp.min(seen.low), jnp.max(seen.high)))
            best = jnp.repeat(elites[:, :1], count, axis=1)
            state, alive, seen = self._follow(state, alive, best, hold, min(left, decisions * hold))
            taken.append(jax.tree.map(lambda x: np.asarray(x)[::count], seen))
            if not np.any(alive):
                break
            # What is left of the plans, and nothing yet for as many decisions after that.
            mean, elites = (
                jnp.roll(x, -decisions, axis=-2).at[..., -decisions:, :].set(0.0)
                for x in (mean, elites)
            )
        late = [x for i, x in enumerate(taken) if (i + 1) * decisions * hold > late_from]
        low, high = zip(*jax.device_get(met), strict=True)
        return Outcome(
            np.sum([x.returns for x in taken], axis=0),
            np.sum([x.lengths for x in taken], axis=0),
            np.any([x.ended for x in taken], axis=0),
            (float(min(low)), float(max(high))),
            sum((x.returns for x in late), np.zeros(batch))
            / np.maximum(1, sum(x.lengths for x in late)),
        )


@functools.partial(jax.jit, static_argnums=4)
def _propose(
    key: jax.Array, mean: jax.Array, std: jax.Array, elites: jax.Array, count: int
) -> jax.Array:
    """(B, count, DECISIONS, width) plans: the elites, their mean, and new ones."""
    # All episodes have the same noise, which need not be independent between them.
    noise = jax.random.normal(key, (count, *mean.shape[1:]))
    noise = noise.at[::2].set(_correlated(noise[::2]))
    kept = jnp.concatenate([elites, mean[:, None]], axis=1)
    new = mean[:, None] + std[:, None] * noise[kept.shape[1] :]
    return jnp.concatenate([kept, new], axis=1)


def _correlated(noise: jax.Array) -> jax.Array:
    """White noise, (n, DECISIONS, width), as that of a first-order autoregressive process."""
    # As a product with a matrix, on a GPU JAX 0.11.2 aborts when it compiles it.
    fresh = noise.at[:, 1:].multiply((1.0 - CORRELATION**2) ** 0.5)

    def step(last: jax.Array, new: jax.Array) -> tuple[jax.Array, jax.Array]:
        now = CORRELATION * last + new
        return now, now

    by_time = jnp.moveaxis(fresh, 1, 0)
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(by_time[0]), by_time)[1], 0, 1)


@functools.partial(jax.jit, static_argnums=4)
def _fit(
    mean: jax.Array, std: jax.Array, plans: jax.Array, value: jax.Array, count: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mean and the standard deviation of the next plans, and the elites, the best first."""
    value = jnp.where(jnp.isnan(value), -jnp.inf, value).reshape(plans.shape[:2])
    elites = jax.vmap(lambda x, rows: x[rows])(plans, jax.lax.top_k(value, count)[1])
    mean = 0.1 * mean + 0.9 * elites.mean(axis=1)
    return mean, 0.1 * std + 0.9 * elites.std(axis=1), elites


def take_rows(tree: Any, rows: Any, batch: int) -> Any:
    """Rows of (batch, ...) leaves; leaves that the batch shares stay as they are."""
    return jax.tree.map(lambda x: x[rows] if jnp.shape(x)[:1] == (batch,) else x, tree)


def with_other_keys(state: Any, key: jax.Array, paths: Collection[str]) -> Any:
    """`state` with other random keys at these paths."""
    found = leaves(state)
    for i, path in enumerate(sorted(paths)):
        old, data = found[path], raw(found[path])
        fresh = jax.random.bits(jax.random.fold_in(key, i), data.shape, data.dtype)
        typed = is_typed_key(old)
        found[path] = (
            jax.random.wrap_key_data(fresh, impl=jax.random.key_impl(old)) if typed else fresh
        )
    return jax.tree.unflatten(jax.tree.structure(state), list(found.values()))
