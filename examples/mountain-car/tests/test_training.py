"""Each task of config.py trains, and its policy can be saved and loaded.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from mountain_car import config, load_policy
from mountain_car.kit import action_space_of, tasks_in, train

TASKS = tasks_in(config)


@pytest.mark.parametrize("name", TASKS)
def test_it_trains_and_its_policy_acts(name: str, tmp_path: Path) -> None:
    # Two of the smallest updates there are, and short episodes: most of the time is compiling.
    settings = dataclasses.replace(
        TASKS[name].settings,
        num_timesteps=1,
        num_evals=2,
        num_eval_envs=2,
        num_seeds=1,
        num_envs=2,
        unroll_length=2,
        batch_size=2,
        num_minibatches=1,
        num_updates_per_batch=1,
    )
    settings = dataclasses.replace(
        settings, episode_length=min(settings.episode_length, 2 * settings.action_repeat)
    )
    task = dataclasses.replace(TASKS[name], settings=settings)
    losses: dict[str, float] = {}
    console = Console(quiet=True)
    run = train(task, name=name, run_dir=tmp_path / "run", report=losses.update, console=console)
    assert np.isfinite(losses["training/total_loss"])

    env = task.environment()
    action, _ = load_policy(run)(env.reset(jax.random.PRNGKey(0)).obs, jax.random.PRNGKey(1))
    assert action.shape == action_space_of(env).shape
    assert np.all(np.isfinite(action))
