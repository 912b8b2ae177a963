"""Run folders: what is saved, loaded, resumed and refused."""

import dataclasses
import errno
import io
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import Env, State, Wrapper
from brax.training.agents.ppo import networks as brax_networks
from brax.training.agents.ppo.networks import make_inference_fn
from kit import cli
from kit.env.actions import Continuous
from kit.env.wrappers import wrap_for_training
from kit.errors import TrainingDivergedError, UsageError
from kit.ppo.networks import make_network_factory
from kit.ppo.state import policy_params
from kit.ppo.task import Task
from kit.run import files, folder
from kit.run.train import train
from PIL import Image
from rich.console import Console
from sharing import share
from toys import OBSERVATIONS, SPACES, TINY, Encoder, Toy, toy_task

TASK = toy_task()


def quietly(task: Task, **options: Any) -> Path:
    return train(task, console=Console(file=io.StringIO()), **options)


@pytest.fixture(autouse=True)
def _share_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kit.run.train.Programs", share)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kit.run.train.Programs", share)
        return quietly(TASK, run_dir=tmp_path_factory.mktemp("runs") / "whole")


def copy_of(run: Path, target: Path) -> Path:
    (target / "checkpoints").mkdir(parents=True)
    for path in [*run.glob("*.json*"), run / "resume.msgpack", *run.glob("checkpoints/*")]:
        (target / path.relative_to(run)).write_bytes(path.read_bytes())
    return target


def command(
    capsys: pytest.CaptureFixture[str], *args: str, tasks: dict[str, Task] | None = None
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    config = types.ModuleType("config")
    vars(config).update(tasks or {"task": TASK})
    code: Any = 0
    try:
        cli.main("toy", config, args)
    except SystemExit as stopped:
        code = stopped.code
    out, err = capsys.readouterr()
    return code or 0, out, err


# ---- what a run leaves --------------------------------------------------------------------------


def test_settings_metrics_checkpoints_and_a_curve(run: Path) -> None:
    saved = json.loads((run / "config.json").read_text())
    assert saved["settings"] == dataclasses.asdict(TINY)
    assert "mujoco" not in saved["versions"]
    rows = folder.read_metrics(run)
    assert [row["steps"] for row in rows] == [0, 32, 64, 96]
    assert list(folder.checkpoints(run)) == [0, 32, 64, 96]
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    # Nothing was trained before the first evaluation.
    assert not any(name.startswith("training/") for name in rows[0])
    assert {"training/sps", "training/total_loss", "eval/episode_distance"} <= rows[1].keys()
    assert {"training/episode_reward", "training/episode_distance"} <= rows[2].keys()
    assert {row["seed"] for row in rows} == {0}


def test_metrics_are_shown_and_no_larger_limit_is_advised(tmp_path: Path) -> None:
    """The episodes of `Toy` only ever end by the limit."""
    console = Console(file=io.StringIO(), width=200)
    train(toy_task(num_timesteps=32), run_dir=tmp_path / "run", console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"32 steps   return .* steps/s   distance \d", text)
    assert "time limit" not in text


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_loaded_policy_takes_the_identical_action(run: Path, deterministic: bool) -> None:
    programs = share(TASK)
    state, _ = programs.epoch(programs.init(), 3)
    make_policy = make_inference_fn(programs.ppo.networks)
    kept = jax.jit(make_policy(policy_params(state), deterministic))
    loaded = folder.load_policy(run, TASK, deterministic=deterministic)
    key, obs = jax.random.PRNGKey(7), state.env_state.obs
    np.testing.assert_array_equal(kept(obs, key)[0], loaded(obs, key)[0])
    assert loaded(obs[0], key)[0].shape == (2,)


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        ("multi_discrete", "vector and image"),
        pytest.param("continuous", "flat", marks=pytest.mark.slow),
        pytest.param("discrete", "image alone", marks=pytest.mark.slow),
        pytest.param("continuous", "two vectors", marks=pytest.mark.slow),
        pytest.param("discrete", "no state entry", marks=pytest.mark.slow),
    ],
)
def test_every_observation_and_action_trains_saves_and_loads(
    space: str, kind: str, tmp_path: Path
) -> None:
    task = toy_task(SPACES[space], OBSERVATIONS[kind], Encoder(), num_timesteps=32)
    run = quietly(task, run_dir=tmp_path / "run")
    obs = task.environment().reset(jax.random.PRNGKey(0)).obs
    action, _ = folder.load_policy(run, task)(obs, jax.random.PRNGKey(0))
    assert (action.shape, action.dtype) == (SPACES[space].shape, SPACES[space].dtype)


@pytest.mark.parametrize(
    "space", ["continuous", pytest.param("multi_discrete", marks=pytest.mark.slow)]
)
def test_episodes_are_played_and_drawn(
    space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = {"continuous": "flat", "multi_discrete": "vector and image"}[space]
    task = toy_task(SPACES[space], OBSERVATIONS[kind], Encoder(), num_timesteps=32)
    run = quietly(task, run_dir=tmp_path / "run")
    args = ["play", str(run), "--episodes", "2", "--max-frames", "3"]
    code, out, err = command(capsys, *args, tasks={"task": task})
    assert (code, err) == (0, "")
    assert "3 of them cut after 3 frames, see --max-frames" in out


@pytest.mark.slow
def test_a_typed_key_in_the_state_is_saved_and_resumed(tmp_path: Path) -> None:
    def task(steps: int) -> Task:
        settings = dataclasses.replace(TINY, num_timesteps=steps, num_evals=2)
        return dataclasses.replace(
            TASK, environment=lambda: Toy(key=jax.random.wrap_key_data), settings=settings
        )

    quietly(task(32), run_dir=tmp_path / "part")
    quietly(task(64), run_dir=tmp_path / "part", resume=True)
    quietly(task(64), run_dir=tmp_path / "whole")
    newest = [(tmp_path / r / "resume.msgpack").read_bytes() for r in ("part", "whole")]
    assert newest[0] == newest[1]


def ordinary_function(*args: Any, **kwargs: Any) -> Any:
    return brax_networks.make_ppo_networks(
        *args, **kwargs, policy_hidden_layer_sizes=(8,), value_hidden_layer_sizes=(8,)
    )


@pytest.mark.slow
def test_any_function_may_make_the_networks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = dataclasses.replace(TASK, network_factory=ordinary_function)
    run = quietly(task, run_dir=tmp_path / "run")
    code, _, err = command(capsys, "play", str(run), "--episodes", "2", tasks={"task": task})
    assert (code, err) == (0, "")


# ---- a run folder is data -----------------------------------------------------------------------


def test_nothing_in_a_run_names_code(run: Path, tmp_path: Path) -> None:
    run = copy_of(run, tmp_path / "run")
    saved = json.loads((run / "config.json").read_text())
    touch = {"args": [["touch", str(tmp_path / "executed")]]}
    for name in ("network_factory", "environment", "class"):
        saved[name] = {"class": "subprocess:Popen", "fields": touch}
    (run / "config.json").write_text(json.dumps(saved))
    folder.load_policy(run, TASK)
    (run / "config.json").write_text(json.dumps({**saved, "task": "subprocess:Popen"}))
    with pytest.raises(UsageError, match="There is no task 'subprocess:Popen'"):
        folder.load_policy(run, {"task": TASK})
    assert not (tmp_path / "executed").exists()


# ---- resuming, and starting from a policy -------------------------------------------------------


def test_a_resumed_run_equals_an_uninterrupted_one(run: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    quietly(toy_task(num_timesteps=32), run_dir=part)
    quietly(TASK, run_dir=part, resume=True)
    for name in ("resume.msgpack", "checkpoints/000000000096.msgpack"):
        assert (part / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.slow
def test_resume_goes_on_as_the_run_began(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the defaults are: here each asked setting is the task's own."""
    part = tmp_path / "part"
    short = toy_task(num_timesteps=32, learning_rate=5e-3)
    quietly(short, run_dir=part)

    code, _, err = command(capsys, "train", "--resume", str(part), "--learning-rate", "0.001")
    assert code == 2
    assert "learning_rate is 0.005" in err
    assert err.count("\n") == 1

    code, _, err = command(capsys, "train", "--resume", str(part), "--num-timesteps", "96")
    assert (code, err) == (0, "")
    assert max(folder.checkpoints(part)) == 96
    settings = folder.read_settings(part)
    assert (settings.num_timesteps, settings.learning_rate) == (96, 5e-3)

    code, _, err = command(capsys, "train", "--resume", str(part))
    assert code == 2
    assert "has 96 steps already; ask for more with --num-timesteps" in err


def test_a_run_that_failed_early_leaves_nothing(tmp_path: Path) -> None:
    class Fails(Toy):
        def step(self, state: Any, action: jax.Array) -> Any:
            raise RuntimeError("not yet")

    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="not yet"):
        quietly(dataclasses.replace(TASK, environment=Fails), run_dir=run)
    assert not run.exists()


def test_a_run_that_stopped_before_it_saved_starts_again(run: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    (part / "config.json").write_bytes((run / "config.json").read_bytes())
    console = Console(file=io.StringIO(), width=200)
    train(TASK, run_dir=part, resume=True, console=console)
    assert "stopped before anything was saved; it starts again" in console.file.getvalue()  # type: ignore[attr-defined]
    assert (part / "resume.msgpack").read_bytes() == (run / "resume.msgpack").read_bytes()


@pytest.mark.slow
def test_a_torn_line_of_metrics_does_not_end_a_run(run: Path, tmp_path: Path) -> None:
    part = copy_of(run, tmp_path / "part")
    with (part / "metrics.jsonl").open("a") as file:
        file.write('{"steps": 128, "ev')
    quietly(toy_task(num_timesteps=128), run_dir=part, resume=True)
    assert [row["steps"] for row in folder.read_metrics(part)] == [0, 32, 64, 96, 128]


def test_a_full_disk_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a thread writes."""

    def full(run: Path, state: Any) -> None:
        path = str(run / "resume.msgpack")
        raise files.FileError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(folder, "save_resume", full)
    code, _, err = command(capsys, "train", "--run-dir", str(tmp_path / "run"))
    assert code == 1
    assert err.endswith("resume.msgpack can't be used: No space left on device.\n")
    assert err.count("\n") == 1


def test_a_changed_environment_is_said_on_resume(run: Path, tmp_path: Path) -> None:
    part = copy_of(run, tmp_path / "part")
    saved = json.loads((part / "config.json").read_text())
    (part / "config.json").write_text(json.dumps({**saved, "source": "another"}))
    console = Console(file=io.StringIO(), width=200)
    train(toy_task(num_timesteps=128), run_dir=part, resume=True, console=console)
    assert "has changed since the run started" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_init_from_takes_the_parameters_and_new_settings(run: Path, tmp_path: Path) -> None:
    tuned = toy_task(learning_rate=1e-9, num_timesteps=32)
    new = quietly(tuned, run_dir=tmp_path / "new", init_from=run)
    assert list(folder.checkpoints(new)) == [0, 32]
    obs, key = jnp.ones(2), jax.random.PRNGKey(0)
    first = folder.load_policy(new, TASK, steps=0)(obs, key)[0]
    np.testing.assert_array_equal(first, folder.load_policy(run, TASK)(obs, key)[0])
    with pytest.raises(UsageError, match="observation"):
        quietly(
            toy_task(observe=OBSERVATIONS["two vectors"]), run_dir=tmp_path / "no", init_from=run
        )
    assert not (tmp_path / "no").exists()


def test_a_nan_before_training_is_not_called_divergence(tmp_path: Path) -> None:
    class Nan(Toy):
        def step(self, state: Any, action: jax.Array) -> Any:
            return super().step(state, action).replace(reward=jnp.float32(jnp.nan))

    with pytest.raises(TrainingDivergedError, match="before any training: the environment returns"):
        quietly(dataclasses.replace(TASK, environment=Nan), run_dir=tmp_path / "run")


def stacked(env: Env, episode_length: int, action_repeat: int, randomization_fn: Any) -> Env:
    """A wrapper of the user's: the observation twice, side by side."""

    class Twice(Wrapper):
        def reset(self, rng: jax.Array) -> State:
            state = self.env.reset(rng)
            return state.replace(obs=jnp.concatenate([state.obs, state.obs], axis=-1))

        def step(self, state: State, action: jax.Array) -> State:
            state = self.env.step(state.replace(obs=state.obs[..., :2]), action)
            return state.replace(obs=jnp.concatenate([state.obs, state.obs], axis=-1))

    return Twice(wrap_for_training(env, episode_length, action_repeat, randomization_fn))


@pytest.mark.slow
def test_a_wrapper_of_the_user_s_is_used_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = dataclasses.replace(toy_task(num_timesteps=32), wrap_env_fn=stacked)
    run = quietly(task, run_dir=tmp_path / "run")
    policy = folder.load_policy(run, task)
    assert policy(jnp.zeros(4), jax.random.PRNGKey(0))[0].shape == (2,)
    code, _, err = command(capsys, "play", str(run), "--episodes", "2", tasks={"task": task})
    assert (code, err) == (0, "")


def test_divergence_stops_the_run_and_keeps_what_was_saved(tmp_path: Path) -> None:
    task = toy_task(learning_rate=1e30, max_grad_norm=None)
    with pytest.raises(TrainingDivergedError, match=r"was nan by step 32, .* with: replay"):
        quietly(task, run_dir=tmp_path / "run")
    folder.load_policy(tmp_path / "run", task)


# ---- play ---------------------------------------------------------------------------------------


def test_play_takes_any_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command(capsys, "play", str(run), "--steps", "32", "--episodes", "2")
    assert (code, err) == (0, "")
    code, _, err = command(capsys, "play", str(run), "--steps", "33")
    assert code == 2
    assert "it has: 0, 32, 64, 96" in err


def test_the_gif_repeats_actions(run: Path, tmp_path: Path) -> None:
    from kit.env import episodes
    from kit.run import gif

    always = episodes.random_policy(SPACES["continuous"])
    for repeat, frames in ((1, 9), (4, 3)):
        path = tmp_path / f"{repeat}.gif"
        cut = gif.write_gif(path, toy_task(action_repeat=repeat), always, num_episodes=1)
        with Image.open(path) as image:
            durations = []
            for frame in range(image.n_frames):  # type: ignore[attr-defined]
                image.seek(frame)
                durations.append(image.info["duration"])
        # Equal frames are stored once; ten more show where the episode ended.
        assert sum(durations) == (frames + 10) * 50
        assert cut == 0


@pytest.mark.parametrize(("limit", "cut"), [(8, 0), (7, 3)])
def test_an_episode_that_the_time_limit_ends_is_not_cut(
    run: Path, limit: int, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = command(capsys, "play", str(run), "--episodes", "2", "--max-frames", str(limit))
    assert ("cut after" in out) == bool(cut)
    assert f"{cut} of them cut after 7 frames" in out or not cut


@pytest.mark.slow
@pytest.mark.parametrize("number", [5, 6])
def test_play_prints_the_metrics_where_there_are_few(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sums over an episode of 8 steps, beside `distance` of the toy."""

    class Counting(Toy):
        def reset(self, rng: jax.Array) -> State:
            state = super().reset(rng)
            more = {f"term{i}": jnp.zeros(()) for i in range(number)}
            return state.replace(metrics={**state.metrics, **more})

        def step(self, state: State, action: jax.Array) -> State:
            more = {f"term{i}": jnp.float32(i) for i in range(number)}
            state = super().step(state, action)
            return state.replace(metrics={**state.metrics, **more})

    task = dataclasses.replace(toy_task(num_timesteps=32, num_evals=2), environment=Counting)
    run = quietly(task, run_dir=tmp_path / "run")
    _, out, _ = command(capsys, "play", str(run), "--episodes", "2", tasks={"task": task})
    rows = {cells[1]: cells[3] for line in out.splitlines() if len(cells := line.split()) > 3}
    assert {"return", "length"} <= rows.keys()
    assert ("distance" in rows) == (number == 5)
    assert rows.get("term4", "32.00") == "32.00"


class NoPicture(Toy):
    render = None  # type: ignore[assignment]


class BadPicture(Toy):
    def render(self, state: Any) -> Any:
        raise RuntimeError("an OpenGL platform library has not been loaded")


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (NoPicture, "No GIF: the environment has no render(state)."),
        (BadPicture, "set MUJOCO_GL=egl"),
    ],
)
def test_no_gif_is_no_crash(
    env: Any, sentence: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = dataclasses.replace(TASK, environment=env)
    code, out, err = command(capsys, "play", str(run), "--episodes", "2", tasks={"task": task})
    assert (code, err) == (0, "")
    assert sentence in out


# ---- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["train", "--num-env", "3"], "--num-envs"),
        (["train", "--batch-size", "3", "--num-minibatches", "5"], "use num_envs 3 or 5, or"),
        (["plya"], "train"),
        ([], "train"),
        (["play", "nowhere"], "not the folder of a run"),
        (["train", "other"], "There is no task 'other'; config.py defines task, second."),
        (["train", "--num-envs", "4", "third"], "There is no task 'third'"),
        (["train", "--keep", "0"], "--keep is 0, which has to be from 1 to 1,000,000."),
        (["train", "--entropy-cost", "-1"], "--entropy-cost is -1.0, which has to be 0 or more."),
        (["train", "--num-envs", "0"], "--num-envs is 0, which has to be from 1 to 1,000,000."),
        (["train", "--no-normalize-advantage", "true"], "There is no task 'true'"),
        (["train", "--resume", "x", "--run-dir", "y"], "x is not the folder of a run"),
        (["check", "--seed", "-1"], "--seed is -1, which has to be from 0 to 4,294,967,295."),
        (["check", "--seed", str(2**32)], "--seed is 4,294,967,296, which has to be"),
        (["check", "--time-limit", "nan"], "--time-limit is nan, which has to be from 0.001 to"),
        (["check", "--time-limit", "0"], "--time-limit is 0.0, which has to be from 0.001 to"),
        (["tune", "--minutes", "nan"], "--minutes is nan, which has to be from 0 to 1,000,000."),
        (["tune", "--minutes", "inf"], "--minutes is inf, which has to be"),
        (["tune", "--minutes", "1e300"], "--minutes is 1e+300, which has to be"),
        (["tune", "--minutes", "-1"], "--minutes is -1.0, which has to be"),
        (["tune", "--threshold", "inf"], "--threshold is inf, which has to be"),
        (["play", "x", "--episodes", "0"], "--episodes is 0, which has to be from 1 to 1,000,000."),
        (["play", "x", "--episodes", str(10**11)], "--episodes is 100,000,000,000, which has"),
        (["play", "x", "--max-frames", "0"], "--max-frames is 0, which has to be from 1 to"),
        (["play", "x", "--episode-seed", "-1"], "--episode-seed is -1, which has to be"),
        (["play", "x", "--seed", str(10**30)], "--seed is 1,000,000,000,"),
        (["play", "x", "--steps", "-1"], "--steps is -1, which has to be"),
        (["replay", "x", "--max-frames", str(10**9)], "--max-frames is 1,000,000,000, which"),
        (["export", "x", "--steps", str(10**30)], "--steps is 1,000,000,000,"),
        (["export", "x", "--seed", "-1"], "--seed is -1, which has to be"),
        (["train", "--join-timeout", "nan"], "--join-timeout is nan, which has to be"),
    ],
)
def test_a_mistake_exits_with_2_and_no_traceback(
    args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capsys, *args, tasks={"task": TASK, "second": TASK})
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert not out


def test_train_needs_no_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("UV", "uv")
    task = toy_task(num_timesteps=32)
    code, out, err = command(capsys, "train", tasks={"task": task})
    assert (code, err) == (0, "")
    (run,) = (tmp_path / "runs").iterdir()
    assert f"uv run toy play runs/{run.name}" in out


@pytest.mark.slow
def test_two_tasks_are_two_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {"first": TASK, "second": toy_task(SPACES["discrete"], num_timesteps=32)}
    run = tmp_path / "run"
    code, _, err = command(capsys, "train", "second", "--run-dir", str(run), tasks=tasks)
    assert (code, err) == (0, "")
    assert json.loads((run / "config.json").read_text())["task"] == "second"
    assert max(folder.checkpoints(run)) == 32  # its own default
    action, _ = folder.load_policy(run, tasks)(jnp.zeros(2), jax.random.PRNGKey(0))
    assert action.shape == ()
    code, _, err = command(capsys, "play", str(run), "--episodes", "2", tasks=tasks)
    assert (code, err) == (0, "")


def test_a_mistake_in_config_py_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad_config.py").write_text(
        "from kit import PPOConfig\nPPOConfig(episode_length=100, num_envs=15)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main("toy", "bad_config", ["bench"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("num_envs is 15, which has to divide")


def test_an_environment_instead_of_its_class_is_told() -> None:
    with pytest.raises(UsageError, match=r"class or function: Toy, not Toy\(\)"):
        dataclasses.replace(TASK, environment=Toy())


def test_a_task_may_stand_after_the_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that are not given are those of this task, even where the default is given."""
    second = toy_task(num_timesteps=64, num_evals=2, learning_rate=5e-3, gae_lambda=0.5)
    args = ("train", "--run-dir", str(tmp_path / "r"), "--gae-lambda", "0.95", "second")
    code, _, err = command(capsys, *args, tasks={"task": TASK, "second": second})
    assert (code, err) == (0, "")
    settings = dataclasses.replace(second.settings, gae_lambda=0.95)
    assert folder.read_settings(tmp_path / "r") == settings


@pytest.mark.parametrize("args", [[], ["--help"], ["bench", "x"], ["play", "y"], ["bench", "--z"]])
def test_the_name_of_the_program_does_nothing_to_a_terminal(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main("x\x1b[2J\x1b]0;title\x07", types.ModuleType("\x1b[2J"), args)
    out, err = capsys.readouterr()
    assert out or err
    assert all(line.isprintable() for line in (out + err).splitlines())


PTY = """
import sys, types
sys.path[:0] = {path!r}
from kit import cli
from toys import toy_task
config = types.ModuleType("config")
config.task = toy_task()
cli.main("toy", config, {args!r})
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("args", [["train", "--num-env", "3"], ["train", "--num-envs", "3"]])
def test_a_wrong_flag_on_a_real_terminal(args: list[str]) -> None:
    """tyro colours its messages there."""
    terminal, end = os.openpty()
    code = PTY.format(path=sys.path, args=args)
    child = subprocess.Popen([sys.executable, "-c", code], stdin=end, stdout=end, stderr=end)
    os.close(end)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # how a pseudo-terminal ends
            break
    assert child.wait() == 2, shown
    assert b"Traceback" not in shown
    assert b"num-envs" in shown or b"num_envs" in shown


@pytest.mark.slow
def test_a_run_on_mjx_records_its_version(tmp_path: Path) -> None:
    from mjx_cartpole import MjxCartPole

    networks = make_network_factory(Continuous(1))
    task = dataclasses.replace(TASK, environment=MjxCartPole, network_factory=networks)
    folder.write_config(folder.make_folder(tmp_path / "run"), "task", task, task.make_ppo())
    versions = json.loads((tmp_path / "run" / "config.json").read_text())["versions"]
    assert {"mujoco", "mujoco-mjx"} <= versions.keys()
