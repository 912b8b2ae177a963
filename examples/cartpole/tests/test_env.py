"""Tests of the environment. Yours: `copier update` never touches this file."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import State

from cartpole.config import THRESHOLD, task
from cartpole.kit import compare

env = task.environment()
reset = jax.jit(env.reset)


def set_state(reference: Any, state: State) -> None:
    """Puts Gymnasium's environment into our state."""
    motion = state.pipeline_state
    reference.state = np.array([motion.x, motion.x_dot, motion.theta, motion.theta_dot])


def balance(obs: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """Pushes to the side to which the pole falls, and slowly back to the middle."""
    return jnp.int32(obs @ jnp.array([0.1, 0.3, 3.0, 1.0]) > 0), {}


def test_it_equals_gymnasium_s() -> None:
    random, steered = (
        compare(
            env,
            "CartPole-v1",
            set_state,
            episode_length=task.settings.episode_length,
            policy=policy,
        )
        for policy in (None, balance)
    )
    assert random.difference is None, random.difference
    assert steered.difference is None, steered.difference
    assert random.terminations > 0
    assert steered.time_limits > 0


def test_the_threshold_is_gymnasium_s() -> None:
    assert gymnasium.spec("CartPole-v1").reward_threshold == THRESHOLD


def test_starts_are_drawn_from_gymnasium_s_range() -> None:
    starts = jax.vmap(env.reset)(jax.random.split(jax.random.PRNGKey(0), 1000)).pipeline_state
    for x in jax.tree.leaves(starts):
        np.testing.assert_allclose([x.min(), x.max()], [-0.05, 0.05], rtol=0.02)


def test_it_draws_an_image() -> None:
    image = env.render(jax.device_get(reset(jax.random.PRNGKey(0))))
    assert image.shape == (96, 192, 3)
    assert image.dtype == np.uint8
    other = env.render(jax.device_get(reset(jax.random.PRNGKey(1))))
    assert np.any(image != other)
