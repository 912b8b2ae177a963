"""The folder that a training run leaves.

From the template: changes of yours are kept, `copier update` merges new versions in.

config.json         settings, sizes and versions; data alone, nothing in it names code
metrics.jsonl       one JSON object for each evaluation
checkpoints/        one file for each evaluation, with all that training goes on from
learning_curve.png
"""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import logging
import os
import platform
import shlex
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from brax.envs.base import Env, State
from brax.training.agents.ppo.networks import make_inference_fn

from .actions import action_space_of
from .errors import UsageError
from .ppo import PPOConfig, TrainingState, policy_params
from .rollout import Policy
from .task import Task, choose


def refuse_existing(run: Path) -> None:
    """Raises UsageError if there is something at `run` already."""
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        hint = f", or continue with --resume {shlex.quote(str(run))}" * bool(checkpoints(run))
        raise UsageError(f"{run} exists already: name a new folder{hint}.")


def create(run: Path, name: str, task: Task) -> None:
    """Makes the folder and writes config.json.

    Raises:
      UsageError: the folder holds something already, or can't be made.
    """
    refuse_existing(run)
    try:
        (run / "checkpoints").mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{run} can't be made ({error.strerror}): name another folder.") from None
    write_config(run, name, task)


def write_config(run: Path, name: str, task: Task) -> None:
    """Writes config.json."""
    environment = task.environment()
    packages = ["jax", "brax", "flax", "optax"]
    if _uses_mujoco(environment):
        packages += ["mujoco", "mujoco-mjx"]
    described = {
        "task": name,
        "settings": dataclasses.asdict(task.settings),
        **describe(environment),
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in packages},
        },
        "device": jax.devices()[0].device_kind,
    }
    _write(run / "config.json", json.dumps(described, indent=2).encode() + b"\n")


def describe(environment: Env) -> dict[str, Any]:
    """Observation shapes, action space and a digest of the source file, as JSON types."""
    described = {
        "observation": jax.tree.map(lambda x: x.shape, reset_shapes(environment).obs),
        "action_space": str(action_space_of(environment)),
        "source": source_of(environment),
    }
    return json.loads(json.dumps(described))


def reset_shapes(environment: Env) -> State:
    """What `reset` returns, as shapes and dtypes."""
    return jax.eval_shape(environment.reset, jax.ShapeDtypeStruct((2,), np.uint32))


def source_of(environment: Env) -> str:
    """A digest of the file that defines the environment; empty where there is none."""
    try:
        source = Path(inspect.getsourcefile(type(environment.unwrapped)) or "").read_bytes()
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(source).hexdigest()


def _uses_mujoco(environment: Env) -> bool:
    """Whether the state of the environment holds anything of MuJoCo's."""
    state = reset_shapes(environment)
    nodes = jax.tree.leaves(state, is_leaf=lambda x: type(x).__module__.startswith("mujoco"))
    return any(type(node).__module__.startswith("mujoco") for node in nodes)


def read_config(run: Path) -> dict[str, Any]:
    """What `create` wrote.

    Raises:
      UsageError: `run` is no run folder.
    """
    path = run / "config.json"
    if not path.is_file():
        near = sorted(found.parent for found in run.parent.glob("*/config.json"))
        hint = f"; there is {', '.join(map(str, near[-3:]))}" if near else ""
        raise UsageError(f"{run} is not the folder of a run: it has no config.json{hint}.")
    try:
        saved = json.loads(path.read_text())
        PPOConfig(**saved["settings"])
        for name in ("task", "source", "action_space"):
            if not isinstance(saved[name], str):
                raise TypeError(f"{name} is not a string")
    except (ValueError, TypeError, LookupError) as error:
        raise UsageError(f"{path} is damaged ({error}); restore it from a backup.") from None
    return saved


def read_settings(run: Path) -> PPOConfig:
    """The settings of a run."""
    return PPOConfig(**read_config(run)["settings"])


def refuse_other_sizes(run: Path, environment: Env) -> None:
    """Compares what the run was trained on with what the environment is now.

    Raises:
      UsageError: they differ in the shape of observations or in the action space.
    """
    saved, now = read_config(run), describe(environment)
    for name in ("observation", "action_space"):
        if saved.get(name) != now[name]:
            raise UsageError(
                f"{run} was trained with {name} {saved.get(name)}, but the environment has "
                f"{now[name]} now: undo the change, or train again."
            )


def append_metrics(run: Path, row: Mapping[str, float]) -> None:
    """Adds one evaluation to metrics.jsonl."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(dict(row)) + "\n")


def read_metrics(run: Path) -> list[dict[str, float]]:
    """All evaluations, oldest first; a line that a full disk cut short is left out."""
    path, rows = run / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def forget_after(run: Path, steps: int) -> None:
    """Drops evaluations later than the checkpoint that training goes on from."""
    rows = [row for row in read_metrics(run) if row["steps"] <= steps]
    _write(run / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def save_checkpoint(run: Path, state: TrainingState, steps: int) -> None:
    """Writes all of `state`; a crash in the middle leaves no file of that name."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    arrays = {jax.tree_util.keystr(path): np.asarray(_raw(leaf)) for path, leaf in leaves}
    _write(
        run / "checkpoints" / f"{steps:012d}.msgpack",
        flax.serialization.msgpack_serialize(arrays),
    )


def checkpoints(run: Path) -> dict[int, Path]:
    """The run's checkpoints by number of steps, the newest last."""
    found = sorted((run / "checkpoints").glob("*.msgpack"))
    return {int(path.stem): path for path in found}


def load_checkpoint(run: Path, target: TrainingState, steps: int | None = None) -> TrainingState:
    """Reads a checkpoint, the newest if not told which.

    Args:
      run: a run folder.
      target: its structure is that of the result; its leaves need only `shape` and `dtype`, and
        what is None in it is not read.
      steps: which checkpoint.

    Raises:
      UsageError: there is none, it can't be read, or its shapes are not those of `target`.
    """
    found = checkpoints(run)
    if not found:
        raise UsageError(f"{run} has no checkpoint: it stopped too early, so train again.")
    if steps is not None and steps not in found:
        there = ", ".join(map(str, found))
        raise UsageError(f"{run} has no checkpoint of {steps} steps; it has: {there}.")
    path = found[max(found) if steps is None else steps]
    try:
        arrays = flax.serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # whatever a damaged file makes msgpack raise
        raise UsageError(f"{path} is damaged ({error}); delete it to use the one before.") from None

    def restore(key_path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(key_path)
        array, expected = arrays.get(name), jax.eval_shape(_raw, leaf)
        if array is None or (array.shape, array.dtype) != (expected.shape, expected.dtype):
            there = "is not" if array is None else f"is {array.dtype}{list(array.shape)}"
            raise UsageError(
                f"{path} does not fit: {name.lstrip('.')} {there} there, but "
                f"{expected.dtype}{list(expected.shape)} now. The environment, the networks or "
                "their settings have changed: undo the change, or train again."
            )
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(array, impl=_key_impl(leaf))
        return array

    return jax.tree_util.tree_map_with_path(restore, target)


def load_parameters(run: Path, target: TrainingState, steps: int | None = None) -> TrainingState:
    """Like `load_checkpoint`, for networks and running statistics alone: the rest is None."""
    rest = ("optimizer_state", "learning_rate", "env_state", "key", "eval_key", "updates")
    return load_checkpoint(run, target.replace(**dict.fromkeys(rest)), steps)


def load_policy(
    run: str | os.PathLike[str],
    task: Task | Mapping[str, Task],
    *,
    steps: int | None = None,
    deterministic: bool = True,
) -> Policy:
    """Reads a trained policy.

    Args:
      run: the folder that `train` left.
      task: what was trained, or the tasks of `config.py`, of which the run names one.
      steps: which checkpoint; the newest if None.
      deterministic: take the most likely action; otherwise sample as in training.

    Returns:
      `policy(obs, key) -> (action, extras)`, jitted, for any leading dimensions of `obs`.

    Raises:
      UsageError: the run can't be used, or its sizes or networks are not those of the task.
    """
    run = Path(run)
    saved = read_config(run)
    if not isinstance(task, Task):
        _, task = choose(task, saved["task"])
    refuse_other_sizes(run, task.environment())
    ppo = dataclasses.replace(task, settings=PPOConfig(**saved["settings"])).make_ppo()
    state = load_parameters(run, jax.eval_shape(ppo.init, np.uint32(0)), steps)
    make_policy = make_inference_fn(ppo.networks)
    return jax.jit(make_policy(policy_params(state), deterministic=deterministic))


def draw_learning_curve(run: Path) -> None:
    """Writes learning_curve.png from metrics.jsonl."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs when it caches fonts
    from matplotlib.figure import Figure  # takes a second to import

    rows = read_metrics(run)
    steps = np.array([row["steps"] for row in rows])
    mean = np.array([row["eval/episode_reward"] for row in rows])
    spread = np.array([row["eval/episode_reward_std"] for row in rows])
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(steps, mean - spread, mean + spread, alpha=0.2, linewidth=0)
    axes.plot(steps, mean, marker="o", markersize=3)
    axes.set(xlabel="environment steps", ylabel="return", title=run.name)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.savefig(run / "learning_curve.png", dpi=150)


def _write(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _raw(leaf: Any) -> Any:
    """The data of a typed PRNG key, because files hold plain arrays; other arrays unchanged."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


def _key_impl(key: Any) -> Any:
    """The implementation of a typed PRNG key, also of a `ShapeDtypeStruct`."""
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), key)
    return found[0]
