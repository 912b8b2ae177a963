"""Training, run folders and the command line. The template's: not for editing."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.training.agents.ppo import train as brax_ppo
from brax.training.agents.ppo.networks import make_inference_fn

from my_env import MyEnv
from my_env.__main__ import main
from my_env.config import Config, network_factory
from my_env.kit import runs
from my_env.kit.ppo import make_ppo, policy_params
from my_env.kit.train import TrainingDivergedError, train
from my_env.kit.wrappers import wrap_for_training

# Enough to run every line; nothing is learnt from so little.
TINY = Config(
    num_envs=4,
    unroll_length=4,
    batch_size=4,
    num_minibatches=2,
    num_updates_per_batch=2,
    num_timesteps=96,
    num_evals=4,
    num_eval_envs=4,
    episode_length=8,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train(MyEnv(), TINY, network_factory, run_dir=folder)


def checkpoint_of(run: Path) -> bytes:
    return max(runs.checkpoints(run).values()).read_bytes()


def test_a_run_leaves_its_settings_metrics_checkpoints_and_curve(run: Path) -> None:
    assert json.loads((run / "config.json").read_text())["config"] == dataclasses.asdict(TINY)
    assert [row["steps"] for row in runs.read_metrics(run)] == [0, 32, 64, 96]
    assert list(runs.checkpoints(run)) == [0, 32, 64, 96]
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_load_policy_gives_the_identical_action(run: Path) -> None:
    ppo = make_ppo(MyEnv(), TINY, network_factory)
    state = jax.jit(ppo.init)(np.uint32(TINY.seed))
    state, _ = jax.jit(ppo.epoch)(state, np.int32(3))
    keys = jax.random.split(jax.random.PRNGKey(7), 2)
    for deterministic in (True, False):
        kept = jax.jit(make_inference_fn(ppo.networks)(policy_params(state), deterministic))
        loaded = runs.load_policy(run, deterministic=deterministic)
        obs = state.env_state.obs
        for key in keys:
            np.testing.assert_array_equal(kept(obs, key)[0], loaded(obs, key)[0])
    one = jax.tree.map(lambda x: x[0], state.env_state.obs)
    assert loaded(one, keys[0])[0].shape == kept(one, keys[0])[0].shape


def test_a_resumed_run_equals_an_uninterrupted_one(run: Path, tmp_path: Path) -> None:
    env, part = MyEnv(), tmp_path / "part"
    train(env, dataclasses.replace(TINY, num_timesteps=32), network_factory, run_dir=part)
    train(env, TINY, network_factory, run_dir=part, resume=True)
    assert checkpoint_of(part) == checkpoint_of(run)


def test_brax_trains_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(jax, "device_put_replicated"):  # gone since JAX 0.10, called by brax 0.14.2
        monkeypatch.setattr(jax, "device_put_replicated", put_replicated, raising=False)
    config = dataclasses.replace(TINY, num_timesteps=64)
    _, params, _ = brax_ppo.train(
        environment=MyEnv(),
        wrap_env_fn=wrap_for_training,
        network_factory=network_factory,
        num_evals=1,
        deterministic_eval=True,
        **{name: getattr(config, name) for name in SHARED},
    )
    ppo = make_ppo(MyEnv(), config, network_factory)
    state, _ = jax.jit(ppo.epoch)(jax.jit(ppo.init)(np.uint32(config.seed)), np.int32(2))
    # The same keys, batches and steps: the same parameters, but for rounding.
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4),
        (state.params.policy, state.params.value),
        tuple(params[1:]),
    )


SHARED = (
    "num_timesteps",
    "episode_length",
    "action_repeat",
    "seed",
    "num_envs",
    "unroll_length",
    "batch_size",
    "num_minibatches",
    "num_updates_per_batch",
    "learning_rate",
    "entropy_cost",
    "discounting",
    "gae_lambda",
    "clipping_epsilon",
    "reward_scaling",
    "vf_loss_coefficient",
    "max_grad_norm",
    "normalize_observations",
    "num_eval_envs",
)


def put_replicated(tree, devices):
    mesh = jax.sharding.Mesh(np.array(devices), ("i",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))
    return jax.tree.map(
        lambda x: jax.device_put(jnp.stack([jnp.asarray(x)] * len(devices)), sharding), tree
    )


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_saved(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, learning_rate=1e30, max_grad_norm=None)
    env = MyEnv()
    with pytest.raises(TrainingDivergedError, match="diverged"):
        train(env, config, network_factory, run_dir=tmp_path / "run")
    assert 0 in runs.checkpoints(tmp_path / "run")
    runs.load_policy(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_envs": 3}, "num_envs 2 or 4"),
        ({"num_timesteps": 0}, "num_timesteps is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"discounting": 1.5}, "from 0 to 1"),
        ({"episode_length": 9, "action_repeat": 2}, "take 8"),
        ({"episode_length": 1}, "episode_length 2"),
        ({"num_evals": 1}, "2 or more"),
        ({"resets": "never"}, "one of fresh, pool, cached"),
    ],
)
def test_settings_that_can_not_run_are_refused(
    changes: dict, sentence: str, tmp_path: Path
) -> None:
    config = dataclasses.replace(TINY, **changes)
    assert any(sentence in problem for problem in config.problems())
    env = MyEnv()
    with pytest.raises(ValueError, match="has to"):
        train(env, config, network_factory, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--num-env", "3"], "perhaps you meant --num-envs"),
        (["train", "--reset", "pool"], "perhaps you meant --resets or --resume. More"),
        (["train", "--batch-size", "3", "--num-minibatches", "5"], "num_envs 5 or 15"),
        (["plya"], "the commands are check, train, play, bench"),
        (["play", "nowhere"], "not the folder of a run"),
    ],
)
def test_a_mistake_on_the_command_line_gets_one_line(
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert not out
