"""The run folder without any training: what is written, read and refused, whoever touched it."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.training.agents.ppo import networks as brax_networks
from flax import linen as nn
from kit.env import keys
from kit.errors import UsageError
from kit.ppo.state import TrainingState
from kit.ppo.task import Task
from kit.run import files, folder
from toys import SPACES, Toy, toy_task

KIT = Path(folder.__file__).parents[1]
TASK = toy_task()
SEVERAL = toy_task(seed=5, num_seeds=3)
STEPS = (0, 32, 64)
ODD_NAMES = [
    "a b",
    "$(touch x)",
    "it's; touch x",
    "-x",
    "\x1b[31mred",
    "two\nlines",
    "\udc80",
    "[/]",
]


def shapes_of(task: Task) -> TrainingState:
    return jax.eval_shape(task.make_ppo().init, np.uint32(0))


SHAPES = shapes_of(TASK)
WHOLE = folder.Saved(SHAPES)


def state_of(number: int, shapes: TrainingState = SHAPES) -> TrainingState:
    """A state of random numbers, as a training would have it on the host."""
    rng = np.random.default_rng(number)
    return jax.tree.map(lambda x: (9 * rng.random(x.shape)).astype(x.dtype), shapes)


def row(steps: int, value: float, seed: int = 0, **others: Any) -> dict[str, float]:
    """One evaluation, with what every row has."""
    length = {"eval/avg_episode_length": 8.0, "eval/time_limit_reached": 1.0}
    return {"steps": steps, "seed": seed, "eval/episode_reward": value, **length, **others}


def write_config(run: Path, task: Task, num_devices: int = 1) -> None:
    folder.write_config(run, "task", task, task.make_ppo(), num_devices)


def changes_since(run: Path, task: Task, num_devices: int = 1) -> list[str]:
    return folder.changes_since(run, task.environment(), task.make_ppo(), num_devices)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one seed, which was best in the middle, and one of three.

    Of the seeds 5, 6 and 7 the best is 6 at 32 steps, and 5 at 64.
    """
    made = tmp_path_factory.mktemp("made")
    run = folder.make_folder(made / "run")
    write_config(run, TASK)
    for steps, value in zip(STEPS, (-3.0, -1.0, -2.0), strict=True):
        folder.append_metrics(run, [row(steps, value)])
        folder.save_checkpoint(run, state_of(steps), steps)
        folder.save_resume(run, folder.Saved(state_of(steps)))
    several = folder.make_folder(made / "several")
    write_config(several, SEVERAL)
    returns = {0: (1.0, 1.0, 1.0), 32: (2.0, 9.0, 2.0), 64: (7.0, 5.0, 6.0)}
    for steps, values in returns.items():
        folder.append_metrics(several, [row(steps, v, 5 + i) for i, v in enumerate(values)])
        members = [state_of(steps + i) for i in range(3)]
        folder.save_checkpoint(several, jax.tree.map(lambda *x: np.stack(x), *members), steps)
    return made


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


@pytest.fixture
def several(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "several", tmp_path / "several"))


def refused(function: Callable[..., Any], *args: Any, **options: Any) -> str:
    """The sentence of a UsageError."""
    with pytest.raises(UsageError) as error:
        function(*args, **options)
    sentence = str(error.value)
    assert len(sentence) < 1000
    assert sentence.endswith(".")
    return sentence


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@contextlib.contextmanager
def full_disk(left: int) -> Iterator[None]:
    """No file can grow beyond `left` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_pasted_path_names_the_path_and_runs_nothing(name: str, tmp_path: Path) -> None:
    word = files.quoted(Path(name))
    assert word.isprintable()
    assert not word.startswith("-")
    echo = ["bash", "-c", f"printf %s {word}"]
    said = subprocess.run(echo, cwd=tmp_path, capture_output=True, check=True).stdout
    assert os.path.normpath(said) == os.fsencode(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines", "\udc80", "bell\a", "\u202eright"])
def test_messages_name_the_folder_as_it_is_and_are_escaped_once(name: str, tmp_path: Path) -> None:
    said = refused(folder.read_config, tmp_path / name)
    assert str(tmp_path / name) in said
    assert "\\" not in said
    escaped = files.printable(said)
    assert escaped.isprintable()
    assert escaped.encode()  # a terminal can show it


# ---- the folder ---------------------------------------------------------------------------------


def test_runs_of_the_same_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = [folder.make_folder() for _ in range(20)]
    assert len(set(made)) == 20
    assert all(path.is_dir() and path.parent == Path("runs") for path in made)


def test_a_folder_that_holds_something_is_refused(run: Path, tmp_path: Path) -> None:
    assert f"continue with --resume {run}" in refused(folder.make_folder, run)
    (tmp_path / "empty").mkdir()
    assert folder.make_folder(tmp_path / "empty") == tmp_path / "empty"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    assert "--resume" not in refused(folder.make_folder, tmp_path / "other")
    # What a run leaves that was killed right after it locked its folder.
    with folder.lock(tmp_path / "empty"):
        pass
    folder.make_folder(tmp_path / "empty")


def test_where_no_folder_can_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        assert "file is no folder" in refused(folder.make_folder, path)
    refused(folder.make_folder, tmp_path / "nowhere")
    assert "name too long" in refused(folder.make_folder, tmp_path / ("x" * 300))
    assert folder.make_folder(tmp_path / "a" / "b" / "c").is_dir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(tmp_path / "missing")
    refused(folder.make_folder)


@pytest.mark.parametrize("name", [None, "run", "empty", "a/b/c"])
def test_a_folder_that_can_t_be_made_is_refused_before_anything_compiles(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    run = None if name is None else Path(name)
    folder.refuse_existing(run)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert "can't be written to: name a folder in another place" in refused(
        folder.refuse_existing, run
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EROFS, "Read-only file system"), "(Read-only file system)"),
        (OSError(9999, "Unknown error 9999"), "(Unknown error 9999)"),
        (OSError("a reason without a number"), "(a reason without a number)"),
        (OSError(), "(OSError)"),
    ],
    ids=str,
)
def test_why_a_folder_can_t_be_used_is_told(
    error: OSError, sentence: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(Path, "mkdir", fails)
    assert sentence in refused(folder.make_folder, tmp_path / "new")
    assert sentence in refused(folder.make_folder)
    monkeypatch.setattr(os, "open", fails)
    assert sentence in refused(folder.lock(run).__enter__)
    monkeypatch.setattr(Path, "open", fails)
    assert sentence in refused(folder.read_config, run)
    assert sentence in refused(folder.load_parameters, run, SHAPES)


def test_one_process_at_a_time_and_a_killed_one_leaves_no_lock(run: Path) -> None:
    script = f"""
import sys, time
sys.path.insert(0, {str(KIT.parent)!r})
from pathlib import Path
from kit.run import files
with files.lock(Path({str(run)!r}), "busy"):
    print("locked", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(UsageError, match="Another process is training in"), folder.lock(run):
            pass
        holder.send_signal(signal.SIGKILL)
    with folder.lock(run):
        pass
    with folder.lock(run):
        pass


def test_an_error_inside_the_lock_is_passed_on_as_it_is(run: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "elsewhere")
    with pytest.raises(OSError, match="elsewhere") as raised, folder.lock(run):
        raise error
    assert raised.value is error


def test_without_locks_a_run_is_not_locked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*args: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    for module in (None, type("fcntl", (), {"flock": unsupported, "LOCK_EX": 2, "LOCK_NB": 4})):
        monkeypatch.setattr(files, "fcntl", module)
        with folder.lock(run), folder.lock(run):
            pass


# ---- writing ------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[Path], None]] = {
    "config.json": lambda run: write_config(run, TASK),
    "metrics.jsonl": lambda run: folder.forget_after(run, 64),
    "resume.msgpack": lambda run: folder.save_resume(run, folder.Saved(state_of(1))),
    "checkpoints/000000000064.msgpack": lambda run: folder.save_checkpoint(run, state_of(1), 64),
}


@pytest.mark.parametrize("end", ["", ".part"])
@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_no_write_lands_outside(name: str, end: str, link: Any, run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text('{"mine": 1}')
    path = run / f"{name}{end}"
    path.unlink(missing_ok=True)
    link(outside, path)
    with contextlib.suppress(UsageError):  # refusing to read a link is as good
        WRITES[name](run)
    assert outside.read_text() == '{"mine": 1}'


def test_no_append_lands_outside(run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(outside)
    assert "is a link" in refused(folder.append_metrics, run, [row(96, 0.0)])
    assert outside.read_text() == "mine"


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    files.refuse_no_folder(tmp_path / "folder")
    files.refuse_no_folder(tmp_path / "missing")
    for target in ("folder", "nowhere"):
        (tmp_path / f"to_{target}").symlink_to(target)
        said = refused(files.refuse_no_folder, tmp_path / f"to_{target}")
        assert f"to_{target} is a link" in said


def test_checkpoints_elsewhere_are_neither_written_nor_deleted(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    refused(folder.save_checkpoint, run, state_of(1), 96)
    refused(folder.keep, run, 1, 32)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 3


@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk_keeps_what_there_was(name: str, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with full_disk(20), pytest.raises(OSError, match="File too large") as error:
        WRITES[name](run)
    assert isinstance(error.value, files.FileError)
    assert error.value.filename == str(run / name)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_file_in_the_way_is_an_error_about_that_file(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    assert "checkpoints is no folder" in refused(folder.save_checkpoint, tmp_path, state_of(1), 0)
    with pytest.raises(files.FileError, match="Not a directory") as error:
        files.folder(tmp_path / "checkpoints", "in it")
    assert error.value.filename == str(tmp_path / "checkpoints" / "in it")


def test_checkpoints_that_can_t_be_deleted_are_an_error_about_them(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", fails)
    with pytest.raises(files.FileError, match="Permission denied") as error:
        folder.keep(run, 1, 64)
    assert error.value.filename in {str(path) for path in folder.checkpoints(run).values()}


def test_a_full_disk_tears_no_line_of_metrics(run: Path) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    with full_disk(len(before) + 30), pytest.raises(OSError, match="File too large"):
        folder.append_metrics(run, [row(96, 0.0), row(96, 0.0, seed=1)])
    assert (run / "metrics.jsonl").read_bytes() == before
    folder.append_metrics(run, [row(96, 0.0)])
    assert [r["steps"] for r in folder.read_metrics(run)] == [*STEPS, 96]


def test_others_may_read_a_run_as_the_umask_says(run: Path) -> None:
    mode = (run / "config.json").stat().st_mode
    (run / "plain").touch()
    assert mode == (run / "plain").stat().st_mode


# ---- folders that libraries write to ------------------------------------------------------------


def put(kind: str, path: Path, outside: Path) -> None:
    """Something that is no folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        path.symlink_to(outside)
    else:
        path.touch()


@pytest.mark.parametrize("kind", ["link", "file"])
@pytest.mark.parametrize("names", [["profile"], ["profile", "plugins", "profile"], ["tensorboard"]])
def test_a_folder_for_a_library_is_one(tmp_path: Path, names: list[str], kind: str) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    put(kind, run.joinpath(*names), outside)
    said = refused(files.folder, run, *names)
    assert str(run.joinpath(*names)) in said
    assert ("is a link" if kind == "link" else "is no folder") in said
    assert not list(outside.iterdir())


def test_folders_are_made_one_in_another(tmp_path: Path) -> None:
    made = files.folder(tmp_path, "a", "b")
    assert made == tmp_path / "a" / "b" == files.folder(tmp_path, "a", "b")
    with pytest.raises(files.FileError):
        files.folder(tmp_path, "a", "c" * 300)


# ---- reading what no run has --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "resume.msgpack", "checkpoint"])
def test_what_is_no_file_or_too_large_is_refused_at_once(name: str, run: Path) -> None:
    path = run / name if name != "checkpoint" else folder.checkpoints(run)[64]

    def read() -> None:
        folder.read_metrics(run)
        folder.load_resume(run, WHOLE)
        folder.load_parameters(run, SHAPES)

    size = path.stat().st_size
    path.unlink()
    if name != "metrics.jsonl":  # which may have more than 4 GB
        path.symlink_to("/dev/zero")
        assert "that are expected there" in refused(read)
        path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    assert "that are expected there: restore it" in refused(read)
    assert size < 2**20


def test_stray_files_are_no_checkpoints(run: Path) -> None:
    for name in (
        "best.msgpack",
        "._000000000032.msgpack",
        "32.msgpack",
        "x",
        "٣٢٣٢٣٢٣٢٣٢٣٢.msgpack",
    ):
        (run / "checkpoints" / name).write_bytes(b"stray")
    (run / "checkpoints" / "000000000128.msgpack").mkdir()
    (run / "checkpoints" / f"{'9' * 30}.msgpack").touch()
    assert list(folder.checkpoints(run)) == list(STEPS)
    folder.load_parameters(run, SHAPES)
    folder.keep(run, 1, 32)
    assert (run / "checkpoints" / "best.msgpack").exists()


# ---- config.json --------------------------------------------------------------------------------


def edit(run: Path, change: Callable[[Any], Any]) -> None:
    saved = json.loads((run / "config.json").read_text())
    change(saved)
    (run / "config.json").write_text(json.dumps(saved))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda saved: saved["settings"].update(num_envs=3), "num_envs is 3"),
        (lambda saved: saved["settings"].update(shell="rm"), "shell"),
        (lambda saved: saved["settings"].pop("episode_length"), "episode_length"),
        (lambda saved: saved["settings"].update(learning_rate="x"), "a plain Python number"),
        (lambda saved: saved.pop("settings"), "it has no settings"),
        (lambda saved: saved.update(settings=[]), "config.json is damaged"),
    ],
)
def test_what_is_wrong_with_config_json_is_told(run: Path, change: Any, sentence: str) -> None:
    edit(run, change)
    said = refused(folder.load_policy, run, TASK)
    assert sentence in said
    assert "config.json is damaged" in said


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"null", b"NaN", b"1" * 5000, b"{}"),
        *("{}".encode("utf-16"), b"\xff\xfe\x00", b'"\xe9"', b"\0" * 512, b" " * 2_000_000),
    ],
    ids=lambda data: repr(data[:5]),
)
def test_a_config_that_is_not_json_is_one_sentence(run: Path, data: bytes) -> None:
    (run / "config.json").write_bytes(data)
    refused(folder.read_config, run)


def test_what_differs_from_the_saved_run_is_said(run: Path) -> None:
    said = refused(folder.load_policy, run, toy_task(SPACES["discrete"]))
    assert "action_space Continuous(size=2), but the environment has Discrete(size=3) now" in said
    said = refused(folder.load_policy, run, toy_task(observe=lambda x: jnp.stack([x, x, x])))
    assert "observation [2], but the environment has [3]" in said
    wider = dataclasses.replace(TASK.network_factory, policy_hidden_layer_sizes=(9,))
    said = refused(folder.load_policy, run, dataclasses.replace(TASK, network_factory=wider))
    assert "params.policy" in said
    assert "is float32[8] there, but float32[9] now" in said


def networks(activation: Any) -> Callable[..., Any]:
    def make(*args: Any, **options: Any) -> Any:
        sizes = {f"{head}_hidden_layer_sizes": (8,) for head in ("policy", "value")}
        return brax_networks.make_ppo_networks(*args, **options, **sizes, activation=activation)

    return make


@pytest.mark.parametrize("other", [nn.tanh, lambda x: nn.leaky_relu(x, 0.02)])
def test_another_activation_is_said(other: Any, tmp_path: Path) -> None:
    leaky = dataclasses.replace(TASK, network_factory=networks(nn.leaky_relu))
    write_config(tmp_path, leaky)
    again = dataclasses.replace(TASK, network_factory=networks(nn.leaky_relu))
    assert changes_since(tmp_path, again) == []
    changed = dataclasses.replace(TASK, network_factory=networks(other))
    (said,) = changes_since(tmp_path, changed)
    assert "The networks have changed since the run started" in said


def test_other_versions_and_another_environment_are_said(run: Path) -> None:
    assert changes_since(run, TASK) == []
    edit(run, lambda saved: saved["versions"].update(jax="0.10.0\x1b[31m"))
    edit(run, lambda saved: saved.update(source="x", device="Babbage", networks="x"))
    jax_said, device, source = changes_since(run, TASK)
    assert jax_said == f"JAX was 0.10.0\x1b[31m and is {jax.__version__} now."
    assert device == f"The device was Babbage and is {jax.devices()[0].device_kind} now."
    assert source == "The file that defines the environment has changed since the run started."


def test_another_number_of_devices_is_said(tmp_path: Path) -> None:
    write_config(tmp_path, TASK, num_devices=4)
    assert folder.read_config(tmp_path)["num_devices"] == 4
    assert changes_since(tmp_path, TASK, num_devices=4) == []
    (said,) = changes_since(tmp_path, TASK, num_devices=2)
    assert said == "It ran on 4 devices and runs on 2 now."


def test_where_a_function_lies_in_memory_makes_no_difference(tmp_path: Path) -> None:
    """The jaxpr of a callback names the function."""

    def task() -> Task:
        def activation(x: jax.Array) -> jax.Array:
            return jax.pure_callback(lambda x: x, x, x, vmap_method="sequential")

        return dataclasses.replace(TASK, network_factory=networks(activation))

    first = task()
    write_config(tmp_path, first)
    assert changes_since(tmp_path, task()) == []


# ---- metrics.jsonl ------------------------------------------------------------------------------


def test_lines_that_are_no_rows_are_left_out(run: Path) -> None:
    whole = folder.read_metrics(run)
    path = run / "metrics.jsonl"
    odd = b'null\n3\n[1]\n"steps"\n\n{}\n{"steps": 96}\n\xff\xfe\n{"steps": 96, "seed": 0, "ev'
    path.write_bytes(path.read_bytes() + odd)
    assert folder.read_metrics(run) == whole
    folder.append_metrics(run, [row(96, 0.5)])
    assert folder.read_metrics(run) == [*whole, row(96, 0.5)]


def test_rows_after_the_state_to_go_on_from_are_forgotten(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"torn": ')
    folder.forget_after(run, 32)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in lines] == [0, 32]


def test_rows_of_other_seeds_are_left_out(several: Path) -> None:
    whole = folder.read_metrics(several)
    folder.append_metrics(several, [row(96, 99.0, seed=seed) for seed in (0, 4, 8, 20_000)])
    assert folder.read_metrics(several) == whole
    assert folder.best(several) == (32, 6)


def test_a_run_without_metrics_has_no_rows(tmp_path: Path) -> None:
    write_config(tmp_path, SEVERAL)
    assert folder.read_metrics(tmp_path) == []
    folder.append_metrics(tmp_path, [row(0, 0.0, seed=5 + i) for i in range(3)])
    assert [r["seed"] for r in folder.read_metrics(tmp_path)] == [5, 6, 7]


# ---- checkpoints --------------------------------------------------------------------------------


def test_a_checkpoint_holds_the_policy_alone_and_resume_all(run: Path) -> None:
    restored = folder.load_resume(run, WHOLE)
    assert restored is not None
    same(restored.state, state_of(64))
    for steps in STEPS:
        loaded = folder.load_parameters(run, SHAPES, steps)
        same((loaded.params, loaded.normalizer_params), _policy(state_of(steps)))
        assert (loaded.key, loaded.env_state) == (None, None)
    same(folder.load_parameters(run, SHAPES).params, state_of(64).params)
    resume = flax.serialization.msgpack_restore((run / "resume.msgpack").read_bytes()[32:])
    newest = flax.serialization.msgpack_restore(folder.checkpoints(run)[64].read_bytes()[32:])
    assert {f".state{key}" for key in newest} < resume.keys()
    assert {key.split(".")[1].split("[")[0] for key in newest} == set(folder.IN_CHECKPOINT)


def _policy(state: TrainingState) -> Any:
    return state.params, state.normalizer_params


def test_a_typed_key_is_saved_and_read(run: Path) -> None:
    task = dataclasses.replace(TASK, environment=lambda: Toy(key=jax.random.wrap_key_data))
    shapes = shapes_of(task)
    raw = jax.tree.map(lambda x: jax.eval_shape(keys.raw, x), shapes)
    state = jax.tree.map(
        lambda like, x: jax.random.wrap_key_data(x) if like.dtype != x.dtype else x,
        shapes,
        state_of(1, raw),
    )
    folder.save_resume(run, folder.Saved(state))
    saved = folder.load_resume(run, folder.Saved(shapes))
    assert saved is not None
    restored = saved.state
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(lambda x: x.dtype, state)
    same(jax.tree.map(keys.raw, restored), jax.tree.map(keys.raw, state))


def damages(data: bytes) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for position in rng.integers(len(data), size=20):
        flipped = data[position] ^ (1 << rng.integers(8))
        yield data[:position] + bytes([flipped]) + data[position + 1 :]
        yield data[:position]
        if any(data[position : position + 64]):
            zeros = bytes(len(data[position : position + 64]))
            yield data[:position] + zeros + data[position + 64 :]
    yield data + b"\0"


def test_any_damage_is_told_with_what_to_do(run: Path) -> None:
    newest, oldest = folder.checkpoints(run)[64], folder.checkpoints(run)[0]
    for path, load, remedy in (
        (newest, lambda: folder.load_parameters(run, SHAPES), "delete it to use the one before"),
        (oldest, lambda: folder.load_parameters(run, SHAPES, 0), "train again"),
        (
            run / "resume.msgpack",
            lambda: folder.load_resume(run, WHOLE),
            f"--init-from {run}",
        ),
    ):
        whole = path.read_bytes()
        for damaged in damages(whole):
            path.write_bytes(damaged)
            said = refused(load)
            assert f"{path} is damaged (its checksum is wrong): " in said
            assert remedy in said
        path.write_bytes(whole)
        load()
    newest.unlink()
    same(folder.load_parameters(run, SHAPES).params, state_of(32).params)


def test_a_run_that_stopped_before_it_saved_starts_from_its_seed(run: Path) -> None:
    """A checkpoint is written first, so a kill may leave that of the start alone."""
    (run / "resume.msgpack").unlink()
    said = refused(folder.load_resume, run, WHOLE)
    assert "no resume.msgpack to go on from" in said
    assert f"--init-from {shlex.quote(str(run))}" in said
    for steps in (32, 64):
        folder.checkpoints(run)[steps].unlink()
    assert folder.load_resume(run, WHOLE) is None
    folder.checkpoints(run)[0].unlink()
    assert folder.load_resume(run, WHOLE) is None
    assert "has no checkpoint" in refused(folder.load_policy, run, TASK)
    assert "is not the folder of a run" in refused(folder.load_resume, run.parent, WHOLE)


def test_a_checkpoint_that_is_not_there_is_told(run: Path) -> None:
    assert "it has: 0, 32, 64" in refused(folder.load_parameters, run, SHAPES, 33)
    assert "it has: 0, 32, 64" in refused(folder.best, run, 33)


# ---- the best, and those to keep ----------------------------------------------------------------


def test_the_best_is_the_one_with_the_highest_return(run: Path) -> None:
    assert folder.best(run) == (32, 0)
    folder.checkpoints(run)[32].unlink()
    assert folder.best(run) == (64, 0)
    assert folder.best(run, 0) == (0, 0)
    folder.append_metrics(run, [row(64, float("nan")), row(0, 99.0, seed=1)])
    assert folder.best(run) == (64, 0)
    (run / "metrics.jsonl").unlink()
    assert folder.best(run) == (64, 0)


@pytest.mark.parametrize(
    ("newest", "best", "left"),
    [(1, 32, [32, 64]), (1, 64, [64]), (2, 0, [0, 32, 64]), (1, 7, [64]), (9, 0, [0, 32, 64])],
)
def test_the_newest_and_the_best_are_kept(
    newest: int, best: int, left: list[int], run: Path
) -> None:
    folder.keep(run, newest, best)
    assert list(folder.checkpoints(run)) == left


# ---- several seeds ------------------------------------------------------------------------------


def test_each_seed_is_loaded_and_the_best_by_default(several: Path) -> None:
    for steps, seed in itertools.product(STEPS, (5, 6, 7)):
        loaded = folder.load_parameters(several, SHAPES, steps, seed)
        same(_policy(loaded), _policy(state_of(steps + seed - 5)))
    assert folder.best(several) == (32, 6)
    assert folder.best(several, 64) == (64, 5)
    same(folder.load_parameters(several, SHAPES).params, state_of(64).params)
    same(folder.load_parameters(several, SHAPES, 32).params, state_of(33).params)
    assert "has no seed 4; it has: 5 to 7" in refused(
        folder.load_parameters, several, SHAPES, seed=4
    )


def test_the_policy_of_a_seed_acts_as_its_parameters_say(several: Path) -> None:
    obs, key = jnp.ones((4, 2)), jax.random.PRNGKey(0)
    ppo = SEVERAL.make_ppo()
    make_policy = brax_networks.make_inference_fn(ppo.networks)
    for seed, number in ((7, 66), (None, 64)):
        state = state_of(number)
        params = (state.normalizer_params, state.params.policy, state.params.value)
        policy = folder.load_policy(several, {"task": SEVERAL}, seed=seed)
        same(policy(obs, key)[0], jax.jit(make_policy(params, deterministic=True))(obs, key)[0])
    assert "has no seed 0; it has: 5 to 7" in refused(folder.load_policy, several, SEVERAL, seed=0)
    edit(several, lambda saved: saved["settings"].update(num_seeds=2))
    assert "does not fit" in refused(folder.load_policy, several, SEVERAL)
