"""Tests of the environment. Yours: `copier update` never touches this file."""

from typing import Any

import jax
import numpy as np
from brax.envs.base import State

from pendulum.config import task
from pendulum.kit import compare

env = task.environment()
reset = jax.jit(env.reset)


def set_state(reference: Any, state: State) -> None:
    """Puts Gymnasium's environment into our state."""
    pose = state.pipeline_state
    reference.state = np.array([pose.angle, pose.speed])


def test_it_equals_gymnasium_s() -> None:
    comparison = compare(env, "Pendulum-v1", set_state, episode_length=task.settings.episode_length)
    assert comparison.difference is None, comparison.difference
    assert comparison.time_limits > 0


def test_starts_are_drawn_from_gymnasium_s_range() -> None:
    starts = jax.vmap(env.reset)(jax.random.split(jax.random.PRNGKey(0), 1000)).pipeline_state
    for x, high in ((starts.angle, np.pi), (starts.speed, 1.0)):
        np.testing.assert_allclose([x.min(), x.max()], [-high, high], rtol=0.02)


def test_it_draws_an_image() -> None:
    image = env.render(jax.device_get(reset(jax.random.PRNGKey(0))))
    assert image.shape == (128, 128, 3)
    assert image.dtype == np.uint8
    other = env.render(jax.device_get(reset(jax.random.PRNGKey(1))))
    assert np.any(image != other)
