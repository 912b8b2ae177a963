"""Environments equal to Gymnasium's, and mutants of them.

The environments are those of examples/. A mutant is the text of one with a mistake.
"""

import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import Env, State
from kit.env.actions import Continuous, Discrete, MultiDiscrete
from kit.env.episodes import Policy
from kit.errors import UsageError
from kit.tools.compare import Comparison, compare
from toys import Toy

EXAMPLES = Path(__file__).parents[2] / "examples"


def balance(obs: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
    """Keeps the pole of CartPole up until the time limit."""
    return jnp.int32(obs @ jnp.array([0.1, 0.3, 3.0, 1.0]) > 0), {}


def swing_links(obs: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
    """Reaches the goal of Acrobot."""
    return jnp.int32(1 + jnp.sign(obs[5])), {}


def swing_car(obs: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
    """Reaches the goal of MountainCarContinuous, and does not always use the whole motor."""
    return jax.random.uniform(key, (1,), minval=0.7) * jnp.sign(obs[1:]), {}


# Folder, class, id and time limit; a policy that reaches the end of an episode that random actions
# do not reach.
Case = tuple[str, str, str, int, Policy | None]
PENDULUM: Case = ("pendulum", "Pendulum", "Pendulum-v1", 200, None)
CARTPOLE: Case = ("cartpole", "CartPole", "CartPole-v1", 500, balance)
ACROBOT: Case = ("acrobot", "Acrobot", "Acrobot-v1", 500, swing_links)
CAR: Case = ("mountain-car", "MountainCar", "MountainCarContinuous-v0", 999, swing_car)


def make(case: Case, old: str = "", new: str = "") -> Env:
    """The example's environment, with `new` in place of `old` in its text."""
    folder, name, *_ = case
    text = (EXAMPLES / folder / "src" / folder.replace("-", "_") / "env.py").read_text()
    assert text.count(old) == 1 or not old, f"{old} is not in env.py, or several times"
    module = types.ModuleType(folder)
    exec(text.replace("from .kit", "from kit").replace(old, new or old), module.__dict__)
    return getattr(module, name)()


def set_state(reference: Any, state: State) -> None:
    """All four keep their state in one array, in the order of ours."""
    leaves = jax.tree.leaves(state.pipeline_state)
    reference.state = np.concatenate([np.ravel(x) for x in leaves])


def comparisons(case: Case, env: Env, **arguments: Any) -> Iterator[Comparison]:
    """With the original: by the policy, if there is one, then by random actions."""
    _, _, reference, limit, own = case
    arguments = {"episode_length": limit, **arguments}
    for policy in [own, None] if own else [None]:
        yield compare(env, reference, set_state, policy=policy, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("case", [PENDULUM, CARTPOLE, ACROBOT, CAR], ids=lambda case: case[0])
def test_the_examples_equal_the_originals(case: Case) -> None:
    found = list(comparisons(case, make(case), num_steps=2_000))
    for comparison in found:
        assert comparison.difference is None, comparison.difference
        assert comparison.steps == 2_000
    assert sum(comparison.time_limits for comparison in found) > 0
    if case is not PENDULUM:  # which never ends an episode
        assert sum(comparison.terminations for comparison in found) > 0


# The example, what stands in its env.py, what stands in the mutant's, and what differs first.
MUTANTS: dict[str, tuple[Case, str, str, str]] = {
    "another time step": (PENDULUM, "DT = 0.05", "DT = 0.049", "observation[0]"),
    "Euler by the old speed": (PENDULUM, "+ DT * speed,", "+ DT * pose.speed,", "observation[0]"),
    "gravity upwards": (PENDULUM, "1.5 * GRAVITY", "-1.5 * GRAVITY", "observation[0]"),
    "torque clipped": (
        PENDULUM,
        "MAX_TORQUE * jnp.clip(action[0], -1.0, 1.0)",
        "jnp.clip(MAX_TORQUE * action[0], -1.0, 1.0)",
        "observation[0]",
    ),
    "sine before cosine": (
        PENDULUM,
        "[jnp.cos(pose.angle), jnp.sin(pose.angle), pose.speed]",
        "[jnp.sin(pose.angle), jnp.cos(pose.angle), pose.speed]",
        "observation[0]",
    ),
    "reward of the next state": (
        PENDULUM,
        "reward=-cost",
        "reward=-(cost + 0.1 * (pose.speed**2 - state.pipeline_state.speed**2))",
        "reward",
    ),
    "angle not wrapped": (
        PENDULUM,
        "(pose.angle + jnp.pi) % (2 * jnp.pi)",
        "pose.angle + jnp.pi",
        "reward",
    ),
    "semi-implicit Euler": (
        CARTPOLE,
        "theta=now.theta + DT * now.theta_dot",
        "theta=now.theta + DT * (now.theta_dot + DT * theta_acc)",
        "observation[2]",
    ),
    "entries swapped": (
        CARTPOLE,
        "[motion.x, motion.x_dot, motion.theta, motion.theta_dot]",
        "[motion.x, motion.theta, motion.x_dot, motion.theta_dot]",
        "observation[1]",
    ),
    "15 degrees": (CARTPOLE, "12 * 2", "15 * 2", "termination"),
    "no reward for the last step": (CARTPOLE, "jnp.ones((), jnp.float32)", "1.0 - fell", "reward"),
    "both joints as slow": (ACROBOT, "9 * np.pi", "4 * np.pi", "observation[5]"),
    "equations of the paper": (
        ACROBOT,
        "- 0.5 * speed1**2 * jnp.sin(angle2) - phi2",
        "- phi2",
        "observation[4]",
    ),
    "the last step costs": (
        ACROBOT,
        "reached.astype(jnp.float32) - 1.0",
        "-jnp.ones(())",
        "reward",
    ),
    "a weaker motor": (CAR, "POWER = 0.0015", "POWER = 0.0014", "observation[0]"),
    "no wall": (CAR, "(position <= LEFT) & (speed < 0)", "False", "observation[1]"),
    "the other car's goal": (CAR, "GOAL = 0.45", "GOAL = 0.5", "reward"),
    "cost not squared": (CAR, "action[0] ** 2", "jnp.abs(action[0])", "reward"),
    "goes on at the goal": (CAR, "done=reached", "done=0.0 * reached", "termination"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str) -> None:
    case, old, new, where = MUTANTS[name]
    found = (one.difference for one in comparisons(case, make(case, old, new), num_steps=1_000))
    first = next(difference for difference in found if difference)
    assert str(first).startswith(f"{where} is "), first


@pytest.mark.parametrize("case", [PENDULUM, CARTPOLE], ids=lambda case: case[0])
@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_time_limit_that_is_off_by_one_is_caught(case: Case, off_by: int) -> None:
    limit = case[3] + off_by
    found = (
        one.difference
        for one in comparisons(case, make(case), episode_length=limit, num_steps=1_000)
    )
    difference = next(difference for difference in found if difference)
    assert difference.what == "time limit"
    assert difference.episode_step == min(limit, case[3])
    assert (difference.ours, difference.reference) == ((1, 0) if off_by < 0 else (0, 1))


class Reference(gymnasium.Env[Any, Any]):
    """The `Toy` of toys.py, whose actions add up to a push."""

    def __init__(self, action_space: Any, push: Callable[[Any], float]) -> None:
        self.action_space = action_space
        self.observation_space = gymnasium.spaces.Box(-4.0, 4.0, (2,))
        self.push = push
        self.x = 0.0

    def reset(self, **_: Any) -> Any:
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.x = np.clip(self.x + 0.1 * self.push(action), -2, 2)
        return self.observe(), -abs(self.x), False, False, {}

    def observe(self) -> Any:
        return np.array([self.x, self.x**2])


def compare_toys(space: Any, theirs: Any, push: Any, **arguments: Any) -> Comparison:
    def set_x(reference: Any, state: State) -> None:
        reference.x = state.pipeline_state["x"]

    return compare(
        Toy(space, **({"observe": arguments.pop("observe")} if "observe" in arguments else {})),
        gymnasium.wrappers.TimeLimit(Reference(theirs, push), 8),
        set_x,
        episode_length=8,
        num_steps=50,
        **arguments,
    )


box, discrete, multi_discrete = (
    gymnasium.spaces.Box,
    gymnasium.spaces.Discrete,
    gymnasium.spaces.MultiDiscrete,
)


@pytest.mark.parametrize(
    ("space", "theirs", "push"),
    [
        (Continuous(2), box(-1.0, 1.0, (2,)), np.sum),
        (Continuous(2), box(-1.0, 3.0, (1, 2)), lambda action: np.sum(action - 1) / 2),
        (Discrete(3), discrete(3), float),
        (Discrete(3), discrete(3, start=-1), lambda action: action + 1),
        (MultiDiscrete((3, 2)), multi_discrete([3, 2]), np.sum),
    ],
)
def test_actions_are_mapped(space: Any, theirs: Any, push: Any) -> None:
    comparison = compare_toys(space, theirs, push)
    assert comparison.difference is None, comparison.difference
    assert comparison.time_limits == 50 // 8


@pytest.mark.parametrize("scale", [100, 90])
def test_actions_and_observations_may_be_mapped_by_hand(scale: int) -> None:
    difference = compare_toys(
        Continuous(2),
        discrete(401, start=-200),
        lambda action: action / 100,
        to_action=lambda action: round(scale * float(action.sum())),
        observe=lambda x: {"place": x[None], "square": x**2 * jnp.ones((1, 1))},
        to_observation=lambda obs: {"place": obs[:1], "square": obs[1:, None]},
        atol=0.002,
    ).difference
    if scale == 100:
        assert difference is None, difference
    else:
        assert difference is not None
        assert str(difference).startswith("observation['place'][0] is ")


@pytest.mark.parametrize(
    ("space", "theirs"),
    [
        (Continuous(2), box(-1.0, 1.0, (3,))),
        (Continuous(1), box(-np.inf, np.inf, (1,))),
        (Continuous(3), discrete(3)),
        (Discrete(3), discrete(4)),
        (MultiDiscrete((3, 2)), multi_discrete([2, 3])),
    ],
)
def test_actions_that_do_not_fit_are_a_sentence(space: Any, theirs: Any) -> None:
    with pytest.raises(UsageError, match="give compare a to_action"):
        compare_toys(space, theirs, np.sum)


def test_observations_that_do_not_fit_are_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"observation has shape \(2,\) and .* \(1,\)"):
        compare_toys(Discrete(3), discrete(3), float, to_observation=lambda obs: obs[:1])
    with pytest.raises(UsageError, match="is a dict of place"):
        compare_toys(Discrete(3), discrete(3), float, observe=lambda x: {"place": x[None]})


def test_a_missing_gymnasium_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="uv sync --extra gym"):
        compare_toys(Discrete(3), discrete(3), float)


def test_nan_is_a_difference() -> None:
    comparison = compare_toys(Discrete(3), discrete(3), lambda action: np.nan)
    assert str(comparison.difference).startswith("observation[0] is ")
