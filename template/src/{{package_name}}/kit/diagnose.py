"""Task or training? What can be reached without learning, beside a trained policy.

From the template: changes of yours are kept, `copier update` merges new versions in.

Random actions, constant actions, a planner and the policy play episodes from the same starts.
Each finding is one function, `FINDINGS` has them in the order in which to fix what they name.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State, Wrapper
from rich.table import Table

from . import fingerprint, rollout
from .actions import ActionSpace, action_space_of
from .check.tracing import Failure, is_key, leaves, part, trace
from .display import number
from .networks import PRIVILEGED
from .planner import Outcome, Planner, follow, take_rows
from .task import Task
from .wrappers import WRAPPER_INFO, wrap_for_evaluation

SWAPS = 24  # parts of the state that are exchanged, at most
SHORTEST = 12  # horizon of the planner, in actions
SMALL = 16  # an array with more elements is exchanged as a whole
BYTES = 2**28  # of states that are planned from at a time, at most


@dataclass(frozen=True)
class Evidence:
    """What was measured; B starts, of which each policy plays one episode.

    Attributes:
      limit: the time limit, in steps; `repeat`: how many steps an action is applied for.
      played: by the policy's name: "random", each constant action, "constant" for the best of
        these, "planner" for the best of all horizons, start by start, if there was time for one,
        and "trained" if there is a policy.
      best_constant: name of the best constant action.
      action_changes: whether the action changes anything: a state, a reward or an end.
      reward_reads: whether the reward, or how often it is paid, is computed from the state or the
        action.
      hidden: parts of the state on which it depends what is best, and which no observation shows.
      longer: the planner with so many `times` the time limit, if that was tried.
      survivor: a planner that is paid for each step alone, if that was tried.
      seconds: what all of it took.
    """

    limit: int
    repeat: int
    played: Mapping[str, Outcome]
    best_constant: str
    action_changes: bool
    reward_reads: bool
    hidden: Sequence[str] = ()
    longer: Outcome | None = None
    times: int = 2
    survivor: Outcome | None = None
    seconds: float = 0.0

    @property
    def without_learning(self) -> list[Outcome]:
        """The outcomes of all but the trained policy."""
        return [x for name, x in self.played.items() if name != "trained"]

    @property
    def rewards(self) -> tuple[float, float]:
        """The smallest and the largest reward that was ever met."""
        met = [x.rewards for x in (*self.without_learning, self.longer) if x]
        return min(x[0] for x in met), max(x[1] for x in met)

    @property
    def spread(self) -> np.ndarray:
        """How far apart the returns from each start are, whatever was done, (B,)."""
        return np.ptp([x.returns for x in self.without_learning], axis=0)

    @property
    def is_flat(self) -> bool:
        """Whether the returns are those of any other actions."""
        scale = max(np.max(np.abs(x.returns)) for x in self.without_learning)
        return bool(np.all(self.spread <= 1e-5 * scale))

    @property
    def advantage(self) -> float:
        """Of the planner over random actions."""
        return self.mean("planner") - self.mean("random")

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


def actions_are_weak(seen: Evidence) -> str | None:
    """Returns from one start differ by less than 2 % of how much they differ between starts."""
    change, between = float(np.mean(seen.spread)), float(np.std(seen.played["random"].returns))
    if seen.is_flat or change >= 0.02 * between:
        return None
    return (
        f"Actions hardly matter: from one start they change the return by {change:.3g}, while "
        f"returns from other starts differ by {between:.3g}. See how `step` scales them."
    )


def time_limit_is_short(seen: Evidence) -> str | None:
    """The planner gains much by more time: its episodes were cut off, and rewards grow after that.

    With twice the time limit it gets more than the rate of the limit's last quarter predicts, by
    more than a quarter of its advantage over random actions.
    """
    if seen.longer is None or actions_are_weak(seen):
        return None
    planner, longer = seen.played["planner"], seen.longer
    # An episode that ended near the limit could have gone on: nothing was planned beyond it.
    rate = np.where(planner.ended, np.maximum(planner.late, 0.0), planner.late)
    expected = planner.returns + (seen.times - 1) * (seen.limit // seen.repeat) * rate
    gain = float(np.mean(longer.returns - expected))
    if gain <= 0.25 * seen.advantage + 1e-5 * abs(np.mean(expected)):
        return None
    return (
        f"The time limit of {seen.limit} steps cuts off {1 - np.mean(planner.ended):.0%} of the "
        f"planner's episodes, with a mean return of {seen.mean('planner'):.4g}; within "
        f"{seen.times * seen.limit} steps it reaches {np.mean(longer.returns):.4g}, and "
        f"{np.mean(longer.ended):.0%} end by themselves: raise episode_length in config.py."
    )


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


def no_reward_is_reachable(seen: Evidence) -> str | None:
    """All returns from a start are equal, and the reward was the same number at every step."""
    low, high = seen.rewards
    if not seen.is_flat or not seen.reward_reads or low != high or time_limit_is_short(seen):
        return None
    limits = f"{seen.limit} steps" + f", nor within {seen.times * seen.limit}" * bool(seen.longer)
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


def ending_early_pays(seen: Evidence) -> str | None:
    """A constant action ends episodes as early as the planner does, for about the same return.

    And they could go on: a planner that is paid for each step alone makes them three times as long,
    for a clearly lower return. An end that is hard to reach, or is rewarded itself, is a goal and
    not found here.
    """
    if seen.survivor is None:
        return None
    planner, survivor = seen.played["planner"], seen.survivor
    own, longest = np.mean(planner.lengths), np.mean(survivor.lengths)
    if longest < 3 * own or not is_above_0(planner.returns - survivor.returns):
        return None
    return (
        "Ending early pays more than going on: the planner ends episodes after "
        f"{own * seen.repeat:.0f} steps, though they can last {longest * seen.repeat:.0f}. If the "
        "end is no goal, see the sign of the reward, or pay for each step that the episode goes on."
    )


def is_above_0(differences: np.ndarray) -> bool:
    """Whether the mean is above 0 by more than three standard errors."""
    return bool(np.mean(differences) > 3 * np.std(differences) / len(differences) ** 0.5)


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
    constant = seen.mean("constant")
    better = seen.played["planner"].returns - seen.played["random"].returns
    if not is_above_0(better) or constant < seen.mean("planner") - 0.01 * seen.advantage:
        return None
    return (
        f"Nothing that was tried beats holding the action {seen.best_constant} ({constant:.4g}): a "
        "policy need not look at the observation. If that is not what you mean, the reward asks "
        "for another task than yours."
    )


def training_is_at_fault(seen: Evidence) -> str | None:
    """The policy is behind the best of the others by more than 10 % of that one's advantage."""
    if "trained" not in seen.played:
        return None
    name = max((x for x in SHOWN if x in seen.played), key=seen.mean)
    best, trained, random = seen.mean(name), seen.mean("trained"), seen.mean("random")
    if trained >= best - 0.1 * (best - random):
        return None
    return (
        f"{SHOWN[name]} reaches {best:.4g}, the policy {trained:.4g}: training is at fault. Train "
        "for longer, or search for other settings with `tune`."
    )


SHOWN = {"planner": "A planner", "constant": "A constant action", "random": "Random actions"}
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

    After a fatal finding no comparison means anything, so nothing else is judged. A policy is
    compared with the planner only where nothing is wrong with the task.
    """
    for rule in FATAL:
        if text := rule(seen):
            return {rule.__name__: text}
    found = {rule.__name__: text for rule in FINDINGS if (text := rule(seen))}
    if len(found) > 1:
        found.pop("training_is_at_fault", None)
    return found


def verdict(seen: Evidence) -> str:
    """One sentence for where nothing was found."""
    if "planner" not in seen.played:
        return "Nothing was found, but the planner did not come to its end: give more --minutes."
    if "trained" in seen.played:
        return (
            "Nothing was found: the policy is about as good as the planner. If it does not do what "
            "you want, the reward asks for something else."
        )
    return (
        f"Nothing is wrong with the task: a planner reaches {seen.mean('planner'):.4g}, random "
        f"actions {seen.mean('random'):.4g}. Train a policy, and compare it: diagnose RUN."
    )


def table(seen: Evidence) -> Table:
    """Means and standard deviations of each policy's returns and lengths."""
    made = Table("policy", "return", "± std", "length", "± std", "ended by itself")
    for name in ("random", "constant", "planner", "trained"):
        if x := seen.played.get(name):
            lengths = x.lengths * seen.repeat
            numbers = (np.mean(x.returns), np.std(x.returns), np.mean(lengths), np.std(lengths))
            shown = f"constant: {seen.best_constant}" if name == "constant" else name
            made.add_row(shown, *map(number, numbers), f"{np.mean(x.ended):.0%}")
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
      minutes: after which the planner stops.
    """
    began = time.monotonic()
    environment, settings = task.environment(), task.settings
    repeat = settings.action_repeat
    limit = settings.episode_length // repeat  # in actions, as all that follows
    is_own = task.wrap_env_fn is None
    # The planner is also tried with more time, where no wrapper of the user's is in the way.
    length = 5 * settings.episode_length if is_own else settings.episode_length

    def wrap(environment: Env) -> Env:
        return (task.wrap_env_fn or wrap_for_evaluation)(
            environment, episode_length=length, action_repeat=repeat, randomization_fn=None
        )

    key_start, key = jax.random.split(jax.random.PRNGKey(seed))  # as `rollout.evaluate` does
    key_play, key_plan = jax.random.split(key)

    def start(env: Env) -> State:
        reset = jax.jit(lambda keys: rollout.strip_weak_types(env.reset(keys)))
        return reset(jax.random.split(key_start, episodes))

    space = action_space_of(environment)
    reward_reads, obs_is_read = reading_of(environment, space)
    env = wrap(environment)
    played, action_changes, hidden = try_actions(env, space, start(env), limit, key_play)
    best = max(list(played)[1:], key=lambda x: np.mean(played[x].returns))
    played["constant"] = played[best]
    if policy is not None:
        result = rollout.evaluate(
            environment,
            policy,
            num_episodes=episodes,
            seed=seed,
            episode_length=settings.episode_length,
            action_repeat=repeat,
            wrap_env_fn=task.wrap_env_fn,
        )
        lengths = result.lengths.astype(int) // repeat
        played["trained"] = Outcome(result.returns, lengths, lengths < limit, (np.inf, -np.inf))

    if is_own and not obs_is_read:
        env = wrap(WithoutObs(environment))
    begin = start(env)
    size = sum(x.nbytes for x in jax.tree.leaves(begin) if not is_key(x))
    planner = Planner(env, space, min(256, max(16, BYTES // size)))
    deadline = began + 60 * minutes

    def plan(horizon: int, limit: int, **how: Any) -> Outcome | None:
        return planner.run(begin, key_plan, horizon=horizon, limit=limit, deadline=deadline, **how)

    def plan_all(limit: int) -> dict[int, Outcome]:
        """Plans of a whole episode, of half of one, and so on, until they are clearly worse."""
        found: dict[int, Outcome] = {}
        horizon, random = limit, float(np.mean(played["random"].returns))
        while horizon >= min(limit, SHORTEST) and (outcome := plan(horizon, limit)):
            found[horizon] = outcome
            means = [float(np.mean(x.returns)) for x in found.values()]
            if means[-1] < max(means) - 0.1 * abs(max(means) - random):
                break
            horizon //= 2
        return found

    done = plan_all(limit)
    if done:
        played["planner"] = best_of(list(done.values()))
    seen = Evidence(
        settings.episode_length, repeat, played, best, action_changes, reward_reads, hidden
    )
    if done and is_own and np.mean(played["planner"].ended) <= 0.5:
        horizon = max(done, key=lambda x: np.mean(done[x].returns))
        times = 4 if seen.is_flat else 2
        longer = (
            plan_all(times * limit).values()
            if seen.is_flat
            else [plan(x, times * limit) for x in (horizon, times * limit)]
        )
        if tried := [x for x in longer if x]:
            seen = replace(seen, longer=best_of(tried), times=times)
    if done and ends_early(seen):
        lives = [plan(horizon, limit, maximise="lengths") for horizon in list(done)[-2:]]
        longest = max((x for x in lives if x), key=lambda x: np.mean(x.lengths), default=None)
        seen = replace(seen, survivor=longest)
    return replace(seen, seconds=time.monotonic() - began)


class WithoutObs(Wrapper):
    """Gives no observations, which are then not even computed: for images that takes longest."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._obs = fingerprint.reset_shapes(env).obs

    def reset(self, rng: jax.Array) -> State:
        return self.env.reset(rng).replace(obs=jnp.zeros(1))

    def step(self, state: State, action: jax.Array) -> State:
        # Some observations are made of the one before, such as stacked frames.
        obs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._obs)
        return self.env.step(state.replace(obs=obs), action).replace(obs=jnp.zeros(1))


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The one with the highest return from each start."""
    best = np.argmax([np.nan_to_num(x.returns, nan=-np.inf) for x in outcomes], axis=0)

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


def try_actions(
    env: Env, space: ActionSpace, start: State, limit: int, key: jax.Array
) -> tuple[dict[str, Outcome], bool, list[str]]:
    """Random and constant actions from each start, and from starts with a part exchanged.

    All are rows of one batch, so that the environment is compiled once. A row has a partner: the
    row that it is compared with at every step.

    Returns:
      Outcomes, "random" first; whether actions change anything; the parts of the state on which it
      depends what is best, and that no observation shows.
    """
    constants, batch = space.held(), start.done.shape[0]
    held = np.stack([np.zeros(space.shape, space.dtype), *constants.values()])  # the first: random
    count, few, followed = len(held), min(5, len(held)), min(8, batch)
    swaps = list(itertools.islice(parts_that_vary(start), SWAPS))
    sequence, row = (x.ravel() for x in np.mgrid[:count, :batch])
    s, r = (x.ravel() for x in np.mgrid[:few, :followed])
    partner = np.concatenate([row, *[s * batch + r] * len(swaps)])  # random, or not exchanged
    sequence = np.concatenate([sequence, *[s] * len(swaps)])
    row = np.concatenate([row, *[r] * len(swaps)])

    own, found = jax.tree.leaves(start), jax.tree.leaves(take_rows(start, row, batch))
    for i, (_, index, elements) in enumerate(swaps):
        at = count * batch + i * len(s) + np.arange(len(s))
        values = np.asarray(own[index]).reshape(batch, -1)[:, elements]
        # The next start in which these elements are not the same.
        other = [(j + np.argmax(np.any(np.roll(values, -j, 0) != values[j], 1))) % batch for j in r]
        exchanged = np.array(found[index]).reshape(len(row), -1)
        exchanged[np.ix_(at, elements)] = values[other]
        found[index] = jnp.asarray(exchanged.reshape(found[index].shape))
    state = jax.tree.unflatten(jax.tree.structure(start), found)

    def watch(state: State, alive: jax.Array) -> tuple[jax.Array, jax.Array]:
        goes_on = alive & (state.done == 0)  # no policy sees the observation of an end
        changes = alive & alive[partner] & differs(state, partner)
        return changes, goes_on & goes_on[partner] & differs(observed(state.obs), partner)

    @jax.jit
    def play(state: State, key: jax.Array) -> Any:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(row)
        is_random = (sequence == 0).reshape(-1, *(1,) * len(space.shape))

        def act(t: jax.Array) -> jax.Array:
            drawn = jax.vmap(lambda key: space.sample(jax.random.fold_in(key, t)))(keys)
            return jnp.where(is_random, drawn, held[sequence])

        return follow(env, act, state, jnp.ones(len(row), bool), limit, watch)[2]

    seen = jax.device_get(play(state, key))
    plain, (changes, shows) = count * batch, seen.watched
    played = {}
    for name, at in zip(["random", *constants], np.split(np.arange(plain), count), strict=True):
        rewards = float(np.min(seen.low[at])), float(np.max(seen.high[at]))
        played[name] = Outcome(seen.returns[at], seen.lengths[at], seen.ended[at], rewards)

    own_returns = seen.returns[:plain].reshape(count, batch)[:few, :followed]
    enough = 0.01 * max(float(np.ptp(own_returns)), 1e-6)
    hidden = []
    for i, (path, _, _) in enumerate(swaps):
        at = slice(plain + i * len(s), plain + (i + 1) * len(s))
        after = seen.returns[at].reshape(own_returns.shape)
        x, y = (z[:, None] - z[None] for z in (own_returns, after))
        is_reversed = (np.minimum(np.abs(x), np.abs(y)) > enough) & (x * y < 0)
        if np.any(is_reversed) and not np.any(shows[at]):
            hidden.append(path)
    return played, bool(np.any(changes[:plain])), hidden


def parts_that_vary(start: State) -> Iterator[tuple[str, int, list[int]]]:
    """Parts of the state that differ between starts: path, number of the leaf, and elements."""
    for index, (path, x) in enumerate(leaves(start).items()):
        of_wrapper = any(path.startswith(f"info['{name}']") for name in WRAPPER_INFO)
        if not path.startswith(("pipeline_state", "info")) or of_wrapper or is_key(x):
            continue
        flat = np.asarray(x).reshape(len(start.done), -1)
        varies = np.flatnonzero(np.any(flat != flat[:1], axis=0)).tolist()
        if varies and (flat.shape[1] == 1 or flat.shape[1] > SMALL):
            yield path, index, list(range(flat.shape[1]))
        else:
            for element in varies:
                yield f"{path}[{element}]", index, [element]


def observed(obs: Any) -> Any:
    """What the policy may see of an observation."""
    if isinstance(obs, Mapping):
        return {name: x for name, x in obs.items() if not name.startswith(PRIVILEGED)}
    return obs


def differs(tree: Any, partner: np.ndarray) -> jax.Array:
    """Which rows are unlike their partner by more than rounding, (rows,) bool; keys don't count."""
    found = jnp.zeros(partner.shape, bool)
    for x in jax.tree.leaves(tree):
        if not is_key(x) and jnp.shape(x)[:1] == partner.shape:
            x = x.astype(jnp.float32).reshape(len(partner), -1)
            y = x[partner]
            far = jnp.abs(x - y) > 1e-5 + 1e-4 * jnp.maximum(jnp.abs(x), jnp.abs(y))
            found |= jnp.any(far, axis=1)
    return found
