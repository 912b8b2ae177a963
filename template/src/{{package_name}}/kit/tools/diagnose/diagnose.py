"""Task or training? What can be reached without learning, beside a trained policy.

Random actions, constant actions, a planner and the policy play episodes from the same starts. What
follows from that is in findings.py.
"""

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from brax.envs.base import Env, State

from ...env.actions import abstract, action_space_of
from ...env.episodes import Policy, strip_weak_types
from ...env.wrappers import wrap_for_evaluation
from ...ppo.task import Task
from ...trace.calls import leaves, random_keys
from .evidence import Evidence
from .experiments import parts_that_vary, play, try_actions
from .planner import Planner
from .reads import WithoutObs, reading_of
from .trials import Outcome

SHORTEST = 12  # horizon of the planner, in actions
SCENARIOS = 4  # with other random numbers, for each plan where there is chance
BYTES = 2**28  # of states that are planned from at a time, at most


def diagnose(
    task: Task,
    policy: Policy | None = None,
    sampled: Policy | None = None,
    *,
    episodes: int = 16,
    seed: int = 0,
    minutes: float = 1.0,
) -> Evidence:
    """Measures what can be reached without learning.

    Args:
      task: the task; its settings give the time limit and the action repeat.
      policy: a trained one that takes its most likely action, to play the same episodes.
      sampled: the same, sampling its actions.
      episodes: how many starts, B.
      seed: of the starts and of all that is random; `rollout.evaluate` has the same starts.
      minutes: after which the planner stops.
    """
    began = time.monotonic()
    environment, settings = task.environment(), task.settings
    limit = settings.episode_length // settings.action_repeat  # in actions, as all that follows
    is_own = task.wrap_env_fn is None
    wrap = functools.partial(
        task.wrap_env_fn or wrap_for_evaluation,
        # The planner is also tried with more time, where no wrapper of the user's is in the way.
        episode_length=5 * settings.episode_length if is_own else settings.episode_length,
        action_repeat=settings.action_repeat,
        randomization_fn=None,
    )
    key_start, key = jax.random.split(jax.random.PRNGKey(seed))  # as `rollout.evaluate` does
    key_try, key_plan = jax.random.split(key)

    def reset(env: Env) -> State:
        start = jax.jit(lambda keys: strip_weak_types(env.reset(keys)))
        return start(jax.random.split(key_start, episodes))

    space, env = action_space_of(environment), wrap(environment)
    reads, start = reading_of(environment, space), reset(env)
    keys = random_keys(env.step, start, abstract(space, episodes))
    tried = try_actions(env, space, start, limit, key_try, keys)
    played = dict(tried.played)
    best = max(list(played)[1:], key=lambda x: np.mean(played[x].returns))
    played["constant"] = played[best]
    for name, how in (("trained", policy), ("sampled", sampled)):
        if how is not None:
            played[name] = play(env, how, start, limit, key)
    late = {x.part.leaf for x in tried.exchanges if x.late}
    # What observations would have shown after the end is not hidden.
    hidden = [x.part for x in tried.exchanges if x.decides and not x.shown]
    varies = {x.leaf for x in parts_that_vary(start, keys)}
    seen = Evidence(
        limit=settings.episode_length,
        repeat=settings.action_repeat,
        played=played,
        best_constant=best,
        action_changes=tried.action_changes,
        reward_reads=reads.reward_reads,
        hidden=[x.path for x in hidden if x.leaf not in late],
        knows=[*(reads.tables if varies & set(reads.places) else ()), *sorted(late)],
    )
    if is_own and not reads.obs_is_read:
        env = wrap(WithoutObs(environment))
        start = reset(env)
    # As many plans as memory allows.
    size = sum(x.nbytes for path, x in leaves(start).items() if path not in keys)
    num_plans, scenarios = min(256, max(16, BYTES // size)), SCENARIOS if keys else 1
    planner = Planner(env, space, max(16, num_plans // scenarios), scenarios)
    plans = Plans(planner, start, key_plan, began, 60 * minutes, is_random=bool(keys))
    return replace(plans.add_to(seen, is_own), seconds=time.monotonic() - began)


@dataclass(frozen=True)
class Plans:
    """A planner from the same starts, with several horizons.

    Attributes:
      began: on the clock of `time.monotonic`; `seconds` after that the planner stops.
      is_random: whether what happens depends on chance.
    """

    planner: Planner
    start: State
    key: jax.Array
    began: float
    seconds: float
    is_random: bool

    def run(self, horizon: int, limit: int, **how: Any) -> Outcome | None:
        deadline = self.began + self.seconds
        return self.planner.run(
            self.start, self.key, horizon=horizon, limit=limit, deadline=deadline, **how
        )

    def run_all(self, limit: int, random: float) -> dict[int, Outcome]:
        """Plans of a whole episode, of half of one, and so on, until they are clearly worse."""
        found: dict[int, Outcome] = {}
        horizon = limit
        while horizon >= min(limit, SHORTEST) and (outcome := self.run(horizon, limit)):
            found[horizon] = outcome
            means = [float(np.mean(x.returns)) for x in found.values()]
            if means[-1] < max(means) - 0.1 * abs(max(means) - random):
                break
            horizon //= 2
        return found

    def add_to(self, seen: Evidence, is_own: bool) -> Evidence:
        """`seen` with what was planned; with more time too if the time limit `is_own`."""
        limit, random = seen.limit // seen.repeat, seen.mean("random")
        spent = time.monotonic() - self.began
        done = self.run_all(limit, random)
        if not done:
            needed = 1.25 * (spent + self.planner.needed)
            return replace(seen, minutes=math.ceil(needed / 60))
        planner = self.best_of(list(done.values()))
        seen = replace(seen, played={**seen.played, "planner": planner})
        if is_own and np.mean(planner.ended) <= 0.5:
            horizon = max(done, key=lambda x: np.mean(done[x].returns))
            times = 4 if seen.is_flat else 2
            longer = (
                self.run_all(times * limit, random).values()
                if seen.is_flat
                else [self.run(x, times * limit) for x in (horizon, times * limit)]
            )
            if tried := [x for x in longer if x]:
                seen = replace(seen, longer=self.best_of(tried), times=times)
        if ends_early(seen):
            lives = [self.run(x, limit, maximise="lengths") for x in list(done)[-2:]]
            longest = max((x for x in lives if x), key=lambda x: np.mean(x.lengths), default=None)
            seen = replace(seen, survivor=longest)
        return seen

    def best_of(self, outcomes: Sequence[Outcome]) -> Outcome:
        """The one with the highest return from each start; where that is luck, the highest mean."""
        returns = np.stack([np.nan_to_num(x.returns, nan=-np.inf) for x in outcomes])
        best = np.argmax(returns, axis=0)
        if self.is_random:
            best = np.full_like(best, np.argmax(np.mean(returns, axis=1)))

        def choose(name: str) -> np.ndarray:
            return np.stack([getattr(x, name) for x in outcomes])[best, np.arange(len(best))]

        low, high = zip(*(x.rewards for x in outcomes), strict=True)
        names = ("returns", "lengths", "ended", "late")
        return Outcome(rewards=(min(low), max(high)), **{name: choose(name) for name in names})


def ends_early(seen: Evidence) -> bool:
    """Whether planner and best constant action both end episodes, early, for about the same."""
    planner, constant = seen.played["planner"], seen.played["constant"]
    return bool(
        np.mean(planner.ended) > 0.5
        and np.mean(constant.ended) > 0.5
        and np.mean(constant.lengths) <= 2 * np.mean(planner.lengths)
        and 3 * np.mean(planner.lengths) * seen.repeat < seen.limit
        and seen.mean("constant") >= seen.mean("planner") - 0.2 * abs(seen.advantage)
    )
