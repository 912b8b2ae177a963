"""From a bad output of a program back to the operation and the line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from kit.trace.causes import Cause, Watch

X = jnp.arange(1.0, 4.0)


def helper(x: jax.Array) -> jax.Array:
    return jnp.sqrt(x - 2)  # bad


def library_function(x: jax.Array) -> jax.Array:
    x = jnp.where(x > 2, 0 * x, 0.0)
    return jax.jit(jax.grad(jnp.linalg.norm))(x)  # bad


def masked(x: jax.Array) -> jax.Array:
    y = jnp.where(x > 1, jnp.log(x - 1), 0.0) + jnp.where(x > 5, jnp.inf, 1.0)
    return y / (jnp.sum(x) - 6)  # bad


def bad_elsewhere(x: jax.Array) -> jax.Array:
    """Half of it is bad, and that half is not what comes out."""
    both = jnp.concatenate([jnp.log(-x), x])
    return jnp.arcsin(both[3:])  # bad


def constant(x: jax.Array) -> jax.Array:
    return jnp.where(x > 2, jnp.nan, x)  # bad


def branch(x: jax.Array) -> jax.Array:
    return jax.lax.cond(x[0] > 0, helper, lambda x: x, x)


def backwards(x: jax.Array) -> jax.Array:
    def body(carry: Any, row: Any) -> Any:
        return carry / (row - 2), carry  # bad

    return jax.lax.scan(body, jnp.float32(1), x, reverse=True)[1]


def two_loops(x: jax.Array) -> jax.Array:
    def inner(j: Any, carry: Any) -> Any:
        i, y = carry
        return i, y * jnp.where((i == 1) & (j == 2), jnp.log(y - y - 1), 1.0)  # bad

    return jax.lax.fori_loop(0, 3, lambda i, y: jax.lax.fori_loop(0, 4, inner, (i, y))[1], x[0])


def until(x: jax.Array) -> jax.Array:
    def body(y: jax.Array) -> jax.Array:
        return jnp.log(y).at[0].set(5 * y[0])  # bad

    return jax.lax.while_loop(lambda y: y[0] < 100, body, x)


def no_rounds(x: jax.Array) -> jax.Array:
    y = jnp.log(x - 2)  # bad
    return jax.lax.while_loop(lambda y: y[0] > 0, jnp.sin, y)


def cause_of(function: Callable[..., Any], *args: Any) -> Cause | int | None:
    """Of the first output."""
    (_, cause), *_ = Watch().run(lambda args: function(*args), args).values()
    return cause


@pytest.mark.parametrize(
    ("function", "operation", "loops"),
    [
        (jax.jit(helper), "sqrt", ()),
        (library_function, "div", ()),
        (masked, "div", ()),
        (bad_elsewhere, "asin", ()),
        (constant, None, ()),  # differs between versions of JAX
        (branch, "sqrt", ()),
        (backwards, "div", (1,)),
        (two_loops, "log", (1, 2)),
        (until, "log", (2,)),
        (no_rounds, "log", ()),
    ],
)
@pytest.mark.parametrize("batched", [False, True])
def test_the_line_is_found(
    function: Callable[..., jax.Array], operation: str, loops: Any, batched: bool
) -> None:
    found = cause_of(jax.vmap(function), X[None]) if batched else cause_of(function, X)
    assert isinstance(found, Cause)
    assert (operation or found.operation, loops) == (found.operation, found.loops)
    assert found.line is not None
    assert Path(found.line.file) == Path(__file__)
    assert "# bad" in Path(__file__).read_text().splitlines()[found.line.line - 1]
    assert str(found).startswith(f"{Path(__file__).name}:{found.line.line}: `")


def test_the_place_in_a_library_is_told_too() -> None:
    found = cause_of(lambda x: optax.squared_error(1e30 * x), X)
    assert isinstance(found, Cause)
    assert found.line is not None
    assert Path(found.line.file) == Path(__file__)
    assert re.search(r"\(\w+ in \w+\.py:[0-9]+\)$", str(found))


def test_a_bad_input_is_named_by_its_index() -> None:
    assert cause_of(lambda x, y, z: jnp.where(z, x, y) * 2, X, X / 0, jnp.bool_(False)) == 1
