"""A planner on the environment itself: what can be reached without learning.

From the template: changes of yours are kept, `copier update` merges new versions in.

The cross-entropy method (de Boer et al. 2005, A Tutorial on the Cross-Entropy Method) searches
sequences of decisions, and after the first few of them are taken it searches again. As in iCEM
(Pinneri et al. 2020, arXiv:2008.06389) the noise is correlated in time and the elites are kept. A
decision is an action that is held for several steps, so the same program plans a few steps ahead
or a whole episode.
"""

import functools
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from .actions import ActionSpace, Continuous, Discrete
from .check.tracing import is_key

DECISIONS = 32  # of a plan
TAKEN = 2  # decisions of a plan that are taken before the next search
ITERATIONS = 6  # of a search
KEPT = 1 / 20  # share of the plans that are elites
SPREAD = 0.5  # standard deviation of continuous actions before a search
CORRELATION = 0.6  # of the noise of two decisions that follow each other
FLOOR = 0.4  # share of uniformly random choices that stays in each search

# Makes white noise, (DECISIONS,), into that of a first-order autoregressive process.
DISTANCE = np.abs(np.subtract.outer(np.arange(DECISIONS), np.arange(DECISIONS)))
CORRELATED = np.float32(np.linalg.cholesky(CORRELATION**DISTANCE))


@dataclass(frozen=True)
class Outcome:
    """One episode from each of B starts.

    Attributes:
      returns: sums of rewards, (B,) float64.
      lengths: actions taken, (B,) int.
      ended: whether it ended by itself, and not at the time limit, (B,) bool.
      rewards: the smallest and the largest reward that was met, planning included.
      late: rewards of the last quarter of the time limit, summed, (B,) float64.
    """

    returns: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray
    rewards: tuple[float, float]
    late: np.ndarray


class Search(NamedTuple):
    """Where a search of B episodes stands; a plan is (DECISIONS, *one action encoded).

    Attributes:
      mean, std: of the plans, (B, DECISIONS, ...); for choices `mean` holds probabilities.
      elites: the best plans so far, (B, elites, DECISIONS, ...).
    """

    mean: jax.Array
    std: jax.Array
    elites: jax.Array


class Planner:
    """Plans in `env`; everything is compiled once, for all horizons.

    It starts from the true state, which holds what no observation may show. Random keys in the
    state are replaced while it searches: it does not know the random numbers that will come.

    Args:
      env: batched; an episode's `done` stays, as with `wrap_for_evaluation`.
      space: its actions.
      num_plans: how many plans are compared at a time for each episode.
      without_obs: leave observations as they were, where `step` does not read them; then they are
        not even computed, which for images takes most of the time.
    """

    def __init__(
        self, env: Env, space: ActionSpace, num_plans: int = 128, without_obs: bool = False
    ) -> None:
        self._env, self._space, self._num_plans = env, space, num_plans
        self._without_obs = without_obs
        self._elites = max(1, int(KEPT * num_plans))
        if isinstance(space, Continuous):
            start, std = np.zeros(space.shape), np.full(space.shape, SPREAD)
        else:
            counts = np.array(choices_of(space))
            start = (np.arange(counts.max()) < counts[:, None]) / counts[:, None]
            std = np.zeros(start.shape)
        self._mean, self._std = start.astype(np.float32), std.astype(np.float32)
        self._advance = jax.jit(self._search_and_take)

    def run(
        self,
        start: State,
        key: jax.Array,
        *,
        hold: int,
        limit: int,
        weights: tuple[float, float] = (1.0, 0.0),
        deadline: float = np.inf,
    ) -> Outcome | None:
        """Plays an episode from each of B states.

        Args:
          start: (B, ...) states that `env.reset` gave.
          key: (2,) uint32, consumed.
          hold: how many steps each decision is held for; a plan spans DECISIONS times as many.
          limit: the time limit, in actions.
          weights: what is maximised: so much of the reward, and so much for each step.
          deadline: on the clock of `time.monotonic`.

        Returns:
          None if the deadline passed before all episodes ended.
        """
        batch = start.done.shape[0]

        def many(x: np.ndarray, *axes: int) -> jax.Array:
            return jnp.broadcast_to(x, (*axes, DECISIONS, *x.shape))

        search = Search(
            many(self._mean, batch),
            many(self._std, batch),
            many(self._mean, batch, self._elites),
        )
        state, alive = start, np.ones(batch, bool)
        returns, late = np.zeros((2, batch))
        lengths, ended = np.zeros(batch, int), np.zeros(batch, bool)
        low, high, steps = np.inf, -np.inf, 0
        while steps < limit and alive.any():
            if time.monotonic() > deadline:
                return None
            left = np.array([limit - steps, last_quarter(limit)], np.int32)
            args = (np.int32(hold), left, np.array(weights, np.float32))
            key, draw = jax.random.split(key)
            state, alive, search, seen = self._advance(draw, state, alive, search, *args)
            alive, seen = jax.device_get((alive, seen))
            returns += seen["reward"]
            late += seen["late"]
            lengths += seen["steps"]
            ended |= seen["ended"]
            low, high = min(low, seen["low"]), max(high, seen["high"])
            steps += TAKEN * hold
        return Outcome(returns, lengths, ended, (float(low), float(high)), late)

    def _search_and_take(
        self,
        key: jax.Array,
        state: State,
        alive: jax.Array,
        search: Search,
        hold: jax.Array,
        left: jax.Array,
        weights: jax.Array,
    ) -> tuple[State, jax.Array, Search, dict[str, jax.Array]]:
        """Searches from (B, ...) `state`, and takes the first decisions of the best plan.

        The last pass of the loop takes them, so that the environment is compiled once.
        """
        batch, plans_each = alive.shape[0], self._num_plans
        wide, wide_alive = (
            take_rows(x, jnp.repeat(jnp.arange(batch), plans_each), batch) for x in (state, alive)
        )

        def one_pass(i: jax.Array, carry: Any) -> Any:
            key, search, best, best_value, _, _, low, high, *_ = carry
            key, key_plans, key_state = jax.random.split(key, 3)
            last = i == ITERATIONS
            plans = self._sample(key_plans, search)
            plans = jnp.where(last, best[:, None], plans)
            begin = jax.tree.map(
                functools.partial(jnp.where, last), wide, with_other_keys(wide, key_state)
            )
            value, taken, seen = self._try(begin, wide_alive, plans, hold, left, weights, last)
            low, high = jnp.minimum(low, seen.pop("low")), jnp.maximum(high, seen.pop("high"))
            search, top, top_value = self._fit(search, plans, value)
            better = top_value >= best_value
            best = jnp.where(better.reshape(-1, *(1,) * (best.ndim - 1)), top, best)
            after, now_alive, seen = take_rows(
                (*taken, seen), jnp.arange(batch) * plans_each, batch * plans_each
            )
            best_value = jnp.maximum(best_value, top_value)
            return key, search, best, best_value, after, now_alive, low, high, seen

        infinity = jnp.full((), jnp.inf, jnp.float32)
        zero = jnp.zeros(batch, jnp.float32)
        seen = _nothing_seen(batch)
        carry = (key, search, search.mean, zero - jnp.inf, state, alive, infinity, -infinity, seen)
        carry = jax.lax.fori_loop(0, ITERATIONS + 1, one_pass, carry)
        _, search, best, _, state, alive, low, high, seen = carry
        rest = Search(
            self._shift(search.mean, self._mean),
            jnp.broadcast_to(self._std, search.std.shape),
            self._shift(search.elites.at[:, 0].set(best), self._mean),
        )
        return state, alive, rest, {**seen, "low": low, "high": high}

    def _sample(self, key: jax.Array, search: Search) -> jax.Array:
        """(B, plans, DECISIONS, ...): the elites, the mean, and new ones."""
        mean, std = search.mean[:, None], search.std[:, None]
        shape = (mean.shape[0], self._num_plans, *mean.shape[2:])
        if isinstance(self._space, Continuous):
            noise = jnp.einsum("ij,bnj...->bni...", CORRELATED, jax.random.normal(key, shape))
            plans = jnp.clip(mean + std * noise, -1.0, 1.0)
        else:
            odds = jnp.log((1 - FLOOR) * mean + FLOOR * self._mean)
            odds = jnp.broadcast_to(odds, shape)
            plans = jax.nn.one_hot(jax.random.categorical(key, odds), shape[-1])
        kept = jnp.concatenate([mean, search.elites], axis=1)
        return jnp.concatenate([kept, plans[:, kept.shape[1] :]], axis=1)

    def _fit(
        self, search: Search, plans: jax.Array, value: jax.Array
    ) -> tuple[Search, jax.Array, jax.Array]:
        """The search after a pass, the best plan of the pass and its value."""
        value, top = jax.lax.top_k(value, self._elites)
        elites = jax.vmap(lambda x, rows: x[rows])(plans, top)
        mean = 0.1 * search.mean + 0.9 * elites.mean(axis=1)
        std = 0.1 * search.std + 0.9 * elites.std(axis=1)
        return Search(mean, std, elites), elites[:, 0], value[:, 0]

    def _shift(self, plans: jax.Array, fresh: np.ndarray) -> jax.Array:
        """`plans` without the decisions that were taken."""
        axis = plans.ndim - fresh.ndim - 1
        rest = jax.lax.slice_in_dim(plans, TAKEN, None, axis=axis)
        new = jnp.broadcast_to(fresh, (*plans.shape[:axis], TAKEN, *fresh.shape))
        return jnp.concatenate([rest, new], axis=axis)

    def _decode(self, decision: jax.Array) -> jax.Array:
        """Actions for the environment, (rows, *space.shape)."""
        if isinstance(self._space, Continuous):
            return decision
        choices = jnp.argmax(decision, axis=-1).astype(jnp.int32)
        return choices.reshape(-1, *self._space.shape)

    def _try(
        self,
        state: State,
        alive: jax.Array,
        plans: jax.Array,
        hold: jax.Array,
        left: jax.Array,
        weights: jax.Array,
        last: jax.Array,
    ) -> tuple[jax.Array, tuple[State, jax.Array], dict[str, jax.Array]]:
        """Follows each plan, from (B * plans, ...) `state`.

        Args:
          left: steps until the time limit, and how many of the last ones are late, (2,) int32.

        Returns:
          What each plan is worth, (B, plans); the states after the decisions that are taken, and
          whether their episodes go on; what was seen until then.
        """
        rows = alive.shape[0]
        by_time = jnp.moveaxis(plans.reshape(rows, *plans.shape[2:]), 0, 1)

        def goes_on(carry: Any) -> jax.Array:
            t, end, _, alive, *_ = carry
            return (t < jnp.minimum(end, left[0])) & jnp.any(alive)

        def step(carry: Any) -> Any:
            t, end, before, alive, seen = carry
            action = self._decode(by_time[t // hold])
            state, going, ended, reward = one_step(self._env, before, alive, action)
            if self._without_obs:  # the wrapper looks for NaN in them
                info = {**state.info, "not_finite": before.info["not_finite"]}
                state = state.replace(obs=before.obs, info=info)
            seen = {
                "reward": seen["reward"] + reward,
                "late": seen["late"] + jnp.where(left[0] - t <= left[1], reward, 0.0),
                "steps": seen["steps"] + alive,
                "ended": seen["ended"] | ended,
                "low": jnp.minimum(seen["low"], jnp.min(reward, where=alive, initial=jnp.inf)),
                "high": jnp.maximum(seen["high"], jnp.max(reward, where=alive, initial=-jnp.inf)),
            }
            return t + 1, end, state, going, seen

        def stage(carry: Any, end: jax.Array) -> Any:
            t, _, state, alive, seen, *taken = carry
            t, _, state, alive, seen = jax.lax.while_loop(
                goes_on, step, (t, end, state, alive, seen)
            )
            is_first = end <= TAKEN * hold
            taken = jax.tree.map(
                functools.partial(jnp.where, is_first), (state, alive, seen), tuple(taken)
            )
            return (t, end, state, alive, seen, *taken), None

        seen = {**_nothing_seen(rows), "low": jnp.float32(jnp.inf), "high": -jnp.float32(jnp.inf)}
        carry = (jnp.int32(0), jnp.int32(0), state, alive, seen, state, alive, seen)
        ends = jnp.stack([TAKEN * hold, jnp.where(last, TAKEN, DECISIONS) * hold])
        (_, _, _, _, whole, after, alive, seen), _ = jax.lax.scan(stage, carry, ends)
        value = weights[0] * whole["reward"] + weights[1] * whole["steps"]
        value = jnp.where(jnp.isnan(value), -jnp.inf, value).reshape(plans.shape[:2])
        seen = {**seen, "low": whole["low"], "high": whole["high"]}
        return value, (after, alive), seen


def last_quarter(limit: int) -> int:
    """How many steps of a time limit are late."""
    return max(1, limit // 4)


def _nothing_seen(rows: int) -> dict[str, jax.Array]:
    zero = jnp.zeros(rows, jnp.float32)
    return {"reward": zero, "late": zero, "steps": jnp.zeros(rows, jnp.int32), "ended": zero > 0}


def one_step(
    env: Env, state: State, alive: jax.Array, action: jax.Array
) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    """Steps a batch [B] of which some are over.

    Returns:
      The state; which episodes go on, (B,) bool; which have just ended by themselves and not at
      the wrapper's time limit, (B,) bool; rewards, 0 where the episode was over, (B,) float32.
    """
    state = with_types_of(env.step(state, action), state)
    over = alive & (state.done > 0)
    cut_off = state.info.get("truncation", jnp.zeros_like(state.done)) > 0
    return state, alive & ~over, over & ~cut_off, jnp.where(alive, state.reward, 0.0)


def with_types_of(tree: Any, like: Any) -> Any:
    """`tree` without the weak types of Python numbers: types may not change in a loop."""

    def convert(x: Any, y: Any) -> Any:
        return x if is_key(y) else jax.lax.convert_element_type(x, y.dtype)

    return jax.tree.map(convert, tree, like)


def choices_of(space: ActionSpace) -> tuple[int, ...]:
    """How many choices each component of a discrete action has."""
    assert not isinstance(space, Continuous)
    return (space.size,) if isinstance(space, Discrete) else space.num_choices


def take_rows(tree: Any, rows: jax.Array, batch: int) -> Any:
    """Rows of (batch, ...) leaves; leaves that the batch shares stay as they are."""
    return jax.tree.map(lambda x: x[rows] if jnp.shape(x)[:1] == (batch,) else x, tree)


def with_other_keys(state: State, key: jax.Array) -> State:
    """`state` with other random keys in it."""
    leaves, tree = jax.tree.flatten(state)
    for i, x in enumerate(leaves):
        if is_key(x):
            is_typed = x.dtype != jnp.uint32
            shape = jax.random.key_data(x).shape if is_typed else x.shape
            raw = jax.random.bits(jax.random.fold_in(key, i), shape, jnp.uint32)
            leaves[i] = (
                jax.random.wrap_key_data(raw, impl=jax.random.key_impl(x)) if is_typed else raw
            )
    return jax.tree.unflatten(tree, leaves)
