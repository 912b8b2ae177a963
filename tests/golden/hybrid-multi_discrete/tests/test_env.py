"""Tests of the environment. Yours: `copier update` never touches this file.

They are about the task that the environment starts with, and skipped once env.py has another one:
delete them then, and write tests of your task. What any environment has to keep is tested by
test_contract.py and test_training.py.
"""

from typing import Any

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
encoder = pytest.importorskip("my_env.encoder")
pytestmark = pytest.mark.skipif(
    not (hasattr(env, "push") and hasattr(env, "arena")),
    reason="env.py has another task than at the start: delete these tests, and write some of yours",
)


def at(position: float, goal: float = 0.0) -> State:
    """A state with these coordinates on each axis."""
    state = reset(jax.random.PRNGKey(0))
    point = state.pipeline_state
    point = point.replace(
        position=jnp.full_like(point.position, position), goal=jnp.full_like(point.goal, goal)
    )
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


def test_only_the_image_shows_the_goal_and_only_the_vector_the_point() -> None:
    here, there, elsewhere = (
        encoder.split_observation(step(at(*places), ACTIONS[0]).obs)
        for places in ((0.5, 0.0), (-0.5, 0.0), (0.5, 0.7))
    )
    np.testing.assert_array_equal(here[0], there[0])
    assert np.all(here[1] != there[1])
    assert np.any(here[0] != elsewhere[0])
    np.testing.assert_array_equal(here[1], elsewhere[1])


def encode(params: Any, observation: jax.Array, normalized: jax.Array) -> jax.Array:
    return jnp.asarray(encoder.HybridEncoder().apply(params, observation, normalized))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_the_encoder_takes_any_leading_dimensions(batch: tuple[int, ...]) -> None:
    obs = jax.random.uniform(jax.random.PRNGKey(0), (*batch, env.observation_size))
    image, vector = encoder.split_observation(obs)
    assert image.shape == batch + encoder.IMAGE_SHAPE
    assert vector.shape == (*batch, env.observation_size - np.prod(encoder.IMAGE_SHAPE))
    params = encoder.HybridEncoder().init(jax.random.PRNGKey(1), obs, obs)
    first = obs.reshape(-1, env.observation_size)[0]
    with jax.default_matmul_precision("highest"):  # a GPU's default has three digits
        features, alone = encode(params, obs, obs), encode(params, first, first)
    np.testing.assert_allclose(features.reshape(-1, *alone.shape)[0], alone, atol=1e-5)


def test_the_encoder_reads_raw_pixels_and_the_normalised_vector() -> None:
    obs = jax.random.uniform(jax.random.PRNGKey(0), (env.observation_size,))
    params = encoder.HybridEncoder().init(jax.random.PRNGKey(1), obs, obs)
    gradient = jax.grad(lambda *args: jnp.sum(encode(params, *args)), argnums=(0, 1))
    (raw_image, raw_vector), (image, vector) = map(encoder.split_observation, gradient(obs, obs))
    assert np.any(raw_image != 0)
    assert np.all(raw_vector == 0)
    assert np.all(image == 0)
    assert np.any(vector != 0)
