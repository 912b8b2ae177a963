"""Pytrees of arrays in files.

A file is the SHA-256 of the rest, then msgpack of `{path of the leaf: array}`.
"""

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
# Bytes that a file may have beyond its arrays. A file of other networks should be read and get the
# sentence that names what differs, so this is generous; it bounds what a stranger's file costs.
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
      path: the file.
      target: its structure is that of the result; its leaves need only `shape` and `dtype`, and
        what is None in it is not read.
      remedy: what to do about a damaged file, to end the sentence with.

    Raises:
      UsageError: the file can't be read, is damaged, or its shapes are not those of `target`.
    """
    arrays_now = [raw_shape(leaf) for leaf in jax.tree.leaves(target)]
    size = sum(array.size * array.dtype.itemsize for array in arrays_now)
    data = files.read(path, size + SLACK)

    def damaged(why: str) -> UsageError:
        return UsageError(f"{path} is damaged ({why}): {remedy}.")

    digest, rest = data[:DIGEST], data[DIGEST:]
    if hashlib.sha256(rest).digest() != digest:
        raise damaged("its checksum is wrong")
    try:
        arrays = flax.serialization.msgpack_restore(rest)
    except Exception as error:  # whatever a file that `save` did not write makes msgpack raise
        raise damaged(str(error)[:200]) from None
    if not isinstance(arrays, dict):
        raise damaged("it holds no arrays")

    def restore(key_path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(key_path)
        array: Any = arrays.get(name)
        expected = raw_shape(leaf)
        there = (
            f"is {array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else "is not"
        )
        needed = f"{expected.dtype}{list(expected.shape)}"
        if there != f"is {needed}":
            raise UsageError(
                f"{path} does not fit: {name.lstrip('.')} {there} there, but {needed} "
                "now. The environment, the networks or their settings have changed: undo the "
                "change, or train again."
            )
        if is_typed_key(leaf):
            return jax.random.wrap_key_data(array, impl=key_impl(leaf))
        return array

    return jax.tree_util.tree_map_with_path(restore, target)
