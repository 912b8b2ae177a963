"""Where a NaN or an infinity comes from: the operation of a program, and its line.

The program is evaluated one operation at a time and followed back from a bad output, into loops
and branches, to the operation that made it out of finite numbers.
"""

import itertools
import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import source_info_util

from ..trace import jaxprs
from ..trace.jaxprs import evaluate

CALLS = {*jaxprs.CALLS, "custom_vmap_call"}


class Frame(NamedTuple):
    """A line of code on the stack of an operation."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


def frames(eqn: Any, tracer: str) -> list[Frame]:
    """Where an operation stands, innermost first, out to the code at path `tracer` (a prefix)."""
    found = []
    for frame in source_info_util.user_frames(eqn.source_info.traceback):
        if frame.file_name.startswith(tracer):
            break
        found.append(Frame(frame.file_name, frame.start_line, frame.function_name))
    return found


def users_first(stack: Sequence[Frame]) -> Frame | None:
    """The innermost line of the user's own code; of a library if there is none."""
    own = [x for x in stack if not x.file.startswith((*jaxprs.LIBRARIES, jaxprs.KIT))]
    return next(iter(own or stack), None)


@dataclass(frozen=True)
class Origin:
    """What made an output bad.

    Attributes:
      operation: JAX's name for it, such as `div`, and its place if that is in a library; empty
        if an input was bad already.
      place: the innermost line of the user's own code; None if unknown.
      input: the index of the flat input that was bad already.
      iterations: those of the loops around the operation, from 0, outermost first.
      stack: where it stands, innermost first.
    """

    operation: str = ""
    place: Frame | None = None
    input: int | None = None
    iterations: tuple[int, ...] = ()
    stack: tuple[Frame, ...] = ()

    def __str__(self) -> str:
        """`env.py:57: x / jnp.sqrt(v)`; empty if unknown."""
        if self.place is None:
            return ""
        text = linecache.getline(self.place.file, self.place.line).strip()
        return str(self.place) + f": `{text}`" * bool(text)

    def is_in(self, function: str) -> bool:
        """Whether a function of this name is on the stack."""
        return any(function in frame.function for frame in self.stack)


def find(function: Callable[..., Any], args: Sequence[Any], output: int) -> Origin | None:
    """Follows an output back to what made it NaN or infinite.

    Args:
      function: can be traced.
      args: its arguments, concrete.
      output: which of the flat outputs is bad.

    Returns:
      None if the output is finite where the program is evaluated one operation at a time, because
      a compiled program rounds in another order.
    """
    closed = jax.make_jaxpr(function)(*args)
    return _follow(closed, [jnp.asarray(x) for x in jax.tree.leaves(args)], output, ())


def is_finite(x: Any) -> bool:
    """Whether all numbers of an array are finite."""
    return not jnp.issubdtype(x.dtype, jnp.inexact) or bool(np.all(np.isfinite(x)))


def _follow(
    program: Any, inputs: Sequence[Any], output: int, around: tuple[Frame, ...]
) -> Origin | None:
    """Goes back from an output of `program`, whose caller has the stack `around`."""
    jaxpr = getattr(program, "jaxpr", program)
    values = dict(zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True))
    values |= zip(jaxpr.invars, inputs, strict=True)
    made_by: dict[Any, Any] = {}

    def look(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for eqn in _needed(jaxpr, output):
        values |= zip(eqn.outvars, evaluate(eqn, [look(x) for x in eqn.invars]), strict=True)
        made_by |= {var: eqn for var in eqn.outvars}

    atom, eqn, stack = jaxpr.outvars[output], None, around
    if is_finite(jnp.asarray(look(atom))):
        return None
    indices = {var: i for i, var in enumerate(jaxpr.invars)}
    while True:
        if not hasattr(atom, "val") and atom in indices:
            return Origin(input=indices[atom])
        if hasattr(atom, "val") or atom not in made_by:  # a constant, such as jnp.inf
            return Origin() if eqn is None else _origin(eqn, stack)
        eqn = made_by[atom]
        operands, index = [look(x) for x in eqn.invars], eqn.outvars.index(atom)
        stack = (*frames(eqn, __file__), *around)
        found = _inside(eqn, operands, index, stack)
        if found is None:
            found = Origin(input=_cause(eqn, operands, index))
        if found.input is None:
            return found if found.operation else _origin(eqn, stack)
        atom = eqn.invars[found.input]


def _needed(jaxpr: Any, output: int) -> list[Any]:
    """The equations that an output depends on."""
    wanted, found = {jaxpr.outvars[output]}, []
    for eqn in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(eqn.outvars):
            wanted.update(x for x in eqn.invars if not hasattr(x, "val"))
            found.append(eqn)
    return found[::-1]


def _inside(eqn: Any, operands: list[Any], output: int, stack: tuple[Frame, ...]) -> Origin | None:
    """Follows a call, a branch or a loop; None for other operations."""
    if eqn.primitive.name == "cond":
        branches = eqn.params["branches"]
        branch = branches[int(np.clip(operands[0], 0, len(branches) - 1))]
        return _shift(_follow(branch, operands[1:], output, stack), 1)
    if eqn.primitive.name in ("scan", "while"):
        return _loop(eqn, operands, output, stack)
    inner = jaxprs.called(eqn, CALLS)
    return None if inner is None else _follow(inner, operands, output, stack)


def _loop(eqn: Any, operands: list[Any], output: int, stack: tuple[Frame, ...]) -> Origin | None:
    """Does all rounds, and goes back through them from the last one or the first bad row."""
    params, is_scan = eqn.params, eqn.primitive.name == "scan"
    if is_scan:
        body, (consts, carried), of_cond = params["jaxpr"], _scan_inputs(params), 0
        order: Any = range(params["length"])[:: -1 if params["reverse"] else 1]
    else:
        body, consts, of_cond = params["body_jaxpr"], params["body_nconsts"], params["cond_nconsts"]
        carried, order = len(eqn.outvars), itertools.count()
        goes_on = _compiled(params["cond_jaxpr"])
    held, operands = operands[:of_cond], operands[of_cond:]
    carry, rows = operands[consts : consts + carried], operands[consts + carried :]
    do, rounds = _compiled(body), []
    for i in order:
        if not is_scan and not goes_on(*held, *carry)[0]:
            break
        rounds.append((i, [*operands[:consts], *carry, *(x[i] for x in rows)]))
        results = do(*rounds[-1][1])
        carry = results[:carried]
        if output >= carried and not is_finite(results[output]):
            break
    found: Origin | None = Origin(input=consts + output)  # of no rounds
    for i, inputs in reversed(rounds):
        found = _follow(body, inputs, output, stack)
        if found is None:
            return None
        if found.input is None:
            return replace(found, iterations=(i, *found.iterations))
        if not consts <= found.input < consts + carried:
            break
        output = found.input - consts
    return _shift(found, of_cond)


def _scan_inputs(params: Any) -> tuple[int, int]:
    """How many constants a scan has, and how many values it carries."""
    if "ft_in" in params:  # since JAX 0.11
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(carry)
    return params["num_consts"], params["num_carry"]


def _shift(found: Origin | None, by: int) -> Origin | None:
    """Counts `by` more inputs before the one that was bad."""
    if found is None or found.input is None:
        return found
    return replace(found, input=found.input + by)


def _cause(eqn: Any, operands: list[Any], output: int) -> int | None:
    """The bad operand that makes the output bad; None if the operation itself does."""
    bad = [i for i, x in enumerate(operands) if not is_finite(jnp.asarray(x))]

    def stays_bad(kept: int | None) -> bool:
        tried = [
            jnp.where(jnp.isfinite(x), x, jnp.full_like(x, 0.5)) if i in bad and i != kept else x
            for i, x in enumerate(operands)
        ]
        return not is_finite(evaluate(eqn, tried)[output])

    if not bad or stays_bad(None):
        return None
    return next((i for i in bad if stays_bad(i)), bad[0])


def _compiled(closed: Any) -> Callable[..., list[Any]]:
    return jax.jit(lambda *args: jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *args))


def _origin(eqn: Any, stack: tuple[Frame, ...]) -> Origin:
    place = users_first(stack)
    name = str(eqn.params.get("name") or eqn.primitive.name).lstrip("_")  # `where` of `jit`
    if place is not None and place is not stack[0]:
        name += f" in {stack[0]}"
    return Origin(name, place, stack=stack)
