"""Python that branches, loops or computes, written with functions that take traced values."""

import ast
import functools
import itertools
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import jax.numpy as jnp

Above = list[ast.AST]  # what a piece of code stands in, from the inside out, up to its statement
Fix = Callable[[Any, Above], str | None]

# EXPRESSIONS

MATH = {"fabs": "abs", "pow": "power", "atan2": "arctan2"}


def expression(text: str, *parts: ast.AST) -> Any:
    return ast.parse(text.format(*map(ast.unparse, parts)), mode="eval").body


def _pairwise(text: str, parts: list[Any]) -> Any:
    return functools.reduce(lambda x, y: expression(text, x, y), parts)


class _Jnp(ast.NodeTransformer):
    """Writes an expression with functions that take traced values."""

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        self.generic_visit(node)
        name = "and" if isinstance(node.op, ast.And) else "or"
        return _pairwise(f"jnp.logical_{name}({{}}, {{}})", node.values)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Not):
            return node
        return expression("jnp.logical_not({})", node.operand)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        self.generic_visit(node)
        return expression("jnp.where({}, {}, {})", node.test, node.body, node.orelse)

    def visit_Compare(self, node: ast.Compare) -> Any:
        self.generic_visit(node)
        terms = [node.left, *node.comparators]
        if len(node.ops) > 1:
            parts = zip(terms, node.ops, terms[1:], strict=False)
            pairs = [ast.Compare(left, [op], [right]) for left, op, right in parts]
            return _pairwise("({}) & ({})", [self.visit(pair) for pair in pairs])
        if not isinstance(node.ops[0], ast.In | ast.NotIn):
            return node
        listed = isinstance(terms[1], ast.List | ast.Tuple)
        text = "jnp.isin({}, jnp.asarray({}))" if listed else "jnp.isin({}, jnp.asarray(list({})))"
        return expression("~" * isinstance(node.ops[0], ast.NotIn) + text, *terms)

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        name, args = ast.unparse(node.func), node.args
        one = args[0] if len(args) == 1 and not node.keywords else None
        if isinstance(one, ast.GeneratorExp):
            one = ast.ListComp(one.elt, one.generators)
        if name in ("max", "min") and len(args) > 1 and not node.keywords:
            return _pairwise(f"jnp.{name}imum({{}}, {{}})", args)
        if name in (functions := {"sorted": "sort", "any": "any", "all": "all"}) and one:
            return expression(f"jnp.{functions[name]}(jnp.asarray({{}}))", one)
        if name in ("max", "min") and one:
            return expression(f"jnp.{name}(jnp.asarray({{}}))", one)
        if name in (types := {"float": "float32", "int": "int32", "bool": "bool_"}) and one:
            return expression(f"jnp.{types[name]}({{}})", one)
        if isinstance(node.func, ast.Attribute):
            return self.of_module(node, node.func, ast.unparse(node.func.value), one)
        return node

    def of_module(self, node: ast.Call, func: ast.Attribute, module: str, one: Any) -> Any:
        name = MATH.get(func.attr, func.attr)
        if func.attr in ("item", "tolist", "numpy") and not node.args:
            return func.value
        if func.attr == "index" and one:
            return expression("jnp.argmax(jnp.asarray({}) == {})", func.value, one)
        if module == "math" and name in ("floor", "ceil", "trunc"):
            return expression(f"jnp.int32(jnp.{name}({{}}))", *node.args)
        if module in ("np", "numpy", "math") and hasattr(jnp, name):
            node.func = expression(f"jnp.{name}")
        return node


def code(node: Any) -> str:
    """The expression, written with jnp."""
    return ast.unparse(_Jnp().visit(deepcopy(node)))


def rewritten(node: ast.AST, above: Above) -> str | None:
    """The expression in jnp, where that says something else."""
    new, old = code(node), ast.unparse(node)
    return f"{new}  # instead of {old}" if new != old else None


# A TRUE OR FALSE THAT IS NOT KNOWN


def branch(node: Any, above: Above) -> str | None:
    """What branches on a traced value: the statement, or the outermost expression, that does."""
    around = [node, *above]
    if isinstance(statement := around[-1], ast.If | ast.While | ast.Assert | ast.Match):
        return STATEMENTS[type(statement)](statement)
    if any(isinstance(x, ast.comprehension) for x in around):
        return "jnp.where(condition, x, 0)  # a mask: how many elements remain can't be traced"
    kinds = (ast.BoolOp, ast.UnaryOp, ast.IfExp, ast.Compare)
    whole = [node, *itertools.takewhile(lambda x: isinstance(x, kinds), above)][-1]
    return rewritten(whole, []) if isinstance(whole, ast.expr) else None


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr] | None:
    """Names that statements assign, and what; None where they do anything else."""
    found: dict[str, ast.expr] = {}
    for x in body:
        if isinstance(x, ast.Assign) and len(x.targets) == 1 and isinstance(x.targets[0], ast.Name):
            found[x.targets[0].id] = x.value
        elif isinstance(x, ast.AugAssign) and isinstance(x.target, ast.Name):
            found[x.target.id] = ast.BinOp(ast.Name(x.target.id), x.op, x.value)
        elif not isinstance(x, ast.Pass):
            return None
    return found


def _if(node: ast.If) -> str:
    test, yes, no = code(node.test), _assigned(node.body), _assigned(node.orelse)
    end = "  # instead of `if`"
    names = {**(yes or {}), **(no or {})}
    if yes is not None and no is not None and len(names) == 1:
        name = next(iter(names))
        values = ", ".join(code(side.get(name, ast.Name(name))) for side in (yes, no))
        return f"{name} = jnp.where({test}, {values}){end}"
    if isinstance(node.body[0], ast.Return):
        return (
            f"jax.tree.map(lambda a, b: jnp.where({test}, a, b), a, b){end}: a is what is "
            "returned where it holds, b what is returned elsewhere"
        )
    which = ", ".join(names) if yes is not None and no is not None else "what it changes"
    return f"jnp.where({test}, a, b){end}, for each of {which}"


def _while(node: ast.While) -> str:
    test, body = code(node.test), _assigned(node.body)
    if body is not None and len(body) == 1:
        ((name, value),) = body.items()
        functions = f"lambda {name}: {test}, lambda {name}: {code(value)}"
        return f"{name} = jax.lax.while_loop({functions}, {name})"
    return (
        "x = jax.lax.while_loop(lambda x: condition, body, x)  # x: a tuple of all that the loop "
        "changes, which body takes and returns"
    )


def loop(node: ast.Call, above: Above) -> str | None:
    """A loop whose length is traced."""
    if ast.unparse(node.func) != "range":
        return None
    first, last = (["0"] + [ast.unparse(x) for x in node.args])[-2:]
    if len(node.args) < 3 and isinstance(above[-1], ast.For):
        body, i = _assigned(above[-1].body), ast.unparse(above[-1].target)
        if body is not None and len(body) == 1:
            ((name, value),) = body.items()
            function = f"lambda {i}, {name}: {code(value)}"
            return f"{name} = jax.lax.fori_loop({first}, {last}, {function}, {name})"
    return (
        f"x = jax.lax.fori_loop({first}, {last}, body, x)  # body(i, x): x is a tuple of all "
        "that the loop changes"
    )


STATEMENTS: dict[type, Callable[[Any], str]] = {
    ast.If: _if,
    ast.While: _while,
    ast.Assert: lambda node: (
        f"remove `{ast.unparse(node)}`: a traced value has no number yet; assert in a test instead"
    ),
    ast.Match: lambda node: (
        f"jax.lax.switch({ast.unparse(node.subject)}, [lambda: a, lambda: b])  # instead of `match`"
    ),
}
