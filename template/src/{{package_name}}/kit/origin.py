"""Where a NaN or an infinity comes from: the operation of a program, and its line.

From the template: changes of yours are kept, `copier update` merges new versions in.

The program is evaluated one operation at a time and followed back from a bad output, into loops
and branches, to the operation that made it out of finite numbers.
"""

import linecache
import site
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import source_info_util

# Primitives that only call another program with their operands.
CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vmap_call"}
LIBRARIES = (*site.getsitepackages(), sysconfig.get_paths()["stdlib"], "<")
KIT = str(Path(__file__).parent)


@dataclass(frozen=True)
class Origin:
    """What made an output bad.

    Attributes:
      operation: JAX's name for it, such as `div`, and its place if that is in a library; empty
        if an input was bad already.
      file: where the line is, the user's own if there is one on the stack; empty if unknown.
      line: its number.
      input: the index of the flat input that was bad already.
      iterations: those of the loops around the operation, from 0, outermost first.
      stack: names of the functions around it, innermost first.
    """

    operation: str = ""
    file: str = ""
    line: int = 0
    input: int | None = None
    iterations: tuple[int, ...] = ()
    stack: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`env.py:57: x / jnp.sqrt(v)`; empty if unknown."""
        if not self.file:
            return ""
        text = linecache.getline(self.file, self.line).strip()
        return f"{Path(self.file).name}:{self.line}" + f": `{text}`" * bool(text)


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


def _follow(program: Any, inputs: Sequence[Any], output: int, around: Any) -> Origin | None:
    """Goes back from an output of `program`, whose caller has the stack `around`."""
    jaxpr = getattr(program, "jaxpr", program)
    values = dict(zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True))
    values |= zip(jaxpr.invars, inputs, strict=True)
    made_by: dict[Any, Any] = {}

    def look(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for eqn in _needed(jaxpr, output):
        values |= zip(eqn.outvars, _evaluate(eqn, [look(x) for x in eqn.invars]), strict=True)
        made_by |= {var: eqn for var in eqn.outvars}

    atom, eqn = jaxpr.outvars[output], None
    if is_finite(jnp.asarray(look(atom))):
        return None
    indices = {var: i for i, var in enumerate(jaxpr.invars)}
    while True:
        if not hasattr(atom, "val") and atom in indices:
            return Origin(input=indices[atom])
        if hasattr(atom, "val") or atom not in made_by:  # a constant, such as jnp.inf
            return _origin(eqn, around) if eqn is not None else Origin()
        eqn = made_by[atom]
        operands = [look(x) for x in eqn.invars]
        found = _inside(eqn, operands, eqn.outvars.index(atom), around)
        if found is None:
            found = Origin(input=_cause(eqn, operands, eqn.outvars.index(atom)))
        if found.input is None:
            return found if found.operation or found.file else _origin(eqn, around)
        atom = eqn.invars[found.input]


def _needed(jaxpr: Any, output: int) -> list[Any]:
    """The equations that an output depends on."""
    wanted, found = {jaxpr.outvars[output]}, []
    for eqn in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(eqn.outvars):
            wanted.update(x for x in eqn.invars if not hasattr(x, "val"))
            found.append(eqn)
    return found[::-1]


def _inside(eqn: Any, operands: list[Any], output: int, around: Any) -> Origin | None:
    """Follows a call, a branch or a loop; None for other operations."""
    name, params = eqn.primitive.name, eqn.params
    stack = (*_frames(eqn), *around)
    if name == "cond":
        branches = params["branches"]
        branch = branches[int(np.clip(operands[0], 0, len(branches) - 1))]
        found = _follow(branch, operands[1:], output, stack)
        return found and _with_input(found, 1)
    if name == "scan":
        return _scan(params, operands, output, stack)
    if name == "while":
        return _while(params, operands, output, stack)
    if name in CALLS:
        for x in params.values():
            if len(getattr(getattr(x, "jaxpr", x), "invars", ())) == len(operands):
                return _follow(x, operands, output, stack)
    return None


def _scan(params: Any, operands: list[Any], output: int, stack: Any) -> Origin | None:
    consts, carried = params["num_consts"], params["num_carry"]
    body = _compiled(params["jaxpr"])
    order = list(range(params["length"]))[:: -1 if params["reverse"] else 1]
    carry, rounds, results = operands[consts : consts + carried], [], []
    for i in order:
        rows = [x[i] for x in operands[consts + carried :]]
        rounds.append([*operands[:consts], *carry, *rows])
        results.append(body(*rounds[-1]))
        carry = results[-1][:carried]
    if output >= carried:  # stacked: the first bad row
        bad = (n for n, result in enumerate(results) if not is_finite(result[output]))
        start = next(bad, None)
    else:
        start = len(order) - 1
    if start is None or not order:
        return None
    return _back(params["jaxpr"], rounds, order, start, output, (consts, carried), stack)


def _while(params: Any, operands: list[Any], output: int, stack: Any) -> Origin | None:
    of_cond, consts = params["cond_nconsts"], params["body_nconsts"]
    goes_on = _compiled(params["cond_jaxpr"])
    body = _compiled(params["body_jaxpr"])
    carry, rounds = operands[of_cond + consts :], []
    while goes_on(*operands[:of_cond], *carry)[0]:
        rounds.append([*operands[of_cond : of_cond + consts], *carry])
        carry = body(*rounds[-1])
    if not rounds:
        return Origin(input=of_cond + consts + output)
    sizes = consts, len(carry)
    last = len(rounds) - 1
    found = _back(
        params["body_jaxpr"], rounds, list(range(len(rounds))), last, output, sizes, stack
    )
    return found and _with_input(found, of_cond)


def _back(
    body: Any,
    rounds: list[list[Any]],
    order: list[int],
    start: int,
    output: int,
    sizes: tuple[int, int],
    stack: Any,
) -> Origin | None:
    """Goes back through the rounds of a loop, from round `start`."""
    consts, carried = sizes
    for n in range(start, -1, -1):
        found = _follow(body, rounds[n], output, stack)
        if found is None:
            return None
        if found.input is None:
            return replace(found, iterations=(order[n], *found.iterations))
        if not consts <= found.input < consts + carried:
            return found
        output = found.input - consts
    return found


def _with_input(found: Origin, by: int) -> Origin:
    return found if found.input is None else replace(found, input=found.input + by)


def _cause(eqn: Any, operands: list[Any], output: int) -> int | None:
    """The bad operand that makes the output bad; None if the operation itself does."""
    bad = [i for i, x in enumerate(operands) if not is_finite(jnp.asarray(x))]

    def stays_bad(kept: int | None) -> bool:
        tried = [
            jnp.where(jnp.isfinite(x), x, jnp.full_like(x, 0.5)) if i in bad and i != kept else x
            for i, x in enumerate(operands)
        ]
        return not is_finite(_evaluate(eqn, tried)[output])

    if not bad or stays_bad(None):
        return None
    return next((i for i in bad if stays_bad(i)), bad[0])


# ---- JAX's internals ----------------------------------------------------------------------------


def _evaluate(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    bound = eqn.primitive.get_bind_params(eqn.params)  # JAX 0.9 gives a pair
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    results = eqn.primitive.bind(*functions, *operands, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def _compiled(closed: Any) -> Callable[..., list[Any]]:
    return jax.jit(lambda *args: jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *args))


def _frames(eqn: Any) -> list[tuple[str, int, str]]:
    """File, line and function, innermost first, as far out as `find` in this file."""
    frames = []
    for frame in source_info_util.user_frames(eqn.source_info.traceback):
        if frame.file_name == __file__:
            break
        frames.append((frame.file_name, frame.start_line, frame.function_name))
    return frames


def _origin(eqn: Any, around: Any) -> Origin:
    frames = [*_frames(eqn), *around]
    own = [f for f in frames if not f[0].startswith((*LIBRARIES, KIT))]
    file, line, _ = next(iter(own or frames), ("", 0, ""))
    stack = tuple(frame[2] for frame in frames)
    name = str(eqn.params.get("name") or eqn.primitive.name).lstrip("_")  # `where` of `jit`
    if own and own[0] is not frames[0]:
        name += f" in {Path(frames[0][0]).name}:{frames[0][1]}"
    return Origin(name, file, line, stack=stack)
