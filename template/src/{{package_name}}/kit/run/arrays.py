"""Pytrees of arrays in files: the SHA-256 of the rest, then msgpack of `{path of leaf: array}`."""

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import flax
import jax
import numpy as np

from ..env.keys import is_typed_key, key_impl, raw, raw_shape
from ..errors import UsageError
from . import files

Tree = TypeVar("Tree")

DIGEST = hashlib.sha256().digest_size
# Bytes that a file may have beyond its arrays. It is generous, because a file of other networks
# should be read and get the sentence that names what differs.
SLACK = 2**23


def save(path: Path, tree: Any) -> None:
    """Writes all arrays of `tree`, whole or not at all; raises FileError."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {jax.tree_util.keystr(key): np.asarray(raw(leaf)) for key, leaf in leaves}
    data = flax.serialization.msgpack_serialize(arrays)
    files.write(path, hashlib.sha256(data).digest(), data)


def load(path: Path, target: Tree, remedy: str) -> Tree:
    """Reads what `save` wrote.

    Args:
      target: its structure is that of the result; its leaves need only `shape` and `dtype`, and
        what is None in it is not read.
      remedy: what to do about a damaged file, to end the sentence with.

    Raises:
      UsageError: the file can't be read, is damaged, or its shapes are not those of `target`.
    """
    shapes = [raw_shape(leaf) for leaf in jax.tree.leaves(target)]
    data = files.read(path, SLACK + sum(x.size * x.dtype.itemsize for x in shapes))
    if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
        raise UsageError(f"{path} is damaged (its checksum is wrong): {remedy}.")
    arrays = flax.serialization.msgpack_restore(data[DIGEST:])

    def restore(key_path: Any, leaf: Any) -> Any:
        name, expected = jax.tree_util.keystr(key_path), _described(raw_shape(leaf))
        found = f"is {_described(arrays[name])}" if name in arrays else "is not"
        if found != f"is {expected}":
            raise UsageError(
                f"{path} does not fit: {name.lstrip('.')} {found} there, but {expected} now. The "
                "environment, the networks or their settings have changed: undo the change, or "
                "train again."
            )
        if is_typed_key(leaf):
            return jax.random.wrap_key_data(arrays[name], impl=key_impl(leaf))
        return arrays[name]

    return jax.tree_util.tree_map_with_path(restore, target)


def _described(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"
