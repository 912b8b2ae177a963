"""Tests of the environment. Yours: `copier update` never touches this file."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import State

from cartpole_positions.config import THRESHOLD, task, without_memory
from cartpole_positions.env import CartPole
from cartpole_positions.kit import compare

env = without_memory.environment()
reset, step = jax.jit(env.reset), jax.jit(env.step)
EPISODE_LENGTH = task.settings.episode_length


def set_state(reference: Any, state: State) -> None:
    """Puts Gymnasium's environment into our state."""
    now = state.pipeline_state
    reference.state = np.array([now.position, now.velocity, now.angle, now.angular_velocity])


def balance(obs: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """Pushes to the side to which the pole falls; takes what `task` observes."""
    position, angle = obs[-2:]
    velocity, angular_velocity = (obs[-2:] - obs[-4:-2]) / 0.02
    falls = 0.1 * position + 0.3 * velocity + 3.0 * angle + angular_velocity
    return jnp.int32(falls > 0), {}


def test_it_equals_gymnasium_s() -> None:
    comparison = compare(
        env,
        "CartPole-v1",
        set_state,
        episode_length=EPISODE_LENGTH,
        to_observation=lambda obs: obs[[0, 2]],
    )
    assert comparison.difference is None, comparison.difference
    assert comparison.terminations > 0


def test_its_stack_equals_the_last_observations_of_gymnasium() -> None:
    frames: list[np.ndarray] = []

    def set_both(reference: Any, state: State) -> None:
        set_state(reference, state)
        frames[:] = np.split(state.obs, 4)

    comparison = compare(
        task.environment(),
        "CartPole-v1",
        set_both,
        episode_length=EPISODE_LENGTH,
        policy=balance,
        to_observation=lambda obs: np.concatenate([*frames[1:], obs[[0, 2]]]),
    )
    assert comparison.difference is None, comparison.difference
    assert comparison.time_limits > 0


def test_the_threshold_is_gymnasium_s() -> None:
    assert gymnasium.spec("CartPole-v1").reward_threshold == THRESHOLD


def test_starts_are_drawn_from_gymnasium_s_range() -> None:
    starts = jax.vmap(env.reset)(jax.random.split(jax.random.PRNGKey(0), 1000)).pipeline_state
    for x in jax.tree.leaves(starts):
        np.testing.assert_allclose([x.min(), x.max()], [-0.05, 0.05], rtol=0.02)


def test_one_observation_does_not_tell_the_velocities() -> None:
    start = reset(jax.random.PRNGKey(0))
    still, moving = (CartPole(*jnp.array([0, speed, 0, -speed])) for speed in (0.0, 1.0))
    before, after = [], []
    for cartpole in (still, moving):
        before.append(env._observe(cartpole))
        after.append(step(start.replace(pipeline_state=cartpole), jnp.int32(0)).obs)
    np.testing.assert_array_equal(*before)
    assert np.all(after[0] != after[1])


def test_it_draws_an_image() -> None:
    image = env.render(jax.device_get(reset(jax.random.PRNGKey(0))))
    assert (image.shape, image.dtype) == ((80, 200, 3), np.uint8)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 4  # background, rail, cart and pole
