"""Tests of the environment. Yours: `copier update` never touches this file.

They are about the task that the environment starts with, and skipped once env.py has another one:
delete them then, and write tests of your task. What any environment has to keep is tested by
test_contract.py and test_training.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import State

from my_env import config
from my_env.kit import action_space_of, choose, tasks_in

env = choose(tasks_in(config), None)[1].environment()
reset, step = jax.jit(env.reset), jax.jit(env.step)
ACTIONS = action_space_of(env).sample(jax.random.PRNGKey(0), (16,))
pytestmark = pytest.mark.skipif(
    not (hasattr(env, "push") and hasattr(env, "arena")),
    reason="env.py has another task than at the start: delete these tests, and write some of yours",
)


def at(position: float) -> State:
    """A state with this coordinate on each axis."""
    state = reset(jax.random.PRNGKey(0))
    point = state.pipeline_state
    point = point.replace(position=jnp.full_like(point.position, position))
    return state.replace(pipeline_state=point)


def test_an_action_pushes_the_point() -> None:
    moves = [step(at(0.5), action).pipeline_state.position - 0.5 for action in ACTIONS]
    assert 0 < np.abs(moves).max() <= env.push + 1e-6


def test_the_reward_is_minus_the_squared_distance() -> None:
    state = step(at(0.5), ACTIONS[0])
    distance = np.linalg.norm(state.pipeline_state.position)
    np.testing.assert_allclose(state.metrics["distance"], distance, rtol=1e-5)
    np.testing.assert_allclose(state.reward, -(distance**2), rtol=1e-5)


def test_the_episode_ends_outside_the_arena() -> None:
    assert step(at(0.0), ACTIONS[0]).done == 0
    assert step(at(env.arena + 2 * env.push), ACTIONS[0]).done == 1


def test_it_draws_an_image() -> None:
    image = env.render(jax.device_get(at(0.5)))
    assert image.shape == (128, 128, 3)
    assert image.dtype == np.uint8
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 3  # background, goal and point
