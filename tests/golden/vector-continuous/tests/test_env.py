"""Tests of the environment. Yours: `copier update` never touches this file.

test_contract.py tests what Brax expects of any environment. The tests here are about the task that
the environment starts with; replace them with tests of yours.
"""

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import State

from my_env.config import task
from my_env.env import ACTION_SPACE, AXES, Point

env = task.environment()
reset, step = jax.jit(env.reset), jax.jit(env.step)
ACTIONS = ACTION_SPACE.sample(jax.random.PRNGKey(0), (16,))


def at(position: float) -> State:
    """A state with this coordinate on each axis."""
    point = Point(position=jnp.full(AXES, position))
    return reset(jax.random.PRNGKey(0)).replace(pipeline_state=point)


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
