"""Tasks without a fault, and the same with a fault planted, each with what `diagnose` has to find.

The environments are those of tests/check and the two skeletons of tests/golden.
"""

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import bases
import correct
import jax
import jax.numpy as jnp
import kit
from brax.envs.base import Env, State, Wrapper
from kit.env.actions import Continuous, Discrete
from kit.ppo.networks import make_network_factory
from kit.ppo.settings import PPOConfig
from kit.ppo.task import Task

GOLDEN = Path(__file__).parents[1] / "golden"


def skeleton(project: str) -> Any:
    """The module `env` of a project in tests/golden, with this kit."""
    name = project.replace("-", "_")
    parts = {name: types.ModuleType(name), f"{name}.kit": kit}
    parts[name].__path__ = []
    sys.modules.update(parts)
    path = GOLDEN / project / "src" / "my_env" / "env.py"
    spec = importlib.util.spec_from_file_location(f"{name}.env", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[f"{name}.env"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VECTOR, HYBRID = skeleton("vector-continuous"), skeleton("hybrid-multi_discrete")
SPACES: dict[str, Any] = {
    "CartPole": Discrete(2),
    "MountainCar": Discrete(3),
    "Acrobot": Discrete(3),
    "Catch": Discrete(3),
    "Snake": Discrete(4),
    "FrozenLake": Discrete(4),
    "TicTacToe": Discrete(9),
    "Maze": Discrete(4),
}


class Planted(Wrapper):
    """An environment with parts of its `step` replaced.

    Args:
      env: what it is planted in.
      space: its actions.
      action: what `env` is given, from what the policy gives.
      reward, done, obs: computed from the state after the step.
    """

    def __init__(
        self,
        env: Env,
        space: Any,
        action: Callable[[Any], Any] = lambda action: action,
        reward: Callable[[State], Any] = lambda state: state.reward,
        done: Callable[[State], Any] = lambda state: state.done,
        obs: Callable[[Any], Any] = lambda obs: obs,
    ) -> None:
        super().__init__(env)
        self.action_space = space
        self._action, self._reward, self._done, self._obs = action, reward, done, obs

    def reset(self, rng: jax.Array) -> State:
        state = self.env.reset(rng)
        return state.replace(obs=self._obs(state.obs))

    def step(self, state: State, action: jax.Array) -> State:
        after = self.env.step(state, self._action(action))
        reward, done = (jnp.float32(x(after)) for x in (self._reward, self._done))
        return after.replace(obs=self._obs(after.obs), reward=reward, done=done)


def task(name: str, limit: int, **planted: Any) -> Task:
    """The task of an environment, by its class or "skeleton" and "hybrid skeleton"."""
    if "skeleton" in name:
        module = VECTOR if name == "skeleton" else HYBRID
        make, space = module.MyEnv, module.ACTION_SPACE
    else:
        make = getattr(correct, name, None) or getattr(bases, name)
        space = SPACES.get(name) or Continuous(make().action_size)
    return Task(
        environment=lambda: Planted(make(), space, **planted),
        settings=PPOConfig(episode_length=limit),
        network_factory=make_network_factory(space),
    )


class Case(NamedTuple):
    """A task, and the name of the first finding; None where nothing is to be found."""

    task: Task
    finding: str | None


def position(state: State) -> jax.Array:
    return state.pipeline_state.position


def miss_car(state: State) -> jax.Array:
    return jnp.where(state.obs[0] >= 0.7, 100.0, 0.0)  # the car stops at 0.6


# Limits are those that Gymnasium registers; of the others, long enough.
SOUND: dict[str, Task] = {
    "skeleton": task("skeleton", 100),
    "hybrid skeleton": task("hybrid skeleton", 100),
    "Pendulum": task("Pendulum", 200),
    "CartPole": task("CartPole", 500),
    "Acrobot": task("Acrobot", 500),
    "MountainCar": task("MountainCar", 200),
    "MountainCarContinuous": task("MountainCarContinuous", 999),
    "Catch": task("Catch", 9),
    "Maze": task("Maze", 30),
    "Snake": task("Snake", 100),
    "Pole": task("Pole", 100),
    "Point": task("Point", 100),
    "FrozenLake": task("FrozenLake", 100),
    "TicTacToe": task("TicTacToe", 9),
    "Pixels": task("Pixels", 50),
    "Privileged": task("Privileged", 100),
    # Odd, and no fault.
    "skeleton, action reversed": task("skeleton", 100, action=lambda a: -a),
    "CartPole, action reversed": task("CartPole", 500, action=lambda a: 1 - a),
    "Pendulum, reward a thousandth": task("Pendulum", 200, reward=lambda s: s.reward / 1000),
    "Pendulum, reward plus 10": task("Pendulum", 200, reward=lambda s: s.reward + 10),
}

FAULTS: dict[str, Case] = {
    "CartPole, sign of the reward": Case(
        task("CartPole", 500, reward=lambda s: -1.0), "ending_early_pays"
    ),
    "skeleton, each step costs more than the arena's edge": Case(
        task(
            "skeleton",
            100,
            reward=lambda s: s.reward - 10,
            done=lambda s: jnp.any(jnp.abs(position(s)) > 1.2),
        ),
        "ending_early_pays",
    ),
    "MountainCarContinuous, sign of the reward": Case(
        task("MountainCarContinuous", 999, reward=lambda s: -s.reward), "constant_is_best"
    ),
    "skeleton, action ignored": Case(
        task("skeleton", 100, action=lambda a: 0.0 * a), "action_changes_nothing"
    ),
    "CartPole, action ignored": Case(
        task("CartPole", 500, action=lambda a: 0 * a), "action_changes_nothing"
    ),
    "skeleton, action scaled to nothing": Case(
        task("skeleton", 100, action=lambda a: 1e-4 * a), "actions_are_weak"
    ),
    "Pendulum, action scaled to nothing": Case(
        task("Pendulum", 200, action=lambda a: 1e-5 * a), "actions_are_weak"
    ),
    "MountainCarContinuous, goal out of reach": Case(
        task("MountainCarContinuous", 200, reward=miss_car, done=lambda s: s.obs[0] >= 0.7),
        "no_reward_is_reachable",
    ),
    "skeleton, reward only outside of the arena": Case(
        task("skeleton", 100, reward=lambda s: jnp.all(jnp.abs(position(s)) > 3.0)),
        "no_reward_is_reachable",
    ),
    "Maze, goal off the board": Case(
        task(
            "Maze",
            30,
            reward=lambda s: jnp.all(s.pipeline_state["cell"] == 9),
            done=lambda s: jnp.all(s.pipeline_state["cell"] == 9),
        ),
        "no_reward_is_reachable",
    ),
    "Acrobot, time limit 50": Case(task("Acrobot", 50), "time_limit_is_short"),
    "MountainCar, time limit 70": Case(task("MountainCar", 70), "time_limit_is_short"),
    "MountainCarContinuous, time limit 60": Case(
        task("MountainCarContinuous", 60), "time_limit_is_short"
    ),
    "Pendulum, time limit 20": Case(task("Pendulum", 20), "time_limit_is_short"),
    "Catch, time limit 5": Case(task("Catch", 5), "time_limit_is_short"),
    "Pendulum, reward 1": Case(task("Pendulum", 200, reward=lambda s: 1.0), "reward_is_constant"),
    "skeleton, reward 0": Case(
        task("skeleton", 100, reward=lambda s: 0.0, done=lambda s: 0.0), "reward_is_constant"
    ),
    "Catch, paid for any end": Case(
        task("Catch", 9, reward=lambda s: s.done), "reward_ignores_actions"
    ),
    "Timed, paid for time": Case(
        task("Timed", 30, reward=lambda s: s.pipeline_state["t"] / 20.0), "reward_ignores_actions"
    ),
    "hybrid skeleton, observation without the goal": Case(
        task("hybrid skeleton", 100, obs=lambda x: x.at[: -HYBRID.VECTOR_SIZE].set(0.0)),
        "goal_is_hidden",
    ),
    "Maze, observation without the goal": Case(
        task("Maze", 30, obs=lambda x: x.at[2:].set(0.0)), "goal_is_hidden"
    ),
    "Catch, observation without the ball": Case(
        task("Catch", 9, obs=lambda x: x.at[:45].set(0.0)), "goal_is_hidden"
    ),
    "skeleton, observation of zeros": Case(
        task("skeleton", 100, obs=lambda x: 0.0 * x), "goal_is_hidden"
    ),
    "Pendulum, done at once": Case(
        task("Pendulum", 200, done=lambda s: 1.0), "episodes_end_at_once"
    ),
    "CartPole, done at once": Case(
        task("CartPole", 500, done=lambda s: 1.0), "episodes_end_at_once"
    ),
    "Pendulum, reward NaN": Case(
        task("Pendulum", 200, reward=lambda s: jnp.sqrt(s.reward)), "numbers_are_not_finite"
    ),
}


# ---- what comes later lies in the state or on `self` already -----------------------------------


class Prices(Env):
    """Buys (2), sells (0) or neither (1) for a step: gym-anytrading#36.

    A rise is half of the last one, and noise. So the best policy buys after a rise.

    Args:
      where: of the prices, "state" or "self"; there an episode starts somewhere in them.
    """

    backend, observation_size, action_size = "abstract", 2, 1
    action_space = Discrete(3)
    steps = 8

    def __init__(self, where: str = "state") -> None:
        self.prices = self._draw(jax.random.PRNGKey(7), 500) if where == "self" else None

    @staticmethod
    def _draw(key: jax.Array, count: int) -> jax.Array:
        def step(rise: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
            rise = 0.5 * rise + noise
            return rise, rise

        return 100 + jnp.cumsum(
            jax.lax.scan(step, jnp.zeros(()), jax.random.normal(key, (count,)))[1]
        )

    def reset(self, rng: jax.Array) -> State:
        if self.prices is None:
            state = {"t": jnp.int32(1), "prices": self._draw(rng, self.steps + 2)}
        else:
            state = {"t": jax.random.randint(rng, (), 1, len(self.prices) - self.steps - 1)}
        state["left"] = jnp.int32(self.steps)
        zero = jnp.zeros(())
        return State(state, self._observe(state), zero, zero)

    def _observe(self, state: Any) -> jax.Array:
        prices = state.get("prices", self.prices)
        return jnp.stack([prices[state["t"]], prices[state["t"] - 1]])

    def step(self, state: State, action: jax.Array) -> State:
        last = state.pipeline_state
        after = {**last, "t": last["t"] + 1, "left": last["left"] - 1}
        obs = self._observe(after)
        reward = (action - 1) * (obs[0] - obs[1])
        done = jnp.float32(after["left"] == 0)
        return state.replace(pipeline_state=after, obs=obs, reward=reward, done=done)


def buy_after_a_rise(obs: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    return jnp.where(obs[0] > obs[1], 2, 0), {}


class Cards(Env):
    """Turns card after card (0) or stops (1); pays 1 for the highest of all: SB3#641.

    The best policy lets a few pass and takes the next one that is higher than all before.

    Args:
      rolled: the top card comes off, and lies below the others then.
    """

    backend, observation_size, action_size = "abstract", 3, 1
    action_space = Discrete(2)
    count = 8

    def __init__(self, rolled: bool = False) -> None:
        self.rolled = rolled

    def reset(self, rng: jax.Array) -> State:
        deck = jax.random.permutation(rng, jnp.arange(1.0, self.count + 1))
        state = {"deck": deck, "t": jnp.int32(0), "highest": deck[0]}
        zero = jnp.zeros(())
        return State(state, self._observe(state, deck[0]), zero, zero)

    def _observe(self, state: Any, card: jax.Array) -> jax.Array:
        return jnp.stack([card == state["highest"], state["t"] / self.count, 1.0])

    def step(self, state: State, action: jax.Array) -> State:
        last = state.pipeline_state
        deck, t = last["deck"], last["t"] + 1
        stopped = (action == 1) | (t == self.count)
        won = (action == 1) & (deck[0 if self.rolled else last["t"]] == self.count)
        deck = jnp.roll(deck, -1) if self.rolled else deck
        card = deck[0] if self.rolled else deck[t]
        after = {"deck": deck, "t": t, "highest": jnp.maximum(last["highest"], card)}
        return state.replace(
            pipeline_state=after,
            obs=self._observe(after, card),
            reward=jnp.float32(won),
            done=jnp.float32(stopped),
        )


def take_the_highest_after_three(
    obs: jax.Array, key: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    return jnp.where((obs[0] > 0) & (obs[1] * Cards.count >= 2.5), 1, 0), {}


def foresight(make: Callable[[], Env], limit: int) -> Task:
    space = make().action_space
    return Task(make, PPOConfig(episode_length=limit), make_network_factory(space))


# Each with the best policy, near enough, that does not know what comes, and where that lies.
FORESIGHT: dict[str, tuple[Task, Any, str]] = {
    "Prices in the state": (
        foresight(Prices, Prices.steps),
        buy_after_a_rise,
        "pipeline_state['prices']",
    ),
    "Prices on self": (
        foresight(lambda: Prices("self"), Prices.steps),
        buy_after_a_rise,
        "self.prices",
    ),
    "Cards": (
        foresight(Cards, Cards.count),
        take_the_highest_after_three,
        "pipeline_state['deck']",
    ),
    "Cards, rolled": (
        foresight(lambda: Cards(True), Cards.count),
        take_the_highest_after_three,
        "pipeline_state['deck']",
    ),
}
