"""Whether `tune` finds settings that solve published tasks, from settings that can't.

    python benchmarks/tune.py [--tasks Pendulum ...] [--minutes 15] [--repeats 1]

Each search starts from `BAD` and from nothing that another one has found or compiled. What it
returns trains again on eight seeds that the search has not used, for as many steps as in the
search. Solved: the mean return of 1,024 episodes at the end is at the threshold or above.
`minutes` is what the search took; it ends early when settings reach the threshold on each of 256
seeds.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "template/src/{{package_name}}"), str(ROOT / "tests/check")]
from kit.env.actions import Continuous, Discrete  # noqa: E402
from kit.ppo.networks import make_network_factory  # noqa: E402
from kit.ppo.settings import PPOConfig  # noqa: E402
from kit.ppo.task import Task  # noqa: E402
from kit.run import devices  # before JAX is used  # noqa: E402
from kit.tools.tune.search import MEMBERS, Result, tune  # noqa: E402
from kit.tools.tune.trainer import NUMBERS, Trainer  # noqa: E402

# isort: split
import correct  # noqa: E402  environments of tests/check
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from brax.envs.base import Env, State  # noqa: E402
from rich.console import Console  # noqa: E402

# Action space, time limit, threshold and thousands of steps. Limits and thresholds are those of
# Gymnasium, which has none for CliffWalking: -13 is the shortest way, as -15 is in the windy
# gridworld. FrozenLake is the slippery one, unlike that of the gallery. Both mountain cars hold
# each action for several steps, as that of the gallery does, because `tune` does not search for
# that.
TASKS: dict[str, tuple[Any, int, float, int]] = {
    "Pendulum": (Continuous(1), 200, -200.0, 300),
    "CartPole": (Discrete(2), 500, 475.0, 200),
    "Acrobot": (Discrete(3), 500, -100.0, 300),
    "MountainCarContinuous": (Continuous(1), 999, 90.0, 200),
    "MountainCar": (Discrete(3), 200, -110.0, 400),
    "FrozenLake": (Discrete(4), 100, 0.7, 400),
    "CliffWalking": (Discrete(4), 100, -13.0, 200),
    "WindyGridworld": (Discrete(4), 100, -15.0, 400),
}
ACTION_REPEAT = {"MountainCarContinuous": 9, "MountainCar": 4}
NUM_EVAL_ENVS = {"FrozenLake": 512}  # its best mean, 0.74, is near the threshold
BAD: dict[str, Any] = {
    **{"num_envs": 64, "unroll_length": 4, "batch_size": 512, "num_minibatches": 1},
    **{"num_updates_per_batch": 1, "learning_rate": 1e-5, "entropy_cost": 0.3},
    **{"discounting": 0.5, "gae_lambda": 0.5, "clipping_epsilon": 0.02, "reward_scaling": 100.0},
}
SEEDS = 8
EPISODES = 1024  # of each seed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    devices.use_cores(MEMBERS)
    for name in arguments.tasks:
        for _ in range(arguments.repeats):
            task = make_task(name)
            threshold = TASKS[name][2]
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                found = tune(
                    task,
                    name=name,
                    minutes=arguments.minutes,
                    threshold=threshold,
                    folder=Path(folder),
                    console=Console(width=100),
                )
            minutes = (time.monotonic() - start) / 60
            returns = verify(task, found)
            solved = int((returns >= threshold).sum())
            print("| task | minutes | solved | returns | steps | settings |")
            listed = ", ".join(f"{key} {value}" for key, value in found.settings.items())
            shown = " ".join(f"{x:.4g}" for x in returns)
            print(
                f"| {name} | {minutes:.1f} | {solved}/{SEEDS} | {shown} | "
                f"{found.curves.steps[-1]:,} | {listed} |",
                flush=True,
            )


def make_task(name: str) -> Task:
    space, limit, _, thousands = TASKS[name]
    make: Callable[[], Env] = GRIDS.get(name) or getattr(correct, name)

    def environment() -> Any:
        env: Any = make()
        env.action_space = space
        return env

    return Task(
        environment=environment,
        settings=PPOConfig(
            episode_length=limit,
            action_repeat=ACTION_REPEAT.get(name, 1),
            num_timesteps=1000 * thousands,
            num_eval_envs=NUM_EVAL_ENVS.get(name, 128),
            **BAD,
        ),
        network_factory=make_network_factory(space),
    )


class Grid(Env):
    """A walk over a grid from the cell (3, 0); the observation is one-hot, (rows x columns,)."""

    rows: int
    columns: int
    action_size = 4
    backend = "none"

    @property
    def observation_size(self) -> int:
        return self.rows * self.columns

    def reset(self, rng: jax.Array) -> State:
        cell = jnp.array([3, 0])
        return State(cell, self._observe(cell), reward=jnp.zeros(()), done=jnp.zeros(()))

    def _moved(self, cell: jax.Array, action: jax.Array) -> jax.Array:
        """The cell after a step up, right, down or left, or the nearest one on the grid."""
        moves = jnp.array([[-1, 0], [0, 1], [1, 0], [0, -1]])
        return jnp.clip(cell + moves[action], 0, jnp.array([self.rows - 1, self.columns - 1]))

    def _observe(self, cell: jax.Array) -> jax.Array:
        return jax.nn.one_hot(self.columns * cell[0] + cell[1], self.observation_size)


class CliffWalking(Grid):
    """A 4x12 grid whose lower edge is a cliff (Sutton and Barto's book, example 6.6).

    As in Gymnasium's CliffWalking-v1: a fall costs 100 and leads back to the start, every other
    step costs 1, and only the goal ends an episode.
    """

    rows, columns = 4, 12

    def step(self, state: State, action: jax.Array) -> State:
        cell = self._moved(state.pipeline_state, action)
        is_goal = jnp.all(cell == jnp.array([3, 11]))
        falls = (cell[0] == 3) & (cell[1] > 0) & ~is_goal
        cell = jnp.where(falls, jnp.array([3, 0]), cell)
        return state.replace(
            pipeline_state=cell,
            obs=self._observe(cell),
            reward=jnp.where(falls, -100.0, -1.0),
            done=is_goal.astype(jnp.float32),
        )


class WindyGridworld(Grid):
    """A 7x10 grid, in some columns of which a wind blows (Sutton and Barto's book, example 6.5).

    Each step costs 1, and only the goal ends an episode. The wind blows upwards, by as many cells
    as the column says that a step starts in.
    """

    rows, columns = 7, 10

    def step(self, state: State, action: jax.Array) -> State:
        before = state.pipeline_state
        wind = jnp.array([0, 0, 0, 1, 1, 1, 2, 2, 1, 0])[before[1]]
        cell = self._moved(before - jnp.array([1, 0]) * wind, action)
        return state.replace(
            pipeline_state=cell,
            obs=self._observe(cell),
            reward=-jnp.ones(()),
            done=jnp.all(cell == jnp.array([3, 7])).astype(jnp.float32),
        )


GRIDS: dict[str, Callable[[], Env]] = {
    "CliffWalking": CliffWalking,
    "WindyGridworld": WindyGridworld,
}


def verify(task: Task, found: Result) -> np.ndarray:
    """(SEEDS,) returns at the end."""
    steps = int(found.curves.steps[-1])
    settings = dataclasses.replace(
        task.settings, **found.settings, num_timesteps=steps, num_eval_envs=EPISODES
    )
    trainer = Trainer(task, SEEDS, Console(quiet=True), lambda: None)
    numbers = {name: getattr(settings, name) for name in NUMBERS}
    shown = trainer.train(
        settings, [numbers] * SEEDS, seed=1000, steps=steps, evaluations=1, seconds=float("inf")
    )
    return shown.returns[-1]


if __name__ == "__main__":
    main()
