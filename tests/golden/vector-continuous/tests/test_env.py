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
from my_env.kit.rollout import evaluate, random_policy
from my_env.kit.runs import load_policy
from my_env.kit.train import train

STEPS = 20


@pytest.fixture(scope="module")
def env() -> MyEnv:
    return MyEnv()


def random_actions(key: jax.Array, *shape: int) -> jax.Array:
    return jax.random.uniform(key, (*shape, spec.ACTION_SIZE), minval=-1.0, maxval=1.0)


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


# The task that the environment starts with.


def test_a_push_moves_the_point(env: Env) -> None:
    start = env.reset(jax.random.PRNGKey(0))
    state = env.step(start, jnp.ones(spec.ACTION_SIZE))
    moved = state.obs[0] - start.obs[0]
    np.testing.assert_allclose(jnp.ravel(moved)[0], 0.1, atol=1e-6)


def test_the_reward_is_minus_the_squared_distance(env: Env) -> None:
    _, states = rollout(env, jax.random.PRNGKey(0), random_actions(jax.random.PRNGKey(1), STEPS))
    np.testing.assert_allclose(states.reward, -(states.metrics["distance"] ** 2), rtol=1e-5)


def test_straying_too_far_ends_the_episode(env: Env) -> None:
    away = jnp.ones((60, spec.ACTION_SIZE))
    _, states = rollout(env, jax.random.PRNGKey(0), away)
    assert states.done[0] == 0
    assert states.done[-1] == 1


def test_nothing_beats_the_best_return(env: Env) -> None:
    start, states = rollout(env, jax.random.PRNGKey(3), random_actions(jax.random.PRNGKey(1), 50))
    assert env.best_return(start, 50) > jnp.sum(states.reward)


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
