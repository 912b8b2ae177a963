"""What is known of the arrays in a program, and what each operation makes of it."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

IDENTITY = {"stop_gradient", "optimization_barrier", "copy", "name"}
# They keep all elements in order where they keep their number, so `x[None][0]` is `x`.
RESHAPE = {"reshape", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "dynamic_slice"}
# Primitives whose results hold no other values than their first operand.
SAME_VALUES = {*IDENTITY, *RESHAPE, "transpose", "rev", "reduce_max", "reduce_min"}
SAME_VALUES |= {"convert_element_type"}
# Primitives whose results hold elements of their operands, in other places.
MOVES = {*IDENTITY, *RESHAPE, "transpose", "rev", "gather", "concatenate", "select_n"}
MOVES |= {"dynamic_update_slice", "scatter", "pad", "split", "stack", "unstack"}
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "mul": operator.mul,
    "add": operator.add,
    "sub": operator.sub,
    "max": max,
    "min": min,
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
}
KEY_DATA = -1
FEW = 8  # a set of possible values with more members is not kept


@dataclass(frozen=True)
class Value:
    """What is known of one array in a program.

    Attributes:
      digest: equal for two arrays that are computed in the same way from the same inputs.
      inputs: indices of the function's inputs that it depends on.
      possible: all values that its elements can have, where they are known and few.
      copies: inputs whose elements it holds, only rearranged; KEY_DATA if it holds what makes up
        random keys.
      slopes: for each input that it depends on, by how much all of its elements grow when all of
        the input's grow by 1; None where that is not always the same.
    """

    digest: bytes
    inputs: frozenset[int] = frozenset()
    possible: frozenset[float] | None = None
    copies: frozenset[int] = frozenset()
    slopes: Mapping[int, float | None] = field(default_factory=dict)


def unknown(operands: Iterable[Value]) -> dict[int, float | None]:
    """The slopes of what depends on these in an unknown way."""
    return {i: None for x in operands for i in x.slopes}


def linear(
    eqn: Any, operands: list[Value], results: list[tuple[list[Value], list[Value]]]
) -> list[tuple[frozenset[int], Mapping[int, float | None]]]:
    """`copies` and `slopes` of each result; `results`: what goes into and out of each body."""
    name, count = eqn.primitive.name, len(eqn.outvars)
    if name in ("scan", "while", "cond"):
        outs = [after for _, after in results if len(after) == count]
        unsteady: set[int] = set()  # what changes from one round of a loop to the next
        if name != "cond":
            values, outs = results[-1][0], [results[-1][1]]
            first = len(values) - count if name == "while" else eqn.params["num_consts"]
            carried = count if name == "while" else eqn.params["num_carry"]
            for x, y in zip(values[first:][:carried], outs[0], strict=False):
                every = {*x.slopes, *y.slopes}
                unsteady |= {i for i in every if x.slopes.get(i, 0.0) != y.slopes.get(i, 0.0)}
        found: list[tuple[frozenset[int], Mapping[int, float | None]]] = []
        for same in zip(*outs, strict=True):
            ways = {i: [x.slopes.get(i, 0.0) for x in same] for x in same for i in x.slopes}
            slopes = {i: x[0] if len(set(x)) == 1 else None for i, x in ways.items()}
            slopes |= dict.fromkeys(unsteady)
            # Which branch is taken, or how often a loop runs.
            chosen = operands[:1] if name == "cond" else results[0][1] if name == "while" else []
            found.append(
                (frozenset[int]().union(*(x.copies for x in same)), slopes | unknown(chosen))
            )
        return found
    copies = frozenset[int]().union(*(x.copies for x in operands)) if name in MOVES else frozenset()
    if name == "random_unwrap":
        copies = frozenset([KEY_DATA])
    slopes = {i: _slope(eqn, operands, i) for i in unknown(operands)} if count else {}
    return [(copies, slopes)] * count


def _slope(eqn: Any, operands: list[Value], index: int) -> float | None:
    """The slope of an operation's results in an input; None if it is not always the same."""
    name, slopes = eqn.primitive.name, [x.slopes.get(index, 0.0) for x in operands]
    if name == "select_n" and len(which := operands[0].possible or ()) == 1:
        return slopes[1 + int(*which)]
    known = [x for x in slopes if x is not None]
    if len(known) < len(slopes) or eqn.outvars[0].aval.dtype == jnp.bool_:
        return None
    first, *rest = known
    only = not any(rest)  # no other operand moves
    if name in ("add", "add_any", "sub"):
        return first - rest[0] if name == "sub" else first + rest[0]
    if name == "neg":
        return -first
    if name in ("mul", "div"):
        factors = [x.possible or () for x in operands]
        if only and len(factors[1]) == 1 and (name == "mul" or 0.0 not in factors[1]):
            (factor,) = factors[1]
            return first * factor if name == "mul" else first / factor
        if name == "mul" and first == 0.0 and len(factors[0]) == 1:
            return rest[0] * next(iter(factors[0]))
        return None
    if name in ("select_n", "concatenate", "stack"):
        cases = known[name == "select_n" :]
        return cases[0] if len(set(cases)) == 1 and (name != "select_n" or not first) else None
    if name == "reduce_sum":
        return first * eqn.invars[0].aval.size / max(1, eqn.outvars[0].aval.size)
    kept = name in SAME_VALUES or name in ("gather", "scatter-add", "split", "unstack")
    return first if kept and only else None


def possible_values(name: str, aval: Any, operands: Sequence[Value]) -> frozenset[float] | None:
    """All values that the elements of a result can have, where they are known and few."""
    sets = [x.possible for x in operands]
    known = [s for s in sets if s is not None]
    found: frozenset[float] | None = None
    if name in SAME_VALUES:
        found = sets[0]
    elif name == "select_n" and None not in sets[1:]:
        found = frozenset[float]().union(*(s for s in sets[1:] if s is not None))
    elif name == "not" and known and known[0] <= {0.0, 1.0}:
        found = frozenset(1.0 - x for x in known[0])
    elif name in ARITHMETIC and len(known) == 2:
        found = frozenset(float(ARITHMETIC[name](x, y)) for x in known[0] for y in known[1])
    if getattr(aval, "dtype", None) == jnp.bool_:
        return found if found is not None and found <= {0.0, 1.0} else frozenset({0.0, 1.0})
    return found if found is not None and len(found) <= FEW else None
