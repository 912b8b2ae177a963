"""Task or training? What can be reached without learning, beside a trained policy.

From the template: changes of yours are kept, `copier update` merges new versions in.

Random actions, constant actions, a planner and the policy play episodes from the same starts.
Each finding is one function, `FINDINGS` has them in the order in which to fix what they name.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State
from rich.table import Table

from . import fingerprint, rollout
from .actions import ActionSpace, Continuous, action_space_of
from .check.tracing import Failure, is_key, leaves, part, trace
from .networks import PRIVILEGED
from .planner import (
    DECISIONS,
    Outcome,
    Planner,
    choices_of,
    last_quarter,
    one_step,
    take_rows,
)
from .task import Task
from .wrappers import WRAPPER_INFO, wrap_for_evaluation

CONSTANTS = 32  # constant actions that are tried, at most
SWAPS = 24  # parts of the state that are exchanged, at most
SMALL = 16  # an array with more elements is exchanged as a whole
BYTES = 2**28  # of states that are planned from at a time, at most


@dataclass(frozen=True)
class Evidence:
    """What was measured; B starts, of which each policy plays one episode.

    Attributes:
      limit: the time limit, in steps; `repeat`: how many steps an action is applied for.
      played: returns, lengths and ends by the policy's name; "planner" is the best of all horizons,
        start by start, and is missing if there was no time for one. "trained" may be missing.
      constants: the same of each constant action; "constant" in `played` is the best of them.
      action_changes: whether the action changes anything: a state, a reward or an end.
      reward_reads: whether the reward, or how often it is paid, is computed from the state or the
        action.
      rewards: the smallest and the largest reward that was ever met.
      hidden: parts of the state on which it depends what is best, and which no observation shows.
      longer: the planner with twice the time limit, if that was tried.
      survivor: a planner that is paid for each step alone, if that was tried.
      seconds: what all of it took.
    """

    limit: int
    repeat: int
    played: dict[str, Outcome]
    constants: dict[str, Outcome]
    best_constant: str
    action_changes: bool
    reward_reads: bool
    rewards: tuple[float, float]
    hidden: Sequence[str] = ()
    longer: Outcome | None = None
    survivor: Outcome | None = None
    seconds: float = 0.0

    @property
    def without_learning(self) -> list[Outcome]:
        """The outcomes of all but the trained policy."""
        played = [x for name, x in self.played.items() if name != "trained"]
        return [*played, *self.constants.values()]

    @property
    def spread(self) -> np.ndarray:
        """How far apart the returns from each start are, whatever was done, (B,)."""
        returns = np.stack([x.returns for x in self.without_learning])
        return np.max(returns, axis=0) - np.min(returns, axis=0)

    @property
    def is_flat(self) -> bool:
        """Whether the returns are those of any other actions."""
        scale = max(np.max(np.abs(x.returns)) for x in self.without_learning)
        return bool(np.all(self.spread <= 1e-5 * scale))

    def mean(self, name: str) -> float:
        return float(np.mean(self.played[name].returns))


# ---- findings -----------------------------------------------------------------------------------


def numbers_are_not_finite(seen: Evidence) -> str | None:
    """A return is NaN or infinite."""
    if all(np.all(np.isfinite(x.returns)) for x in seen.without_learning):
        return None
    return "Some rewards are NaN or infinite: `check` says where they come from."


def episodes_end_at_once(seen: Evidence) -> str | None:
    """Every episode ended by itself at its first action, whatever it was."""
    if seen.limit <= seen.repeat or any(
        np.any(x.lengths > 1) or not np.all(x.ended) for x in seen.without_learning
    ):
        return None
    return (
        "Every episode ends at its first step, whatever the action: unless this is a bandit, see "
        "what sets `done` in `step`."
    )


def action_changes_nothing(seen: Evidence) -> str | None:
    """Random and constant actions led from each start to the same states, rewards and ends."""
    if seen.action_changes:
        return None
    return "The action changes nothing, neither state nor reward: see how `step` uses it."


def reward_is_constant(seen: Evidence) -> str | None:
    """All returns from a start are equal, and the reward is computed from no state or action.

    Nor is the end of an episode, unless the reward is 0.
    """
    if not seen.is_flat or seen.reward_reads or time_limit_is_short(seen):
        return None
    return (
        f"The reward is always {seen.rewards[0]:g}, whatever happens: compute it from the state in "
        "`step`."
    )


def time_limit_is_short(seen: Evidence) -> str | None:
    """The planner gains much by more time: its episodes were cut off, and rewards grow after that.

    What it gets within twice the time limit is compared with its return within the limit plus as
    much again as the last quarter of the limit brought, per step. The difference is more than a
    quarter of the planner's advantage over random actions.
    """
    if seen.longer is None or actions_are_weak(seen):
        return None
    planner, longer = seen.played["planner"], seen.longer
    limit = seen.limit // seen.repeat
    rate = np.where(planner.ended, 0.0, planner.late / last_quarter(limit))
    expected = planner.returns + rate * limit
    gain = float(np.mean(longer.returns - expected))
    if gain <= 0.25 * (seen.mean("planner") - seen.mean("random")) + 1e-5 * abs(np.mean(expected)):
        return None
    every = "Every episode" if not np.any(planner.ended) else "Most episodes"
    return (
        f"{every} of the planner is cut off at the time limit of {seen.limit} steps with a mean "
        f"return of {seen.mean('planner'):.4g}; within {2 * seen.limit} steps it reaches "
        f"{np.mean(longer.returns):.4g} and {np.mean(longer.ended):.0%} end by themselves: raise "
        "episode_length in config.py."
    )


def no_reward_is_reachable(seen: Evidence) -> str | None:
    """All returns from a start are equal, and the reward was the same number at every step."""
    low, high = seen.rewards
    if not seen.is_flat or not seen.reward_reads or low != high or time_limit_is_short(seen):
        return None
    limits = f"{seen.limit} steps" + f", nor within {2 * seen.limit}" * (seen.longer is not None)
    return (
        f"Planner, random and constant actions all get {low:g} at every step: no other reward is "
        f"reachable within the time limit of {limits}. Start nearer to what is rewarded, or reward "
        "progress towards it."
    )


def reward_ignores_actions(seen: Evidence) -> str | None:
    """All returns from a start are equal, although rewards differ and actions change the state."""
    low, high = seen.rewards
    if not seen.is_flat or low == high or time_limit_is_short(seen):
        return None
    return (
        f"The reward cannot tell actions apart: rewards are from {low:.4g} to {high:.4g}, but from "
        "each start all actions get the same return. Compute the reward from what actions change."
    )


def actions_are_weak(seen: Evidence) -> str | None:
    """Returns from one start differ by less than 2 % of how much they differ between starts."""
    between = float(np.std(seen.played["random"].returns))
    if seen.is_flat or np.mean(seen.spread) >= 0.02 * between:
        return None
    change = float(np.mean(seen.spread))
    return (
        f"Actions hardly matter: from one start they change the return by {change:.3g}, while "
        f"returns from other starts differ by {between:.3g}. See how `step` scales them."
    )


def ending_early_pays(seen: Evidence) -> str | None:
    """A constant action ends episodes as early as the planner does, for about the same return.

    And they could go on: a planner that is paid for each step alone makes them three times as long.
    An end that is hard to reach, or is rewarded itself, is a goal and not found here.
    """
    if seen.survivor is None:
        return None
    planner = seen.played["planner"]
    lengths = np.mean(planner.lengths) * seen.repeat, np.mean(seen.survivor.lengths) * seen.repeat
    if lengths[1] < 3 * lengths[0]:
        return None
    return (
        f"Ending early pays more than going on: the planner ends episodes after {lengths[0]:.0f} "
        f"steps, though they can last {lengths[1]:.0f}. If the end is no goal, see the sign of the "
        "reward, or pay for each step that the episode goes on."
    )


def goal_is_hidden(seen: Evidence) -> str | None:
    """What is best depends on a part of the state that no observation after the first step shows.

    Two starts that differ in that part alone were followed under the same actions: all their
    observations were equal, but one sequence of actions was better from one and worse from the
    other.
    """
    if not seen.hidden:
        return None
    return (
        f"What is best depends on {', '.join(seen.hidden)}, which no observation after the first "
        "step shows: add it to the observation."
    )


def constant_is_best(seen: Evidence) -> str | None:
    """One constant action gets as much as the planner, but for 1 % of its advantage over random."""
    if "planner" not in seen.played or seen.is_flat or ending_early_pays(seen):
        return None
    constant, planner, random = (seen.mean(x) for x in ("constant", "planner", "random"))
    if planner <= random or constant < planner - 0.01 * (planner - random):
        return None
    return (
        f"Nothing that was tried beats holding {seen.best_constant} ({constant:.4g}): a policy "
        "need not look at the observation. If that is not what you mean, the reward asks for "
        "another task than yours."
    )


def training_is_at_fault(seen: Evidence) -> str | None:
    """The policy is behind the best of the others by more than 10 % of that one's advantage."""
    if "trained" not in seen.played:
        return None
    name = max((x for x in seen.played if x != "trained"), key=seen.mean)
    best, trained, random = seen.mean(name), seen.mean("trained"), seen.mean("random")
    if trained >= best - 0.1 * (best - random):
        return None
    who = {"planner": "A planner", "random": "Random actions", "constant": "A constant action"}
    return (
        f"{who[name]} reaches {best:.4g}, the policy {trained:.4g}: training is at fault. Train "
        "for longer, or search for other settings with `tune`."
    )


Rule = Callable[[Evidence], str | None]
FATAL: tuple[Rule, ...] = (numbers_are_not_finite, episodes_end_at_once, action_changes_nothing)
FINDINGS: tuple[Rule, ...] = (
    actions_are_weak,
    time_limit_is_short,
    reward_is_constant,
    no_reward_is_reachable,
    reward_ignores_actions,
    ending_early_pays,
    goal_is_hidden,
    constant_is_best,
    training_is_at_fault,
)


def findings(seen: Evidence) -> dict[str, str]:
    """What was found, by the name of the function above, in the order in which to fix it.

    Nothing more is said where no comparison means anything, and a policy is compared with the
    planner only where nothing is wrong with the task.
    """
    for x in FATAL:
        if text := x(seen):
            return {x.__name__: text}
    found = {x.__name__: text for x in FINDINGS if (text := x(seen))}
    if len(found) > 1:
        found.pop("training_is_at_fault", None)
    return found


def verdict(seen: Evidence) -> str:
    """One sentence for where nothing was found."""
    if "planner" not in seen.played:
        return "Nothing was found, but the planner did not come to its end: give more --minutes."
    if "trained" in seen.played:
        return (
            "Nothing is wrong: the policy is as good as the planner. If it does not do what you "
            "want, the reward asks for something else."
        )
    return (
        f"Nothing is wrong with the task: a planner reaches {seen.mean('planner'):.4g}, random "
        f"actions {seen.mean('random'):.4g}. Train a policy, and compare it: diagnose RUN."
    )


def table(seen: Evidence) -> Table:
    """Means and standard deviations of each policy's returns and lengths."""
    made = Table("policy", "return", "± std", "length", "± std", "ended by itself")
    for name, x in seen.played.items():
        lengths = x.lengths * seen.repeat
        numbers = (np.mean(x.returns), np.std(x.returns), np.mean(lengths), np.std(lengths))
        shown = f"constant {seen.best_constant}" if name == "constant" else name
        made.add_row(shown, *(f"{x:.2f}" for x in numbers), f"{np.mean(x.ended):.0%}")
    return made


# ---- measuring ----------------------------------------------------------------------------------


def diagnose(
    task: Task,
    policy: rollout.Policy | None = None,
    *,
    episodes: int = 16,
    seed: int = 0,
    minutes: float = 1.0,
) -> Evidence:
    """Measures what can be reached without learning.

    Args:
      task: the task; its settings give the time limit and the action repeat.
      policy: a trained one, to play the same episodes.
      episodes: how many starts, B.
      seed: of the starts and of all that is random; `rollout.evaluate` has the same starts.
      minutes: after which no further search of the planner begins.
    """
    began = time.monotonic()
    environment, settings = task.environment(), task.settings
    repeat = settings.action_repeat
    limit = settings.episode_length // repeat  # in actions, as all that follows
    space = action_space_of(environment)
    length = settings.episode_length
    if task.wrap_env_fn is None:  # which may depend on the time limit
        length = 2 * length + repeat  # the planner is also tried with twice the time
    env = (task.wrap_env_fn or wrap_for_evaluation)(
        environment, episode_length=length, action_repeat=repeat, randomization_fn=None
    )
    key_start, key = jax.random.split(jax.random.PRNGKey(seed))  # as `rollout.evaluate` does
    key_play, key_plan = jax.random.split(key)
    start = jax.jit(lambda keys: rollout.strip_weak_types(env.reset(keys)))(
        jax.random.split(key_start, episodes)
    )
    size = sum(x.nbytes for x in jax.tree.leaves(start) if not is_key(x)) / episodes
    most = int(BYTES / size / episodes)  # states for each start
    trial = _Trial(env, space, start, limit, key_play, most)
    reward_reads, reads_obs = reading_of(environment, space)
    without_obs = task.wrap_env_fn is None and not reads_obs
    planner = Planner(env, space, min(128, max(16, most)), without_obs)
    deadline = began + 60 * minutes

    def plan(hold: int, limit: int, **how: Any) -> Outcome | None:
        return planner.run(start, key_plan, hold=hold, limit=limit, deadline=deadline, **how)

    def plan_all(limit: int) -> dict[int, Outcome]:
        """From plans of a whole episode to those of a few steps, until they are clearly worse."""
        found: dict[int, Outcome] = {}
        hold = 2 ** max(0, math.ceil(math.log2(limit / DECISIONS)))
        while hold >= 1 and (outcome := plan(hold, limit)):
            found[hold] = outcome
            means = [float(np.mean(x.returns)) for x in found.values()]
            if means[-1] < max(means) - 0.1 * (max(means) - min(means)):
                break
            hold //= 2
        return found

    done = plan_all(limit)
    constants = trial.constants
    name = max(constants, key=lambda x: np.mean(constants[x].returns))
    played = {"random": trial.random, "constant": constants[name]}
    if done:
        played["planner"] = best_of(list(done.values()))
    if policy is not None:
        how = {"episode_length": settings.episode_length, "action_repeat": repeat}
        result = rollout.evaluate(
            environment,
            policy,
            num_episodes=episodes,
            seed=seed,
            wrap_env_fn=task.wrap_env_fn,
            **how,
        )
        lengths = result.lengths.astype(int) // repeat
        none = (np.inf, -np.inf)
        played["trained"] = Outcome(
            result.returns, lengths, np.less(lengths, limit), none, np.zeros(episodes)
        )
    seen = Evidence(
        limit=settings.episode_length,
        repeat=repeat,
        played=played,
        constants=constants,
        best_constant=name,
        action_changes=trial.action_changes,
        reward_reads=reward_reads,
        rewards=range_of([trial.random, *done.values()]),
        hidden=trial.hidden(start),
    )
    if done and not task.wrap_env_fn and np.mean(played["planner"].ended) <= 0.5:
        if seen.is_flat:
            longer = list(plan_all(2 * limit).values())
        else:
            best = max(done, key=lambda x: np.mean(done[x].returns))
            longer = [x for x in [plan(best, 2 * limit)] if x]
        if longer:
            seen = replace(
                seen,
                longer=best_of(longer),
                rewards=range_of([*longer, *done.values(), trial.random]),
            )
    if done and ends_early(seen):
        survivor = [x for hold in list(done)[-2:] if (x := plan(hold, limit, weights=(0.0, 1.0)))]
        seen = replace(seen, survivor=max(survivor, key=lambda x: np.mean(x.lengths), default=None))
    return replace(seen, seconds=time.monotonic() - began)


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The one with the highest return from each start."""
    returns = np.stack([np.nan_to_num(x.returns, nan=-np.inf) for x in outcomes])
    best = np.argmax(returns, axis=0)

    def choose(name: str) -> np.ndarray:
        return np.stack([getattr(x, name) for x in outcomes])[best, np.arange(len(best))]

    names = ("returns", "lengths", "ended", "late")
    return Outcome(rewards=range_of(outcomes), **{name: choose(name) for name in names})


def range_of(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    return min(x.rewards[0] for x in outcomes), max(x.rewards[1] for x in outcomes)


def ends_early(seen: Evidence) -> bool:
    """Whether planner and best constant action both end episodes, early, for about the same."""
    planner, constant = seen.played["planner"], seen.played["constant"]
    return bool(
        np.mean(planner.ended) > 0.5
        and np.mean(constant.ended) > 0.5
        and np.mean(constant.lengths) <= 2 * np.mean(planner.lengths)
        and 3 * np.mean(planner.lengths) * seen.repeat < seen.limit
        and seen.mean("constant")
        >= seen.mean("planner") - 0.2 * abs(seen.mean("planner") - seen.mean("random"))
    )


def reading_of(environment: Env, space: ActionSpace) -> tuple[bool, bool]:
    """What `step` reads, by tracing it.

    Returns:
      Whether the reward, or how often it is paid, is computed from the state or the action; whether
      anything but the next observation is computed from the observation. Both are true if it can't
      be traced.
    """
    state = fingerprint.reset_shapes(environment)
    action = jax.ShapeDtypeStruct(space.shape, space.dtype)
    call = trace(environment, environment.step, state, action)
    if isinstance(call, Failure):
        return True, True
    reward, done = call.outputs["reward"], call.outputs["done"]
    paths = list(leaves(state))
    ends = bool(done.inputs - {paths.index("done")})  # it may hand on the one that it was given
    is_paid = bool(reward.inputs) or (reward.possible != {0.0} and ends)
    obs = {i for i, path in enumerate(paths) if part(path) == "obs"}
    users = [x for path, x in call.outputs.items() if part(path) != "obs"]
    return is_paid, any(obs & x.inputs for x in users)


def constant_actions(space: ActionSpace) -> dict[str, np.ndarray]:
    """Up to `CONSTANTS` actions by name: all of them, or the corners, axes and centre."""
    if isinstance(space, Continuous):
        levels: list[Any] = [(0.0, -1.0, 1.0)] * space.size
    else:
        levels = [range(count) for count in choices_of(space)]
    if np.prod([float(len(x)) for x in levels]) <= CONSTANTS:
        found: Any = itertools.product(*levels)
    else:
        first = np.array([x[0] for x in levels])
        same = [np.array([x[min(i, len(x) - 1)] for x in levels]) for i in range(len(levels[0]))]
        axes = [
            np.where(np.arange(len(levels)) == i, value, first)
            for i, x in enumerate(levels)
            for value in x[1:]
        ]
        found = itertools.islice([*same, *axes], CONSTANTS)
    actions = [np.asarray(x, space.dtype).reshape(space.shape) for x in found]
    return {str(x.tolist()): x for x in actions}


class _Trial:
    """Random and constant actions from each start, and from starts with parts exchanged.

    All are rows of one batch, so that the environment is compiled once. A row has a partner: the
    row that it is compared with at every step.
    """

    def __init__(
        self, env: Env, space: ActionSpace, start: State, limit: int, key: jax.Array, most: int
    ) -> None:
        self._env, self._space, self._limit = env, space, limit
        batch = start.done.shape[0]
        actions = constant_actions(space)
        names = list(actions)[: max(2, most // 2 - 1)]
        self._sequences = 1 + len(names)  # the first is random
        self._batch, self._followed = batch, min(4, batch)
        self._few = min(5, self._sequences)
        self._swaps = list(itertools.islice(self._find_swaps(start), min(SWAPS, max(4, most // 2))))

        held = np.stack([np.zeros(space.shape, space.dtype), *(actions[x] for x in names)])
        sequence, row = (x.ravel() for x in np.mgrid[: self._sequences, :batch])
        partner = row.copy()  # the same start with random actions
        s, r = (x.ravel() for x in np.mgrid[: self._few, : self._followed])
        for _ in self._swaps:
            sequence, row = np.append(sequence, s), np.append(row, r)
            partner = np.append(partner, s * batch + r)
        states = take_rows(start, row, batch)
        for i, (index, elements) in enumerate(self._swaps):
            at = self._sequences * batch + i * len(s) + np.arange(len(s))
            states = self._swap(states, index, elements, at, r, start)
        seen = jax.device_get(
            jax.jit(self._play)(states, held[sequence], sequence == 0, row, partner, key)
        )
        self._seen, plain = seen, self._sequences * batch
        outcomes = [
            Outcome(
                seen["reward"][rows].astype(float),
                seen["steps"][rows],
                seen["ended"][rows],
                (float(np.min(seen["low"][rows])), float(np.max(seen["high"][rows]))),
                np.zeros(batch),
            )
            for rows in np.arange(plain).reshape(self._sequences, batch)
        ]
        self.random = outcomes[0]
        self.constants = dict(zip(names, outcomes[1:], strict=True))
        self.action_changes = bool(np.any(seen["differs"][:plain]))

    def _find_swaps(self, start: State) -> Any:
        """Parts of the state that differ between starts: the leaf's number, and its elements."""
        for index, (path, x) in enumerate(leaves(start).items()):
            of_wrapper = any(path.startswith(f"info['{name}']") for name in WRAPPER_INFO)
            if not path.startswith(("pipeline_state", "info")) or of_wrapper or is_key(x):
                continue
            if jnp.shape(x)[:1] != (self._batch,):
                continue
            flat = np.asarray(x).reshape(self._batch, -1)
            varies = np.flatnonzero(np.any(flat != flat[:1], axis=0))
            if flat.shape[1] <= SMALL:
                for element in varies:
                    yield index, [element]
            elif len(varies):
                yield index, list(range(flat.shape[1]))

    def _swap(
        self, states: State, index: int, elements: list[int], at: Any, rows: Any, start: State
    ) -> State:
        """`states` whose rows `at`, of the starts `rows`, have elements of another start."""
        found, tree = jax.tree.flatten(states)
        x = np.asarray(jax.tree.leaves(start)[index])
        flat = x.reshape(self._batch, -1)[:, elements]
        other = [int(np.argmax(np.any(flat != flat[row], axis=1))) for row in rows]
        new = np.array(found[index]).reshape(len(found[index]), -1)
        new[np.ix_(at, elements)] = flat[other]
        found[index] = jnp.asarray(new.reshape(found[index].shape))
        return jax.tree.unflatten(tree, found)

    def _play(
        self,
        state: State,
        action: jax.Array,
        is_random: jax.Array,
        row: jax.Array,
        partner: jax.Array,
        key: jax.Array,
    ) -> dict[str, jax.Array]:
        rows = len(row)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(row)

        def step(carry: Any) -> Any:
            t, state, alive, seen = carry
            drawn = jax.vmap(lambda key: self._space.sample(jax.random.fold_in(key, t)))(keys)
            chosen = jnp.where(is_random.reshape(-1, *(1,) * (drawn.ndim - 1)), drawn, action)
            state, going, ended, reward = one_step(self._env, state, alive, chosen)
            both = alive & alive[partner]
            seen = {
                "reward": seen["reward"] + reward,
                "steps": seen["steps"] + alive,
                "ended": seen["ended"] | ended,
                "low": jnp.where(alive, jnp.minimum(seen["low"], reward), seen["low"]),
                "high": jnp.where(alive, jnp.maximum(seen["high"], reward), seen["high"]),
                "differs": seen["differs"] | both & differs(state, partner),
                "shows": seen["shows"] | both & differs(observed(state.obs), partner),
            }
            return t + 1, state, going, seen

        zero = jnp.zeros(rows, jnp.float32)
        seen = {"reward": zero, "steps": jnp.zeros(rows, jnp.int32)}
        seen |= dict.fromkeys(("ended", "differs", "shows"), zero > 0)
        seen |= {"low": zero + jnp.inf, "high": zero - jnp.inf}
        carry = (jnp.int32(0), state, jnp.ones(rows, bool), seen)
        return jax.lax.while_loop(
            lambda carry: (carry[0] < self._limit) & jnp.any(carry[2]), step, carry
        )[3]

    def hidden(self, start: State) -> list[str]:
        """Parts of the state on which it depends what is best, and that no observation shows."""
        plain = self._sequences * self._batch
        returns = self._seen["reward"]
        own = returns[:plain].reshape(self._sequences, -1)[: self._few, : self._followed]
        swapped = returns[plain:].reshape(-1, *own.shape)
        shows = self._seen["shows"][plain:].reshape(-1, *own.shape)
        enough = 0.01 * max(float(np.ptp(own)), 1e-6)
        found, paths = [], list(leaves(start))
        for (index, elements), after, shown in zip(self._swaps, swapped, shows, strict=True):
            x, y = (z[:, None] - z[None] for z in (own, after))
            reversed_ = (np.minimum(np.abs(x), np.abs(y)) > enough) & (x * y < 0)
            if np.any(reversed_) and not np.any(shown):
                found.append(paths[index] + (f"[{elements[0]}]" if len(elements) == 1 else ""))
        return found


def observed(obs: Any) -> Any:
    """What the policy may see of an observation."""
    if isinstance(obs, Mapping):
        return {name: x for name, x in obs.items() if not name.startswith(PRIVILEGED)}
    return obs


def differs(tree: Any, partner: jax.Array) -> jax.Array:
    """Which rows are unlike their partner by more than rounding, (rows,) bool; keys don't count."""
    found = jnp.zeros(partner.shape, bool)
    for x in jax.tree.leaves(tree):
        if not is_key(x) and jnp.shape(x)[:1] == partner.shape:
            x = x.astype(jnp.float32).reshape(len(partner), -1)
            y = x[partner]
            far = jnp.abs(x - y) > 1e-5 + 1e-4 * jnp.maximum(jnp.abs(x), jnp.abs(y))
            found |= jnp.any(far, axis=1)
    return found
