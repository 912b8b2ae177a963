"""Whether an environment equals one of Gymnasium: the same steps from the same states.

def set_state(reference, state):
    reference.state = np.array([state.pipeline_state.angle, state.pipeline_state.speed])

comparison = compare(Pendulum(), "Pendulum-v1", set_state, episode_length=200)
assert comparison.difference is None, comparison.difference
assert comparison.time_limits > 0
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from brax.envs.base import Env, State

from ..env.actions import ActionSpace, Continuous, Discrete, MultiDiscrete, action_space_of
from ..env.episodes import Policy, random_policy, strip_weak_types
from ..env.wrappers import wrap_for_training
from ..errors import UsageError
from ..run import commands


@dataclass(frozen=True)
class Difference:
    """The first number that differs.

    Attributes:
      what: "observation", "reward", "termination" or "time limit".
      step: counted from 1 over all episodes.
      episode_step: counted from 1 in its episode.
      index: where in the observation; empty for a single number. A dict starts with its key.
      ours: the environment's value.
      reference: the reference's value.
    """

    what: str
    step: int
    episode_step: int
    index: tuple[Any, ...]
    ours: float
    reference: float

    def __str__(self) -> str:
        at = "".join(f"[{i!r}]" for i in self.index)
        return (
            f"{self.what}{at} is {self.ours:.9g} and the reference's is {self.reference:.9g}, "
            f"in step {self.step} (step {self.episode_step} of its episode)"
        )


@dataclass(frozen=True)
class Comparison:
    """What `compare` saw.

    Attributes:
      difference: the first one; None if there is none.
      steps: how many steps were compared, the one that differs included.
      terminations: how many of them ended an episode of both.
      time_limits: how many of them reached the time limit of both.
    """

    difference: Difference | None
    steps: int
    terminations: int
    time_limits: int


def compare(
    env: Env,
    reference: Any,
    set_state: Callable[[Any, State], None],
    *,
    episode_length: int,
    policy: Policy | None = None,
    num_steps: int = 5_000,
    seed: int = 0,
    to_action: Callable[[np.ndarray], Any] | None = None,
    to_observation: Callable[[Any], Any] | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-5,
) -> Comparison:
    """Steps an environment and a reference from the same states with the same actions.

    Before each step the reference is put into the environment's state, so that float32 and float64
    don't drift apart. The result of each step is compared, and when episodes end. The states that
    `reset` draws are not compared, and random steps can't be.

    Args:
      env: one environment, not batched.
      reference: a `gymnasium.Env` as `gymnasium.make` gives it, with its `TimeLimit`; or its id.
      set_state: called with `reference.unwrapped` and a state of `env`, whose arrays are NumPy's;
        puts the first into the second.
      episode_length: the time limit of `env`, in steps.
      policy: takes one observation and a key, as `load_policy` gives it; random actions if None. It
        should reach all ends of episodes: terminations and the time limit.
      num_steps: how many steps; an episode that has ended is followed by another one.
      seed: of starts and actions.
      to_action: the reference's action for one of `env`. If None, continuous actions are scaled
        from [-1, 1] to the reference's Box, and choices counted from the reference's first one.
      to_observation: what `env` should observe where the reference gave its argument: an array, or
        a dict of arrays; as it is if None.
      atol: numbers differ if they are farther apart than atol + rtol * |the reference's|.
      rtol: see `atol`.

    Raises:
      UsageError: gymnasium is missing, or actions or observations can't be mapped to each other.
    """
    commands.require("gymnasium", "compare", "gym")
    import gymnasium  # type: ignore[import-not-found, unused-ignore]

    if isinstance(reference, str):
        reference = gymnasium.make(reference, disable_env_checker=True)
    space = action_space_of(env)
    to_action = to_action or _action_map(space, reference.action_space)
    rollout = _rollout(env, policy or random_policy(space), episode_length, num_steps, seed)

    steps = terminations = time_limits = episode_step = 0
    reference.reset(seed=seed)
    for state, action, after in rollout:
        set_state(reference.unwrapped, state)
        obs, reward, terminated, truncated, _ = reference.step(to_action(action))
        steps, episode_step = steps + 1, episode_step + 1
        theirs = {
            "observation": obs if to_observation is None else to_observation(obs),
            "reward": reward,
            "termination": terminated,
            "time limit": truncated,
        }
        for what in theirs:
            for path, x, y in _side_by_side(what, after[what], theirs[what]):
                differs = ~(np.abs(x - y) <= atol + rtol * np.abs(y))  # NaN differs
                if differs.any():
                    index = tuple(np.argwhere(differs)[0].tolist())
                    difference = Difference(
                        what, steps, episode_step, path + index, float(x[index]), float(y[index])
                    )
                    return Comparison(difference, steps, terminations, time_limits)
        terminations, time_limits = terminations + bool(terminated), time_limits + bool(truncated)
        if terminated or truncated:
            reference.reset()
            episode_step = 0
    return Comparison(None, steps, terminations, time_limits)


def _rollout(
    env: Env, policy: Policy, episode_length: int, num_steps: int, seed: int
) -> Iterator[tuple[State, np.ndarray, dict[str, Any]]]:
    """The state before each step, the action, and what the step gave; all on the host."""
    wrapped = wrap_for_training(env, episode_length)
    key_reset, key_steps = jax.random.split(jax.random.PRNGKey(seed))

    def step(state: State, key: jax.Array) -> tuple[State, Any]:
        action = jax.vmap(policy)(state.obs, key[None])[0]
        after = strip_weak_types(wrapped.step(state, action))
        gave = {
            "observation": after.info["final_obs"],  # not the first one of the next episode
            "reward": after.reward,
            "termination": after.done * (1 - after.info["truncation"]),
            "time limit": after.info["steps"] >= episode_length,
        }
        return after, (state, action, gave)

    @jax.jit
    def run() -> Any:
        state = strip_weak_types(wrapped.reset(key_reset[None]))
        return jax.lax.scan(step, state, jax.random.split(key_steps, num_steps))[1]

    everything = jax.device_get(run())
    for number in range(num_steps):
        yield jax.tree.map(lambda x, number=number: x[number, 0], everything)


def _action_map(ours: ActionSpace, theirs: Any) -> Callable[[np.ndarray], Any]:
    """From our actions to those of the reference; `theirs` is a space of Gymnasium."""
    from gymnasium import spaces  # type: ignore[import-not-found, unused-ignore]

    match ours, theirs:
        case Continuous(size), spaces.Box(low=low, high=high) if (
            low.size == size and np.isfinite(low).all() and np.isfinite(high).all()
        ):
            return lambda action: np.asarray(
                low + (action.reshape(low.shape) + 1) / 2 * (high - low), theirs.dtype
            )
        case Discrete(size), spaces.Discrete(n=n, start=start) if n == size:
            return lambda action: start + action
        case MultiDiscrete(choices), spaces.MultiDiscrete(nvec=n, start=start) if (
            tuple(n.ravel()) == choices
        ):
            return lambda action: start + action.reshape(n.shape)
    raise UsageError(f"Actions are {ours} and the reference's {theirs}: give compare a to_action.")


def _side_by_side(
    what: str, ours: Any, theirs: Any
) -> Iterator[tuple[tuple[str, ...], np.ndarray, np.ndarray]]:
    """The arrays of both, with the key of each if they are dicts."""
    if not isinstance(ours, dict):
        ours, theirs = {"": ours}, {"": theirs}
    if not isinstance(theirs, dict) or ours.keys() != theirs.keys():
        raise UsageError(
            f"The observation is a dict of {', '.join(ours)}, and the reference's is not: give "
            "compare a to_observation."
        )
    for key in ours:
        x, y = np.asarray(ours[key], np.float64), np.asarray(theirs[key], np.float64)
        if x.shape != y.shape:
            raise UsageError(
                f"The {what}{key and f' {key!r}'} has shape {x.shape} and the reference's "
                f"{y.shape}: give compare a to_observation."
            )
        yield (key,) if key else (), x, y
