"""Typed random keys as plain arrays."""

from typing import Any

import jax


def raw(leaf: Any) -> Any:
    """The data of a typed PRNG key, because files hold plain arrays; other arrays unchanged."""
    return jax.random.key_data(leaf) if is_typed_key(leaf) else leaf


def raw_shape(leaf: Any) -> Any:
    return jax.eval_shape(raw, leaf) if is_typed_key(leaf) else leaf


def is_typed_key(leaf: Any) -> bool:
    """Whether an array, or its shape and dtype, holds random keys of `jax.random.key`."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def key_impl(key: Any) -> Any:
    """The implementation of a typed PRNG key, also of a `ShapeDtypeStruct`."""
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), key)
    return found[0]
