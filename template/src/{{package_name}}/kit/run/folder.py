"""The folder that a training run leaves.

config.json         settings, sizes and versions; data alone, nothing in it names code
metrics.jsonl       one JSON object for each seed and evaluation
checkpoints/        parameters and running statistics, one file for each evaluation
resume.msgpack      what training goes on from: the whole newest state, and sums for its next row
learning_curve.png

With several seeds all arrays of a checkpoint have a leading axis (num_seeds, ...). Each msgpack
file starts with the SHA-256 of the rest. A folder may come from a stranger: what is read is
bounded and checked, and links are not followed.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from brax.envs.base import Env
from brax.training.agents.ppo.networks import make_inference_fn

from ..env.episodes import Policy
from ..errors import UsageError
from ..ppo.algorithm import PPO
from ..ppo.settings import PPOConfig
from ..ppo.state import TrainingState, policy_params
from ..ppo.task import Task, choose
from . import arrays, files, fingerprint
from .files import quoted

MAX_CONFIG = 2**20  # bytes
MAX_METRICS = 2**32  # a row has about 1 kB, so this is 1000 evaluations of 4000 seeds
MAX_LINE = 2**20
# Parts of the training state: the networks, and the running statistics that they rely on.
IN_CHECKPOINT = ("params", "normalizer_params", "reward_scale")

# What is read again from metrics.jsonl: by a resumed run, `best`, `draw` and `replay`.
IN_EVERY_ROW = {
    *("steps", "seed"),
    *("eval/episode_reward", "eval/avg_episode_length", "eval/time_limit_reached"),
}

# ---- the folder ---------------------------------------------------------------------------------


def refuse_existing(run: Path | None) -> None:
    """Raises UsageError where `make_folder` would: before anything is compiled, nothing is made."""
    if run is not None:
        try:
            taken = os.path.lexists(run) and {path.name for path in run.iterdir()} - {".lock"}
        except OSError as error:
            raise UsageError(
                f"{run} can't be used as a folder ({files.reason(error)}): name another one."
            ) from None
        if taken:
            hint = f", or continue with --resume {quoted(run)}" * ("config.json" in taken)
            raise UsageError(f"{run} exists already: name a new folder{hint}.")
    folder = run or Path("runs")
    place = next((path for path in (folder, *folder.parents) if os.path.exists(path)), Path())
    if not place.is_dir():
        raise UsageError(f"{place} is no folder: name a folder in another place.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{place} can't be written to: name a folder in another place.")


def make_folder(run: Path | None = None) -> Path:
    """Makes the folder of a new run, which may be there and empty; `runs/<date and time>` if None.

    Raises:
      UsageError: the folder holds something already, or can't be made.
    """
    refuse_existing(run)
    started = Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = run or started, 1
    try:
        if run is not None:
            run.mkdir(parents=True, exist_ok=True)
            return run
        started.parent.mkdir(exist_ok=True)
        while True:
            # Making the folder claims its name from a run of the same second.
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
            number += 1
            folder = started.with_name(f"{started.name}-{number}")
    except OSError as error:
        raise UsageError(
            f"{folder} can't be made ({files.reason(error)}): name another folder."
        ) from None


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Keeps other processes from training in this run; a crash does not leave the lock behind.

    It does nothing on systems without `fcntl` (Windows) and on file systems without locks.

    Raises:
      UsageError: another process holds it, or the folder can't be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            free = stack.enter_context(files.lock(run / ".lock"))
        except OSError as error:
            raise UsageError(f"{run} can't be written to ({files.reason(error)}).") from None
        if not free:
            raise UsageError(
                f"Another process is training in {run}: wait until it ends, or train in another "
                "folder."
            )
        yield


# ---- config.json --------------------------------------------------------------------------------


def write_config(run: Path, name: str, task: Task, ppo: PPO, num_devices: int = 1) -> None:
    """Writes config.json.

    Args:
      run: a run folder.
      name: what `config.py` calls the task.
      task: what is trained.
      ppo: what `task.make_ppo` gave.
      num_devices: how many devices share the work.
    """
    saved = {
        "task": name,
        "settings": dataclasses.asdict(task.settings),
        "num_devices": num_devices,
        **fingerprint.describe(task.environment(), ppo),
    }
    files.write(run / "config.json", json.dumps(saved, indent=2).encode() + b"\n")


def read_config(run: Path) -> dict[str, Any]:
    """What `write_config` wrote.

    Raises:
      UsageError: `run` is no run folder, or the file was edited into what no run has.
    """
    path = run / "config.json"
    if not os.path.lexists(path):
        near = sorted(found.parent for found in run.parent.glob("*/config.json"))
        hint = f"; there is {', '.join(map(str, near[-3:]))}" if near else ""
        raise UsageError(f"{run} is not the folder of a run: it has no config.json{hint}.")
    data = files.read(path, MAX_CONFIG)
    try:
        saved = json.loads(data.decode(), parse_int=_parse_int)
        _refuse_what_no_run_has(saved)
    # The last two are for what is nested too deep and for numbers that are too large.
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise UsageError(
            f"{path} is damaged ({str(error)[:200]}); restore it from a backup."
        ) from None
    return saved


def _refuse_what_no_run_has(saved: Any) -> None:
    if not isinstance(saved, dict):
        raise TypeError("it is not an object")
    strings = ("task", "action_space", "source", "networks", "device")
    for name, kind in {**dict.fromkeys(strings, str), "settings": dict, "versions": dict}.items():
        if not isinstance(saved.get(name), kind):
            raise TypeError(f"{name} is not {'a string' if kind is str else 'an object'}")
    if type(saved.get("num_devices")) is not int:
        raise TypeError("num_devices is not a whole number")
    shapes = saved.get("observation")
    for shape in shapes.values() if isinstance(shapes, dict) else [shapes]:
        if not isinstance(shape, list) or any(type(size) is not int for size in shape):
            raise TypeError("observation is neither a shape nor an object of shapes")
    if not all(isinstance(version, str) for version in saved["versions"].values()):
        raise TypeError("versions are not all strings")
    unknown = saved["settings"].keys() - {field.name for field in dataclasses.fields(PPOConfig)}
    if unknown:
        raise ValueError(f"there is no setting {min(unknown)}")
    for name, value in saved["settings"].items():
        # As a constant of a program JAX would refuse it.
        if type(value) is int and value >= 2**31 and name not in ("num_timesteps", "seed"):
            raise ValueError(f"{name} is {value}, which is too large")
    PPOConfig(**saved["settings"])


def _parse_int(digits: str) -> int:
    if len(digits) > 19:
        raise ValueError("a number has more than 19 digits")
    return int(digits)


def read_settings(run: Path) -> PPOConfig:
    """The settings of a run."""
    return PPOConfig(**read_config(run)["settings"])


def seeds_of(settings: PPOConfig) -> range:
    """The seeds that a run trains."""
    return range(settings.seed, settings.seed + settings.num_seeds)


def refuse_other_sizes(run: Path, environment: Env) -> None:
    """Compares what the run was trained on with what the environment is now.

    Raises:
      UsageError: they differ in the shape of observations or in the action space.
    """
    saved, now = read_config(run), fingerprint.sizes(environment)
    for name in ("observation", "action_space"):
        if saved[name] != now[name]:
            raise UsageError(
                f"{run} was trained with {name} {str(saved[name])[:200]}, but the environment has "
                f"{now[name]} now: undo the change, or train again."
            )


def changes_since(run: Path, environment: Env, ppo: PPO, num_devices: int = 1) -> list[str]:
    """Sentences about what has changed since config.json was written and leaves sizes as they are.

    Training can go on all the same, but not exactly as it would have.

    Args:
      run: a run folder.
      environment: one of the task's environments, as it is now.
      ppo: the same of `task.make_ppo`, with the settings of the run.
      num_devices: how many devices share the work now.
    """
    saved = read_config(run)
    told = fingerprint.changes(saved, fingerprint.describe(environment, ppo))
    if saved["num_devices"] != num_devices:
        devices = "device" if saved["num_devices"] == 1 else "devices"
        told.append(f"It ran on {saved['num_devices']} {devices} and runs on {num_devices} now.")
    return told


# ---- metrics.jsonl ------------------------------------------------------------------------------


def append_metrics(run: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Adds one evaluation, a row for each seed; on a full disk nothing is added.

    Raises:
      FileError: the file can't be written to.
    """
    lines = "".join(json.dumps(dict(row)) + "\n" for row in rows)
    files.append(run / "metrics.jsonl", lines.encode())


def read_metrics(run: Path) -> list[dict[str, float]]:
    """All evaluations, oldest first; lines that are no rows of this run's seeds are left out.

    Raises:
      UsageError: `run` is no run folder, or metrics.jsonl can't be read.
    """
    path, seeds = run / "metrics.jsonl", seeds_of(read_settings(run))
    rows: list[dict[str, float]] = []
    if not os.path.lexists(path):
        return rows
    with files.reading(path, MAX_METRICS) as file:
        while line := file.readline(MAX_LINE):
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line, parse_int=_parse_int)
                if _is_row(row) and row["seed"] in seeds:
                    rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and row.keys() >= IN_EVERY_ROW
        and all(type(value) in (int, float) for value in row.values())
        and type(row["steps"]) is type(row["seed"]) is int
    )


def forget_after(run: Path, steps: int) -> None:
    """Drops evaluations later than the state that training goes on from, and broken lines."""
    rows = [row for row in read_metrics(run) if row["steps"] <= steps]
    # Always written, so that what is appended to is a file of our own rather than a hard link.
    files.write(run / "metrics.jsonl", *(json.dumps(row).encode() + b"\n" for row in rows))


# ---- checkpoints --------------------------------------------------------------------------------


def save_checkpoint(run: Path, state: TrainingState, steps: int) -> None:
    """Writes the parameters and running statistics of `state`; raises FileError."""
    folder = files.folder(run, "checkpoints")
    arrays.save(folder / f"{steps:012d}.msgpack", _policy_alone(state))


class Saved(flax.struct.PyTreeNode):
    """What resume.msgpack holds; what is None is not read.

    Attributes:
      state: the whole state.
      totals: `Totals` of its updates since the last evaluation.
      seconds: () float64, how long these took.
    """

    state: TrainingState
    totals: Any = None
    seconds: Any = None


def save_resume(run: Path, saved: Saved) -> None:
    """Writes what a resumed run needs, over what was there before; raises FileError."""
    arrays.save(run / "resume.msgpack", saved)


def checkpoints(run: Path) -> dict[int, Path]:
    """The run's checkpoints by number of steps, the newest last; other files are left out.

    Raises:
      UsageError: the folder of checkpoints is a link or no folder.
    """
    folder = run / "checkpoints"
    files.refuse_no_folder(folder)
    found = sorted(path for path in folder.glob("*.msgpack") if not path.is_dir())
    return {int(path.stem): path for path in found if re.fullmatch("[0-9]{12,18}", path.stem)}


def keep(run: Path, newest: int, best: int) -> None:
    """Deletes all checkpoints but the newest ones, 1 or more, and the best one.

    Args:
      run: a run folder.
      newest: how many of the newest to keep.
      best: the number of steps of the best one.

    Raises:
      FileError: one can't be deleted.
    """
    found = checkpoints(run)
    for steps in found.keys() - {*list(found)[-newest:], best}:
        with files.naming(found[steps]):
            found[steps].unlink(missing_ok=True)


def best(run: Path, steps: int | None = None) -> tuple[int, int]:
    """Steps and seed with the highest eval/episode_reward among the checkpoints that exist.

    The newest checkpoint and the first seed if metrics.jsonl does not say.

    Args:
      run: a run folder.
      steps: look at this checkpoint alone.

    Raises:
      UsageError: the run has no checkpoint, or not that one.
    """
    newest, seeds = int(_checkpoint(run, steps).stem), seeds_of(read_settings(run))
    among = checkpoints(run) if steps is None else {steps}
    found = [
        (row["eval/episode_reward"], int(row["steps"]), -int(row["seed"]))
        for row in read_metrics(run)
        if row["steps"] in among and math.isfinite(row["eval/episode_reward"])
    ]
    _, at, seed = max(found, default=(0, newest, -seeds[0]))
    return at, -seed


def _checkpoint(run: Path, steps: int | None) -> Path:
    """The checkpoint of so many steps, the newest if None."""
    found = checkpoints(run)
    if not found:
        raise UsageError(
            f"{run} has no checkpoint: it stopped before the first one, so train again."
        )
    if steps is not None and steps not in found:
        there = ", ".join(map(str, found))
        raise UsageError(f"{run} has no checkpoint of {steps} steps; it has: {there}.")
    return found[max(found) if steps is None else steps]


def load_resume(run: Path, target: Saved) -> Saved | None:
    """Reads what was saved last; None if the run stopped before it saved anything.

    Args:
      run: a run folder.
      target: structure, shapes and dtypes, with the leading axis of several seeds.

    Raises:
      UsageError: `run` is no run folder, or the state can't be read or does not fit.
    """
    read_config(run)
    path = run / "resume.msgpack"
    instead = f"start a new run from its policy with --init-from {quoted(run)}"
    if os.path.lexists(path):
        return arrays.load(path, target, instead)
    # A run that is killed in its first evaluation leaves a checkpoint of 0 steps alone.
    if any(steps > 0 for steps in checkpoints(run)):
        raise UsageError(f"{run} has checkpoints, but no resume.msgpack to go on from: {instead}.")
    return None


def load_parameters(
    run: Path, target: TrainingState, steps: int | None = None, seed: int | None = None
) -> TrainingState:
    """Reads networks and running statistics of one seed; the rest of the result is None.

    Args:
      run: a run folder.
      target: structure, shapes and dtypes of a state of one seed.
      steps: which checkpoint; the newest if None.
      seed: which seed of the run; the one that was best at that checkpoint if None.

    Raises:
      UsageError: there is none, it can't be read, or its shapes are not those of `target`.
    """
    seeds, path = seeds_of(read_settings(run)), _checkpoint(run, steps)
    if seed is None:
        _, seed = best(run, int(path.stem))
    if seed not in seeds:
        there = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
        raise UsageError(f"{run} has no seed {seed}; it has: {there}.")
    target = _policy_alone(target)
    older = any(steps < int(path.stem) for steps in checkpoints(run))
    remedy = "delete it to use the one before" if older else "train again"
    if len(seeds) == 1:
        return arrays.load(path, target, remedy)
    members = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(seeds), *x.shape), x.dtype), target)
    members = arrays.load(path, members, remedy)
    return jax.tree.map(lambda x: x[seeds.index(seed)], members)


def _policy_alone(state: TrainingState) -> TrainingState:
    """`state` with None for all but what a checkpoint holds."""
    rest = {field.name for field in dataclasses.fields(state)} - set(IN_CHECKPOINT)
    return state.replace(**dict.fromkeys(rest))


def load_policy(
    run: str | os.PathLike[str],
    task: Task | Mapping[str, Task],
    *,
    steps: int | None = None,
    seed: int | None = None,
    deterministic: bool = True,
) -> Policy:
    """Reads a trained policy.

    Args:
      run: the folder that `train` left.
      task: what was trained, or the tasks of `config.py`, of which the run names one.
      steps: which checkpoint; the newest if None.
      seed: which seed of the run; the one that was best at that checkpoint if None.
      deterministic: take the most likely action; otherwise sample as in training.

    Returns:
      `policy(obs, key) -> (action, extras)`, jitted, for any leading dimensions of `obs`.

    Raises:
      UsageError: the run can't be used, or its sizes or networks are not those of the task.
    """
    ppo, _, state = load_networks(Path(run), task, steps, seed)
    make_policy = make_inference_fn(ppo.networks)
    return jax.jit(make_policy(policy_params(state), deterministic=deterministic))


def load_networks(
    run: Path, task: Task | Mapping[str, Task], steps: int | None = None, seed: int | None = None
) -> tuple[PPO, TrainingState, TrainingState]:
    """What `load_policy` makes a policy from; it takes and raises the same.

    Returns:
      The functions of PPO, the shapes of a whole state of one seed, and such a state that has
      networks and running statistics alone; the rest is None.
    """
    saved = read_config(run)
    if not isinstance(task, Task):
        _, task = choose(task, saved["task"])
    refuse_other_sizes(run, task.environment())
    ppo = dataclasses.replace(task, settings=PPOConfig(**saved["settings"])).make_ppo()
    shapes = jax.eval_shape(ppo.init, np.uint32(0))
    return ppo, shapes, load_parameters(run, shapes, steps, seed)
