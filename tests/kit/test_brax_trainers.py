"""The trainers of Brax run on every JAX, with this template's wrapper and networks."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.training.agents.apg import train as apg
from brax.training.agents.ppo import train as ppo
from brax.training.agents.sac import train as sac
from kit.env.wrappers import wrap_for_training
from kit.ppo.brax_trainers import enable_brax_trainers
from toys import Toy, toy_task


@pytest.fixture(autouse=True)
def _as_jax_comes() -> Iterator[None]:
    """Undoes the change, so that no other test depends on it."""
    there = getattr(jax, "device_put_replicated", None)
    yield
    if there is None and hasattr(jax, "device_put_replicated"):
        del jax.device_put_replicated


@pytest.mark.slow
def test_ppo_trains() -> None:
    enable_brax_trainers()
    metrics = ppo.train(
        Toy(),
        num_timesteps=64,
        episode_length=8,
        num_envs=4,
        unroll_length=4,
        batch_size=4,
        num_minibatches=2,
        num_eval_envs=4,
        normalize_observations=True,
        wrap_env_fn=wrap_for_training,
        network_factory=toy_task().network_factory,
    )[2]
    assert np.isfinite(metrics["training/total_loss"])


@pytest.mark.slow
def test_sac_trains() -> None:
    enable_brax_trainers()
    metrics = sac.train(
        Toy(),
        num_timesteps=64,
        episode_length=8,
        num_envs=4,
        batch_size=4,
        min_replay_size=8,
        num_eval_envs=4,
        normalize_observations=True,
        wrap_env_fn=wrap_for_training,
    )[2]
    assert np.isfinite(metrics["training/critic_loss"])


@pytest.mark.long
def test_apg_trains() -> None:
    """It differentiates through the rollouts, auto-reset included: episodes of 3, rollouts of 4."""
    enable_brax_trainers()
    metrics = apg.train(
        Toy(),
        episode_length=3,
        policy_updates=2,
        horizon_length=4,
        num_envs=4,
        num_evals=2,
        num_eval_envs=4,
        wrap_env_fn=wrap_for_training,
    )[2]
    assert metrics["training/grad_norm"] > 0


def test_what_jax_has_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def there() -> None: ...

    monkeypatch.setattr(jax, "device_put_replicated", there, raising=False)
    enable_brax_trainers()
    assert jax.device_put_replicated is there  # type: ignore


def test_a_second_call_changes_nothing() -> None:
    enable_brax_trainers()
    first = jax.device_put_replicated  # type: ignore
    enable_brax_trainers()
    assert jax.device_put_replicated is first  # type: ignore


def test_each_device_gets_a_copy() -> None:
    enable_brax_trainers()
    tree = {"x": jnp.arange(3), "key": jax.random.PRNGKey(0), "number": 1.5}
    copies = jax.device_put_replicated(tree, jax.devices()[:1])  # type: ignore
    for name, value in tree.items():
        np.testing.assert_array_equal(copies[name], np.asarray(value)[None])
