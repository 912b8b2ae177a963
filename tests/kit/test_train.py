"""A run from start to end: several seeds, several devices, stopping, and what goes wrong."""

import dataclasses
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import kit as kit_package
import numpy as np
import pytest
from brax.envs.base import State
from jax.experimental.compilation_cache import compilation_cache
from kit import cli
from kit.errors import OutOfMemoryError, TrainingDivergedError, TrainingStopped, UsageError
from kit.ppo.task import Task
from kit.run import devices, folder
from kit.run.cache import use_compilation_cache
from kit.run.options import Options
from kit.run.programs import Programs
from kit.run.train import train
from rich.console import Console
from sharing import share
from toys import Toy, toy_task


def quietly(task: Task, **options: Any) -> Path:
    return train(task, console=Console(file=io.StringIO()), **options)


def updates_saved(run: Path) -> int | None:
    """How many updates of a `toy_task` a resumed run would go on from; None if nothing is saved."""
    shapes = jax.eval_shape(toy_task().make_ppo().init, np.uint32(0))
    saved = folder.load_resume(run, folder.Saved(shapes))
    return None if saved is None else int(saved.state.updates)


def parameters(run: Path, task: Task, seed: int) -> Any:
    shapes = jax.eval_shape(task.make_ppo().init, np.uint32(0))
    return folder.load_parameters(run, shapes, seed=seed).params


@pytest.fixture(autouse=True)
def _share_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kit.run.train.Programs", share)


@pytest.fixture(autouse=True)
def _kill_what_was_started() -> Iterator[None]:
    yield
    while STARTED:
        STARTED.pop().kill()


STARTED: list["subprocess.Popen[str]"] = []
CACHE_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


# ---- several seeds ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kit.run.train.Programs", share)
        task = toy_task(num_seeds=3, num_timesteps=64, num_evals=3, seed=5)
        return quietly(task, run_dir=tmp_path_factory.mktemp("seeds") / "run")


def test_there_is_a_row_for_each_seed_and_evaluation(seeds: Path) -> None:
    rows = folder.read_metrics(seeds)
    assert [(row["steps"], row["seed"]) for row in rows] == [
        (steps, seed) for steps in (0, 32, 64) for seed in (5, 6, 7)
    ]
    assert len({row["eval/episode_reward"] for row in rows}) == 9
    assert (seeds / "learning_curve.png").exists()


def test_a_seed_equals_a_run_of_its_own(seeds: Path, tmp_path: Path) -> None:
    task = toy_task(num_timesteps=64, num_evals=3, seed=6)
    alone = quietly(task, run_dir=tmp_path / "run")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        parameters(seeds, task, 6),
        parameters(alone, task, 6),
    )


def test_several_seeds_resume_as_one_run(seeds: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    task = toy_task(num_seeds=3, num_timesteps=64, num_evals=3, seed=5)
    stopped_at(1, task, part)
    quietly(task, run_dir=part, resume=True)
    assert (part / "resume.msgpack").read_bytes() == (seeds / "resume.msgpack").read_bytes()


@pytest.mark.slow
def test_all_seeds_may_start_from_one_policy(seeds: Path, tmp_path: Path) -> None:
    task = toy_task(num_seeds=2, num_timesteps=32, num_evals=2)
    new = quietly(task, run_dir=tmp_path / "new", init_from=seeds)
    _, best = folder.best(seeds, 64)
    shapes = jax.eval_shape(toy_task().make_ppo().init, np.uint32(0))
    for seed in (0, 1):
        first = folder.load_parameters(new, shapes, steps=0, seed=seed)
        jax.tree.map(
            np.testing.assert_array_equal, first.params, parameters(seeds, toy_task(), best)
        )


# ---- several devices ----------------------------------------------------------------------------


# The door keeps what Brax imports from printing.
PRELUDE = "import conftest\nfrom kit import train\nfrom toys import toy_task\n"


def python(
    code: str, devices: int = 1, environ: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Starts Python with so many devices; `toy_task` is there."""
    kit = Path(kit_package.__file__ or "").parents[1]
    # Most of them compile the same programs.
    cache = Path(tempfile.gettempdir()) / f"copier-brax-env-{os.getuid()}-jax-{jax.__version__}"
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code],
        env={
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(kit)]),
            "XLA_FLAGS": "--xla_backend_optimization_level=0 "
            f"--xla_force_host_platform_device_count={devices}",
            **(environ or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    STARTED.append(process)
    return process


SAME_ON_FOUR = """
from pathlib import Path
import jax
import kit.run.train
from kit.run import folder
from kit.run.options import Options
from kit.run.train import train
from sharing import share

kit.run.train.Programs = share
task = toy_task(num_seeds={seeds}, num_eval_envs=8)
spread = {{}}
for devices in (1, 4):
    programs = share(task, devices)
    programs.compile()
    state, _ = programs.epoch(programs.to_devices(programs.init()), 2)
    spread[devices] = len(state.env_state.obs.sharding.device_set)
    train(task, run_dir=Path({folder!r}) / str(devices), options=Options(num_devices=devices))
assert spread == {{1: 1, 4: 4}}, spread
"""


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [pytest.param(1, marks=pytest.mark.long), 4])
def test_four_devices_learn_the_same(seeds: int, tmp_path: Path) -> None:
    process = python(SAME_ON_FOUR.format(seeds=seeds, folder=str(tmp_path)), devices=4)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    curves = [
        [row["eval/episode_reward"] for row in folder.read_metrics(tmp_path / devices)]
        for devices in ("1", "4")
    ]
    assert len(curves[0]) == 4 * seeds
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


DIVISIBILITY = """
from kit.errors import UsageError
from kit.run.programs import Programs

for settings, devices in (({"num_envs": 2}, None), ({"num_seeds": 6}, None), ({}, 5), ({}, 0)):
    try:
        Programs(toy_task(**settings), devices)
    except UsageError as error:
        print(error)
"""


@pytest.mark.slow
def test_what_devices_can_not_divide_is_refused() -> None:
    process = python(DIVISIBILITY, devices=4)
    out, err = process.communicate(timeout=120)
    assert out.splitlines() == [
        "num_envs is 2, which has to be a multiple of the 4 devices: change it, or use "
        "--num-devices 2.",
        "num_seeds is 6, which has to be a multiple of the 4 devices: change it, or use "
        "--num-devices 3.",
        "--num-devices is 5, which has to be from 1 to 4, the devices that JAX sees.",
        "--num-devices is 0, which has to be from 1 to 4, the devices that JAX sees.",
    ], err


TOGETHER = """
import types
import jax
from kit import cli
from kit.run import folder
from kit.run.programs import Programs
from kit.run.train import train

config = types.ModuleType("config")
config.task = toy_task(num_eval_envs=8, num_seeds={seeds})
kept = []
original = Programs.to_host
def to_host(self, state):
    kept.append(original(self, state))
    return kept[-1]
Programs.to_host = to_host
arguments = ["--coordinator", "localhost:{port}", "--num-processes", "2", "--process-id", "{id}"]
cli.main("toy", config, ["train", "--run-dir", {run!r}, *arguments])
print(float(sum(abs(x).sum() for x in jax.tree.leaves(kept[-1].params))))
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def two_processes(code: str, **values: Any) -> list["subprocess.Popen[str]"]:
    port = free_port()
    return [python(code.format(port=port, id=i, **values), devices=2) for i in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, pytest.param(4, marks=pytest.mark.long)])
def test_two_processes_train_together(seeds: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = two_processes(TOGETHER, run=str(run), seeds=seeds)
    outs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    # Both end with the same parameters; only the first one prints and writes, and no library does.
    first, second = (out.splitlines() for out, _ in outs)
    assert first[-1] == second[-1]
    assert any("96 steps" in line for line in first)
    assert not any("peer ranks" in line for line in first)
    assert len(second) == 1
    rows = folder.read_metrics(run)
    assert len(rows) == 4 * seeds
    alone = quietly(toy_task(num_eval_envs=8, num_seeds=seeds), run_dir=tmp_path / "alone")
    np.testing.assert_allclose(
        [row["eval/episode_reward"] for row in rows],
        [row["eval/episode_reward"] for row in folder.read_metrics(alone)],
        rtol=1e-4,
    )


STOPPED_TOGETHER = """
import types
from kit import cli

config = types.ModuleType("config")
config.task = toy_task(num_eval_envs=8, num_timesteps=10**10, num_evals=2)
arguments = ["--coordinator", "localhost:{port}", "--num-processes", "2", "--process-id", "{id}"]
cli.main("toy", config, ["train", "{how}", {run!r}, "--checkpoint-every", "0.005", *arguments])
"""


@pytest.mark.long
def test_a_signal_to_one_process_stops_all_of_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    updates: list[int] = []
    for how in ("--run-dir", "--resume"):
        both = two_processes(STOPPED_TOGETHER, run=str(run), how=how)
        wait_for_a_save(run, updates[-1] if updates else 0)
        both[1].send_signal(signal.SIGTERM)
        outs = [process.communicate(timeout=120) for process in both]
        assert [process.returncode for process in both] == [143, 143], outs
        assert "Stopped and saved at step" in outs[0][0]
        saved = updates_saved(run)
        assert saved is not None
        updates.append(saved)
    assert 0 < updates[0] < updates[1]


@pytest.mark.long
def test_no_process_goes_on_where_the_first_one_can_not(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.tex").touch()
    both = two_processes(STOPPED_TOGETHER, run=str(run), how="--run-dir")
    outs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [2, 2], outs
    assert "exists already" in outs[0][1]
    assert "Another process could not go on" in outs[1][1]
    assert not any("Traceback" in err for _, err in outs)


@pytest.mark.parametrize("flag", ["--num-processes", "--process-id"])
def test_a_process_that_is_told_too_little(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = types.ModuleType("config")
    vars(config).update(task=toy_task())
    with pytest.raises(SystemExit) as ended:
        cli.main("toy", config, ["train", flag, "1"])
    assert ended.value.code == 2
    said = "--coordinator, --num-processes and --process-id go together.\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("address", "number", "id", "sentence"),
    [
        ("localhost", 2, 1, "'localhost', which has to be HOST:PORT"),
        ("localhost:", 2, 1, "which has to be HOST:PORT"),
        (":1234", 2, 1, "which has to be HOST:PORT"),
        ("localhost:0", 2, 1, "which has to be HOST:PORT"),
        ("localhost:99999", 2, 1, "which has to be HOST:PORT"),
        ("http://localhost:1234", 2, 1, "which has to be HOST:PORT"),
        ("::1:1234", 2, 1, "which has to be HOST:PORT, such as 10.0.0.1:1234 or [::1]:1234."),
        ("local host:1234", 2, 1, "which has to be HOST:PORT"),
        ("localhost:1234", 0, 0, "--num-processes is 0, which has to be from 1 to 1,000,000."),
        ("localhost:1234", 2, 2, "--process-id is 2, which has to be from 0 to 1."),
        ("localhost:1234", 2, -1, "--process-id is -1, which has to be from 0 to 1."),
    ],
)
def test_what_can_t_be_joined_is_said_at_once(
    address: str, number: int, id: int, sentence: str
) -> None:
    with pytest.raises(UsageError) as error:
        devices.join(address, number, id)
    assert sentence in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_processes_that_never_come_are_waited_for_no_longer_than_asked(number: int) -> None:
    place = f"localhost:{free_port()}"
    args = ["train", "--coordinator", place, "--num-processes", "2", "--process-id", str(number)]
    process = python(COMMAND.format(steps=32, args=[*args, "--join-timeout", "1.5"]))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    waiting, ended = err.splitlines()
    assert waiting.startswith(f"Waiting for the other processes, with process 0 at {place}, for at")
    assert ended.startswith("After 1.5 s not all processes have joined")


@pytest.mark.slow
def test_ctrl_c_ends_waiting_for_other_processes() -> None:
    args = ["train", "--coordinator", f"localhost:{free_port()}", "--num-processes", "2"]
    process = python(COMMAND.format(steps=32, args=[*args, "--process-id", "1"]))
    assert process.stderr is not None
    assert process.stderr.readline().startswith("Waiting for the other processes")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "Interrupted.\n")


def test_a_port_that_is_taken() -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"Process 0 can't listen at port {port} "):
            devices.join(f"localhost:{port}", 2, 0)


@pytest.mark.long
def test_processes_that_nothing_tells_of_each_other() -> None:
    process = python(COMMAND.format(steps=32, args=["train", "--distributed"]))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "start them with srun or mpirun, or name --coordinator" in err
    assert "Traceback" not in err


# ---- stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_the_run_and_resuming_goes_on_exactly(name: str, tmp_path: Path) -> None:
    task, part = toy_task(), tmp_path / "a part"

    def stop(row: Mapping[str, float]) -> None:
        if row["steps"] == 32:
            signal.raise_signal(getattr(signal, name))

    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(TrainingStopped) as stopped:
        train(task, run_dir=part, report=stop, console=console)
    assert stopped.value.signal == getattr(signal, name)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"Stopped and saved at step 32. Continue with: train --resume '{part}'" in text
    quietly(task, run_dir=part, resume=True)
    whole = quietly(task, run_dir=tmp_path / "whole")
    assert (part / "resume.msgpack").read_bytes() == (whole / "resume.msgpack").read_bytes()
    assert [row["steps"] for row in folder.read_metrics(part)] == [0, 32, 64, 96]


def rates(run: Path) -> list[float]:
    """The learning rate of each update of a run that is evaluated after each of them."""
    rows = folder.read_metrics(run)
    assert [row["steps"] for row in rows] == [32 * n for n in range(len(rows))]
    return [row["training/learning_rate"] for row in rows[1:]]


def of_length(updates: int) -> Task:
    """To be evaluated after each update."""
    return toy_task(num_timesteps=32 * updates, num_evals=100)


def stopped_at(updates: int, task: Task, run: Path, resume: bool = False) -> None:
    def stop(row: Mapping[str, float]) -> None:
        if row["steps"] == 32 * updates and row["seed"] == task.settings.seed:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(TrainingStopped):
        quietly(task, run_dir=run, resume=resume, report=stop)


@pytest.mark.parametrize(("stop", "end"), [(5, 6), (3, 8)])
def test_resuming_is_exact_where_the_learning_rate_stays_as_it_was(
    stop: int, end: int, tmp_path: Path
) -> None:
    """At the same length always; to a longer one as long as the rate has not begun to fall."""
    stopped_at(stop, of_length(6), tmp_path / "run")
    resumed = quietly(of_length(end), run_dir=tmp_path / "run", resume=True)
    whole = quietly(of_length(end), run_dir=tmp_path / "whole")
    assert (resumed / "resume.msgpack").read_bytes() == (whole / "resume.msgpack").read_bytes()


@pytest.mark.slow
def test_the_learning_rate_does_not_jump_where_a_run_goes_on_for_longer(tmp_path: Path) -> None:
    run = quietly(of_length(6), run_dir=tmp_path / "run")
    console = Console(file=io.StringIO(), width=200)
    train(of_length(10), run_dir=run, resume=True, console=console)
    ended = 1e-3 / 3
    expected = [1e-3] * 4 + [2e-3 / 3, ended, *(ended * x for x in (0.8, 0.6, 0.4, 0.2))]
    np.testing.assert_allclose(rates(run), expected, rtol=1e-5)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "The learning rate goes on from 0.0003333, where the schedule had brought it" in text
    assert f"--init-from {run} starts a new run at the full rate of 0.001." in text
    # Once more, interrupted before and after the first save.
    stopped_at(11, of_length(20), run, resume=True)
    quietly(of_length(20), run_dir=run, resume=True)
    last = ended * 0.2
    falls = [last * min(1, 2 * (1 - n / 20)) for n in range(10, 20)]
    np.testing.assert_allclose(rates(run)[10:], falls, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["evaluate", "epoch"])
def test_rows_of_a_killed_run_are_complete(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between a save and the evaluation, or with some updates saved and others not."""
    task, run = toy_task(num_evals=2), tmp_path / "run"
    original, calls = getattr(Programs, where), []

    def fail(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("killed")
        return original(*args)

    monkeypatch.setattr(Programs, where, fail)
    with pytest.raises(RuntimeError, match="killed"):
        quietly(task, run_dir=run, options=Options(checkpoint_every=1e-9))
    monkeypatch.undo()
    assert updates_saved(run) == {"evaluate": 3, "epoch": 1}[where]
    quietly(task, run_dir=run, resume=True)
    (_, row), (_, whole) = (
        folder.read_metrics(x) for x in (run, quietly(task, run_dir=tmp_path / "whole"))
    )
    assert row.keys() == whole.keys()
    assert all(
        np.isclose(row[name], x, rtol=1e-5) for name, x in whole.items() if name != "training/sps"
    )


COMMAND = """
import types
from kit import cli

config = types.ModuleType("config")
config.task = toy_task(num_timesteps={steps}, num_evals=2)
cli.main("toy", config, {args})
"""


def forever(run: Path) -> "subprocess.Popen[str]":
    args = ["train", "--run-dir", str(run), "--checkpoint-every", "0.005"]
    return python(COMMAND.format(steps=10**10, args=args))


@pytest.mark.slow
def test_the_exit_code_names_the_signal(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = forever(run)
    wait_for(run / "resume.msgpack")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "")
    assert "Stopped and saved at step" in out
    saved = updates_saved(run)
    assert saved is not None
    assert f"at step {saved * 32:,}." in out


@pytest.mark.slow
def test_ctrl_c_while_compiling_leaves_nothing(tmp_path: Path) -> None:
    process = forever(tmp_path / "run")
    assert process.stdout is not None
    assert process.stdout.readline() == "Compiling ...\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "Interrupted.\n")
    assert not (tmp_path / "run").exists()


TWO_SIGNALS = """
import os, signal
from kit.run.signals import stop_requests
with stop_requests() as request:
    os.kill(os.getpid(), signal.SIGTERM)
    assert request.signal == signal.SIGTERM
    print("first", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("second", flush=True)
"""


def test_a_second_signal_ends_the_process() -> None:
    path = str(Path(kit_package.__file__ or "").parents[1])
    done = subprocess.run(
        [sys.executable, "-c", TWO_SIGNALS],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "first\n", "")


@pytest.mark.long
@pytest.mark.parametrize(
    "delay", [0.2, *(pytest.param(x / 40, marks=pytest.mark.long) for x in range(40))]
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(delay: float, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # Saves all the time: a kill hits a write of any file.
    args = ["train", "--run-dir", str(run), "--num-evals", "401"]
    process = python(COMMAND.format(steps=32 * 400, args=args))
    wait_for(run / "resume.msgpack")
    time.sleep(delay)
    process.kill()
    process.communicate(timeout=60)
    saved = updates_saved(run)
    assert saved is not None
    more = saved + 3
    longer = toy_task(num_timesteps=32 * 400, num_evals=401)

    def stop(row: Mapping[str, float]) -> None:
        if row["steps"] >= 32 * more:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingStopped):
        quietly(longer, run_dir=run, resume=True, report=stop)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["steps"] for row in rows] == [32 * n for n in range(more + 1)]


def wait_for_a_save(run: Path, after: int) -> None:
    """Until more than so many updates are saved."""
    deadline = time.monotonic() + 120
    while True:
        saved = updates_saved(run) if (run / "config.json").exists() else None
        if saved is not None and saved > after:
            return
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.05)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def test_two_processes_can_not_train_in_one_run(tmp_path: Path) -> None:
    run = quietly(toy_task(num_timesteps=32), run_dir=tmp_path / "run")
    with folder.lock(run), pytest.raises(UsageError, match="Another process is training in"):
        quietly(toy_task(), run_dir=run, resume=True)


# ---- checkpoints --------------------------------------------------------------------------------


def test_a_run_stopped_after_its_last_update_is_evaluated_on_resume(tmp_path: Path) -> None:
    run = quietly(toy_task(), run_dir=tmp_path / "run")
    whole = folder.read_metrics(run)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    quietly(toy_task(), run_dir=run, resume=True)
    again = folder.read_metrics(run)
    assert [row["steps"] for row in again] == [0, 32, 64, 96]
    assert again[-1]["eval/episode_reward"] == whole[-1]["eval/episode_reward"]


def test_other_settings_are_no_resuming(tmp_path: Path) -> None:
    run = quietly(toy_task(num_timesteps=32), run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match=r"learning_rate is 0.001 in .* can't change"):
        quietly(toy_task(learning_rate=0.1), run_dir=run, resume=True)


def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path) -> None:
    task = toy_task(num_timesteps=10 * 32, num_evals=11, learning_rate=1e-2)
    run = quietly(task, run_dir=tmp_path / "run", options=Options(keep=2))
    rows = folder.read_metrics(run)
    best = max(rows, key=lambda row: row["eval/episode_reward"])["steps"]
    assert list(folder.checkpoints(run)) == sorted({int(best), 288, 320})


def test_a_checkpoint_is_small_beside_what_resume_needs(tmp_path: Path) -> None:
    run = quietly(toy_task(num_timesteps=32), run_dir=tmp_path / "run")
    sizes = [path.stat().st_size for path in folder.checkpoints(run).values()]
    assert max(sizes) < 0.6 * (run / "resume.msgpack").stat().st_size


# ---- what goes wrong ----------------------------------------------------------------------------


class Breaks(Toy):
    """Gives NaN at the fifth step of an episode that started on the right, where `where` says."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        x = state.pipeline_state["x"]
        return state.replace(info={**state.info, "t": jnp.zeros(()), "start": x})

    def step(self, state: State, action: jax.Array) -> State:
        info = {**state.info, "t": state.info["t"] + 1}
        state = super().step(state, action).replace(info=info)
        bad = (info["t"] == 5) & (info["start"] > 0.9)
        nan = jnp.where(bad, jnp.nan, 0.0)
        if self.where == "metric":
            return state.replace(metrics={"distance": state.metrics["distance"] + nan})
        if self.where == "last observation":  # which no update ever sees
            return state.replace(obs=state.obs + nan, done=jnp.float32(bad))
        return state.replace(**{self.where: getattr(state, self.where) + nan})


def breaking(where: str) -> Task:
    # No episode of the first evaluation starts that far on the right.
    settings = dataclasses.replace(toy_task().settings, num_eval_envs=2, num_timesteps=32 * 50)
    return dataclasses.replace(toy_task(), environment=lambda: Breaks(where), settings=settings)


@pytest.mark.parametrize(
    "where",
    [
        "obs",
        *(pytest.param(x, marks=pytest.mark.long) for x in ("reward", "done", "last observation")),
    ],
)
def test_what_is_not_finite_in_the_environment_stops_the_run(where: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError) as stopped:
        quietly(breaking(where), run_dir=tmp_path / "run")
    assert "An observation, a reward or done was NaN or infinite by step" in str(stopped.value)
    assert "learning-rate" not in str(stopped.value)


@pytest.mark.slow
def test_a_metric_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    run = quietly(breaking("metric"), run_dir=tmp_path / "run")
    rows = folder.read_metrics(run)
    assert rows[-1]["steps"] == 32 * 50
    assert sum("training/episode_distance" not in row for row in rows) > 1
    assert all(np.isfinite(list(row.values())).all() for row in rows)


@pytest.mark.long
def test_odd_surroundings_do_not_matter(tmp_path: Path) -> None:
    odd = {
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "MPLBACKEND": "nonsense",
        "PYTHONIOENCODING": "cp1252",
        "TERM": "dumb",
    }
    run = tmp_path / "été [/] $\\frac$ ✓"
    process = python(COMMAND.format(steps=32, args=["train", "--run-dir", str(run)]), environ=odd)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "32 steps   return" in out
    assert (run / "learning_curve.png").exists()


X64 = """
import dataclasses
from pathlib import Path
import jax, jax.numpy as jnp
from brax.envs.base import State
from kit.check import examine
from kit.run.train import train
from toys import Toy

class InFloat64(Toy):
    def reset(self, rng):
        x = jax.random.uniform(rng, (), minval=-1.0, maxval=1.0)
        zero = jnp.zeros(())
        return State({{"x": x}}, jnp.stack([x, x**2]), zero, zero, {{"distance": zero}})

    def step(self, state, action):
        x = jnp.clip(state.pipeline_state["x"] + 0.1 * jnp.sum(action), -2, 2)
        done = jnp.where(jnp.abs(x) > 1.5, jnp.ones(()), jnp.zeros(()))
        return state.replace(
            pipeline_state={{"x": x}}, obs=jnp.stack([x, x**2]), reward=-jnp.abs(x), done=done,
            metrics={{**state.metrics, "distance": jnp.abs(x)}},
        )

assert InFloat64().reset(jax.random.PRNGKey(0)).reward.dtype == jnp.float64
task = dataclasses.replace(toy_task(num_timesteps=32, num_evals=2), environment=InFloat64)
report = examine(task)
assert report.ok, report.violations
train(task, run_dir=Path({run!r}))
"""


@pytest.mark.long
def test_an_environment_in_float64_that_passes_check_can_be_trained(tmp_path: Path) -> None:
    """As gymnax#111 and gymnax#58 report it: a type that changes in a scan."""
    run = tmp_path / "run"
    process = python(X64.format(run=str(run)), environ={"JAX_ENABLE_X64": "1"})
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert [row["steps"] for row in folder.read_metrics(run)] == [0, 32]


@pytest.mark.long
def test_without_jit_everything_is_slow_and_works(tmp_path: Path) -> None:
    run, small = tmp_path / "run", {"num_envs": 2, "batch_size": 2, "num_minibatches": 1}
    settings = [f"--{k.replace('_', '-')}={v}" for k, v in small.items()]
    settings += ["--unroll-length=2", "--episode-length=3", "--num-eval-envs=2"]
    for args, said in (
        (["train", "--run-dir", str(run), *settings], "JAX_DISABLE_JIT is set: nothing is comp"),
        (["play", str(run), "--episodes=2"], "2 episodes each:"),
        (["check"], "JAX_DISABLE_JIT is ignored; train and play follow it."),
    ):
        code = COMMAND.format(steps=4, args=args)
        process = python(code, environ={"JAX_DISABLE_JIT": "1"})
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
        assert said in out + err
    assert [row["steps"] for row in folder.read_metrics(run)] == [0, 4]


FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
NO_HOME = """
import os, pwd
for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
    os.environ.pop(name, None)
pwd.getpwuid = {}.__getitem__
"""


@pytest.mark.long
@pytest.mark.parametrize("before", [FULL_DISK, NO_HOME], ids=["full disk", "no home"])
def test_a_compilation_cache_that_can_not_be_used_only_costs_time(
    before: str, tmp_path: Path
) -> None:
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)} if before == FULL_DISK else {}
    process = python(f"{before}\n{COMMAND.format(steps=32, args=['check'])}", environ=cache)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), out
    assert "rules kept" in out


def test_the_compilation_cache_does_not_grow_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: getattr(jax.config, name) for name in CACHE_SETTINGS}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("kit.run.cache.CACHE_BYTES", 20_000)
    try:
        use_compilation_cache()
        compilation_cache.reset_cache()
        for n in range(10):
            jax.jit(lambda x, n=n: x + n)(1.0)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    kept = [path.stat().st_size for path in tmp_path.rglob("*-cache")]
    assert 10_000 < sum(kept) <= 20_000


@pytest.mark.slow
def test_help_may_be_cut_short() -> None:
    process = python(COMMAND.format(steps=32, args=["train", "--help"]))
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_a_device_that_is_not_there_is_one_sentence() -> None:
    code = COMMAND.format(steps=32, args=["train"])
    process = python(code, environ={"JAX_PLATFORMS": "cuda"})
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("JAX finds no device of JAX_PLATFORMS=cuda: unset it, or install")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_in_another_command_is_no_traceback() -> None:
    code = COMMAND.format(steps=32, args=["check"]).replace(
        "cli.main", "print('begin', flush=True)\ncli.main"
    )
    process = python(code)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "Interrupted.\n")


def test_a_setting_to_halve_is_named_where_memory_is_too_little() -> None:
    task = toy_task(num_envs=2, batch_size=1000, num_minibatches=1000, unroll_length=10**6)
    programs = Programs(task)
    programs.compile()
    state = programs.init()
    with pytest.raises(OutOfMemoryError, match="half of --unroll-length, which is 1000000"):
        programs.epoch(state, 1)


@pytest.mark.parametrize(
    "options", [{"keep": 0}, {"checkpoint_every": 0.0}, {"checkpoint_every": float("nan")}]
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"--(keep|checkpoint-every) is .*, which has to be"):
        Options(**options)


def test_a_refused_report_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise UsageError("Weights & Biases can't be used")

    monkeypatch.setattr("kit.run.train.reporters", refuse)
    with pytest.raises(UsageError, match="can't be used"):
        quietly(toy_task(), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_profile_is_written_but_not_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = jax.profiler.stop_trace

    def on_a_full_disk() -> None:
        stop()
        raise RuntimeError("OUT_OF_RANGE: vm.xplane.pb; No space left on device")

    monkeypatch.setattr(jax.profiler, "stop_trace", on_a_full_disk)
    text = io.StringIO()
    run = train(
        toy_task(),
        run_dir=tmp_path / "run",
        options=Options(profile=True),
        console=Console(file=text),
    )
    assert "No profile: OUT_OF_RANGE" in text.getvalue()  # and the run goes on to its end
    assert list((run / "profile").rglob("*.xplane.pb"))
    (run / "profile").rename(tmp_path / "outside")
    (run / "profile").symlink_to(tmp_path / "outside")
    before = list((tmp_path / "outside").rglob("*"))
    longer = toy_task(num_timesteps=320)
    with pytest.raises(UsageError, match="profile is a link"):
        quietly(longer, run_dir=run, resume=True, options=Options(profile=True))
    assert list((tmp_path / "outside").rglob("*")) == before
