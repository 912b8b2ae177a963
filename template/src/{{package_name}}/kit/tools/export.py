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
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Deterministic:
    """The most likely action of a policy, as a function of what it uses of an observation.

    Attributes:
      act: observations -> actions, (batch, ...). Not jitted: jax2onnx replaces functions of flax
        while it traces, and jit would remember what it has traced.
      inputs: what `act` takes: shape and dtype of one observation, or a dict of them.
    """

    act: Callable[[Any], jax.Array]
    inputs: Any

    def batch(self, size: Any) -> Any:
        """`inputs` with a leading axis."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), self.inputs)


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
      steps: which checkpoint; as `load_policy` chooses if None.
      seed: which seed of a run of several; as `load_policy` chooses if None.
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
    policy = _load(run, task, steps, seed)
    made = {"policy.stablehlo": bytes(_to_stablehlo(policy).serialize())}
    lines = {"policy.stablehlo": (LOAD_STABLEHLO, policy.inputs)}
    if onnx:
        made["policy.onnx"] = _to_onnx(policy)
        lines["policy.onnx"] = (LOAD_ONNX, _named(policy.inputs))
    for name, data in made.items():
        files.write(run / name, data)
    return {
        run / name: load.format(path=str(run / name), inputs=_zeros(inputs))
        for name, (load, inputs) in lines.items()
    }


def _load(
    run: Path, task: Task | Mapping[str, Task], steps: int | None, seed: int | None
) -> Deterministic:
    ppo, shapes, state = folder.load_networks(run, task, steps, seed)
    policy = make_inference_fn(ppo.networks)(policy_params(state), deterministic=True)
    key = np.zeros(2, np.uint32)  # the most likely action uses none
    inputs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes.env_state.obs
    )
    whole = Deterministic(lambda obs: policy(obs, key)[0], inputs)
    if not isinstance(inputs, dict):
        return whole

    kept = _to_stablehlo(whole, 1).module_kept_var_idx  # jit drops what is not used
    used = {name: inputs[name] for i, name in enumerate(sorted(inputs)) if i in kept}
    used = used or inputs
    rest = {name: x for name, x in inputs.items() if name not in used}

    def act(obs: dict[str, jax.Array]) -> jax.Array:
        size = next(iter(obs.values())).shape[0]
        others = {name: jnp.zeros((size, *x.shape), x.dtype) for name, x in rest.items()}
        return whole.act({**obs, **others})

    return Deterministic(act, used)


def _to_stablehlo(policy: Deterministic, size: int | None = None) -> jax.export.Exported:
    """For batches of `size`; of any size if None."""
    (any_size,) = jax.export.symbolic_shape("batch")
    with _quiet():
        try:
            program = jax.jit(policy.act)
            return jax.export.export(program, platforms=PLATFORMS)(policy.batch(size or any_size))
        except Exception as error:  # whatever the user's networks raise
            raise UsageError(
                f"jax.export can't convert this policy ({_first_line(error)}): its networks have "
                "to work for a batch of any size and on any device."
            ) from error


def _to_onnx(policy: Deterministic) -> bytes:
    leaves, tree = jax.tree.flatten(policy.batch("batch"))
    with _quiet():
        try:
            import jax2onnx  # type: ignore[import-not-found, unused-ignore]

            return jax2onnx.to_onnx(
                lambda *obs: policy.act(jax.tree.unflatten(tree, obs)),
                leaves,
                input_names=sorted(_named(policy.inputs)),
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
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
