"""Each task of config.py trains, and its policy can be saved and loaded.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from brax.training.agents.ppo.networks import make_inference_fn

from acrobot import config, load_policy
from acrobot.kit import runs
from acrobot.kit.ppo import policy_params
from acrobot.kit.task import tasks_in

TASKS = tasks_in(config)


@pytest.mark.parametrize("name", TASKS)
def test_a_loaded_policy_acts_as_the_trained_one(name: str, tmp_path: Path) -> None:
    # The smallest update there is: nearly all the time goes into compiling `init` and `epoch`.
    settings = dataclasses.replace(
        TASKS[name].settings,
        num_seeds=1,
        num_envs=2,
        unroll_length=2,
        batch_size=2,
        num_minibatches=1,
        num_updates_per_batch=1,
    )
    task = dataclasses.replace(TASKS[name], settings=settings)
    ppo = task.make_ppo()
    state, totals = jax.jit(ppo.epoch)(jax.jit(ppo.init)(np.uint32(0)), np.int32(2))
    assert all(np.isfinite(value) for value in totals.metrics.values()), totals.metrics

    run = runs.make_folder(tmp_path / "run")
    runs.write_config(run, name, task, ppo)
    runs.save_checkpoint(run, state, steps=2 * settings.steps_per_update)
    loaded = load_policy(run)
    trained = make_inference_fn(ppo.networks)(policy_params(state), deterministic=True)
    batch = (state.env_state.obs, jax.random.PRNGKey(0))
    jax.tree.map(np.testing.assert_array_equal, loaded(*batch), jax.jit(trained)(*batch))
