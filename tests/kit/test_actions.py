"""Action spaces: what they sample, and what their distributions mean."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import Env
from kit.env.actions import ActionSpace, Continuous, Discrete, MultiDiscrete, action_space_of
from kit.errors import UsageError
from toys import SPACES


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_samples_have_the_shape_and_dtype(space: ActionSpace) -> None:
    actions = space.sample(jax.random.PRNGKey(0), (5, 7))
    assert actions.shape == (5, 7, *space.shape)
    assert actions.dtype == space.dtype
    for action in space.held().values():
        assert np.shape(action) == space.shape
        assert np.asarray(action).dtype == space.dtype


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_policy_s_actions_do_too(space: ActionSpace) -> None:
    policy = space.distribution()
    parameters = jax.random.normal(jax.random.PRNGKey(0), (4, policy.param_size))
    for action in (policy.sample(parameters, jax.random.PRNGKey(1)), policy.mode(parameters)):
        assert action.shape == (4, *space.shape)
        assert action.dtype == space.dtype


def test_every_choice_is_sampled_and_no_other() -> None:
    actions = MultiDiscrete((3, 2)).sample(jax.random.PRNGKey(0), (200,))
    assert set(np.unique(actions[:, 0])) == {0, 1, 2}
    assert set(np.unique(actions[:, 1])) == {0, 1}
    assert set(np.unique(Discrete(3).sample(jax.random.PRNGKey(0), (200,)))) == {0, 1, 2}


def test_multi_discrete_probabilities_are_products() -> None:
    policy = MultiDiscrete((3, 2)).distribution()
    logits = jnp.array([0.1, 0.7, -0.3, 1.0, -1.0])
    first, second = jax.nn.softmax(logits[:3]), jax.nn.softmax(logits[3:])
    for i in range(3):
        for j in range(2):
            log_prob = policy.log_prob(logits, jnp.array([i, j]))
            np.testing.assert_allclose(jnp.exp(log_prob), first[i] * second[j], rtol=1e-5)
    entropy = -jnp.sum(first * jnp.log(first)) - jnp.sum(second * jnp.log(second))
    np.testing.assert_allclose(policy.entropy(logits, jax.random.PRNGKey(0)), entropy, rtol=1e-5)
    actions = jax.vmap(lambda key: policy.sample(logits, key))(
        jax.random.split(jax.random.PRNGKey(0), 2000)
    )
    assert actions[:, 1].max() == 1  # the padding is never drawn
    np.testing.assert_allclose(np.mean(actions[:, 0] == 1), first[1], atol=0.05)


def test_gradients_are_finite_where_a_component_has_fewer_choices() -> None:
    policy = MultiDiscrete((4, 2)).distribution()

    def loss(logits: jax.Array) -> jax.Array:
        old = policy.create_dist(jnp.zeros(6))
        entropy = policy.entropy(logits, jax.random.PRNGKey(0))
        kl = jnp.sum(policy.create_dist(logits).kl_divergence(old))
        return policy.log_prob(logits, jnp.array([3, 1])) + entropy + kl

    assert np.all(np.isfinite(jax.grad(loss)(jnp.array([50.0, 0, 0, 0, 1, -1]))))


@pytest.mark.parametrize(
    "make",
    [lambda: Continuous(0), lambda: Discrete(-1), lambda: MultiDiscrete(()), lambda: Discrete(2.0)],  # type: ignore[arg-type]
)
def test_spaces_without_an_action_are_refused(make: Callable[[], ActionSpace]) -> None:
    with pytest.raises(UsageError, match="is no action space"):
        make()


def test_a_list_of_choices_is_the_same_space() -> None:
    assert MultiDiscrete([3, 2]) == MultiDiscrete((3, 2))  # type: ignore[arg-type]


def test_brax_s_own_environments_are_continuous() -> None:
    class Ant(Env):
        action_size = 8
        observation_size = 3
        backend = "abstract"

        def reset(self, rng):
            raise NotImplementedError

        def step(self, state, action):
            raise NotImplementedError

    assert action_space_of(Ant()) == Continuous(8)
