"""Comparing states. From the template: changes of yours are kept, `copier update` merges new
versions in.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import State

from .tracing import Tree, is_key, leaves


def bits(leaf: Any) -> bytes:
    """The bits of an array."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def unequal(a: Tree, b: Tree) -> list[str]:
    """Paths at which two states do not hold the same bits."""
    left, right = leaves(a), leaves(b)
    return [p for p in left if p in right and bits(left[p]) != bits(right[p])]


def far_apart(a: Tree, b: Tree) -> list[str]:
    """Paths at which two states differ by more than rounding: compilers may round in any order."""
    left, right, found = leaves(a), leaves(b), []
    for path in left.keys() & right.keys():
        x, y = (v if hasattr(v, "dtype") else np.asarray(v) for v in (left[path], right[path]))
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            continue
        if jnp.issubdtype(x.dtype, jnp.inexact):
            wide = np.complex128 if jnp.iscomplexobj(x) else np.float64
            x, y = (np.asarray(v, wide) for v in (x, y))
            if np.allclose(x, y, rtol=1e-2, atol=1e-2, equal_nan=True):
                continue
        elif x.dtype == np.uint8 and x.size >= 64:  # an image: a level more or less here and there
            off = np.abs(np.asarray(x, int) - np.asarray(y, int))
            if np.max(off) <= 1 and np.mean(off) < 0.1:
                continue
        elif bits(x) == bits(y):
            continue
        found.append(path)
    return sorted(found)


def touchy(step: Callable[[State], State], state: State) -> set[str]:
    """Paths at which `step` gives far apart states when its input changes in the last digits.

    Where bodies touch, for example, rounding decides between two outcomes.
    """
    rng, usual = np.random.default_rng(0), step(state)

    def nudge(x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        sign = rng.choice([-1.0, 1.0], np.shape(x))
        return jnp.asarray(x * (1 + 1e-6 * sign) + 1e-7 * sign, x.dtype)

    nudged = [step(jax.tree.map(nudge, state)) for _ in range(8)]
    return {path for other in nudged for path in far_apart(other, usual)}


def conform(new: Tree, like: Tree) -> Tree:
    """`new` with the structure, shapes and dtypes of `like`, and where it lacks a leaf, `like`'s.

    So that a run can go on after a step that returns something else than it got.
    """
    given = leaves(new)

    def fit(path: str, old: Any) -> Any:
        x = given.get(path, old)
        if jnp.shape(x) != jnp.shape(old):
            x = jnp.reshape(x, jnp.shape(old)) if jnp.size(x) == jnp.size(old) else old
        return x if is_key(old) else jax.lax.convert_element_type(x, old.dtype)

    fitted = [fit(path, old) for path, old in leaves(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), fitted)


def lane(batch: Tree, index: int) -> Tree:
    """One state of a batch. Leaves without a batch axis do not occur: `jax.vmap` gives each one."""
    return jax.tree.map(lambda x: x[index] if is_key(x) else np.asarray(x)[index], batch)
