"""Tests of the environment. Yours: `copier update` never touches this file."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import State

from mountain_car.config import THRESHOLD, task
from mountain_car.kit import compare

env = task.environment()
reset = jax.jit(env.reset)


def set_state(reference: Any, state: State) -> None:
    """Puts Gymnasium's environment into our state."""
    car = state.pipeline_state
    reference.state = np.array([car.position, car.speed])


def swing(obs: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """Pushes the car the way it moves, which adds energy."""
    return jnp.sign(obs[1:]), {}


def test_it_equals_gymnasium_s() -> None:
    random, steered = (
        compare(
            env,
            "MountainCarContinuous-v0",
            set_state,
            episode_length=task.settings.episode_length,
            policy=policy,
        )
        for policy in (None, swing)
    )
    assert random.difference is None, random.difference
    assert steered.difference is None, steered.difference
    assert random.time_limits > 0
    assert steered.terminations > 0


def test_the_threshold_is_gymnasium_s() -> None:
    assert gymnasium.spec("MountainCarContinuous-v0").reward_threshold == THRESHOLD


def test_starts_are_drawn_from_gymnasium_s_range() -> None:
    starts = jax.vmap(env.reset)(jax.random.split(jax.random.PRNGKey(0), 1000)).pipeline_state
    x = starts.position
    np.testing.assert_allclose([x.min(), x.max()], [-0.6, -0.4], rtol=0.02)
    assert np.all(starts.speed == 0)


def test_it_draws_an_image() -> None:
    image = env.render(jax.device_get(reset(jax.random.PRNGKey(0))))
    assert image.shape == (96, 160, 3)
    assert image.dtype == np.uint8
    other = env.render(jax.device_get(reset(jax.random.PRNGKey(1))))
    assert np.any(image != other)
