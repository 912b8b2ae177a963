"""What a call of `reset` or `step` does, seen by tracing it. Nothing is judged here.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

import inspect
import random
import re
import site
import sysconfig
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from . import jaxprs

Tree = Any
KEY = jax.ShapeDtypeStruct((2,), jnp.uint32)


@dataclass(frozen=True)
class Failure:
    """An exception that the environment raised.

    Attributes:
      error: the exception.
      where: the user's own line, such as `env.py:41`, or the class where there is none.
      message: the exception's type and the first line of its message.
    """

    error: BaseException
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where} raises {self.message}"


def text_of(error: BaseException) -> str:
    """The message of an exception, even of one whose `__str__` raises."""
    try:
        return str(error)
    except BaseException:
        return ""


def failure(error: BaseException, env: Env) -> Failure:
    """Finds the user's own line in the traceback of `error`."""
    frames = list(traceback.extract_tb(error.__traceback__))
    text = text_of(error)
    lines = text.strip().splitlines() or [""]
    inside = re.findall(r'File "(.+)", line (\d+)', text)
    if inside:  # an error in a callback, whose traceback is part of the message
        frames += [traceback.FrameSummary(name, int(line), "") for name, line in inside]
        lines = [line for line in lines if re.match(r"\w+(Error|Exception)\b", line)][-1:] or lines
    try:
        source = inspect.getsourcefile(type(env)) or ""
    except Exception:
        source = ""
    kit = str(Path(__file__).parents[1])
    libraries = (*site.getsitepackages(), sysconfig.get_paths()["stdlib"], kit, "<")
    own = [f for f in frames if source and f.filename == source]
    own = [f for f in frames if not f.filename.startswith(libraries)] or own
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else type(env).__name__
    says = " ".join(line.strip() for line in lines[: 4 if lines[0].endswith(":") else 1])
    kind = type(error).__name__
    return Failure(error, where, f"{kind}: {says}"[:400] if says else kind)


# TREES: leaves by name, as a reader would write it.


def leaves(tree: Tree) -> dict[str, Any]:
    """The leaves of a state by path: `{"info['wind']": ...}`."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path).removeprefix("."): leaf for path, leaf in found}


def containers(tree: Tree, name: str = "") -> dict[str, str]:
    """The containers in `tree` by path, each with its type's name; None is one of them."""
    children, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
    if len(children) == 1 and not children[0][0]:
        return {}  # a leaf
    found = {name.removeprefix("."): type(tree).__name__}
    for path, child in children:
        found |= containers(child, name + jax.tree_util.keystr(path))
    return found


def part(path: str) -> str:
    """The field of `State` that a path leads through: `obs`, `metrics`, ..."""
    return re.split(r"[.\[]", path)[0]


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds random keys, typed or raw."""
    typed = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return typed or (leaf.dtype == jnp.uint32 and leaf.shape[-1:] == (2,))


# TRACING: what a call does, without running it.


@dataclass(frozen=True)
class Call:
    """One traced call of `reset` or `step`.

    Attributes:
      state: what it returned, a `State` of `jax.ShapeDtypeStruct`.
      closed: the program, a `ClosedJaxpr`.
      reading: what the program computes.
      numbers: paths of leaves that are Python numbers.
      given: paths of the state it was given at which it wrote something else, in place.
      written: what it changed on the environment, such as `self.count`.
      made: what it added there and is no traced value: a constant, if it does so only once.
      host_random: whether it drew from NumPy's or Python's own random numbers.
    """

    state: State
    closed: Any
    reading: jaxprs.Reading
    numbers: frozenset[str]
    given: tuple[str, ...]
    written: tuple[str, ...]
    made: tuple[str, ...]
    host_random: bool

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
    """`reset` or `step` returned something that is not a `State` of arrays.

    Attributes:
      path: the leaf that is not an array; None where the whole is not a `State`.
    """

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


def trace(env: Env, function: Callable[..., State], *args: Any) -> Call | Failure:
    """Calls `function` with abstract arguments, trees of `jax.ShapeDtypeStruct`."""
    seen: dict[str, Any] = {}

    def call(*args: Any) -> State:
        before = leaves(args[0])
        state = function(*args)
        after = leaves(args[0])
        paths = {**before, **after}
        seen["given"] = tuple(p for p in paths if before.get(p) is not after.get(p))
        if not isinstance(state, State):
            raise NotAState(f"a {type(state).__name__}")
        for path, leaf in leaves(state).items():
            if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float):
                raise NotAState(f"{path} as {leaf!r:.40}, a {type(leaf).__name__}", path)
        seen["numbers"] = frozenset(
            p for p, leaf in leaves(state).items() if type(leaf) in (bool, int, float)
        )
        return state

    mine, theirs = snapshot(env), _host_random_state()
    try:
        closed, state = jax.make_jaxpr(call, return_shape=True)(*args)
        # JAX 0.9 leaves weak types out of the shapes that it returns.
        shapes = [
            jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type) for x in closed.out_avals
        ]
        state = jax.tree.unflatten(jax.tree.structure(state), shapes)
        # `done` is 0 in the states that training hands to `step`.
        paths = list(leaves(args[0]))
        zero = {paths.index("done"): [0.0]} if "done" in paths else {}
        reading = jaxprs.read(closed, zero)
    except BaseException as error:
        return failure(error, env)
    written, made = _changes(mine, snapshot(env))
    random_state = theirs != _host_random_state()
    return Call(
        state, closed, reading, written=written, made=made, host_random=random_state, **seen
    )


def _host_random_state() -> bytes:
    name, keys, *rest = np.random.get_state()
    return repr((name, rest, random.getstate())).encode() + np.asarray(keys).tobytes()


SCALARS = (bool, int, float, complex, str, bytes, type(None))
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)


@dataclass(frozen=True)
class Seen:
    """One value that hangs on an environment, in a form that can be compared later."""

    content: Any
    traced: bool = False
    generator: bool = False


def snapshot(env: Env) -> dict[str, Seen]:
    """Everything that hangs on an environment, by name."""
    found: dict[str, Seen] = {}
    visited: set[int] = set()

    def visit(name: str, x: Any, depth: int, made: bool = False) -> None:
        """`made`: a mapping made `x` when it was asked for it, so the id of `x` means nothing."""
        try:
            found[name] = _seen(x, made)
            opaque = isinstance(x, (*SCALARS, *GENERATORS, jax.Array, np.ndarray, type))
            opaque |= isinstance(x, types.ModuleType) or callable(x)
            if opaque or depth == 0 or id(x) in visited:
                return
            visited.add(id(x))
            made = made or (isinstance(x, Mapping) and not isinstance(x, dict))
            for inner, value in _members(name, x):
                visit(inner, value, depth - 1, made)
        except BaseException:  # it can't be looked at: assume that it stays as it is
            found[name] = Seen("unknown")

    for name, value in getattr(env, "__dict__", {}).items():
        visit(f"self.{name}", value, 5)
    for owner in type(env).__mro__[:-1]:
        if not owner.__module__.startswith(("brax.", "abc")):
            for name, value in list(vars(owner).items()):
                if not name.startswith("__") and not hasattr(value, "__get__"):
                    visit(f"{owner.__name__}.{name}", value, 2)
    return found


def _seen(x: Any, made: bool) -> Seen:
    if isinstance(x, jax.core.Tracer):
        return Seen(id(x), traced=True)
    if isinstance(x, np.ndarray):
        some = x if x.nbytes < 1_000_000 else x.reshape(-1)[:: x.size // 10_000]
        return Seen((x.shape, str(x.dtype), some.tobytes()))
    if isinstance(x, np.random.Generator):
        return Seen(repr(x.bit_generator.state), generator=True)
    if isinstance(x, np.random.RandomState):
        return Seen(repr(x.get_state()), generator=True)
    if isinstance(x, random.Random):
        return Seen(x.getstate(), generator=True)
    return Seen(x if isinstance(x, SCALARS) else type(x).__name__ if made else id(x))


def _members(name: str, x: Any) -> list[tuple[str, Any]]:
    if isinstance(x, Mapping):
        return [(f"{name}[{key!r}]", value) for key, value in x.items()]
    if isinstance(x, list | tuple | set):
        return [(f"{name}[{i}]", value) for i, value in enumerate(x)]
    return [(f"{name}.{key}", value) for key, value in getattr(x, "__dict__", {}).items()]


def _changes(
    before: dict[str, Seen], after: dict[str, Seen]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names whose value changed, and names that are new or were None; the deepest of each."""
    nothing = Seen(None)
    new = [
        name
        for name, value in after.items()
        if before.get(name, nothing) == nothing != value and not value.traced
    ]
    changed = [n for n in {**before, **after} if n not in new and before.get(n) != after.get(n)]

    def deepest(names: list[str]) -> tuple[str, ...]:
        return tuple(n for n in names if not any(m != n and m.startswith(n) for m in names))

    return deepest(changed), deepest(new)


# WRAPPERS: what they add to a state.


def _number() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), jnp.float32)


# Entries that Brax's and this package's training wrappers add.
WRAPPER_METRICS = ("reward",)
WRAPPER_INFO = ("steps", "truncation", "episode_done", "episode_metrics", "eval_metrics")
WRAPPER_INFO += ("first_obs", "first_pipeline_state", "final_obs", "reset_key")


def with_wrapper_entries(state: State) -> State:
    """`state` as the training wrappers give it to `step`."""
    episode = {name: _number() for name in ("sum_reward", "length", *state.metrics)}
    info: dict[str, Any] = {name: _number() for name in WRAPPER_INFO}
    info |= {"episode_metrics": episode, "reset_key": KEY, "first_obs": state.obs}
    info |= {"first_pipeline_state": state.pipeline_state}
    return state.replace(
        metrics={"reward": _number(), **state.metrics}, info={**info, **state.info}
    )


def without_failures(calls: list[Call | Failure]) -> tuple[Call, ...]:
    return tuple(call for call in calls if isinstance(call, Call))
