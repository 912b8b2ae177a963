"""A trained policy as one file that needs neither Brax nor this project: StableHLO and ONNX.

The file holds the deterministic policy with its weights and the normalisation of observations. It
takes observations with one leading axis, a batch of any size, and gives their actions. Entries of a
dict observation that the policy does not use, such as those for the value network alone, are left
out of its inputs.
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from brax.training.agents.ppo.networks import make_inference_fn

from ..errors import UsageError
from ..ppo.state import policy_params
from ..ppo.task import Task
from ..run import commands, files, folder

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

LOAD_STABLEHLO = """\
import jax.export  # needs the packages jax and flatbuffers
import numpy as np

with open({path!r}, "rb") as file:
    policy = jax.export.deserialize(bytearray(file.read()))
action = policy.call({inputs})
"""

LOAD_ONNX = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession({path!r})
(action,) = session.run(["action"], {inputs})
"""


Act = Callable[[Any], jax.Array]
"""Observations -> the most likely actions, (batch, ...).

Not jitted: jax2onnx replaces functions of flax while it traces, and jit would remember the trace.
"""


def export(
    run: str | os.PathLike[str],
    task: Task | Mapping[str, Task],
    *,
    steps: int | None = None,
    seed: int | None = None,
    onnx: bool = False,
) -> dict[Path, str]:
    """Writes RUN/policy.stablehlo and, if asked to, RUN/policy.onnx.

    Args:
      run: the folder that `train` left.
      task: what was trained, or the tasks of `config.py`, of which the run names one.
      steps: which checkpoint, as `load_policy` takes it.
      seed: which seed of a run of several, as `load_policy` takes it.
      onnx: write ONNX too, with jax2onnx.

    Returns:
      The files, StableHLO first, each with a few lines of Python that load it and act.

    Raises:
      UsageError: the run can't be used, jax2onnx is missing, or the policy can't be converted;
        nothing was written.
      OSError: a file can't be written.
    """
    run = Path(run)
    if onnx:
        commands.require("jax2onnx", "--onnx", "onnx")
    act, inputs = _load(run, task, steps, seed)
    made = [("policy.stablehlo", bytes(_to_stablehlo(act, inputs).serialize()), LOAD_STABLEHLO)]
    if onnx:
        made.append(("policy.onnx", _to_onnx(act, inputs), LOAD_ONNX))
    loads = {}
    for name, data, load in made:
        files.write(run / name, data)
        taken = _zeros(_named(inputs) if load is LOAD_ONNX else inputs)
        loads[run / name] = load.format(path=str(run / name), inputs=taken)
    return loads


def _load(
    run: Path, task: Task | Mapping[str, Task], steps: int | None, seed: int | None
) -> tuple[Act, Any]:
    """The policy, and the shape and dtype of one observation, or a dict of them."""
    ppo, shapes, state = folder.load_networks(run, task, steps, seed)
    policy = make_inference_fn(ppo.networks)(policy_params(state), deterministic=True)
    key = np.zeros(2, np.uint32)  # the most likely action uses none
    inputs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes.env_state.obs
    )

    def act_on_all(obs: Any) -> jax.Array:
        return policy(obs, key)[0]

    if not isinstance(inputs, dict):
        return act_on_all, inputs
    kept = _to_stablehlo(act_on_all, inputs, 1).module_kept_var_idx  # jit drops unused inputs
    used = {name: inputs[name] for i, name in enumerate(sorted(inputs)) if i in kept} or inputs

    def act(obs: dict[str, jax.Array]) -> jax.Array:
        size = next(iter(obs.values())).shape[0]
        others = {name: jnp.zeros((size, *x.shape), x.dtype) for name, x in inputs.items()}
        return act_on_all({**others, **obs})

    return act, used


def _batch(inputs: Any, size: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), inputs)


def _to_stablehlo(act: Act, inputs: Any, size: int | None = None) -> jax.export.Exported:
    """For batches of `size`; of any size if None."""
    (any_size,) = jax.export.symbolic_shape("batch")
    with _quiet():
        try:
            program = jax.export.export(jax.jit(act), platforms=PLATFORMS)
            return program(_batch(inputs, size or any_size))
        except Exception as error:  # whatever the user's networks raise
            raise UsageError(
                f"jax.export can't convert this policy ({_first_line(error)}): its networks have "
                "to work for a batch of any size and on any device."
            ) from error


def _to_onnx(act: Act, inputs: Any) -> bytes:
    leaves, tree = jax.tree.flatten(_batch(inputs, "batch"))
    with _quiet():
        try:
            import jax2onnx  # type: ignore[import-not-found, unused-ignore]

            return jax2onnx.to_onnx(
                lambda *obs: act(jax.tree.unflatten(tree, obs)),
                leaves,
                input_names=sorted(_named(inputs)),
                output_names=["action"],
            ).SerializeToString()
        except Exception as error:  # of jax2onnx's many kinds
            raise UsageError(
                f"jax2onnx can't convert this policy ({_first_line(error)}): leave --onnx out, or "
                "write the encoder with other functions."
            ) from error


def _named(inputs: Any) -> dict[str, Any]:
    """Inputs as ONNX has them: each with a name."""
    return inputs if isinstance(inputs, dict) else {"obs": inputs}


def _zeros(inputs: Any) -> str:
    """Python that makes a batch of one observation."""
    if isinstance(inputs, dict):
        return "{" + ", ".join(f"{key!r}: {_zeros(x)}" for key, x in inputs.items()) + "}"
    return f"np.zeros({(1, *inputs.shape)}, np.{inputs.dtype})"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what libraries print, log and warn about off the terminal."""
    disabled, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield
    finally:
        logging.disable(disabled)
