"""Tests of the environment. Yours: `copier update` never touches this file."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import State

from inverted_pendulum.config import THRESHOLD, task
from inverted_pendulum.kit import compare

env = task.environment()
reset = jax.jit(env.reset)


def set_state(reference: Any, state: State) -> None:
    """Puts Gymnasium's environment into our state."""
    data = state.pipeline_state
    reference.set_state(data.qpos.astype(float), data.qvel.astype(float))


def balance(obs: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """Holds the pole upright, some of the time with a push too many."""
    push = 0.1 * jax.random.normal(key, (1,))
    return jnp.clip(obs @ jnp.array([0.05, 1.5, 0.1, 0.3]) + push, -1.0, 1.0), {}


def test_it_equals_gymnasium_s() -> None:
    """With a shorter time limit, since MJX takes long to step a single environment."""
    reference = gymnasium.make("InvertedPendulum-v5", max_episode_steps=100)
    random, steered = (
        compare(
            env,
            reference,
            set_state,
            episode_length=100,
            policy=policy,
            num_steps=1500,
            atol=1e-4,  # a step of MuJoCo in float32
            rtol=1e-4,
        )
        for policy in (None, balance)
    )
    assert random.difference is None, random.difference
    assert steered.difference is None, steered.difference
    assert random.terminations > 0
    assert steered.time_limits > 0


def test_the_threshold_and_the_time_limit_are_gymnasium_s() -> None:
    spec = gymnasium.spec("InvertedPendulum-v5")
    assert spec.reward_threshold == THRESHOLD
    assert spec.max_episode_steps == task.settings.episode_length


def test_starts_are_drawn_from_gymnasium_s_range() -> None:
    keys = jax.random.split(jax.random.PRNGKey(0), 1000)
    for x in np.asarray(jax.jit(jax.vmap(env.reset))(keys).obs).T:
        np.testing.assert_allclose([x.min(), x.max()], [-0.01, 0.01], rtol=0.02)


def test_it_draws_an_image() -> None:
    image = env.render(jax.device_get(reset(jax.random.PRNGKey(0))))
    assert (image.shape, image.dtype) == ((96, 256, 3), np.uint8)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 4  # background, rail, cart and pole
