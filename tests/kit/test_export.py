"""Policies that are taken elsewhere: the files act like the run, without Brax or the project."""

import dataclasses
import importlib.util
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.training.agents.ppo.networks import make_ppo_networks
from flax import linen as nn
from kit.errors import UsageError
from kit.ppo.task import Task
from kit.run import fingerprint, folder
from kit.run.folder import load_policy
from kit.tools import export as exporting
from kit.tools.export import export
from toys import OBSERVATIONS, SPACES, Encoder, toy_task

HAS_ONNX = importlib.util.find_spec("jax2onnx") is not None
WITHOUT = {
    "policy.stablehlo": ("brax", "flax", "kit"),
    "policy.onnx": ("brax", "flax", "kit", "jax", "jaxlib", "jax2onnx"),
}
NOT_TO_ONNX = "networks of Brax"  # jax2onnx 0.17 fails at them with JAX 0.12
IMAGE_SHAPE = (9, 10, 3)


def hybrid_encoder() -> nn.Module:
    """That of the skeleton with images."""
    path = Path(exporting.__file__).parents[2] / "encoder.py"
    env = types.ModuleType("hybrid.env")
    vars(env).update(IMAGE_SHAPE=IMAGE_SHAPE)
    sys.modules["hybrid.env"] = env
    spec = importlib.util.spec_from_file_location("hybrid.encoder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HybridEncoder()


class Convolution(nn.Module):
    """A convolution, a norm and pooling."""

    @nn.compact
    def __call__(self, observation: Any, normalized: Any) -> jax.Array:
        image = jnp.asarray(observation["pixels/view"], jnp.float32) / 255
        image = nn.LayerNorm()(nn.relu(nn.Conv(4, (3, 3))(image)))
        image = image.reshape(*image.shape[:-3], 3, 2, 2, 4).max(axis=-2)
        return jnp.concatenate([jnp.mean(image, axis=(-3, -2)), normalized["state"]], axis=-1)


def brax_networks(*args: Any, **kwargs: Any) -> Any:
    return make_ppo_networks(
        *args, **kwargs, policy_hidden_layer_sizes=(8,), value_obs_key="privileged_state"
    )


CASES: dict[str, Task] = {
    **{f"continuous, {name}": toy_task(observe=observe, encoder=Encoder())
       for name, observe in OBSERVATIONS.items()},
    "discrete": toy_task(SPACES["discrete"]),
    "multi-discrete": toy_task(SPACES["multi_discrete"]),
    "not normalised": toy_task(normalize_observations=False),
    "patches": toy_task(
        SPACES["multi_discrete"],
        lambda x: jnp.linspace(x, -x, 9 * 10 * 3 + 2),
        hybrid_encoder(),
    ),
    "convolution": toy_task(observe=OBSERVATIONS["vector and image"], encoder=Convolution()),
    NOT_TO_ONNX: dataclasses.replace(
        toy_task(observe=OBSERVATIONS["two vectors"]), network_factory=brax_networks
    ),
}  # fmt: skip


def run_of(task: Task, run: Path, *seeds: int) -> Path:
    """A run with a checkpoint for each seed, after as many steps; nothing is trained."""
    ppo = task.make_ppo()
    (run / "checkpoints").mkdir(parents=True)
    folder.write_config(run, "task", task, ppo)
    for seed in seeds or (0,):
        state = jax.jit(ppo.init)(np.uint32(seed))
        statistics = state.normalizer_params
        statistics = statistics.replace(
            mean=jax.tree.map(lambda x: x + 0.3, statistics.mean),
            std=jax.tree.map(lambda x: x * 0.5, statistics.std),
        )
        folder.save_checkpoint(run, state.replace(normalizer_params=statistics), seed)
    return run


def observations(task: Task, size: int = 5) -> Any:
    """Unlike any that the environment gives."""
    random = np.random.default_rng(0)

    def draw(x: Any) -> np.ndarray:
        if x.dtype == np.uint8:
            return random.integers(0, 256, (size, *x.shape), np.uint8)
        return random.normal(size=(size, *x.shape)).astype(x.dtype)

    return jax.tree.map(draw, fingerprint.reset_shapes(task.environment()).obs)


def test_the_most_likely_action_is_exported(tmp_path: Path) -> None:
    task = CASES["multi-discrete"]
    run, found = run_of(task, tmp_path / "run"), dict[str, Any]()
    (load,) = export(run, task).values()
    exec(load, found)
    obs = observations(task, 64)
    expected, _ = load_policy(run, task)(obs, jax.random.PRNGKey(0))
    np.testing.assert_array_equal(found["policy"].call(obs), expected)


@pytest.mark.slow
def test_the_most_likely_action_is_exported_to_onnx(tmp_path: Path) -> None:
    needs_onnx()
    task = CASES["multi-discrete"]
    run, obs = run_of(task, tmp_path / "run"), observations(task, 64)
    load = list(export(run, task, onnx=True).values())[1]
    expected, _ = load_policy(run, task)(obs, jax.random.PRNGKey(0))
    action = act(WITHOUT["policy.onnx"], {"case": (load, obs)})["case"][1]
    np.testing.assert_array_equal(action, expected)


ELSEWHERE = """
import pickle, sys
names, jobs = pickle.loads(sys.stdin.buffer.read())
sys.modules.update(dict.fromkeys(names))  # an import of these fails
actions = {}
for case, (load, obs) in jobs.items():
    found = {}
    exec(load, found)
    if "policy" in found:
        action = found["policy"].call(obs)
    else:
        inputs = [x.name for x in found["session"].get_inputs()]
        obs = obs if isinstance(obs, dict) else {"obs": obs}
        (action,) = found["session"].run(["action"], {name: obs[name] for name in inputs})
    actions[case] = found["np"].asarray(found["action"]), found["np"].asarray(action)
sys.stdout.buffer.write(pickle.dumps(actions))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Actions of each case: of the run here, and of each file where most packages are missing."""
    folder = tmp_path_factory.mktemp("it's {odd}")
    loads: dict[str, dict[str, Any]] = {name: {} for name in WITHOUT}
    found: dict[str, dict[str, Any]] = {"run": {}}
    for case, task in CASES.items():
        run = run_of(task, folder / case)
        action, _ = load_policy(run, task)(observations(task), jax.random.PRNGKey(0))
        found["run"][case] = np.asarray(action)
        for path, load in export(run, task, onnx=HAS_ONNX and case != NOT_TO_ONNX).items():
            obs = observations(task)
            if isinstance(obs, dict):
                obs = {name: x for name, x in obs.items() if repr(name) in load}
            loads[path.name][case] = load, obs
    for name, jobs in loads.items():
        found[name] = act(WITHOUT[name], jobs) if jobs else {}
    return found


def act(without: tuple[str, ...], jobs: dict[str, Any]) -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=pickle.dumps((without, jobs)),
        capture_output=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr.decode()
    return pickle.loads(child.stdout)


def needs_onnx() -> Any:
    return pytest.importorskip("jax2onnx", reason="the extra `onnx` is not installed")


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "name"),
    [(c, n) for c in CASES for n in WITHOUT if (c, n) != (NOT_TO_ONNX, "policy.onnx")],
)
def test_a_file_acts_like_the_run(
    case: str, name: str, elsewhere: dict[str, dict[str, Any]]
) -> None:
    if name == "policy.onnx":
        needs_onnx()
    expected = elsewhere["run"][case]
    shown, actions = elsewhere[name][case]
    assert shown.shape == expected[:1].shape
    assert actions.dtype == expected.dtype
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    assert len(np.unique(expected, axis=0)) > 1, "the case shows nothing"


def test_what_the_policy_does_not_see_is_no_input(tmp_path: Path) -> None:
    task = CASES[NOT_TO_ONNX]
    (load,) = export(run_of(task, tmp_path / "run"), task).values()
    assert "'state'" in load
    assert "privileged" not in load


def test_any_checkpoint_is_exported(tmp_path: Path) -> None:
    task = toy_task()
    run, obs = run_of(task, tmp_path / "run", 1, 2), observations(task)
    for steps in (1, 2, None):
        (path,) = export(run, {"task": task}, steps=steps)
        expected, _ = load_policy(run, task, steps=steps)(obs, jax.random.PRNGKey(0))
        action = jax.export.deserialize(bytearray(path.read_bytes())).call(obs)
        np.testing.assert_allclose(action, expected, atol=1e-6)


def test_any_seed_of_a_run_of_several_is_exported(tmp_path: Path) -> None:
    task = toy_task(seed=3, num_seeds=2)
    run, obs = run_of(task, tmp_path / "run"), observations(task)
    init = jax.jit(task.make_ppo().init)
    states = [init(np.uint32(seed)) for seed in (3, 4)]
    folder.save_checkpoint(run, jax.tree.map(lambda *x: jnp.stack(x), *states), 0)
    actions = []
    for seed in (3, 4):
        (path,) = export(run, task, seed=seed)
        expected, _ = load_policy(run, task, seed=seed)(obs, jax.random.PRNGKey(0))
        actions.append(jax.export.deserialize(bytearray(path.read_bytes())).call(obs))
        np.testing.assert_allclose(actions[-1], expected, atol=1e-6)
    assert np.abs(actions[0] - actions[1]).max() > 1e-3


def test_the_file_is_for_every_platform(tmp_path: Path) -> None:
    (path,) = export(run_of(toy_task(), tmp_path / "run"), toy_task())
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert {"cpu", "cuda", "tpu"} <= set(exported.platforms)


@pytest.mark.slow
def test_the_libraries_are_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    task = CASES["continuous, vector and image"]
    export(run_of(task, tmp_path / "run"), task, onnx=HAS_ONNX)
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")


# ---- what can't be exported ---------------------------------------------------------------------


class Fourier(nn.Module):
    """jax2onnx has no transform of two axes."""

    @nn.compact
    def __call__(self, observation: Any, normalized: Any) -> jax.Array:
        image = jnp.asarray(observation["pixels/view"][..., 0], jnp.float32)
        return jnp.abs(jnp.fft.rfft2(image)).reshape(*image.shape[:-2], -1)


class OneByOne(nn.Module):
    """Needs to know how many observations there are."""

    @nn.compact
    def __call__(self, observation: Any, normalized: Any) -> jax.Array:
        size = normalized.shape[0] if normalized.ndim > 1 else 1
        return normalized + 0 * sum(jnp.float32(i) for i in range(int(size)))


def left(run: Path) -> set[str]:
    return {path.name for path in run.iterdir() if path.name.startswith("policy")}


def test_a_missing_extra_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UsageError, match="--onnx needs the package jax2onnx: install the extra"):
        export(tmp_path / "not looked at", toy_task(), onnx=True)


def test_what_jax2onnx_can_not_convert_leaves_nothing(tmp_path: Path) -> None:
    needs_onnx()
    task = toy_task(observe=OBSERVATIONS["image alone"], encoder=Fourier())
    run = run_of(task, tmp_path / "run")
    with pytest.raises(
        UsageError, match=r"jax2onnx can't convert this policy \(.*\): leave"
    ) as told:
        export(run, task, onnx=True)
    assert "\n" not in str(told.value)
    assert not left(run)
    export(run, task)
    assert left(run) == {"policy.stablehlo"}


def test_networks_for_a_fixed_batch_are_one_sentence(tmp_path: Path) -> None:
    task = toy_task(encoder=OneByOne())
    run = run_of(task, tmp_path / "run")
    with pytest.raises(UsageError, match=r"can't convert this policy .* a batch of any") as told:
        export(run, task)
    assert "\n" not in str(told.value)
    assert not left(run)


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the folder of a run"):
        export(tmp_path, toy_task())
