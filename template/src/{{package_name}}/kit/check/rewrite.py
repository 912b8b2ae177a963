"""Python code rewritten by patterns.

In a pattern a single capital stands for any expression, but for some in `ONLY`; in the code that
replaces it, for the same one. `...` stands for any further arguments of a call.
"""

import ast
import functools
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import jax.numpy as jnp

Row = tuple[str, str]  # a pattern, and what to write instead, with a comment or not
Found = dict[str, Any]  # what the capitals of a pattern stand for
RENAMED = {"fabs": "abs", "pow": "power", "atan2": "arctan2"}
RENAMED_RANDOM = {"random": "uniform", "rand": "uniform", "randn": "normal", "gauss": "normal"}
RENAMED_RANDOM |= {"integers": "randint", "shuffle": "permutation", "standard_normal": "normal"}
STATE = r"\.(info|metrics|obs|pipeline_state)\b"
ONLY: dict[str, Callable[[Any], bool]] = {
    "K": lambda node: isinstance(getattr(node, "value", None), str),  # a key of a dict
    "F": lambda name: hasattr(jnp, RENAMED.get(name, name)),  # the name of a function of jnp
    "L": lambda node: isinstance(node, ast.List | ast.Tuple),
    "S": lambda node: bool(re.search(STATE, ast.unparse(node))),  # a dict of the state
}


def applied(row: Row, node: ast.AST) -> str | None:
    """The code, or the text with `{A}` filled in, that replaces a node; None if it does not fit."""
    pattern, new = row
    if (found := matched(pattern, node)) is None:
        return None
    if re.search(r"{[A-Z]}", new):
        texts = {name: _text(x) for name, x in found.items() if name != "..."}
        texts |= {"R": RENAMED_RANDOM.get(name := texts.get("R", ""), name)}
        return re.sub(r"{([A-Z])}", lambda match: texts[match[1]], new)
    code, _, comment = new.partition("  # ")
    return f"{ast.unparse(_filled(code, found))}  # {comment or f'instead of {ast.unparse(node)}'}"


def matched(pattern: str, node: ast.AST) -> Found | None:
    found: Found = {}
    return found if _fits(parsed(pattern), _in_twos(node), found) else None


@functools.cache
def parsed(code: str) -> Any:
    (statement,) = ast.parse(code).body
    return statement.value if isinstance(statement, ast.Expr) else statement


def _fits(pattern: Any, node: Any, found: Found) -> bool:
    name = pattern.id if isinstance(pattern, ast.Name) else pattern
    if isinstance(name, str) and len(name) == 1 and name.isupper():
        if not ONLY.get(name, lambda node: True)(node):
            return False
        before = found.setdefault(name, node)
        return before is node or _text(before) == _text(node)
    if type(pattern) is not type(node):
        return False
    if isinstance(pattern, list):
        return len(pattern) == len(node) and all(
            _fits(x, y, found) for x, y in zip(pattern, node, strict=True)
        )
    if isinstance(pattern, ast.Subscript) and _text(pattern.slice) == "M":
        mask = mask_of(node)
        return mask is not None and all(
            _fits(x, y, found) for x, y in ((pattern.slice, mask), (pattern.value, node.value))
        )
    if isinstance(pattern, ast.Call) and pattern.args and _text(pattern.args[-1]) == "...":
        count = len(pattern.args) - 1
        found["..."] = node.args[count:], node.keywords
        return _fits(pattern.func, node.func, found) and _fits(
            pattern.args[:-1], node.args[:count], found
        )
    if isinstance(pattern, ast.AST):
        fields = [x for x in pattern._fields if x not in ("ctx", "kind", "type_comment")]
        return all(_fits(getattr(pattern, x), _in_twos(getattr(node, x)), found) for x in fields)
    return bool(pattern == node)


def _text(x: Any) -> str:
    return ast.unparse(x) if isinstance(x, ast.AST) else str(x)


def mask_of(node: ast.Subscript) -> Any | None:
    """The mask that an index is, or a slice with bounds that are no numbers; else None."""
    index, base = node.slice, ast.unparse(node.value).removesuffix(".at")
    if isinstance(index, ast.Slice):
        bounds = [(x, sign) for x, sign in ((index.lower, ">="), (index.upper, "<")) if x]
        if not any(isinstance(x, ast.Name) for bound, _ in bounds for x in ast.walk(bound)):
            return None
        tests = [f"jnp.arange(len({base})) {sign} {ast.unparse(x)}" for x, sign in bounds]
        return parsed(tests[0] if len(tests) == 1 else f"({tests[0]}) & ({tests[1]})")
    inverted = isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.Invert)
    joined = isinstance(index, ast.BinOp) and isinstance(index.op, ast.BitAnd | ast.BitOr)
    return index if inverted or joined or isinstance(index, ast.Compare) else None


class _Fill(ast.NodeTransformer):
    """Puts in what the capitals of a pattern stand for."""

    def __init__(self, found: Found) -> None:
        self.found = found

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Name):
            found = deepcopy(self.found.get(node.id, node))
            is_generator = isinstance(found, ast.GeneratorExp)
            return ast.ListComp(found.elt, found.generators) if is_generator else found
        if isinstance(node, ast.Call) and node.args and _text(node.args[-1]) == "...":
            node.args[-1:], node.keywords = deepcopy(self.found["..."])
        for name, x in ast.iter_fields(node):
            if isinstance(x, str) and x in self.found:
                text = _text(self.found[x])
                setattr(node, name, RENAMED.get(text, text) if x == "F" else text)
        return self.generic_visit(node)


def _filled(code: str, found: Found) -> Any:
    return with_jnp(_Fill(found).visit(deepcopy(parsed(code))))


def _in_twos(node: Any) -> Any:
    """`a and b and c` as `(a and b) and c`, the same of comparisons and max; `x += 1` in full."""
    if isinstance(node, ast.BoolOp) and len(node.values) > 2:
        return ast.BoolOp(node.op, [ast.BoolOp(node.op, node.values[:-1]), node.values[-1]])
    if isinstance(node, ast.Compare) and len(node.ops) > 1:
        first = ast.Compare(node.left, node.ops[:1], node.comparators[:1])
        rest = ast.Compare(node.comparators[0], node.ops[1:], node.comparators[1:])
        return ast.BinOp(first, ast.BitAnd(), rest)
    if isinstance(node, ast.Call) and _text(node.func) in ("max", "min") and len(node.args) > 2:
        return ast.Call(node.func, [ast.Call(node.func, node.args[:-1], []), node.args[-1]], [])
    if isinstance(node, ast.AugAssign):
        value = ast.BinOp(node.target, node.op, node.value)
        return ast.copy_location(ast.Assign([node.target], value), node)
    if isinstance(node, list):
        return [_in_twos(x) for x in node]
    return node


def rows(text: str) -> list[Row]:
    """A row for each line `pattern -> code`."""
    return [(x, y) for x, y in (line.split(" -> ") for line in text.strip().splitlines())]


# Expressions that need numbers, and functions that take traced values.
EXPRESSIONS = rows("""
A and B -> jnp.logical_and(A, B)
A or B -> jnp.logical_or(A, B)
not A -> jnp.logical_not(A)
A if C else B -> jnp.where(C, A, B)
A in L -> jnp.isin(A, jnp.asarray(L))
A not in L -> ~jnp.isin(A, jnp.asarray(L))
A in B -> jnp.isin(A, jnp.asarray(list(B)))
A not in B -> ~jnp.isin(A, jnp.asarray(list(B)))
max(A, B) -> jnp.maximum(A, B)
min(A, B) -> jnp.minimum(A, B)
max(A) -> jnp.max(jnp.asarray(A))
min(A) -> jnp.min(jnp.asarray(A))
any(A) -> jnp.any(jnp.asarray(A))
all(A) -> jnp.all(jnp.asarray(A))
sorted(A) -> jnp.sort(jnp.asarray(A))
A.index(B) -> jnp.argmax(jnp.asarray(A) == B)
float(A) -> jnp.float32(A)
int(A) -> jnp.int32(A)
bool(A) -> jnp.bool_(A)
A.item() -> A
A.tolist() -> A
A.numpy() -> A
math.floor(A) -> jnp.int32(jnp.floor(A))
math.ceil(A) -> jnp.int32(jnp.ceil(A))
math.trunc(A) -> jnp.int32(jnp.trunc(A))
math.F(...) -> jnp.F(...)
np.F(...) -> jnp.F(...)
numpy.F(...) -> jnp.F(...)
""")


class _WithJnp(ast.NodeTransformer):
    def visit(self, node: ast.AST) -> Any:
        node = self.generic_visit(_in_twos(node))
        for pattern, new in EXPRESSIONS:
            if (found := matched(pattern, node)) is not None:
                return _Fill(found).visit(deepcopy(parsed(new)))
        return node


def with_jnp(node: ast.AST) -> Any:
    """A node whose expressions take traced values."""
    return _WithJnp().visit(deepcopy(node))


def rewritten(node: ast.AST) -> str | None:
    """An expression that takes traced values, if that is another one."""
    new, old = ast.unparse(with_jnp(node)), ast.unparse(node)
    return f"{new}  # instead of {old}" if new != old else None
