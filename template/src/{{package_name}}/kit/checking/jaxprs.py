"""What a traced function computes, read from its jaxpr. The template's: not for editing.

`check` asks of `reset` and `step` what no run on a few inputs can tell: whether two traces are the
same program, which inputs an output depends on, whether something leaves the device.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Calls that do nothing of their own: what they call is read as if it stood in their place.
CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
# What goes in comes out.
HANDED_ON = {"stop_gradient", "optimization_barrier", "copy", "name"}
# An axis of length 1 is not stretched by these when what comes out is longer.
REARRANGE = {"concatenate", "gather", "scatter", "scatter-add", "pad", "dot_general", "reshape"}
REARRANGE |= {"dynamic_slice", "dynamic_update_slice", "scan", "while", "cond"}


@dataclass(frozen=True)
class Value:
    """What is known of one array in a program.

    Attributes:
      digest: equal for two arrays that are computed in the same way from the same inputs.
      inputs: indices of the function's inputs that it depends on.
    """

    digest: bytes
    inputs: frozenset[int] = frozenset()


@dataclass
class Reading:
    """What a program does.

    Attributes:
      outputs: one for each output, in order.
      operations: how often each primitive stands in it, those of inner programs included.
      drawn: for each draw of random numbers, the inputs that its key depends on.
      infinite: whether infinity is written down in it, as in `jnp.where(found, x, jnp.inf)`.
      stretched: (input, length) for each axis of length 1 that meets a longer one.
    """

    outputs: list[Value] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    drawn: list[frozenset[int]] = field(default_factory=list)
    infinite: bool = False
    stretched: set[tuple[int, int]] = field(default_factory=set)

    @property
    def callbacks(self) -> list[str]:
        """Primitives that call back into Python on the host."""
        return sorted(name for name in self.operations if "callback" in name)


def input_digest(index: int) -> bytes:
    """The digest of the function's input number `index`, and of an output that is that input."""
    return _hash("input", index)


def read(closed: Any) -> Reading:
    """Reads a `ClosedJaxpr`, as `jax.make_jaxpr` gives it."""
    reading = Reading()
    inputs = [Value(input_digest(i), frozenset([i])) for i in range(len(closed.jaxpr.invars))]
    reading.outputs = _read(reading, closed, inputs)
    return reading


def _read(reading: Reading, program: Any, inputs: Sequence[Value]) -> list[Value]:
    """Follows `program` (a `Jaxpr`, closed or not) from its inputs to its outputs."""
    jaxpr = getattr(program, "jaxpr", program)
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, constant in zip(jaxpr.constvars, getattr(program, "consts", ()), strict=False):
        known[var] = Value(_hash(constant))

    def look(atom: Any) -> Value:
        if not hasattr(atom, "val"):
            return known[atom]
        if jnp.issubdtype(atom.aval.dtype, jnp.floating) and np.any(np.isinf(atom.val)):
            reading.infinite = True
        return Value(_hash(atom.val))

    for eqn in jaxpr.eqns:
        operands = [look(atom) for atom in eqn.invars]
        results = _read_equation(reading, eqn, operands)
        known.update(zip(eqn.outvars, results, strict=True))
    return [look(atom) for atom in jaxpr.outvars]


def _read_equation(reading: Reading, eqn: Any, operands: list[Value]) -> list[Value]:
    name = eqn.primitive.name
    inner = list(_programs(eqn.params.values()))
    if name in CALLS and len(inner) == 1:
        jaxpr = getattr(inner[0], "jaxpr", inner[0])
        if len(jaxpr.invars) == len(operands):
            return _read(reading, inner[0], operands)

    reading.operations[name] += 1
    if name in HANDED_ON and len(operands) == len(eqn.outvars):
        return operands
    if name == "select_n" and len({x.digest for x in operands[1:]}) == 1:
        return [operands[1]]
    inputs = frozenset[int]().union(*(x.inputs for x in operands))
    if name in ("random_bits", "threefry2x32"):
        reading.drawn.append(inputs)
    if name not in REARRANGE:
        for atom, operand in zip(eqn.invars, operands, strict=True):
            length = max((max(v.aval.shape, default=1) for v in eqn.outvars), default=1)
            if atom.aval.shape == (1,) and length > 1:
                reading.stretched |= {(index, length) for index in operand.inputs}

    # What a loop or a branch holds can depend on all that goes into it.
    bodies = []
    for body in inner:
        size = len(getattr(body, "jaxpr", body).invars)
        values = [Value(_hash("inner", i), inputs) for i in range(size)]
        bodies.append([value.digest for value in _read(reading, body, values)])
    digest = _hash(name, eqn.params, [x.digest for x in operands], bodies)
    return [Value(_hash(digest, i), inputs) for i in range(len(eqn.outvars))]


def _programs(parameters: Iterable[Any]) -> Iterable[Any]:
    """The programs among the parameters of an equation: the body of a loop, branches, ..."""
    for x in parameters:
        if hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns"):
            yield x
        elif isinstance(x, tuple | list):
            yield from _programs(x)


def _hash(*parts: Any) -> bytes:
    return hashlib.blake2b(_bytes(parts), digest_size=16).digest()


def _bytes(x: Any) -> bytes:
    """The same bytes for the same value; of what has no value (functions, ...) the type alone."""
    if isinstance(x, bytes):
        return b"b" + x
    if x is None or isinstance(x, bool | int | float | complex | str | np.dtype | type):
        return repr(x).encode()
    if isinstance(x, tuple | list):
        return b"(" + b",".join(map(_bytes, x)) + b")"
    if isinstance(x, dict):
        return _bytes([(key, x[key]) for key in sorted(x, key=str)])
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        if isinstance(x, jax.core.ShapedArray | jax.ShapeDtypeStruct):
            return repr((x.shape, x.dtype)).encode()
        try:
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                x = jax.random.key_data(x)
            array = np.asarray(x)
            return repr((array.shape, array.dtype)).encode() + array.tobytes()
        except Exception:  # a reference, say
            return repr((x.shape, x.dtype)).encode()
    return type(x).__name__.encode()
