"""What to write instead of Python that needs the number of a traced value.

`TABLE` has the kinds of errors and the patterns of code that raise them. JAX raises the error; the
code that did so is read from the user's source.
"""

import ast
import linecache
import re
from collections.abc import Callable
from itertools import takewhile
from traceback import FrameSummary
from typing import Any

import jax

from ..errors import Failure, text_of
from .rewrite import Row, applied, matched, parsed, rewritten, rows, with_jnp

Nodes = list[ast.AST]  # the code that a line is about, from the inside out, up to its statement


def fix_of(fail: Failure) -> str:
    """Code, or a sentence, that repairs what failed."""
    text, frame = text_of(fail.error), fail.frames[-1] if fail.frames else None
    nodes = _nodes_at(frame) if frame else []
    for error, says, fixes in TABLE:
        match = isinstance(fail.error, error) and re.search(says, text)
        for fix in fixes if match and nodes else ():
            if found := fix(nodes) if callable(fix) else _first(fix, nodes):
                return found
    for error, says, sentence in SENTENCES:
        if isinstance(fail.error, error) and (match := re.search(says, text)):
            return match.expand(sentence)
    line = frame.line if frame else ""
    return f"correct {fail.where}" + (f": {line}" if line else "")


def _nodes_at(frame: FrameSummary) -> Nodes:
    try:
        tree = ast.parse("".join(linecache.getlines(frame.filename)))
    except (SyntaxError, ValueError):
        return []
    begin = (frame.lineno, frame.colno or 0)
    end = (frame.end_lineno or frame.lineno, frame.end_colno or 0)

    def within(node: Any) -> Nodes:
        child: Any
        for child in ast.iter_child_nodes(node):
            placed = hasattr(child, "lineno")
            if placed and not (
                (child.lineno, child.col_offset) <= begin
                and end <= (child.end_lineno, child.end_col_offset)
            ):
                continue
            inner = within(child)
            if inner or placed:
                return [*inner, child]
        return []

    found = within(tree)
    last = next((i for i, node in enumerate(found) if isinstance(node, ast.stmt)), -1)
    return found[: last + 1]


def _first(row: Row, nodes: Nodes) -> str | None:
    return next((fix for node in nodes if (fix := applied(row, node))), None)


def innermost(nodes: Nodes) -> str | None:
    """The code that raised the error, with functions of jnp."""
    return rewritten(nodes[0]) if isinstance(nodes[0], ast.expr) else None


# What branches on a traced value, and loops over one.
IF_ELSE: Row = ("if C: X = A\nelse: X = B", "X = jnp.where(C, A, B)  # instead of `if`")
STATEMENTS = rows("""
if C: X = A -> X = jnp.where(C, A, X)  # instead of `if`
while C: X = A -> X = jax.lax.while_loop(lambda X: C, lambda X: A, X)  # instead of `while`
for I in range(N): X = A -> X = jax.lax.fori_loop(0, N, lambda I, X: A, X)  # instead of `for`
for I in range(B, N): X = A -> X = jax.lax.fori_loop(B, N, lambda I, X: A, X)  # instead of `for`
""")
IN_WORDS: dict[type, str] = {
    ast.Assert: "remove `{code}`: a traced value has no number yet; assert in a test instead",
    ast.While: "x = jax.lax.while_loop(lambda x: condition, body, x)  # x: a tuple of all that the "
    "loop changes, which body takes and returns",
    ast.For: "x = jax.lax.fori_loop(0, n, body, x)  # body(i, x): x is a tuple of all that the "
    "loop changes",
    ast.Match: "jax.lax.switch({subject}, [lambda: a, lambda: b])  # instead of `match`",
}
COMPREHENSION = "jnp.where(condition, x, 0)  # a mask: how many elements remain can't be traced"


def branch(nodes: Nodes) -> str | None:
    """The statement, or the outermost expression, that branches on a traced value."""
    if isinstance(nodes[-1], ast.If | ast.While | ast.Assert | ast.Match):
        return _statement(nodes[-1])
    if any(isinstance(x, ast.comprehension) for x in nodes):
        return COMPREHENSION
    kinds = (ast.BoolOp, ast.UnaryOp, ast.IfExp, ast.Compare)
    return innermost([[nodes[0], *takewhile(lambda x: isinstance(x, kinds), nodes[1:])][-1]])


def loop(nodes: Nodes) -> str | None:
    """A loop whose length is traced."""
    if matched("range(...)", nodes[0]) is None:
        return None
    return _statement(nodes[-1]) if isinstance(nodes[-1], ast.For) else IN_WORDS[ast.For]


def _statement(node: Any) -> str:
    if found := next((x for row in (IF_ELSE, *STATEMENTS) if (x := applied(row, node))), None):
        return found
    if not isinstance(node, ast.If):
        subject = ast.unparse(getattr(node, "subject", node))
        return IN_WORDS[type(node)].format(code=ast.unparse(node), subject=subject)
    test = ast.unparse(with_jnp(node.test))
    if isinstance(node.body[0], ast.Return):
        return (
            f"jax.tree.map(lambda a, b: jnp.where({test}, a, b), a, b)  # instead of `if`: a is "
            "what is returned where it holds, b what is returned elsewhere"
        )
    assigned = [matched("X = A", x) for x in (*node.body, *node.orelse)]
    names = dict.fromkeys(ast.unparse(x["X"]) for x in assigned if x)
    which = ", ".join(names) or "what it changes"
    return f"jnp.where({test}, a, b)  # instead of `if`, for each of {which}"


OPERATORS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide", "**": "power"}
BY_MASK: list[Row] = [
    *((f"A[M] = A[M] {sign} V", f"A = jnp.where(M, A {sign} V, A)") for sign in OPERATORS),
    ("A[M] = V", "A = jnp.where(M, V, A)"),
]
FIELD = rows("A.Y = V -> A = A.replace(Y=V)")
PUT = [*BY_MASK, *rows("A[K] = V -> A = {**A, K: V}\nA[I] = V -> A = A.at[I].set(V)"), *FIELD]
PUT_INTO_NUMPY = [*BY_MASK, *rows("A[I] = V -> A = jnp.asarray(A).at[I].set(V)")]


def assignment(rows: list[Row]) -> Callable[[Nodes], str | None]:
    """To elements of an array, or to a field of a frozen class."""

    def fix(nodes: Nodes) -> str | None:
        old = code = ast.unparse(nodes[-1])
        # Again for what it is in: `s.x[0] = y` becomes `s.x = s.x.at[0].set(y)`.
        while after := next((x for row in rows if (x := applied(row, parsed(code)))), None):
            code = after.split("  # ")[0]
        if code.startswith("self = "):
            return "keep it in the state: what is on self never changes"
        return f"{code}  # instead of {old}" if code != old else None

    return fix


AT: list[Row] = [
    ("A.at[M].set(V)", "jnp.where(M, V, A)"),
    *((f"A.at[M].{name}(V)", f"jnp.where(M, A {sign} V, A)") for sign, name in OPERATORS.items()),
]
CUT = rows("""
A[B:B + C] -> jax.lax.dynamic_slice_in_dim(A, B, C)
A[M] -> jnp.where(M, A, 0)  # a mask: its size is a constant
""")
MASKED = rows("""
len(A[M]) -> jnp.sum(M)
G.sum(A[M]) -> jnp.sum(A, where=M)
G.mean(A[M]) -> jnp.mean(A, where=M)
G.std(A[M]) -> jnp.std(A, where=M)
G.max(A[M]) -> jnp.max(A, where=M, initial=-jnp.inf)
G.min(A[M]) -> jnp.min(A, where=M, initial=jnp.inf)
A[B] -> jnp.where(B, A, 0)  # a mask: its size is a constant
""")
TABLES = rows("""
A[B:B + C] -> jax.lax.dynamic_slice_in_dim(jnp.asarray(A), B, C)
A[M] -> jnp.where(M, jnp.asarray(A), 0)  # a mask: its size is a constant
A[I] -> jnp.asarray(A)[I]
""")
RANDOM = rows("""
random.R(...) -> jax.random.{R}(key, ...)  # with a key split from the state's
np.random.R(...) -> jax.random.{R}(key, ...)  # with a key split from the state's
numpy.random.R(...) -> jax.random.{R}(key, ...)  # with a key split from the state's
""")
SIZED = rows("""
A[int(B)] -> jnp.asarray(A)[B]
len(jnp.nonzero(A)[0]) -> jnp.count_nonzero(A)
jnp.nonzero(A) -> jnp.nonzero(A, size=jnp.size(A))  # a constant size
jnp.flatnonzero(A) -> jnp.flatnonzero(A, size=jnp.size(A))  # a constant size
jnp.argwhere(A) -> jnp.argwhere(A, size=jnp.size(A))  # a constant size
jnp.where(A) -> jnp.where(A, size=jnp.size(A))  # a constant size
jnp.unique(A) -> jnp.unique(A, size=jnp.size(A))  # a constant size
jnp.repeat(A, B) -> jnp.repeat(A, B, total_repeat_length=N)  # a constant size N
""")
CONSTANT = rows(
    "G.X(A, ...) -> G.X(N, ...)  # a constant size N; jnp.arange(N) < n masks what is used"
)
PRINT = "leave it out, or use jax.debug.print('{}', x) while you look for a mistake"
PERCENT: Row = ("A % B", PRINT.replace(" x)", " {B})"))

BOOL = jax.errors.TracerBoolConversionError
ARRAY, INDEX = jax.errors.TracerArrayConversionError, jax.errors.TracerIntegerConversionError
MASK, NUMBER = jax.errors.NonConcreteBooleanIndexError, jax.errors.ConcretizationTypeError
HASH = r"unhashable type: '\w*(Tracer|ArrayImpl)"
FORMAT = r"format string passed to \w*(Tracer|ArrayImpl)"

# The error, what its message says, and what repairs it: the first that fits the code.
TABLE: list[tuple[Any, str, list[Any]]] = [
    (BOOL, "", [branch]),
    (MASK, "", [assignment(BY_MASK), *AT, *MASKED]),
    (IndexError, "static", [*AT, *CUT]),
    (INDEX, "", [loop, assignment(PUT_INTO_NUMPY), *TABLES]),
    (ARRAY, "", [*RANDOM, innermost, assignment(PUT_INTO_NUMPY), *TABLES]),
    (NUMBER, "", [*RANDOM, *SIZED, innermost, *CONSTANT, PERCENT]),
    (TypeError, "Shapes must be 1D", CONSTANT),
    (TypeError, "immutable", [assignment(PUT)]),
    (
        TypeError,
        HASH,
        rows("""
A[B] -> jnp.asarray(list(A.values()))[B]  # if its keys are 0, 1, 2, ...
A in B -> jnp.isin(A, jnp.asarray(list(B)))
"""),
    ),
    (TypeError, "len.. of unsized", rows("len(A) -> jnp.size(A)  # one number has no length")),
    (TypeError, "ndarray or scalar arguments", rows("G.X(A, ...) -> G.X(jnp.asarray(A), ...)")),
    (TypeError, "ndexer must have integer", rows("A[I] -> A[jnp.int32(I)]")),
    (AttributeError, "cannot assign to field", [assignment(FIELD)]),
    (AttributeError, "can't set attribute", [assignment(rows("A.Y = V -> A = A._replace(Y=V)"))]),
    (
        AttributeError,
        "has no attribute '?(item|tolist|numpy)",
        rows("A.item() -> A\nA.tolist() -> A\nA.numpy() -> A"),
    ),
    (KeyError, "", rows("S[K] -> add {K} to {S} in reset too")),
]

EXTRA = "install the extra {0}: uv sync --extra {0}, or pip install -e '.[{0}]'"
# The same where the code can't be read, or says no more: \1 is from the message.
SENTENCES: list[tuple[Any, str, str]] = [
    (BOOL, "", "jnp.where(condition, a, b)  # instead of what branches on a traced value"),
    (ARRAY, "", "use a function of jnp or jax.scipy: NumPy can't take traced values"),
    (INDEX, "", "jnp.asarray(table)[index]  # an array, as index is traced"),
    (NUMBER, "", "compute with jnp, in arrays: a traced value has no number yet"),
    (TypeError, HASH, "jnp.asarray(values)[index]  # a traced value is no key of a dict or set"),
    (TypeError, FORMAT, PRINT),
    (
        jax.errors.UnexpectedTracerError,
        "",
        "return it in the state: a traced value can't be used outside of the call that made it",
    ),
    (
        TypeError,
        "(branches|carry input and carry output|true_fun and false_fun)",
        "return the same shapes and dtypes from each branch, and from the body of a loop what it "
        "is given, such as jnp.float32(...) throughout",
    ),
    (
        (TypeError, ValueError),
        "(?i)(incompatible shapes|contracting dimensions|cannot reshape|must have the same shape)",
        "make the shapes agree: x.reshape(...), an index, or the constants that they come from",
    ),
    (TypeError, "(0-d array|object is not iterable)", "jnp.atleast_1d(x)  # x is one number"),
    (AttributeError, "Tracer has no attribute '?(append|extend)", "jnp.append(x, y)"),
    (
        AttributeError,
        r"type object '(\w+)' has no attribute 'action_space'",
        r"write action_space = ... in the body of the class \1, and not in its __init__; for an "
        r"environment of Brax's, make_network_factory(Continuous(\1().action_size))",
    ),
    (ImportError, r"name '\w+' from '[\w.]+\.env'", "rename it in __init__.py and config.py too"),
    (ModuleNotFoundError, "named 'mujoco_playground", EXTRA.format("playground")),
    (ModuleNotFoundError, "named 'gymnasium", EXTRA.format("gym")),
    (ModuleNotFoundError, "No module named '([^'.]+)", r"install \1, and add it to pyproject.toml"),
    (NameError, "name '(.+?)' is not defined", r"define or import \1"),
    (FileNotFoundError, r"'([^/\\]*?)'", r"name it from the source: Path(__file__).parent / '\1'"),
    (FileNotFoundError, "", "put the file there"),
    (
        TypeError,
        r"__init__\(\) missing .*?argument.*?: (.+)",
        r"give \1 a default, or name it in config.py: functools.partial(Environment, ...)",
    ),
]
