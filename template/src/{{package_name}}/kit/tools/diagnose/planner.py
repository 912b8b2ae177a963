"""A planner on the environment itself: what can be reached without learning.

The cross-entropy method (de Boer et al. 2005, A Tutorial on the Cross-Entropy Method) searches
sequences of decisions; when an eighth of the best one is taken it searches again. As in iCEM
(Pinneri et al. 2020, arXiv:2008.06389) noise is correlated in time and the elites are kept. A
decision is an action that is held for several steps, so that the same program plans a few steps
ahead or a whole episode.
"""

import functools
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from ...env.actions import ActionSpace, abstract
from ...trace.calls import random_keys
from .trials import DECISIONS, Followed, Outcome, follow, take_rows, with_other_keys

ITERATIONS = 10  # of a search
ELITES = 1 / 20  # share of the plans
ELITES_OF_CHANCE = 1 / 8  # where returns are partly luck
SPREAD = 1.0  # standard deviation of the noise when a search begins
CORRELATION = 0.8  # of the noise of two decisions that follow each other, in every other plan


class Planner:
    """Plans in `env`, from the true state, which holds what no observation may show.

    Only random keys are replaced while it searches, so that it does not know the random numbers
    that will come. A plan is parameters of the policy's distribution, whose mode is the action, so
    that continuous and discrete actions are searched in the same way.

    Args:
      env: as `follow` takes it.
      space: its actions.
      num_plans: how many plans are compared at a time for each episode.
      scenarios: with how many random numbers each plan is tried; those of other plans are others,
        so that not all of them are lucky in the same way.

    Attributes:
      needed: seconds that the last search which ran out of time would have taken, about.
    """

    def __init__(
        self, env: Env, space: ActionSpace, num_plans: int = 256, scenarios: int = 1
    ) -> None:
        self.needed = 0.0
        self._env, self._space = env, space
        self._num_plans, self._scenarios = num_plans, scenarios
        distribution = space.distribution()
        self._width = distribution.param_size

        @jax.jit
        def follow_plans(
            state: State, alive: jax.Array, plans: jax.Array, hold: Any, steps: Any
        ) -> tuple[State, jax.Array, Followed]:
            rows = jnp.repeat(plans.reshape(-1, *plans.shape[2:]), scenarios, axis=0)
            by_time = jnp.moveaxis(rows, 0, 1)
            return follow(
                env, lambda t, _: distribution.mode(by_time[t // hold]), state, alive, steps
            )

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
        batch, count, each = len(start.done), self._num_plans, self._scenarios
        began = time.monotonic()
        keys = random_keys(self._env.step, start, abstract(self._space, batch))
        # The rows of an episode are copies of one state, so that one program searches and acts.
        state = take_rows(start, np.repeat(np.arange(batch), count * each), batch)
        alive = jnp.ones(len(state.done), bool)
        mean = jnp.zeros((batch, DECISIONS, self._width))
        share = ELITES if each == 1 else ELITES_OF_CHANCE
        elites = jnp.zeros((batch, max(1, int(share * count)), *mean.shape[1:]))
        hold = -(-horizon // DECISIONS)
        decisions = max(1, horizon // hold // 8)  # that are taken before the next search
        begins = range(0, limit, decisions * hold)
        # Steps of each search, and of what is then done.
        work = [ITERATIONS * min(limit - t, horizon) + decisions * hold for t in begins]
        # Gives up where even the first search would take too long, as with MJX on a CPU.
        seconds = self._seconds_per_step(state, alive, mean)
        if time.monotonic() + work[0] * seconds > deadline:
            self.needed = sum(work) * seconds
            return None
        met: list[Any] = []
        taken: list[Followed] = []
        for number, begin in enumerate(begins):
            std = jnp.full(mean.shape, SPREAD)
            for _ in range(ITERATIONS):
                if time.monotonic() > deadline:
                    done = sum(work[: number + 1])
                    self.needed = (time.monotonic() - began) * sum(work) / done
                    return None
                key, key_plans, key_state = jax.random.split(key, 3)
                plans = _propose(key_plans, mean, std, elites, count)
                tried = with_other_keys(
                    state, keys, key_state, np.arange(len(alive)) % (count * each)
                )
                *_, seen = self._follow(tried, alive, plans, hold, min(limit - begin, horizon))
                value = getattr(seen, maximise).reshape(batch, count, each).mean(axis=2)
                mean, std, elites = _fit(mean, std, plans, value, elites.shape[1])
                met.append((jnp.min(seen.low), jnp.max(seen.high)))
            # The best one of the last search may have been lucky.
            rows = jnp.repeat((elites[:, 0] if each == 1 else mean)[:, None], count, axis=1)
            steps = min(limit - begin, decisions * hold)
            state, alive, seen = self._follow(state, alive, rows, hold, steps)
            taken.append(jax.tree.map(lambda x: np.asarray(x)[:: count * each], seen))
            if not np.any(alive):
                break
            # What is left of the plans, and nothing yet for as many decisions after that.
            mean, elites = (
                jnp.roll(x, -decisions, axis=-2).at[..., -decisions:, :].set(0.0)
                for x in (mean, elites)
            )
        first = (limit - max(1, limit // 4)) // (decisions * hold)  # of the limit's last quarter
        return _outcome(taken, first, jax.device_get(met))

    def _seconds_per_step(self, state: State, alive: jax.Array, mean: jax.Array) -> float:
        """Of all rows together."""
        plans = jnp.zeros((mean.shape[0], self._num_plans, *mean.shape[1:]))

        def timed(steps: int) -> float:
            now = time.monotonic()
            jax.block_until_ready(self._follow(state, alive, plans, 1, steps))
            return (time.monotonic() - now) / steps

        timed(1)  # compiles
        seconds = timed(1)
        return seconds if seconds > 0.1 else timed(8)


def _outcome(taken: list[Followed], first: int, met: list[Any]) -> Outcome:
    """Of what followed each search; those from number `first` on are late."""
    low, high = zip(*met, strict=True)
    late = taken[first:]
    return Outcome(
        np.sum([x.returns for x in taken], axis=0),
        np.sum([x.lengths for x in taken], axis=0),
        np.any([x.ended for x in taken], axis=0),
        (float(min(low)), float(max(high))),
        sum((x.returns for x in late), np.zeros(len(taken[0].returns)))
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
    value = jnp.where(jnp.isnan(value), -jnp.inf, value)
    elites = jax.vmap(lambda x, rows: x[rows])(plans, jax.lax.top_k(value, count)[1])
    mean = 0.1 * mean + 0.9 * elites.mean(axis=1)
    return mean, 0.1 * std + 0.9 * elites.std(axis=1), elites
