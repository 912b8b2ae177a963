"""The folder that a training run leaves. The template's: not for editing.

config.json         settings, networks and versions
metrics.jsonl       one JSON object for each evaluation
checkpoints/        one file for each evaluation: all that training goes on from
learning_curve.png
"""

import dataclasses
import importlib
import json
import logging
import os
import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from brax.envs.base import Env
from brax.training import types
from brax.training.acme import running_statistics, specs
from brax.training.agents.ppo.losses import PPONetworkParams
from brax.training.agents.ppo.networks import PPONetworks, make_inference_fn

from .ppo import PPOConfig, TrainingState, policy_params, without_pixels

_FLAX_ONLY = ("parent", "name")  # fields that flax gives every module


class RunError(Exception):
    """Something about a run folder that its user can mend; the message says how."""


def create(
    run: Path,
    config: PPOConfig,
    network_factory: Callable[..., PPONetworks],
    observation_shape: Any,
    action_size: int,
) -> None:
    """Makes the folder and writes config.json.

    Raises:
      RunError: the folder holds something already, or can't be made.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise RunError(f"{run} exists already; name a new folder, or go on with --resume {run}.")
    try:
        (run / "checkpoints").mkdir(parents=True)
    except OSError as error:
        raise RunError(f"{run} can't be made ({error.strerror}); name another folder.") from None
    networks = _describe(network_factory)
    try:
        json.dumps(networks)
    except TypeError:  # a function, say: `load_policy` will have to be given it
        networks = None
    described = {
        "config": dataclasses.asdict(config),
        "network_factory": networks,
        "observation_shape": observation_shape,
        "action_size": action_size,
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("jax", "brax", "flax", "optax")},
        },
        "device": jax.devices()[0].device_kind,
    }
    _write(run / "config.json", json.dumps(described, indent=2).encode() + b"\n")


def read_config(run: Path) -> dict[str, Any]:
    """What `create` wrote.

    Raises:
      RunError: `run` is no run folder.
    """
    path = run / "config.json"
    if not path.is_file():
        near = sorted(found.parent for found in run.parent.glob("*/config.json"))
        hint = f"; there is {', '.join(map(str, near[-3:]))}" if near else ""
        raise RunError(f"{run} is not the folder of a run: no config.json in it{hint}.")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); take it from a backup.") from None


def refuse_other_sizes(run: Path, environment: Env) -> None:
    """Compares what the run was trained on with what the environment is now.

    Raises:
      RunError: they differ in the shape of observations or in the size of actions.
    """
    saved = read_config(run)
    obs = jax.eval_shape(environment.reset, jax.ShapeDtypeStruct((2,), np.uint32)).obs
    now = (jax.tree.map(lambda x: list(x.shape), obs), environment.action_size)
    then = (saved["observation_shape"], saved["action_size"])
    if now != then:
        raise RunError(
            f"{run} was trained on observations {then[0]} and actions {then[1]}, the environment "
            f"has {now[0]} and {now[1]} now; train anew."
        )


def append_metrics(run: Path, row: Mapping[str, float]) -> None:
    """Adds one evaluation to metrics.jsonl."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(dict(row)) + "\n")


def read_metrics(run: Path) -> list[dict[str, float]]:
    """All evaluations in the order in which they happened."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def forget_after(run: Path, steps: int) -> None:
    """Drops evaluations later than the checkpoint that training goes on from."""
    rows = [row for row in read_metrics(run) if row["steps"] <= steps]
    _write(run / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def save_checkpoint(run: Path, state: TrainingState, steps: int) -> None:
    """Writes all of `state`; a crash half-way leaves no file of that name."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
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
      target: what comes back has its structure; its leaves need only `shape` and `dtype`, and what
        is None in it is left out.
      steps: which checkpoint.

    Raises:
      RunError: there is none, it can't be read, or it is of another shape than `target`.
    """
    found = checkpoints(run)
    if not found or (steps is not None and steps not in found):
        there = ", ".join(map(str, found)) or "none"
        raise RunError(f"{run} has no such checkpoint; the numbers of steps there are: {there}.")
    path = found[max(found) if steps is None else steps]
    try:
        arrays = flax.serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # whatever a damaged file makes msgpack raise
        raise RunError(f"{path} is damaged ({error}); delete it to use the one before.") from None

    def restore(key_path: Any, leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(key_path)
        array = arrays.get(name)
        if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
            there = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise RunError(
                f"{path} does not fit: {name} has to be {leaf.dtype}{list(leaf.shape)}, the file "
                f"has {there}. Environment or networks have changed since; train anew."
            )
        return array

    return jax.tree_util.tree_map_with_path(restore, target)


def load_policy(
    run: str | os.PathLike[str],
    *,
    steps: int | None = None,
    deterministic: bool = True,
    network_factory: Callable[..., PPONetworks] | None = None,
) -> Callable[[types.Observation, jax.Array], tuple[jax.Array, Any]]:
    """Reads a trained policy back; needs the run folder and the package's encoder, if it has one.

    Args:
      run: the folder that `train` left.
      steps: which checkpoint; the newest if None.
      deterministic: take the likeliest action, or sample as in training.
      network_factory: only for runs whose factory was not made by `make_network_factory`.

    Returns:
      `policy(obs, key) -> (action, extras)`, jitted, for any leading dimensions of `obs`.

    Raises:
      RunError: the folder or the checkpoint can't be used; the message says why.
    """
    run = Path(run)
    saved = read_config(run)
    if network_factory is None:
        if saved["network_factory"] is None:
            raise RunError(f"{run} was trained with networks of its own: give network_factory.")
        network_factory = _rebuild(saved["network_factory"])
    shapes = jax.tree.map(tuple, saved["observation_shape"], is_leaf=_is_shape)
    normalize = saved["config"]["normalize_observations"]
    networks = network_factory(
        shapes,
        saved["action_size"],
        preprocess_observations_fn=(
            running_statistics.normalize if normalize else types.identity_observation_preprocessor
        ),
    )

    # The part of a `TrainingState` that acting needs; what is None is not read.
    def structure() -> TrainingState:
        key = jax.random.PRNGKey(0)
        sizes = jax.tree.map(
            lambda shape: specs.Array(shape[-1:], np.dtype("float32")),
            without_pixels(shapes),
            is_leaf=_is_shape,
        )
        rest: Any = dict.fromkeys(("optimizer_state", "env_state", "key", "updates"))
        return TrainingState(
            params=PPONetworkParams(
                policy=networks.policy_network.init(key), value=networks.value_network.init(key)
            ),
            normalizer_params=running_statistics.init_state(sizes),
            **rest,
        )

    state = load_checkpoint(run, jax.eval_shape(structure), steps)
    make_policy = make_inference_fn(networks)
    return jax.jit(make_policy(policy_params(state), deterministic=deterministic))


def draw_learning_curve(run: Path) -> None:
    """Writes learning_curve.png from metrics.jsonl."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells when it caches fonts
    from matplotlib.figure import Figure  # takes a second to import

    rows = read_metrics(run)
    steps = np.array([row["steps"] for row in rows])
    mean = np.array([row["eval/episode_reward"] for row in rows])
    spread = np.array([row["eval/episode_reward_std"] for row in rows])
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(steps, mean - spread, mean + spread, alpha=0.2, linewidth=0)
    axes.plot(steps, mean, marker="o", markersize=3)
    axes.set(xlabel="environment steps", ylabel="return of an episode", title=run.name)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.savefig(run / "learning_curve.png", dpi=150)


def _write(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _describe(value: Any) -> Any:
    """A dataclass (a flax module is one) as its class's name and its fields, ready for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        fields = {name: _describe(getattr(value, name)) for name in names if name not in _FLAX_ONLY}
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", "fields": fields}
    return [_describe(item) for item in value] if isinstance(value, (tuple, list)) else value


def _rebuild(value: Any) -> Any:
    """What `_describe` described."""
    if isinstance(value, dict):
        module, _, name = value["class"].partition(":")
        try:
            cls = getattr(importlib.import_module(module), name)
            return cls(**{name: _rebuild(field) for name, field in value["fields"].items()})
        except (ImportError, AttributeError, TypeError) as error:
            raise RunError(
                f"The run was trained with {value['class']}, which can't be built now ({error}); "
                "give load_policy its network_factory."
            ) from None
    return tuple(_rebuild(item) for item in value) if isinstance(value, list) else value
