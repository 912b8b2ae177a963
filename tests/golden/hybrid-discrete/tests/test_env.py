"""What your environment promises. Yours: `copier update` never touches this file.

The first half holds for any environment; the second is about the task that this one starts with
and goes when your own comes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import Env, State

from my_env import MyEnv, spec
from my_env.config import Config, network_factory
from my_env.encoder import HybridEncoder, split_observation
from my_env.kit.rollout import evaluate, random_policy
from my_env.kit.runs import load_policy
from my_env.kit.train import train

STEPS = 20


@pytest.fixture(scope="module")
def env() -> MyEnv:
    return MyEnv()


def random_actions(key: jax.Array, *shape: int) -> jax.Array:
    return jax.random.randint(key, shape, 0, spec.ACTION_SIZE)


def rollout(env: Env, key: jax.Array, actions: jax.Array) -> tuple[State, State]:
    """The first state, and the states after each of `actions` (steps, ...)."""
    start = env.reset(key)

    def step(state: State, action: jax.Array) -> tuple[State, State]:
        state = env.step(state, action)
        return state, state

    return start, jax.lax.scan(step, start, actions)[1]


def test_shapes_and_dtypes(env: Env) -> None:
    start = jax.jit(env.reset)(jax.random.PRNGKey(0))
    state = jax.jit(env.step)(start, random_actions(jax.random.PRNGKey(1)))
    for s in (start, state):
        assert s.obs.shape == (env.observation_size,)
        assert s.obs.dtype == jnp.float32
        assert s.reward.shape == s.done.shape == ()
        assert s.reward.dtype == s.done.dtype == jnp.float32
    same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, start, state)
    assert all(jax.tree.leaves(same))
    assert start.done == 0
    assert start.reward == 0


def test_reset_and_step_are_pure(env: Env) -> None:
    key, actions = jax.random.PRNGKey(0), random_actions(jax.random.PRNGKey(1), STEPS)
    first = jax.jit(rollout, static_argnums=0)(env, key, actions)
    twin = MyEnv()
    again = jax.jit(rollout, static_argnums=0)(twin, key, actions)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = jax.jit(rollout, static_argnums=0)(env, jax.random.PRNGKey(2), actions)
    assert not jnp.array_equal(first[0].obs, other[0].obs)


def test_vmap_is_a_loop(env: Env) -> None:
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    actions = random_actions(jax.random.PRNGKey(1), 3)

    def one(key: jax.Array, action: jax.Array) -> State:
        return env.step(env.reset(key), action)

    batch = jax.jit(jax.vmap(one))(keys, actions)
    for i in range(3):
        single = jax.jit(one)(keys[i], actions[i])
        row = jax.tree.map(lambda x, i=i: x[i], batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), row, single)


def test_stays_finite_for_an_episode_and_past_its_end(env: Env) -> None:
    actions = random_actions(jax.random.PRNGKey(1), min(2 * spec.EPISODE_LENGTH, 1000))

    @jax.jit
    def all_finite(key: jax.Array) -> jax.Array:
        def step(state: State, action: jax.Array) -> tuple[State, jax.Array]:
            state = env.step(state, action)
            leaves = jax.tree.leaves(state)
            return state, jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))

        return jnp.all(jax.lax.scan(step, env.reset(key), actions)[1])

    assert all_finite(jax.random.PRNGKey(0))


def test_render_draws_a_state(env: Env) -> None:
    image = env.render(env.reset(jax.random.PRNGKey(0)))
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[-1] == 3
    assert image.min() < image.max()


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_split_observation_keeps_leading_dimensions(lead: tuple[int, ...]) -> None:
    observation = jnp.arange(spec.OBSERVATION_SIZE, dtype=jnp.float32)
    image, vector = split_observation(jnp.broadcast_to(observation, (*lead, observation.size)))
    assert image.shape == (*lead, *spec.IMAGE_SHAPE)
    assert vector.shape == (*lead, spec.VECTOR_SIZE)
    np.testing.assert_array_equal(image.reshape(*lead, -1)[..., -1], spec.IMAGE_SIZE - 1)
    np.testing.assert_array_equal(vector[..., 0], spec.IMAGE_SIZE)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_encoder_takes_any_leading_dimensions(lead: tuple[int, ...]) -> None:
    encoder = HybridEncoder()
    obs = jax.random.uniform(jax.random.PRNGKey(0), (*lead, spec.OBSERVATION_SIZE))
    params = encoder.init(jax.random.PRNGKey(1), obs, obs)
    features = jnp.asarray(encoder.apply(params, obs, obs))
    assert features.shape[:-1] == lead
    one = obs.reshape(-1, spec.OBSERVATION_SIZE)[0]
    alone = jnp.asarray(encoder.apply(params, one, one))
    np.testing.assert_allclose(features.reshape(-1, alone.size)[0], alone, atol=1e-5)


def test_pixels_stay_as_they_are_and_the_vector_is_normalised() -> None:
    encoder = HybridEncoder()
    obs = jax.random.uniform(jax.random.PRNGKey(0), (spec.OBSERVATION_SIZE,))
    params = encoder.init(jax.random.PRNGKey(1), obs, obs)
    as_it_was = jnp.asarray(encoder.apply(params, obs, obs))
    other_pixels = obs.at[: spec.IMAGE_SIZE].set(7.0)
    np.testing.assert_array_equal(encoder.apply(params, obs, other_pixels), as_it_was)
    other_vector = obs.at[spec.IMAGE_SIZE :].set(7.0)
    np.testing.assert_array_equal(encoder.apply(params, other_vector, obs), as_it_was)
    assert np.any(encoder.apply(params, obs, other_vector) != as_it_was)


def test_gradients_reach_image_and_vector() -> None:
    encoder = HybridEncoder()
    obs = jax.random.uniform(jax.random.PRNGKey(0), (spec.OBSERVATION_SIZE,))
    params = encoder.init(jax.random.PRNGKey(1), obs, obs)
    grads = jax.grad(lambda obs: jnp.sum(jnp.asarray(encoder.apply(params, obs, obs)) ** 2))(obs)
    image, vector = split_observation(grads)
    assert jnp.any(image != 0)
    assert jnp.any(vector != 0)


# The task that the environment starts with.


def test_a_push_moves_the_point(env: Env) -> None:
    start = env.reset(jax.random.PRNGKey(0))
    state = env.step(start, jnp.int32(0))
    moved = state.pipeline_state.position - start.pipeline_state.position
    np.testing.assert_allclose(jnp.ravel(moved)[0], 0.1, atol=1e-6)


def test_the_reward_is_minus_the_squared_distance(env: Env) -> None:
    _, states = rollout(env, jax.random.PRNGKey(0), random_actions(jax.random.PRNGKey(1), STEPS))
    np.testing.assert_allclose(states.reward, -(states.metrics["distance"] ** 2), rtol=1e-5)


def test_straying_too_far_ends_the_episode(env: Env) -> None:
    away = jnp.zeros(60, jnp.int32)
    _, states = rollout(env, jax.random.PRNGKey(0), away)
    assert states.done[0] == 0
    assert states.done[-1] == 1


def test_nothing_beats_the_best_return(env: Env) -> None:
    start, states = rollout(env, jax.random.PRNGKey(3), random_actions(jax.random.PRNGKey(1), 50))
    assert env.best_return(start, 50) > jnp.sum(states.reward)


@pytest.mark.skipif(spec.ACTION_SIZE == 1, reason="with one choice every policy is the same")
@pytest.mark.skipif(spec.OBSERVATION_SIZE > 131_072, reason="so large an image takes an hour")
def test_a_short_training_beats_chance(env: Env, tmp_path) -> None:
    config = dataclasses.replace(Config(), num_timesteps=15_000, num_evals=2)
    run = train(env, config, network_factory, run_dir=tmp_path / "run")

    chance = random_policy(spec.ACTIONS, env.action_size)
    trained, random = (
        evaluate(env, policy, episode_length=config.episode_length, num_episodes=64).returns
        for policy in (load_policy(run), chance)
    )
    gain = trained - random  # episode by episode, since both start from the same places
    assert gain.mean() > 3 * gain.std() / gain.size**0.5
