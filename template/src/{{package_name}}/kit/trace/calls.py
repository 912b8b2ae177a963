"""What a call of `reset` or `step` does, seen by tracing it, and how states are compared."""

import enum
import os
import pickle
import random
import re
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from ..env.keys import raw
from ..env.time_limit import WRAPPER_INFO
from ..errors import LIBRARIES, Failure, failure
from . import jaxprs

Tree = Any
KEY = jax.ShapeDtypeStruct((2,), jnp.uint32)


# TREES: leaves by name, as a reader would write it.


def leaves(tree: Tree) -> dict[str, Any]:
    """The leaves of a state by path: `{"info['wind']": ...}`."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path).removeprefix("."): leaf for path, leaf in found}


def part(path: str) -> str:
    """The field of `State` that a path leads through: `obs`, `metrics`, ..."""
    return re.split(r"[.\[]", path)[0]


def key_of(path: str) -> str:
    """The first key in a path: `wind` for `info['wind']`; empty where there is none."""
    return path.split("['")[1].split("']")[0] if "['" in path else ""


def bits(leaf: Any) -> bytes:
    """The bits of an array."""
    return np.asarray(raw(leaf)).tobytes()


def unequal(a: Tree, b: Tree) -> list[str]:
    """Paths at which two states do not hold the same bits."""
    left, right = leaves(a), leaves(b)
    return [p for p in left if p in right and bits(left[p]) != bits(right[p])]


def far_apart(a: Tree, b: Tree) -> list[str]:
    """Paths at which two states differ by more than rounding: compilers may round in any order."""

    def alike(x: Any, y: Any) -> bool:
        x, y = (v if hasattr(v, "dtype") else np.asarray(v) for v in (x, y))
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            return True  # another rule's
        if not (jnp.issubdtype(x.dtype, jnp.inexact) or x.dtype == np.uint8):
            return bits(x) == bits(y)
        level = 1 if x.dtype == np.uint8 else 0.01  # of an image
        x, y = (np.asarray(v).astype(complex) for v in (x, y))
        return np.allclose(x, y, rtol=0.01, atol=level, equal_nan=True)

    left, right = leaves(a), leaves(b)
    return sorted(p for p in left.keys() & right.keys() if not alike(left[p], right[p]))


# TRACING: what a call does, without running it.


@dataclass(frozen=True)
class Call:
    """One traced call of `reset` or `step`.

    Attributes:
      state: what it returned, a `State` of `jax.ShapeDtypeStruct`.
      closed: the program, a `ClosedJaxpr`; `reading`: what it computes.
      numbers: paths of leaves that are Python numbers.
      given: paths of the state it was given at which it wrote something else, in place.
      written: what it changed on the environment, such as `self.count`.
      opened: files that were read, and where.
    """

    state: State
    closed: Any
    reading: jaxprs.Reading
    numbers: frozenset[str]
    given: tuple[str, ...]
    written: tuple[str, ...]
    opened: tuple[str, ...] = ()

    @property
    def leaves(self) -> dict[str, Any]:
        return leaves(self.state)

    @property
    def outputs(self) -> dict[str, jaxprs.Value]:
        """What is known of each leaf of `state`, by path."""
        return dict(zip(self.leaves, self.reading.outputs, strict=True))

    def of(self, field: str) -> dict[str, Any]:
        """The leaves of one field of `state`, by path."""
        return {path: leaf for path, leaf in self.leaves.items() if part(path) == field}


class NotAState(TypeError):
    """What was returned is not a `State` of arrays.

    Attributes:
      found: what was returned, or the leaf at fault.
      path: that of the leaf; empty if it is all that was returned.
    """

    def __init__(self, message: str, found: Any, path: str = "") -> None:
        super().__init__(message)
        self.found, self.path = found, path


def trace(env: Env, function: Callable[..., State], *args: Any) -> Call | Failure:
    """Calls `function` with abstract arguments, trees of `jax.ShapeDtypeStruct`."""
    seen: dict[str, Any] = {}

    def call(*args: Any) -> State:
        before = leaves(args[0])
        state = function(*args)
        after = leaves(args[0])
        given = [p for p in {**before, **after} if before.get(p) is not after.get(p)]
        if not isinstance(state, State):
            kind = type(state)
            is_named_alike = kind.__name__ == State.__name__
            module = f"{kind.__module__}." * is_named_alike
            raise NotAState(f"a {module}{kind.__name__}", state)
        for path, leaf in leaves(state).items():
            if not _is_array(leaf):
                raise NotAState(f"{path} as {leaf!r:.40}, a {type(leaf).__name__}", leaf, path)
        plain = (p for p, leaf in leaves(state).items() if type(leaf) in (bool, int, float))
        seen.update(given=tuple(given), numbers=frozenset(plain))
        return state

    mine = snapshot(env)
    try:
        with reading_files() as opened:
            closed, state = jax.make_jaxpr(call, return_shape=True)(*args)
        # JAX 0.9 leaves weak types out of the shapes that it returns.
        shapes = [
            jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type) for x in closed.out_avals
        ]
        state = jax.tree.unflatten(jax.tree.structure(state), shapes)
        # While an episode runs, `done` of the given state is 0.
        paths = list(leaves(args[0]))
        zero = {paths.index("done"): [0.0]} if "done" in paths else {}
        reading = jaxprs.read(closed, zero)
    except BaseException as error:
        return failure(error, env)
    now = snapshot(env)
    changed = [name for name in {**mine, **now} if mine.get(name) != now.get(name)]
    written = tuple(n for n in changed if not any(m != n and m.startswith(n) for m in changed))
    return Call(state, closed, reading, written=written, opened=tuple(opened), **seen)


_opened = threading.local()


@contextmanager
def reading_files() -> Iterator[list[str]]:
    """The data files that this thread opens for reading, each with the user's own line."""
    before = getattr(_opened, "found", None)
    _opened.found = found = list[str]()
    try:
        yield found
    finally:
        _opened.found = before


def _note_open(event: str, args: tuple[Any, ...]) -> None:
    found = getattr(_opened, "found", None)
    if event != "open" or found is None:
        return
    path, _, flags = args
    if not isinstance(path, str | bytes | os.PathLike) or flags & (os.O_WRONLY | os.O_RDWR):
        return
    name, frame = os.path.abspath(os.fsdecode(path)), sys._getframe(1)
    if name.endswith((".py", ".pyc", ".so")) or name.startswith((*LIBRARIES, "/proc", "/sys")):
        return
    # JAX's own cache and Python's imports are not the user's reading.
    while frame and frame.f_code.co_filename.startswith((*LIBRARIES, jaxprs.KIT)):
        if re.search(r"importlib|[/\\]jax[/\\]", frame.f_code.co_filename):
            return
        frame = frame.f_back  # type: ignore[assignment]
    if frame:
        found.append(
            f"{os.path.basename(name)} in {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        )


sys.addaudithook(_note_open)  # Python has no other way to see files being opened


def random_keys(step: Callable[..., State], state: State, action: Any) -> frozenset[str]:
    """Paths of random keys in `state`: typed ones, and raw ones that `step` draws from."""
    reading = jaxprs.read(jax.make_jaxpr(step)(state, action))
    return frozenset(path for i, path in enumerate(leaves(state)) if i in reading.keys)


def _is_array(leaf: Any) -> bool:
    """Whether JAX takes it as a leaf of a state: an array of numbers, or a Python number."""
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in "biufcV"  # V: the small floats of ml_dtypes
    return isinstance(leaf, jax.Array | bool | int | float) and not isinstance(leaf, enum.Enum)


TRACED, GENERATOR, OTHER = "a traced value", "a generator", ""
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)


def snapshot(env: Env) -> dict[str, tuple[str, Any]]:
    """What hangs on an environment, by name: its kind, and something to compare it by later."""
    found: dict[str, tuple[str, Any]] = {}
    visited: dict[int, Any] = {}

    def visit(name: str, x: Any, depth: int) -> None:
        inner: Iterable[tuple[str, Any]] = ()
        if isinstance(x, jax.core.Tracer):
            found[name] = TRACED, id(x)
        elif isinstance(x, GENERATORS):
            found[name] = GENERATOR, pickle.dumps(x)
        elif isinstance(x, np.ndarray):
            found[name] = OTHER, (x.shape, hash(x.tobytes()))
        elif isinstance(x, bool | int | float | complex | str | bytes | None):
            found[name] = OTHER, repr(x)
        elif isinstance(x, Mapping):
            inner = [(f"[{key!r}]", value) for key, value in x.items()]
        elif isinstance(x, list | tuple | set):
            inner = [(f"[{i}]", value) for i, value in enumerate(x)]
        elif isinstance(x, jax.Array | types.ModuleType) or callable(x):
            found[name] = OTHER, id(x)
        else:
            inner = [(f".{key}", value) for key, value in vars(x).items()]
        # Some containers make what they hold when they are asked for it: compare that alone.
        found.setdefault(name, (OTHER, type(x)))
        if depth and id(x) not in visited:
            visited[id(x)] = x
            for key, value in inner:
                look(name + key, value, depth - 1)

    def look(name: str, x: Any, depth: int = 5) -> None:
        try:
            visit(name, x, depth)
        except BaseException:  # it can't be looked at: assume that it stays as it is
            found[name] = OTHER, None

    for owner in (*reversed(type(env).__mro__[:-1]), env):
        for name, value in list(getattr(owner, "__dict__", {}).items()):
            if not name.startswith("__") and not hasattr(type(value), "__get__"):
                look(f"self.{name}", value)
    return found


def name_on_self(env: Any, array: Any) -> str | None:
    """The attribute of an environment, or of one that it wraps, that holds an array."""
    for path, x in jax.tree_util.tree_flatten_with_path(dict(vars(env)))[0]:
        is_number = getattr(getattr(x, "dtype", None), "kind", "") in "biuf"
        if is_number and x.shape == array.shape and np.allclose(x, array, equal_nan=True):
            return f"self.{path[0].key}{jax.tree_util.keystr(path[1:])}"
    inner = vars(env).get("env")
    return name_on_self(inner, array) if inner is not None else None


# Entries of `info` that Brax's wrappers add, and those that this package's do.
INFO_OF_WRAPPERS = ("eval_metrics", "first_obs", "first_pipeline_state", *sorted(WRAPPER_INFO))


def with_wrapper_entries(state: State) -> State:
    """`state` as the training wrappers give it to `step`."""
    number = jax.ShapeDtypeStruct((), jnp.float32)
    info: dict[str, Any] = dict.fromkeys(INFO_OF_WRAPPERS, number)
    info["episode_metrics"] = dict.fromkeys(("sum_reward", "length", *state.metrics), number)
    info |= {"reset_key": KEY, "first_obs": state.obs, "first_pipeline_state": state.pipeline_state}
    return state.replace(metrics={"reward": number, **state.metrics}, info={**info, **state.info})
