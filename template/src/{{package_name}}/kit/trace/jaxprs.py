"""What a traced function computes. Everything that depends on JAX's internals is in this file."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import source_info_util
from jax._src.tree_util import equality_errors_pytreedef

from ..env.keys import is_typed_key, raw
from ..errors import LIBRARIES
from .values import FEW, IDENTITY, KEY_DATA, RESHAPE, Value, linear, possible_values, unknown

# Primitives that only call another program, which is read as if it stood in their place.
CALLS = {"jit", "closed_call", "core_call", "checkpoint", "remat2"}
CALLS |= {"custom_jvp_call", "custom_vjp_call"}
# Code outside of the program. Its parameters can hold an id that differs in each trace.
FOREIGN = {"pure_callback", "io_callback", "debug_callback", "debug_print", "ffi_call"}
KIT = str(Path(__file__).parents[1]) + os.sep


@dataclass
class Reading:
    """What a program does.

    Attributes:
      outputs: one for each output.
      operations: how often each primitive occurs, inner programs included.
      drawn: for each draw of random numbers, the inputs that its key depends on.
      keys: the inputs that are used as random keys as they are.
      infinite: whether it contains infinity, as in `jnp.where(found, x, jnp.inf)`.
      with_nan: constant arrays in which there is NaN; `asks_for_nan`: whether it uses `jnp.isnan`.
    """

    outputs: list[Value] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    drawn: list[frozenset[int]] = field(default_factory=list)
    keys: set[int] = field(default_factory=set)
    infinite: bool = False
    with_nan: list[np.ndarray] = field(default_factory=list)
    asks_for_nan: bool = False

    @property
    def callbacks(self) -> list[str]:
        return sorted(n for n in self.operations if "callback" in n or n == "debug_print")

    @property
    def batched_by_hand(self) -> bool:
        """Whether something else than JAX decides what `jax.vmap` makes of it."""
        return any("custom_vmap" in n or n in FOREIGN for n in self.operations)


def input_digest(index: int) -> bytes:
    """The digest of input number `index`, and of an output that is that input unchanged."""
    return _hash("input", index)


def read(closed: Any, possible: Mapping[int, Iterable[float]] | None = None) -> Reading:
    """Reads what `jax.make_jaxpr` gives; `possible`: all values of an input, by its index."""
    reading, inputs = Reading(), []
    for i, aval in enumerate(closed.in_avals):
        itself = frozenset([i])
        known = frozenset(possible[i]) if possible and i in possible else None
        inputs.append(Value(input_digest(i), itself, known, itself, {i: 1.0}))
        if is_typed_key(aval):
            reading.keys.add(i)
    reading.outputs = _read(reading, closed, inputs)
    return reading


def interpret(
    program: Any,
    inputs: Sequence[Any],
    do: Callable[[Any, list[Any]], Sequence[Any]],
    constant: Callable[[Any], Any] = lambda x: x,
) -> list[Any]:
    """Follows a program (a `Jaxpr`, closed or not) from its inputs to its outputs.

    Args:
      inputs: what is known of each input.
      do: an equation, and what is known of its operands -> the same of its results. Calls of other
        programs are followed, and not given to it.
      constant: what is known of a constant.
    """
    jaxpr = _open(program)
    known = dict(zip(jaxpr.constvars, map(constant, getattr(program, "consts", ())), strict=False))
    known |= zip(jaxpr.invars, inputs, strict=True)

    def look(atom: Any) -> Any:
        return constant(atom.val) if hasattr(atom, "val") else known[atom]

    for eqn in jaxpr.eqns:
        operands = [look(atom) for atom in eqn.invars]
        inner = called(eqn)
        results = do(eqn, operands) if inner is None else interpret(inner, operands, do, constant)
        known.update(zip(eqn.outvars, results, strict=True))
    return [look(atom) for atom in jaxpr.outvars]


def _read(reading: Reading, program: Any, inputs: Sequence[Value]) -> list[Value]:
    def constant(x: Any) -> Value:
        real = jnp.issubdtype(getattr(x, "dtype", type(x)), jnp.floating)
        if real and not isinstance(x, jax.core.Tracer):
            reading.infinite |= bool(np.any(np.isinf(x)))
            if np.ndim(x) and np.any(np.isnan(x)):
                reading.with_nan.append(np.asarray(x))
        return Value(_hash(x), possible=_elements(x))

    return interpret(program, inputs, lambda eqn, x: _read_equation(reading, eqn, x), constant)


def _read_equation(reading: Reading, eqn: Any, operands: list[Value]) -> list[Value]:
    name = eqn.primitive.name
    reading.operations[name] += 1
    reading.asks_for_nan |= name == "ne" and operands[0].digest == operands[1].digest
    if name in IDENTITY and len(operands) == len(eqn.outvars):
        return operands
    if name in RESHAPE and eqn.invars[0].aval.size == eqn.outvars[0].aval.size:
        return operands[:1]
    if name == "select_n" and len({x.digest for x in operands[1:]}) == 1:
        return [operands[1]]
    inputs = frozenset[int]().union(*(x.inputs for x in operands))
    if name in ("random_bits", "threefry2x32"):
        reading.drawn.append(inputs)
    if name == "random_wrap" and eqn.invars[0].aval.dtype == jnp.uint32:
        reading.keys |= operands[0].copies - {KEY_DATA}
    bodies, results = [], []
    for body, given in _bodies(eqn, operands):
        # What a loop or a branch contains can depend on everything that goes into it.
        values = [
            replace(x, digest=_hash("inner", i), inputs=inputs, possible=None)
            for i, x in enumerate(given)
        ]
        results.append((values, _read(reading, body, values)))
        bodies.append([value.digest for value in results[-1][1]])
    params = eqn.params.get("target_name") if name in FOREIGN else eqn.params
    digest = _hash(name, params, [x.digest for x in operands], bodies)
    known = linear(eqn, operands, results)
    return [
        Value(_hash(digest, i), inputs, possible_values(name, var.aval, operands), *known[i])
        for i, var in enumerate(eqn.outvars)
    ]


def _bodies(eqn: Any, operands: list[Value]) -> Iterable[tuple[Any, list[Value]]]:
    """The programs inside of an equation, and what their inputs are when they begin."""
    if eqn.primitive.name == "while":
        first, second = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carry = operands[first + second :]
        yield eqn.params["cond_jaxpr"], operands[:first] + carry
        yield eqn.params["body_jaxpr"], operands[first:][:second] + carry
        return
    for body in _programs(eqn.params.values()):
        extra = len(operands) - len(_open(body).invars)  # such as the index of a branch
        missing = [Value(b"", slopes=unknown(operands))] * -extra
        yield body, missing + operands[max(0, extra) :]


def _open(program: Any) -> Any:
    return getattr(program, "jaxpr", program)


def called(eqn: Any, calls: set[str] = CALLS) -> Any | None:
    """The program that an equation does nothing else than call."""
    inner = list(_programs(eqn.params.values())) if eqn.primitive.name in calls else []
    one = len(inner) == 1 and len(_open(inner[0]).invars) == len(eqn.invars)
    return inner[0] if one else None


def _programs(parameters: Iterable[Any]) -> Iterable[Any]:
    """The programs among the parameters of an equation: the body of a loop, branches, ..."""
    for x in parameters:
        if hasattr(_open(x), "eqns"):
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


def _hash(*parts: Any) -> bytes:
    return hashlib.blake2b(_bytes(parts), digest_size=16).digest()


def _bytes(x: Any) -> bytes:
    """The same bytes for the same value. Functions and the like count with their type alone."""
    if isinstance(x, bytes | bool | int | float | complex | str | np.dtype | type | None):
        return repr(x).encode()
    if isinstance(x, tuple | list):
        return b"(" + b",".join(map(_bytes, x)) + b")"
    if isinstance(x, dict):
        return _bytes([(key, x[key]) for key in sorted(x, key=str)])
    if not (hasattr(x, "dtype") and hasattr(x, "shape")):
        return type(x).__name__.encode()
    try:
        return repr((x.shape, x.dtype)).encode() + np.asarray(raw(x)).tobytes()
    except Exception:  # an abstract value or a reference
        return repr((x.shape, x.dtype)).encode()


def users_line(eqn: Any) -> str:
    """The innermost line of the user's own where an operation stands, such as `env.py:57`."""
    stack = list(source_info_util.user_frames(eqn.source_info.traceback))
    own = [frame for frame in stack if not frame.file_name.startswith((*LIBRARIES, KIT))]
    places = [f"{Path(x.file_name).name}:{x.start_line}" for x in own or stack]
    return next(iter(places), "an unknown line")


def evaluate(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """The results of an operation."""
    bound = eqn.primitive.get_bind_params(eqn.params)  # JAX 0.9 gives a pair
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    results = eqn.primitive.bind(*functions, *operands, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def checked(closed: Any) -> Callable[..., tuple[list[Any], dict[str, Any]]]:
    """`closed` as a function that also tells which array reads were out of range.

    JAX clamps such an index. Reads inside loops and branches are not looked at, nor are
    `mode="fill"` and `mode="clip"`, where it is meant.

    Returns:
      A function of the flat inputs. It gives the flat outputs and, for each source line with such
      reads, a () bool.
    """

    def run(*args: Any) -> tuple[list[Any], dict[str, Any]]:
        outside: dict[str, Any] = {}

        def do(eqn: Any, operands: list[Any]) -> list[Any]:
            if (wrong := _outside(eqn, operands)) is not None:
                line = users_line(eqn)
                outside[line] = wrong | outside.get(line, False)
            return evaluate(eqn, operands)

        return interpret(closed, args, do), outside

    return run


LATER = -1  # in place of an input: what has been through a product of it


def entering_products(closed: Any, args: Sequence[Any]) -> dict[int, Any]:
    """The largest absolute values that first enter a matrix product or a convolution, by input."""
    largest: dict[int, Any] = {}

    def do(eqn: Any, operands: list[tuple[Any, set[int]]]) -> list[tuple[Any, set[int]]]:
        after = set[int]().union(*(inputs for _, inputs in operands))
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            for x, inputs in operands:
                for i in inputs if LATER not in inputs else ():
                    largest[i] = jnp.maximum(largest.get(i, 0.0), jnp.max(jnp.abs(x)))
            after = {LATER} if after else after
        return [(x, after) for x in evaluate(eqn, [x for x, _ in operands])]

    inputs = [(x, {i}) for i, x in enumerate(args)]
    interpret(closed, inputs, do, lambda x: (x, set[int]()))
    return largest


def _outside(eqn: Any, operands: list[Any]) -> Any | None:
    """Whether a read is out of range; None for other operations and constant indices."""
    name, params, start = eqn.primitive.name, eqn.params, operands[1:]
    meant = name == "gather" and params["mode"] != jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
    if name not in ("dynamic_slice", "gather") or meant:
        return None
    if not any(isinstance(x, jax.core.Tracer) for x in start):
        return None
    last = np.array(eqn.invars[0].aval.shape) - params["slice_sizes"]
    if name == "gather":
        last, start = last[list(params["dimension_numbers"].start_index_map)], start[0]
    first = jnp.asarray(start, jnp.int32)
    return jnp.any((first < 0) | (first > last))


def tree_difference(before: Any, after: Any) -> tuple[str, str, str] | None:
    """Where two trees with equal paths differ in type or in static fields: path, before, after."""
    errors = equality_errors_pytreedef(jax.tree.structure(before), jax.tree.structure(after))
    for path, *kinds, _ in errors:
        old, new = (re.sub(r"<class '(?:.*\.)?(\w+)'>", r"\1", kind) for kind in kinds)
        return jax.tree_util.keystr(path).removeprefix("."), old, new
    return None


def leaked(function: Callable[..., Any], *args: Any) -> str | None:
    """What holds a traced value after `function` was traced; None if nothing does."""
    holders = _holders(function, args)
    if holders and all(by_jax for _, by_jax in holders):
        # JAX's own caches hold traced values too, or hide who else does.
        jax.clear_caches()
        holders = _holders(function, args)
    return next((name for name, by_jax in holders if not by_jax), None)


def _holders(function: Callable[..., Any], args: Sequence[Any]) -> list[tuple[str, bool]]:
    """The holder of each leaked value that says most, and whether JAX itself is one of them."""
    try:
        with jax.checking_leaks():
            jax.eval_shape(function, *args)
    except Exception as error:
        if not str(error).startswith("Leaked "):
            return []  # the function's own error, which another rule reports
        found = []
        # Chains of "<A> is referred to by B", each from a traced value outwards.
        for chain in str(error).split("\n\n")[1:]:
            holders = re.findall(r"is referred to by (.+)", chain)
            holders = [re.sub(r"<(\w+) \d+>", r"a \1", holder) for holder in holders]
            named = [holder for holder in holders if not re.match("a |threading", holder)]
            if holders:
                by_jax = any(holder.startswith("jax.") for holder in holders)
                found.append((next(iter(named or holders)), by_jax))
        return found
    return []
