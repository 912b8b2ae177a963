"""What a traced function computes. All that depends on JAX's internals is in this file.

From the template: changes of yours are kept, `copier update` merges new versions in.

No run on a few inputs can tell whether two traces are the same program, which inputs an output
depends on, or whether a program calls back into Python. Its jaxpr can.
"""

import hashlib
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import source_info_util

# Primitives that only call another program, which is read as if it stood in their place.
CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
IDENTITY = {"stop_gradient", "optimization_barrier", "copy", "name"}
# What keeps all elements in their order where it keeps their number: `x[None][0]` is `x`.
RESHAPE = {"reshape", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "dynamic_slice"}
# Code outside the program. Its parameters can hold an id that differs in each trace.
FOREIGN = {"pure_callback", "io_callback", "debug_callback", "debug_print", "ffi_call"}
# Primitives whose results hold no other values than their first operand does.
REARRANGE = {"broadcast_in_dim", "reshape", "squeeze", "transpose", "slice", "rev", "copy_p"}
REARRANGE |= {"reduce_max", "reduce_min", "convert_element_type", "dynamic_slice", *IDENTITY}
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "mul": operator.mul,
    "add": operator.add,
    "sub": operator.sub,
    "max": max,
    "min": min,
}
FEW = 8  # a set of possible values with more members is not worth keeping
BITS = frozenset({0.0, 1.0})


@dataclass(frozen=True)
class Value:
    """What is known of one array in a program.

    Attributes:
      digest: equal for two arrays that are computed in the same way from the same inputs.
      inputs: indices of the function's inputs that it depends on.
      possible: all values that its elements can have, where they are known and few.
    """

    digest: bytes
    inputs: frozenset[int] = frozenset()
    possible: frozenset[float] | None = None


@dataclass
class Reading:
    """What a program does.

    Attributes:
      outputs: one for each output, in order.
      operations: how often each primitive occurs, inner programs included.
      drawn: for each draw of random numbers, the inputs that its key depends on.
      infinite: whether it contains infinity, as in `jnp.where(found, x, jnp.inf)`.
    """

    outputs: list[Value] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    drawn: list[frozenset[int]] = field(default_factory=list)
    infinite: bool = False

    @property
    def callbacks(self) -> list[str]:
        """Primitives that call back into Python."""
        return sorted(n for n in self.operations if "callback" in n or n == "debug_print")

    @property
    def batched_by_hand(self) -> bool:
        """Whether something else than JAX decides what `jax.vmap` makes of it."""
        return any("custom_vmap" in n or n in FOREIGN for n in self.operations)


def input_digest(index: int) -> bytes:
    """The digest of input number `index`, and of an output that is that input unchanged."""
    return _hash("input", index)


def read(closed: Any, possible: Mapping[int, Iterable[float]] | None = None) -> Reading:
    """Reads a `ClosedJaxpr`, as `jax.make_jaxpr` gives it.

    Args:
      closed: the program.
      possible: all values that inputs can have, by the input's index.
    """
    reading = Reading()
    known = {i: frozenset(values) for i, values in (possible or {}).items()}
    inputs = [
        Value(input_digest(i), frozenset([i]), known.get(i))
        for i in range(len(closed.jaxpr.invars))
    ]
    reading.outputs = _read(reading, closed, inputs)
    return reading


def _read(reading: Reading, program: Any, inputs: Sequence[Value]) -> list[Value]:
    """Follows `program` (a `Jaxpr`, closed or not) from its inputs to its outputs."""
    jaxpr = getattr(program, "jaxpr", program)
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, constant in zip(jaxpr.constvars, getattr(program, "consts", ()), strict=False):
        known[var] = Value(_hash(constant), possible=_elements(constant))

    def look(atom: Any) -> Value:
        if not hasattr(atom, "val"):
            return known[atom]
        if jnp.issubdtype(atom.aval.dtype, jnp.floating) and np.any(np.isinf(atom.val)):
            reading.infinite = True
        return Value(_hash(atom.val), possible=_elements(atom.val))

    for eqn in jaxpr.eqns:
        operands = [look(atom) for atom in eqn.invars]
        known.update(zip(eqn.outvars, _read_equation(reading, eqn, operands), strict=True))
    return [look(atom) for atom in jaxpr.outvars]


def _read_equation(reading: Reading, eqn: Any, operands: list[Value]) -> list[Value]:
    if (called := _called(eqn)) is not None:
        return _read(reading, called, operands)
    name = eqn.primitive.name
    reading.operations[name] += 1
    if name in IDENTITY and len(operands) == len(eqn.outvars):
        return operands
    if name in RESHAPE and eqn.invars[0].aval.size == eqn.outvars[0].aval.size:
        return operands[:1]
    if name == "select_n" and len({x.digest for x in operands[1:]}) == 1:
        return [operands[1]]
    inputs = frozenset[int]().union(*(x.inputs for x in operands))
    if name in ("random_bits", "threefry2x32"):
        reading.drawn.append(inputs)
    # What a loop or a branch contains can depend on everything that goes into it.
    bodies = []
    for body in _programs(eqn.params.values()):
        size = len(getattr(body, "jaxpr", body).invars)
        values = [Value(_hash("inner", i), inputs) for i in range(size)]
        bodies.append([value.digest for value in _read(reading, body, values)])
    params = eqn.params.get("target_name") if name in FOREIGN else eqn.params
    digest = _hash(name, params, [x.digest for x in operands], bodies)
    return [
        Value(_hash(digest, i), inputs, _possible(name, var.aval, operands))
        for i, var in enumerate(eqn.outvars)
    ]


def _called(eqn: Any) -> Any | None:
    """The program that an equation does nothing else than call."""
    inner = list(_programs(eqn.params.values())) if eqn.primitive.name in CALLS else []
    if len(inner) == 1 and len(getattr(inner[0], "jaxpr", inner[0]).invars) == len(eqn.invars):
        return inner[0]
    return None


def _programs(parameters: Iterable[Any]) -> Iterable[Any]:
    """The programs among the parameters of an equation: the body of a loop, branches, ..."""
    for x in parameters:
        if hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns"):
            yield x
        elif isinstance(x, tuple | list):
            yield from _programs(x)


def _elements(x: Any) -> frozenset[float] | None:
    try:
        array = np.asarray(x)
    except Exception:  # a typed key, or a traced value that was kept
        return None
    few = array.size <= 64 and array.dtype.kind in "biuf"
    values = frozenset(map(float, array.ravel())) if few else frozenset()
    return values if 0 < len(values) <= FEW else None


def _possible(name: str, aval: Any, operands: Sequence[Value]) -> frozenset[float] | None:
    """All values that the elements of a result can have, where they are known and few."""
    sets = [x.possible for x in operands]
    if getattr(aval, "dtype", None) == jnp.bool_:
        return BITS
    found: frozenset[float] | None = None
    if name in REARRANGE and sets:
        found = sets[0]
    elif name == "select_n" and None not in sets[1:]:
        found = frozenset[float]().union(*(s for s in sets[1:] if s is not None))
    elif name in ARITHMETIC and sets[0] is not None and sets[1] is not None:
        found = frozenset(ARITHMETIC[name](x, y) for x in sets[0] for y in sets[1])
    return found if found is not None and len(found) <= FEW else None


def _hash(*parts: Any) -> bytes:
    return hashlib.blake2b(_bytes(parts), digest_size=16).digest()


def _bytes(x: Any) -> bytes:
    """The same bytes for the same value. Functions and the like count with their type alone."""
    if isinstance(x, bytes):
        return b"b" + x
    if x is None or isinstance(x, bool | int | float | complex | str | np.dtype | type):
        return repr(x).encode()
    if isinstance(x, tuple | list):
        return b"(" + b",".join(map(_bytes, x)) + b")"
    if isinstance(x, dict):
        return _bytes([(key, x[key]) for key in sorted(x, key=str)])
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        try:
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                x = jax.random.key_data(x)
            return repr((x.shape, x.dtype)).encode() + np.asarray(x).tobytes()
        except Exception:  # an abstract value or a reference
            return repr((x.shape, x.dtype)).encode()
    return type(x).__name__.encode()


def checked(closed: Any) -> tuple[Callable[..., tuple[list[Any], list[Any]]], list[str]]:
    """`closed` as a function that also tells which array reads were out of range.

    JAX clamps such an index, so that the program goes on with another element. Reads inside loops
    and branches are not looked at, nor are `mode="fill"` and `mode="clip"`, where it is meant.

    Returns:
      A function of the flat inputs that gives the flat outputs and one () bool for each read, and
      a list that holds the source line of each read once the function was traced.
    """
    lines: list[str] = []

    def run(*args: Any) -> tuple[list[Any], list[Any]]:
        flags: list[Any] = []
        lines.clear()
        outputs = _run(closed, list(args), set(closed.jaxpr.invars), flags, lines)
        return outputs, flags

    return run, lines


def _run(
    program: Any, args: list[Any], varies: set[Any], flags: list[Any], lines: list[str]
) -> Any:
    """Evaluates `program`, in which the variables in `varies` depend on the inputs."""
    jaxpr = getattr(program, "jaxpr", program)
    values = dict(zip(jaxpr.constvars, getattr(program, "consts", ()), strict=False))
    values |= zip(jaxpr.invars, args, strict=True)
    for eqn in jaxpr.eqns:
        operands = [x.val if hasattr(x, "val") else values[x] for x in eqn.invars]
        moves = [not hasattr(x, "val") and x in varies for x in eqn.invars]
        if (called := _called(eqn)) is not None:
            inner = getattr(called, "jaxpr", called).invars
            inner = {var for var, moving in zip(inner, moves, strict=True) if moving}
            results = _run(called, operands, inner, flags, lines)
        else:
            outside = _outside(eqn, operands) if any(moves[1:]) else None
            if outside is not None:
                flags.append(outside)
                lines.append(line_of(eqn))
            bound = eqn.primitive.get_bind_params(eqn.params)  # JAX 0.9 gives a pair
            functions, params = bound if isinstance(bound, tuple) else ((), bound)
            results = eqn.primitive.bind(*functions, *operands, **params)
            results = results if eqn.primitive.multiple_results else [results]
        values.update(zip(eqn.outvars, results, strict=True))
        if any(moves):
            varies.update(eqn.outvars)
    return [x.val if hasattr(x, "val") else values[x] for x in jaxpr.outvars]


def _outside(eqn: Any, operands: list[Any]) -> Any | None:
    """Whether a read is out of range; None for other operations."""
    shape = np.array(eqn.invars[0].aval.shape)
    if eqn.primitive.name == "dynamic_slice":
        last = shape - eqn.params["slice_sizes"]
        start = jnp.stack([jnp.asarray(x, jnp.int32) for x in operands[1:]])
    elif eqn.primitive.name == "gather":
        if eqn.params["mode"] != jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS:
            return None
        axes = list(eqn.params["dimension_numbers"].start_index_map)
        last = (shape - eqn.params["slice_sizes"])[axes]
        start = jnp.asarray(operands[1], jnp.int32)
    else:
        return None
    return jnp.any((start < 0) | (start > last))


def line_of(eqn: Any) -> str:
    """The user's line that an equation comes from, such as `env.py:41`."""
    found = re.match(r"(.+?):(\d+)", source_info_util.summarize(eqn.source_info))
    return f"{Path(found[1]).name}:{found[2]}" if found else "an unknown line"


def leaked(function: Callable[..., Any], *args: Any) -> str | None:
    """What holds a traced value after `function` was traced; None if nothing does."""
    try:
        with jax.checking_leaks():
            jax.eval_shape(function, *args)
    except Exception as error:
        text = str(error)
        if not text.startswith("Leaked "):
            return None  # the function's own error, which another rule reports
        # Chains of "<A> is referred to by B", one after another, each from the value outwards.
        chain = text.split("\n\n")[1] if "\n\n" in text else text
        holders = re.findall(r"is referred to by (.+)", chain)
        return re.sub(r"<(\w+) \d+>", r"a \1", holders[-1]) if holders else "an object"
    return None
