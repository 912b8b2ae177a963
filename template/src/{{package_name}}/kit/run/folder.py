"""The folder that a training run leaves.

config.json         settings, sizes and versions; data alone, nothing in it names code
metrics.jsonl       one JSON object for each seed and evaluation
checkpoints/        parameters and running statistics, one file for each evaluation
resume.msgpack      what training goes on from: the whole newest state, and sums for its next row
learning_curve.png

With several seeds all arrays of a checkpoint have a leading axis (num_seeds, ...).
"""

import contextlib
import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
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
# Parts of the training state: the networks, and the running statistics that they rely on.
IN_CHECKPOINT = ("params", "normalizer_params", "reward_scale")
IN_CONFIG = {"task", "settings", "num_devices", "observation", "action_space", "versions"}

# ---- the folder ---------------------------------------------------------------------------------


def refuse_existing(run: Path | None) -> None:
    """Raises UsageError where `make_folder` would: before anything is compiled, nothing is made."""
    folder = run or Path("runs")
    place = next((path for path in (folder, *folder.parents) if os.path.exists(path)), Path())
    if not place.is_dir():
        raise UsageError(f"{place} is no folder: name a folder in another place.")
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(f"{place} can't be written to: name a folder in another place.")
    taken = {path.name for path in place.iterdir()} - {".lock"} if place == run else set()
    if taken:
        hint = f", or continue with --resume {quoted(place)}" if "config.json" in taken else ""
        raise UsageError(f"{place} exists already: name a new folder{hint}.")


def make_folder(run: Path | None = None) -> Path:
    """Makes the folder of a new run, which may be there and empty; `runs/<date and time>` if None.

    Raises:
      UsageError: the folder holds something already, or can't be made.
    """
    refuse_existing(run)
    folder = started = Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
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
            f"{run or folder} can't be made ({files.reason(error)}): name another folder."
        ) from None


def lock(run: Path) -> contextlib.AbstractContextManager[None]:
    """Keeps other processes from training in this run; raises as `files.lock` does."""
    busy = f"Another process is training in {run}: wait until it ends, or train in another folder."
    return files.lock(run, busy)


# ---- config.json --------------------------------------------------------------------------------


def write_config(run: Path, name: str, task: Task, ppo: PPO, num_devices: int = 1) -> None:
    """Writes config.json; `name` is what `config.py` calls the task, `ppo` what it makes."""
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
    return _read(run)[0]


def read_settings(run: Path) -> PPOConfig:
    """The settings of a run; raises UsageError as `read_config` does."""
    return _read(run)[1]


def task_of(run: Path, task: Task | Mapping[str, Task]) -> tuple[str, Task]:
    """The name of the task that a run trained, and the task with the run's settings.

    `task` is the task itself, or the tasks of `config.py`, of which the run names one.

    Raises:
      UsageError: `run` is no run folder, or no task has that name.
    """
    saved, settings = _read(run)
    if not isinstance(task, Task):
        _, task = choose(task, saved["task"])
    return saved["task"], dataclasses.replace(task, settings=settings)


def _read(run: Path) -> tuple[dict[str, Any], PPOConfig]:
    path = run / "config.json"
    if not path.exists():
        near = sorted(found.parent for found in run.parent.glob("*/config.json"))
        hint = f"; there is {', '.join(map(str, near[-3:]))}" if near else ""
        raise UsageError(f"{run} is not the folder of a run: it has no config.json{hint}.")
    data = files.read(path, MAX_CONFIG)
    try:
        saved = json.loads(data)
        if missing := IN_CONFIG - saved.keys():
            raise ValueError(f"it has no {min(missing)}")
        return saved, PPOConfig(**saved["settings"])
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is damaged ({str(error)[:200]}); restore it from a backup."
        ) from None


def seeds_of(settings: PPOConfig) -> range:
    """The seeds that a run trains."""
    return range(settings.seed, settings.seed + settings.num_seeds)


def refuse_other_sizes(run: Path, environment: Env) -> None:
    """Raises UsageError if observations or actions are not those that a run was trained with."""
    saved, now = read_config(run), fingerprint.sizes(environment)
    for name in ("observation", "action_space"):
        if saved[name] != now[name]:
            raise UsageError(
                f"{run} was trained with {name} {str(saved[name])[:200]}, but the environment has "
                f"{now[name]} now: undo the change, or train again."
            )


def changes_since(run: Path, environment: Env, ppo: PPO, num_devices: int = 1) -> list[str]:
    """Sentences about what has changed since config.json was written and leaves sizes as they are.

    Training can go on all the same, but not exactly as it would have. The arguments are what the
    task and the devices are now.
    """
    saved = read_config(run)
    told = fingerprint.changes(saved, fingerprint.describe(environment, ppo))
    before = saved["num_devices"]
    if before != num_devices:
        devices = "device" if before == 1 else "devices"
        told.append(f"It ran on {before} {devices} and runs on {num_devices} now.")
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
    """All evaluations, oldest first; lines that were cut short are left out.

    Raises:
      UsageError: `run` is no run folder, or metrics.jsonl can't be read.
    """
    path, seeds = run / "metrics.jsonl", seeds_of(read_settings(run))
    rows = []
    if path.exists():
        for line in files.read(path, MAX_METRICS).splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and "steps" in row and row.get("seed") in seeds:
                    rows.append(row)
    return rows


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
    """Deletes all checkpoints but the newest ones, 1 or more, and the one of `best` steps.

    Raises:
      FileError: one can't be deleted.
    """
    found = checkpoints(run)
    for steps in found.keys() - {*list(found)[-newest:], best}:
        with files.naming(found[steps]):
            found[steps].unlink(missing_ok=True)


def best(run: Path, steps: int | None = None) -> tuple[int, int]:
    """Steps and seed with the highest eval/episode_reward among the checkpoints that exist.

    The newest checkpoint and the first seed if metrics.jsonl does not say. Only the checkpoint of
    `steps` is looked at if that is given.

    Raises:
      UsageError: the run has no checkpoint, or not that one.
    """
    newest, seeds = int(_checkpoint(run, steps).stem), seeds_of(read_settings(run))
    among = checkpoints(run) if steps is None else {steps}
    found = [
        (row["eval/episode_reward"], int(row["steps"]), -int(row["seed"]))
        for row in read_metrics(run)
        if row["steps"] in among and math.isfinite(row.get("eval/episode_reward", math.nan))
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

    `target` has the structure, shapes and dtypes, with the leading axis of several seeds.

    Raises:
      UsageError: `run` is no run folder, or the state can't be read or does not fit.
    """
    read_config(run)
    path = run / "resume.msgpack"
    instead = f"start a new run from its policy with --init-from {quoted(run)}"
    if path.exists():
        return arrays.load(path, target, instead)
    # A run that is killed in its first evaluation leaves a checkpoint of 0 steps alone.
    if any(steps > 0 for steps in checkpoints(run)):
        raise UsageError(f"{run} has checkpoints, but no resume.msgpack to go on from: {instead}.")
    return None


def load_parameters(
    run: Path, target: TrainingState, steps: int | None = None, seed: int | None = None
) -> TrainingState:
    """Reads networks and running statistics of one seed; the rest of the result is None.

    `target` has the structure, shapes and dtypes of a state of one seed. `load_policy` says what
    `steps` and `seed` choose.

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
    _, task = task_of(run, task)
    refuse_other_sizes(run, task.environment())
    ppo = task.make_ppo()
    shapes = jax.eval_shape(ppo.init, np.uint32(0))
    return ppo, shapes, load_parameters(run, shapes, steps, seed)
