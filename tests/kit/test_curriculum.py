"""An environment with an attribute `progress` is told how far training is."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import Env, State
from kit.env.actions import Discrete
from kit.env.frames import FrameStack
from kit.ppo.networks import make_network_factory
from kit.ppo.settings import PPOConfig
from kit.ppo.task import Task
from kit.run import folder
from kit.run.programs import Programs
from kit.run.train import train
from rich.console import Console
from toys import Toy, toy_task


class Told(Toy):
    """Its metrics are the progress that `step` reads and the one that `reset` has read."""

    progress: Any = 1.0

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        memory = {**state.pipeline_state, "at_reset": jnp.float32(self.progress)}
        metrics = {**state.metrics, "at_step": jnp.float32(0), "at_reset": jnp.float32(0)}
        return state.replace(pipeline_state=memory, metrics=metrics)

    def step(self, state: State, action: jax.Array) -> State:
        state = super().step(state, action)
        now = {"at_step": jnp.float32(self.progress), "at_reset": state.pipeline_state["at_reset"]}
        return state.replace(metrics={**state.metrics, **now})


def told_task(**settings: Any) -> Task:
    # Four updates of 32 steps, each of which holds one whole episode of each environment.
    settings = {"num_timesteps": 128, "unroll_length": 8, "batch_size": 2, **settings}
    return dataclasses.replace(toy_task(**settings), environment=Told)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_it_goes_from_0_to_1_in_reset_and_step(num_seeds: int) -> None:
    programs = Programs(told_task(num_seeds=num_seeds))
    state = programs.init()
    steps, resets = [], []
    for _ in range(4):
        assert np.all(programs.evaluate(state)["eval/episode_at_step"] == 8)  # 1 at each step
        state, totals = programs.epoch(state, 1)
        means = totals.means()
        steps.append(np.atleast_1d(means["training/episode_at_step"]) / 8)
        resets.append(np.atleast_1d(means["training/episode_at_reset"]) / 8)
    np.testing.assert_allclose(steps, np.tile([[0], [1 / 3], [2 / 3], [1]], num_seeds), atol=1e-6)
    # An episode of an update was reset at the end of the update before.
    np.testing.assert_allclose(resets, np.tile([[0], [0], [1 / 3], [2 / 3]], num_seeds), atol=1e-6)
    assert programs.environment.progress == 1.0


@pytest.mark.slow
def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    task, quiet = told_task(num_evals=5), Console(quiet=True)
    whole = train(task, run_dir=tmp_path / "whole", console=quiet)
    part = tmp_path / "part"
    train(told_task(num_evals=3, num_timesteps=64), run_dir=part, console=quiet)
    config = (part / "config.json").read_text()
    (part / "config.json").write_text(config.replace('"num_evals": 3', '"num_evals": 5'))
    train(task, run_dir=part, resume=True, console=quiet)
    name = "training/episode_at_step"
    told = [[row[name] for row in folder.read_metrics(run)[3:]] for run in (whole, part)]
    assert told[0] == told[1]


def test_an_environment_without_it_is_left_alone() -> None:
    programs = Programs(toy_task())
    programs.epoch(programs.init(), 1)
    assert not hasattr(programs.environment, "progress")


def test_a_wrapper_of_the_task_may_be_around_it() -> None:
    task = dataclasses.replace(told_task(), environment=lambda: FrameStack(Told(), 2))
    programs = Programs(task)
    _, totals = programs.epoch(programs.init(), 1)
    assert totals.means()["training/episode_at_step"] == 0


LENGTH = 40


class Corridor(Env):
    """A step to the left or to the right; only the left end is paid, and ends the episode.

    Which action steps to the left takes turns from cell to cell: none may be held.

    Episodes start `progress` of the way to the right end, or at that end if it is not told.
    """

    observation_size = 2
    action_size = 2
    action_space = Discrete(2)
    backend = "none"
    progress: Any = 1.0

    def __init__(self, is_told: bool) -> None:
        self._is_told = is_told

    def reset(self, rng: jax.Array) -> State:
        progress = self.progress if self._is_told else 1.0
        cell = 1 + jnp.int32(progress * (LENGTH - 1))
        zero = jnp.zeros((), jnp.float32)
        return State(cell, self._observe(cell), zero, zero)

    def step(self, state: State, action: jax.Array) -> State:
        cell = state.pipeline_state
        cell = jnp.clip(jnp.where(action == cell % 2, cell - 1, cell + 1), 0, LENGTH)
        done = jnp.float32(cell == 0)
        return state.replace(pipeline_state=cell, obs=self._observe(cell), reward=done, done=done)

    def _observe(self, cell: jax.Array) -> jax.Array:
        return jnp.stack([cell / LENGTH, cell % 2]).astype(jnp.float32)


@pytest.mark.long
@pytest.mark.parametrize("is_told", [True, False])
def test_a_goal_that_is_never_met_by_chance_is_learned(is_told: bool, tmp_path: Path) -> None:
    """40 cells in 60 steps: random actions need 1,600."""
    settings = PPOConfig(episode_length=60, num_timesteps=400_000, num_seeds=5, num_evals=3)
    corridor = functools.partial(Corridor, is_told)
    task = Task(corridor, settings, make_network_factory(Corridor.action_space))
    run = train(task, run_dir=tmp_path / "run", console=Console(quiet=True))
    returns = [row["eval/episode_reward"] for row in folder.read_metrics(run)[-5:]]
    assert returns == [float(is_told)] * 5
