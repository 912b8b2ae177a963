"""What `check` reads from JAX's internals, on whatever JAX is installed."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kit.trace import jaxprs

X = jax.ShapeDtypeStruct((3,), jnp.float32)
I = jax.ShapeDtypeStruct((), jnp.int32)  # noqa: E741
KEPT: list[Any] = []


class Tree(flax.struct.PyTreeNode):
    inner: Any
    static: int = flax.struct.field(pytree_node=False, default=0)


def digests(function: Any, *args: Any) -> list[bytes]:
    return [value.digest for value in jaxprs.read(jax.make_jaxpr(function)(*args)).outputs]


def test_the_same_computation_has_the_same_digest() -> None:
    assert digests(lambda x: jnp.sin(x) + 1, X) == digests(lambda x: jnp.sin(x) + 1, X)
    assert digests(lambda x: jnp.sin(x) + 1, X) != digests(lambda x: jnp.sin(x) + 2, X)


def test_called_programs_are_read_through() -> None:
    @jax.jit
    def inner(x: jax.Array) -> jax.Array:
        return jnp.sin(x)

    assert digests(inner, X) == digests(jnp.sin, X)
    assert digests(jax.checkpoint(inner), X) == digests(jnp.sin, X)


def test_an_output_that_is_an_input_is_known() -> None:
    first, second = digests(lambda x, y: (jax.lax.stop_gradient(y), x), X, X)
    assert (first, second) == (jaxprs.input_digest(1), jaxprs.input_digest(0))


def test_inputs_are_followed_into_loops() -> None:
    def function(x: jax.Array, y: jax.Array, z: jax.Array) -> Any:
        return jax.lax.fori_loop(0, 3, lambda i, c: c * x[0], y), z

    outputs = jaxprs.read(jax.make_jaxpr(function)(X, X, X)).outputs
    assert [x.inputs for x in outputs] == [{0, 1}, {2}]


def test_ids_of_foreign_calls_do_not_count() -> None:
    def call(number: int) -> Any:
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return lambda x: jax.ffi.ffi_call("physics", shape)(x, call_id=number)

    assert digests(call(1), X) == digests(call(2), X)
    assert jaxprs.read(jax.make_jaxpr(call(1))(X)).batched_by_hand


def test_draws_callbacks_and_infinity_are_seen() -> None:
    def function(key: jax.Array, x: jax.Array) -> Any:
        jax.debug.callback(lambda x: None, x)
        return jax.random.uniform(key), jax.random.uniform(jax.random.PRNGKey(0)), x + jnp.inf

    reading = jaxprs.read(jax.make_jaxpr(function)(jax.ShapeDtypeStruct((2,), jnp.uint32), X))
    assert sorted(map(sorted, reading.drawn)) == [[], [0]]
    assert reading.infinite
    assert reading.callbacks
    printing = jax.make_jaxpr(lambda x: jax.debug.print("{}", x))(X)
    assert jaxprs.read(printing).callbacks


def test_keys_are_what_is_drawn_from_and_not_what_looks_like_one() -> None:
    def function(keys: jax.Array, board: jax.Array, typed: jax.Array, x: jax.Array) -> Any:
        def loop(carry: Any, _: None) -> Any:
            kept, draw = jax.random.split(carry)
            return kept, jax.random.normal(draw)

        several = jax.vmap(jax.random.uniform)(keys[1:])
        key = jax.random.fold_in(keys[0], board[0])  # a draw depends on the board
        return jax.lax.scan(loop, key, None, 3), several, board ^ jnp.uint32(1), x

    key = jax.ShapeDtypeStruct((3, 2), jnp.uint32)
    board = jax.ShapeDtypeStruct((2,), jnp.uint32)
    typed = jax.eval_shape(lambda: jax.random.key(0))
    closed = jax.make_jaxpr(function)(key, board, typed, X)
    assert jaxprs.read(closed).keys == {0, 2}

    def drawn_in_a_loop(flag: jax.Array, keys: jax.Array, board: jax.Array) -> Any:
        drawn = jax.lax.cond(flag, lambda k: jax.random.normal(k), lambda k: 0.0, keys[1])
        return jax.lax.fori_loop(0, 3, lambda i, x: x + jax.random.normal(keys[0]), drawn), board

    flag = jax.ShapeDtypeStruct((), bool)
    assert jaxprs.read(jax.make_jaxpr(drawn_in_a_loop)(flag, key, board)).keys == {1}


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda s, x: s + x[0], 1),
        (lambda s, x: (s + 0.5 * x[1]) / 4 - x[0], 0.25),
        (lambda s, x: jnp.where(x[0] > 0, s + 1, s), 1),
        (lambda s, x: jax.lax.cond(x[0] > 0, lambda s: s + 1, lambda s: s, s), 1),
        (lambda s, x: jax.lax.fori_loop(0, 3, lambda i, s: s + jnp.abs(x[i]), s), 1),
        (lambda s, x: jax.lax.scan(lambda c, y: (c + y, c), s, x)[0], 1),
        (lambda s, x: jax.lax.while_loop(lambda c: c[1] > 0, lambda c: (c[0] + 1, c[1] - 1),
                                         (s, x[0]))[0], 1),
        (lambda s, x: jnp.zeros(3).at[0].set(1.0)[1] + s * 2 + x[0], 2),
        (lambda s, x: jnp.clip(s + x[0], -100, 100), None),
        (lambda s, x: jnp.sum(jnp.stack([s, s]).at[0].add(x[0])), 2),
        (lambda s, x: jnp.maximum(s, x[0]), None),
        (lambda s, x: jnp.where(x[0] > 0, 0.0, s + 1), None),
        (lambda s, x: (s + 1) * (x[0] > 0), None),
        (lambda s, x: 0.9 * s + x[0], 0.9),
        (lambda s, x: jnp.where(s > 0, 1.0, s), None),
        (lambda s, x: jax.lax.fori_loop(0, 3, lambda i, s: 2 * s, s), None),
        (lambda s, x: jax.lax.while_loop(lambda c: c > 0, lambda c: c - 1, s), None),
        (lambda s, x: jnp.sum(x), 0),
    ],
)  # fmt: skip
def test_by_how_much_a_result_grows_with_an_input(function: Any, slope: float | None) -> None:
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    (found,) = jaxprs.read(jax.make_jaxpr(function)(scalar, X)).outputs
    assert found.slopes.get(0, 0.0) == (slope if slope is None else pytest.approx(slope))


def test_what_follows_from_a_running_episode_is_known() -> None:
    def function(done: jax.Array, s: jax.Array) -> Any:
        return jnp.where(done, 0.0, s + 1), s * (1 - done) + 1, jnp.where(done < 0.5, s, 0.0)

    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    reading = jaxprs.read(jax.make_jaxpr(function)(scalar, scalar), {0: [0.0]})
    assert [x.slopes.get(1) for x in reading.outputs] == [1, 1, 1]


@pytest.mark.parametrize(
    ("function", "possible"),
    [
        (lambda x: (x[0] > 1).astype(jnp.float32), {0, 1}),
        (lambda x: jnp.where(x[0] > 1, 1.0, 0.0), {0, 1}),
        (lambda x: 2.0 * jnp.any(x > 1).astype(jnp.float32), {0, 2}),
        (lambda x: jnp.zeros(()), {0}),
        (lambda x: jnp.maximum(jnp.where(x[0] > 1, 1.0, 0.0), x[1] > 2), {0, 1}),
        (lambda x: jax.nn.sigmoid(x[0]), None),
    ],
)
def test_possible_values(function: Any, possible: set[float] | None) -> None:
    assert jaxprs.read(jax.make_jaxpr(function)(X)).outputs[0].possible == possible


def test_reads_out_of_range_are_flagged_with_their_line() -> None:
    def function(x: jax.Array, i: jax.Array) -> Any:
        table = jnp.arange(5.0)
        first = table[i]
        second = x[jnp.stack([i, 0])]
        return first, second, x[1], jnp.take(x, i, mode="fill"), x.at[i].set(0.0)

    run = jaxprs.checked(jax.make_jaxpr(function)(X, I))
    check = jax.jit(jax.vmap(run, in_axes=(None, 0)))
    outputs, outside = check(np.ones(3, np.float32), np.array([-1, 0, 2, 3, 4, 5, -9], np.int32))
    assert np.asarray(outputs[0]).tolist() == [4, 0, 2, 3, 4, 4, 0]
    line = function.__code__.co_firstlineno + 2
    assert {line: flags.tolist() for line, flags in outside.items()} == {
        f"test_jaxprs.py:{line}": [False, False, False, False, False, True, True],
        f"test_jaxprs.py:{line + 1}": [False, False, False, True, True, True, True],
    }


def test_the_place_where_trees_differ_is_named() -> None:
    def difference(before: Any, after: Any) -> Any:
        return jaxprs.tree_difference(Tree(before), Tree(after))

    assert difference({"a": 1}, {"a": 2}) is None
    assert difference({"a": 1}, flax.core.freeze({"a": 1})) == ("inner", "dict", "FrozenDict")
    assert jaxprs.tree_difference(Tree(1), Tree(1, 7)) == (
        "",
        "Tree with pytree metadata (0,)",
        "Tree with pytree metadata (7,)",
    )


def test_checked_programs_give_what_they_gave() -> None:
    def function(key: jax.Array, x: jax.Array) -> Any:
        draw = jax.random.normal(jax.random.wrap_key_data(key), (3,))
        loop = jax.lax.scan(lambda c, y: (c + y, c * y), x[0], x)
        branch = jax.lax.cond(x[0] > 0, lambda: x, lambda: draw)
        return jax.nn.relu(draw), loop, branch, jax.checkpoint(jnp.sin)(x)

    args = jax.random.PRNGKey(0), jnp.arange(3.0)
    run = jaxprs.checked(jax.make_jaxpr(function)(*args))
    expected = jax.tree.leaves(jax.jit(function)(*args))
    for found, wanted in zip(jax.jit(run)(*args)[0], expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_leaks_are_found_and_named() -> None:
    def keep(x: jax.Array) -> jax.Array:
        KEPT.append(x * 2)
        return x

    assert "KEPT" in (jaxprs.leaked(keep, X) or "")
    assert jaxprs.leaked(jnp.sin, X) is None
    assert jaxprs.leaked(lambda x: undefined, X) is None  # type: ignore[name-defined]  # noqa: F821
    KEPT.clear()
