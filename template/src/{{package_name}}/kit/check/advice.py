"""What to write instead of Python that needs the number of a traced value.

`TABLE` has a row for each kind of error and piece of Python. JAX raises the error; which piece of
Python it was is read from the user's source.
"""

import ast
import linecache
import re
from copy import deepcopy
from traceback import FrameSummary
from typing import Any

import jax

from ..errors import Failure, text_of
from .rewrite import Above, Fix, branch, code, expression, loop, rewritten


def fix_of(fail: Failure) -> str:
    """Code, or a sentence, that repairs what failed."""
    text, frame = text_of(fail.error), fail.frames[-1] if fail.frames else None
    rows = [row for row in TABLE if isinstance(fail.error, row[0]) and re.search(row[1], text)]
    pieces = _pieces(frame) if frame else []
    for i, piece in enumerate(pieces):
        for _, _, kind, fix in rows:
            if isinstance(piece, kind) and (found := fix(piece, pieces[i + 1 :])):
                return found
    for error, says, fix_text in WITHOUT_CODE:
        if isinstance(fail.error, error) and (match := re.search(says, text)):
            return match.expand(fix_text)
    line = frame.line if frame else ""
    return f"correct {fail.where}" + (f": {line}" if line else "")


def _pieces(frame: FrameSummary) -> Above:
    """The code that a line of a traceback is about, from the inside out, up to its statement."""
    try:
        tree = ast.parse("".join(linecache.getlines(frame.filename)))
    except (SyntaxError, ValueError):
        return []
    begin = (frame.lineno, frame.colno or 0)
    end = (frame.end_lineno or frame.lineno, frame.end_colno or 0)

    def within(node: Any) -> Above:
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


# INDEXES AND SIZES


def _index(node: ast.Subscript) -> str:
    """What stands in the brackets."""
    text = ast.unparse(node.slice)
    many = isinstance(node.slice, ast.Tuple) and len(node.slice.elts) > 1
    return text[1:-1] if many and text.startswith("(") else text


def table(node: ast.Subscript, above: Above) -> str:
    """A list, a tuple or a NumPy array that is indexed by a traced number."""
    base, index = ast.unparse(node.value), _index(node)
    if isinstance(node.ctx, ast.Store):
        return _put(node, above, f"jnp.asarray({base})")
    if isinstance(node.slice, ast.Slice):
        return _cut(node.slice, f"jnp.asarray({base})")
    return f"jnp.asarray({base})[{index}]  # instead of {ast.unparse(node)}"


def index(node: ast.Call, above: Above) -> str | None:
    """int(t) as an index."""
    outside: Any = above[0]
    indexes = isinstance(outside, ast.Subscript) and node is outside.slice
    if not indexes or ast.unparse(node.func) != "int":
        return None
    base, i = ast.unparse(outside.value), ast.unparse(node.args[0])
    return f"jnp.asarray({base})[{i}]  # instead of {ast.unparse(outside)}"


def cut(node: ast.Subscript, above: Above) -> str:
    """A slice whose bounds are traced."""
    base = ast.unparse(node.value)
    if isinstance(node.slice, ast.Slice):
        return _cut(node.slice, base)
    return f"jax.lax.dynamic_slice({base}, starts, sizes)  # sizes that are constants"


def _cut(index: ast.Slice, base: str) -> str:
    lower = ast.unparse(index.lower) if index.lower else None
    plus = index.upper if isinstance(index.upper, ast.BinOp) else None
    if lower and plus and isinstance(plus.op, ast.Add) and ast.unparse(plus.left) == lower:
        return f"jax.lax.dynamic_slice_in_dim({base}, {lower}, {ast.unparse(plus.right)})"
    return f"jnp.where({_inside(index, base)}, {base}, 0)  # a mask: its size is a constant"


def _inside(index: ast.Slice, base: str) -> str:
    """The mask of a slice."""
    count = f"jnp.arange(len({base}))"
    bounds = ((index.lower, ">="), (index.upper, "<"))
    found = [f"{count} {sign} {ast.unparse(x)}" for x, sign in bounds if x]
    return found[0] if len(found) == 1 else f"({found[0]}) & ({found[1]})"


def masked(node: ast.Subscript, above: Above) -> str:
    """A selection by a traced mask."""
    base, mask = ast.unparse(node.value), _index(node)
    if isinstance(above[-1], ast.AugAssign) and node is above[-1].target:
        return put(node, above)
    call = above[0] if isinstance(above[0], ast.Call) and above[0].args == [node] else None
    name = ast.unparse(call.func).split(".")[-1] if call else ""
    if name == "len":
        return f"jnp.sum({mask})  # instead of {ast.unparse(above[0])}"
    if name in ("sum", "mean", "std", "var", "prod"):
        return f"jnp.{name}({base}, where={mask})"
    if name in ("max", "min"):
        initial = "-jnp.inf" if name == "max" else "jnp.inf"
        return f"jnp.{name}({base}, where={mask}, initial={initial})"
    return f"jnp.where({mask}, {base}, 0)  # a mask: its size is a constant"


OPERATIONS = {ast.Add: "add", ast.Mult: "multiply", ast.Div: "divide", ast.Pow: "power"}


def put(node: ast.Subscript, above: Above) -> str:
    """An assignment to an element of an array."""
    return _put(node, above, ast.unparse(node.value))


def _put(node: ast.Subscript, above: Above, base: str) -> str:
    statement: Any = above[-1]
    operation = statement.op if isinstance(statement, ast.AugAssign) else None
    value = getattr(statement, "value", None) or ast.Name("value")
    changed = _updated(base, node, operation, value)
    if isinstance(node.value, ast.Name):
        return f"{node.value.id} = {changed}"
    return f"x = {changed}  # and return x in state.replace(...)"


def _updated(base: str, element: ast.Subscript, operation: Any, value: ast.expr) -> str:
    """An array with a new value in some of its elements."""
    index = element.slice
    new = ast.unparse(ast.BinOp(element, operation, value) if operation else value)
    mask = ast.unparse(index) if _is_mask(index) else None
    if isinstance(index, ast.Slice) and not _is_constant(index):
        mask = _inside(index, base)
    if mask:
        new = f"{base} {new.removeprefix(ast.unparse(element))}" if operation else new
        return f"jnp.where({mask}, {new}, {base})"
    if operation and type(operation) in OPERATIONS:
        return f"{base}.at[{_index(element)}].{OPERATIONS[type(operation)]}({ast.unparse(value)})"
    return f"{base}.at[{_index(element)}].set({new})"


def _is_mask(index: ast.AST) -> bool:
    bits = isinstance(index, ast.BinOp) and isinstance(index.op, ast.BitAnd | ast.BitOr)
    inverted = isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.Invert)
    return bits or inverted or isinstance(index, ast.Compare)


def _is_constant(index: ast.Slice) -> bool:
    bounds = (index.lower, index.upper)
    return all(x is None or not any(isinstance(n, ast.Name) for n in ast.walk(x)) for x in bounds)


def at(node: ast.Call, above: Above) -> str | None:
    """`x.at[i].set(y)`, where i is a mask or a slice that is traced."""
    method: Any = node.func
    element = method.value if isinstance(method, ast.Attribute) else None
    if not isinstance(element, ast.Subscript) or not isinstance(element.value, ast.Attribute):
        return None
    base, mask = ast.unparse(element.value.value), ast.unparse(element.slice)
    if isinstance(element.slice, ast.Slice):
        mask = _inside(element.slice, base)
    value = ast.unparse(node.args[0])
    signs = {"set": "", "add": "+", "multiply": "*", "divide": "/", "power": "**"}
    if method.attr not in signs:
        return None
    sign = signs[method.attr]
    new = f"{base} {sign} {value}" if sign else value
    return f"jnp.where({mask}, {new}, {base})  # instead of {ast.unparse(node)}"


def key(node: ast.AST, above: Above) -> str | None:
    """A dict or a set that is asked for a traced value."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        base, index = ast.unparse(node.value), _index(node)
        return f"jnp.asarray(list({base}.values()))[{index}]  # if its keys are 0, 1, 2, ..."
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return branch(node, above)
    return (
        "jnp.asarray(values)[index]  # an array: a traced value is no key of a dict, set or cache"
    )


SIZED = ("nonzero", "where", "argwhere", "flatnonzero", "unique", "repeat", "union1d")


def sized(node: ast.Call, above: Above) -> str | None:
    """A function of jnp whose result has a size that depends on traced values."""
    name = ast.unparse(node.func).split(".")[-1]
    if name in SIZED:
        array = ast.unparse(node.args[0])
        count = next((x for x in above if isinstance(x, ast.Call)), None)
        if "nonzero" in name and count and ast.unparse(count.func) == "len":
            return f"jnp.count_nonzero({array})  # instead of {ast.unparse(count)}"
        size, value = "size", f"jnp.size({array})"
        if name == "repeat":
            size, value = "total_repeat_length", "N"
        new = deepcopy(node)
        new.keywords.append(ast.keyword(size, expression(value)))
        return f"{ast.unparse(new)}  # a constant size"
    if isinstance(node.func, ast.Attribute) and code(node) == ast.unparse(node):
        return f"{_with_constant(node)}  # a constant size N; jnp.arange(N) < n masks what is used"
    return rewritten(node, above)


def _with_constant(node: ast.Call) -> str:
    args = ", ".join("N" if i == 0 else ast.unparse(x) for i, x in enumerate(node.args))
    return f"{ast.unparse(node.func)}({args})"


# STATES AND TEXTS


def field(node: ast.Attribute, above: Above) -> str | None:
    """An assignment to a field of a frozen class."""
    statement: Any = above[-1]
    if not isinstance(node.ctx, ast.Store) or not hasattr(statement, "value"):
        return None
    value = ast.unparse(statement.value)
    if isinstance(statement, ast.AugAssign):
        value = ast.unparse(ast.BinOp(node, statement.op, statement.value))
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        value = f"{ast.unparse(inner.value)}.replace({inner.attr}={value})"
        inner = inner.value
    return f"{ast.unparse(inner)} = {value}"


def named_field(node: ast.Attribute, above: Above) -> str | None:
    """An assignment to a field of a named tuple."""
    found = field(node, above)
    return found and found.replace(".replace(", "._replace(")


def entry(node: ast.Subscript, above: Above) -> str | None:
    """A key that a dict of the state lacks."""
    if re.search(r"\.(info|metrics|obs|pipeline_state)\b", ast.unparse(node.value)):
        return f"add {ast.unparse(node.slice)} to {ast.unparse(node.value)} in reset too"
    return None


def text(node: ast.AST, above: Above) -> str:
    """A text that is made of a traced value."""
    whole: Any = [node, *(x for x in above if isinstance(x, ast.JoinedStr))][-1]
    words, values = "{}", ["x"]
    if isinstance(whole, ast.JoinedStr):
        words, values = "", []
        for part in whole.values:
            if isinstance(part, ast.Constant):
                words += str(part.value).replace("{", "{{").replace("}", "}}")
            elif isinstance(part, ast.FormattedValue):
                spec = ast.unparse(part.format_spec)[2:-1] if part.format_spec else ""
                words += "{:" + spec + "}" if spec else "{}"
                values.append(ast.unparse(part.value))
    elif isinstance(whole, ast.BinOp):
        values = [ast.unparse(whole.right)]
    elif isinstance(whole, ast.Call) and isinstance(whole.func, ast.Attribute):
        words = getattr(whole.func.value, "value", words)
        values = [ast.unparse(x) for x in whole.args]
    call = f"jax.debug.print({words!r}, {', '.join(values)})"
    return f"leave it out, or use {call} while you look for a mistake"


RANDOM = {"random": "uniform", "rand": "uniform", "randn": "normal", "gauss": "normal"}
RANDOM |= {"integers": "randint", "shuffle": "permutation", "standard_normal": "normal"}


def random(node: ast.Call, above: Above) -> str | None:
    """Random numbers of Python's or NumPy's from traced arguments."""
    found = re.fullmatch(r"(?:np\.random|numpy\.random|random)\.(\w+)", ast.unparse(node.func))
    if not found:
        return None
    name = RANDOM.get(found[1], found[1])
    return f"jax.random.{name}(key, ...)  # with a key split from the state's"


def wrapped(text: str) -> Fix:
    """The first argument, or the expression itself, put into a text."""

    def fix(node: Any, above: Above) -> str:
        return text.format(ast.unparse(node.args[0] if isinstance(node, ast.Call) else node))

    return fix


def listed(node: ast.Call, above: Above) -> str | None:
    """A Python list where jnp takes an array."""
    new = deepcopy(node)
    new.args[0] = expression("jnp.asarray({})", node.args[0])
    return ast.unparse(new)


def whole_index(node: ast.Subscript, above: Above) -> str:
    """A float as an index."""
    return f"{ast.unparse(node.value)}[jnp.int32({ast.unparse(node.slice)})]"


BOOL = jax.errors.TracerBoolConversionError
ARRAY, INDEX = jax.errors.TracerArrayConversionError, jax.errors.TracerIntegerConversionError
MASK, NUMBER = jax.errors.NonConcreteBooleanIndexError, jax.errors.ConcretizationTypeError
HASH = r"unhashable type: '\w*(Tracer|ArrayImpl)"
FORMAT = r"format string passed to \w*(Tracer|ArrayImpl)"

# The error, what its message says, the piece of Python that raises it, and the fix.
TABLE: list[tuple[Any, str, Any, Fix]] = [
    (BOOL, "", ast.AST, branch),
    (MASK, "", ast.Subscript, masked),
    (IndexError, "concrete|static", ast.Call, at),
    (IndexError, "static", ast.Subscript, cut),
    (INDEX, "", ast.Call, loop),
    (INDEX, "", ast.Subscript, table),
    (ARRAY, "", ast.Call, random),
    (ARRAY, "", ast.Call, rewritten),
    (ARRAY, "", ast.Subscript, table),
    (NUMBER, "", ast.Call, random),
    (NUMBER, "", ast.Call, index),
    (NUMBER, "", ast.Call, sized),
    (NUMBER, "", ast.BinOp, text),
    (TypeError, "Shapes must be 1D", ast.Call, sized),
    (TypeError, "immutable", ast.Subscript, put),
    (TypeError, HASH, (ast.Subscript, ast.Compare, ast.Call), key),
    (TypeError, FORMAT, (ast.JoinedStr, ast.FormattedValue, ast.Call), text),
    (TypeError, "len.. of unsized", ast.Call, wrapped("jnp.size({})  # one number has no length")),
    (TypeError, "requires ndarray or scalar arguments", ast.Call, listed),
    (TypeError, "ndexer must have integer", ast.Subscript, whole_index),
    (AttributeError, "cannot assign to field", ast.Attribute, field),
    (AttributeError, "can't set attribute", ast.Attribute, named_field),
    (AttributeError, "has no attribute '?(item|tolist|numpy)", ast.Call, rewritten),
    (KeyError, "", ast.Subscript, entry),
]

# The same where the code can't be read, or says no more: \1 is from the message.
WITHOUT_CODE: list[tuple[Any, str, str]] = [
    (BOOL, "", "jnp.where(condition, a, b)  # instead of what branches on a traced value"),
    (ARRAY, "", "use a function of jnp or jax.scipy: NumPy can't take traced values"),
    (INDEX, "", "jnp.asarray(table)[index]  # an array, as index is traced"),
    (NUMBER, "", "compute with jnp, in arrays: a traced value has no number yet"),
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
