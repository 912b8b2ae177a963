"""What a call of `reset` or `step` does, seen without running it. The template's: not for editing.

Nothing is judged here, and whatever an environment raises on the way comes back as a `Failure`.
"""

import gc
import inspect
import numbers
import random
import re
import site
import sys
import sysconfig
import traceback
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from . import jaxprs

Actions = Literal["continuous", "discrete"]
Tree = Any


@dataclass(frozen=True)
class Failure:
    """An exception that the environment raised.

    Attributes:
      error: the exception.
      where: the user's own line, such as `env.py:41`; where there is none, the class.
      message: the exception's type and the first line of what it says.
    """

    error: BaseException
    where: str
    message: str


def said(error: BaseException) -> str:
    """What an exception says, also one that can't."""
    try:
        return str(error)
    except BaseException:
        return ""


def failure(error: BaseException, env: Env) -> Failure:
    """Finds the user's own line in the traceback of `error`."""
    frames = list(traceback.extract_tb(error.__traceback__))
    text = said(error)
    lines = text.strip().splitlines() or [""]
    told = re.findall(r'File "(.+)", line (\d+)', text)
    if told:  # from inside a callback, where the traceback is part of the message
        frames += [traceback.FrameSummary(name, int(line), "") for name, line in told]
        lines = [line for line in lines if re.match(r"\w+(Error|Exception)\b", line)][-1:] or lines
    try:
        source = inspect.getsourcefile(type(env)) or ""
    except Exception:
        source = ""
    libraries = (
        *site.getsitepackages(),
        sysconfig.get_paths()["stdlib"],
        str(Path(__file__).parents[1]),
    )
    own = [f for f in frames if source and f.filename == source]
    own = [f for f in frames if not f.filename.startswith((*libraries, "<"))] or own
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else type(env).__name__
    says = " ".join(line.strip() for line in lines[: 4 if lines[0].endswith(":") else 1])
    kind = type(error).__name__
    return Failure(error, where, f"{kind}: {says}"[:400] if says else kind)


# TREES: leaves by name, as a reader would write it.


def leaves(tree: Tree, name: str = "state") -> dict[str, Any]:
    """The leaves of `tree` by path: `{"state.info['wind']": ...}`."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {name + jax.tree_util.keystr(path): leaf for path, leaf in found}


def containers(tree: Tree, name: str = "state") -> dict[str, str]:
    """What holds the leaves of `tree`, by path, each with its type's name; None is one of them."""
    children, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
    if len(children) == 1 and not children[0][0]:
        return {}  # a leaf
    found = {name: type(tree).__name__}
    for path, child in children:
        found |= containers(child, name + jax.tree_util.keystr(path))
    return found


def part(path: str) -> str:
    """The field of `State` that a path leads through: `obs`, `metrics`, ..."""
    return path.removeprefix("state.").split(".")[0].split("[")[0]


def is_key(leaf: Any) -> bool:
    """Whether a leaf is (or holds) random keys, typed or raw."""
    typed = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return typed or (leaf.dtype == jnp.uint32 and leaf.shape[-1:] == (2,))


def is_size(x: Any) -> bool:
    """Whether `x` is an int, 1 or more."""
    return isinstance(x, numbers.Integral) and not isinstance(x, bool) and int(x) > 0


# TRACING: what a call does, without running it.


@dataclass(frozen=True)
class Call:
    """One traced call of `reset` or `step`.

    Attributes:
      state: what it gave, a `State` of `jax.ShapeDtypeStruct`.
      reading: what it computes.
      numbers: paths of leaves that are Python numbers.
      given: paths of the state it was given at which it put something else, in place.
      written: what it changed on the environment, as `self.count`.
      made: what it added there, no traced values: a constant, if it does so once.
      host_random: whether it drew from NumPy's or Python's own random numbers.
    """

    state: State
    reading: jaxprs.Reading
    numbers: frozenset[str]
    given: tuple[str, ...]
    written: tuple[str, ...]
    made: tuple[str, ...]
    host_random: bool

    @property
    def leaves(self) -> dict[str, Any]:
        return leaves(self.state)

    def outputs(self) -> dict[str, jaxprs.Value]:
        """What is known of each leaf of `state`, by path."""
        return dict(zip(self.leaves, self.reading.outputs, strict=True))


class NotAState(TypeError):
    """`reset` or `step` gave something that is no `State` of arrays."""


def trace(env: Env, function: Callable[..., State], *args: Any) -> Call | Failure:
    """Calls `function` with abstract arguments, which are `jax.ShapeDtypeStruct`s."""
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
                name = path.removeprefix("state.")
                raise NotAState(f"{name} is {leaf!r:.40}, a {type(leaf).__name__}")
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
        reading = jaxprs.read(closed)
    except BaseException as error:
        return failure(error, env)
    written, made = changes(mine, snapshot(env))
    return Call(
        state=state,
        reading=reading,
        written=tuple(written),
        made=tuple(made),
        host_random=theirs != _host_random_state(),
        **seen,
    )


def leak(function: Callable[..., State], *args: Any) -> str | None:
    """Where `function` left a traced value behind; None if it did not."""
    traces: list[Any] = []

    def call(*args: Any) -> State:
        traces.extend(weakref.ref(x._trace) for x in jax.tree.leaves(args)[:1])
        return function(*args)

    def left() -> bool:
        gc.collect()
        return any(trace() is not None for trace in traces)

    try:
        jax.eval_shape(call, *args)
    except BaseException:  # `trace` tells of it
        return None
    if not left():
        return None
    # JAX's own caches hold traced values too, for as long as they like: only what is still there
    # without them was kept by someone else.
    jax.clear_caches()
    if not left():
        return None
    values = [x for x in gc.get_referrers(traces[0]()) if isinstance(x, jax.core.Tracer)]
    holders = [x for x in gc.get_referrers(*values) if x is not values]
    names = [
        f"{module.__name__}.{name}"
        for module in list(sys.modules.values())
        for name, value in list(getattr(module, "__dict__", {}).items())
        if any(value is holder for holder in holders)
    ]
    kinds = {type(x).__name__ for x in holders if isinstance(x, list | dict | set | tuple)}
    return ", ".join(names) or " or ".join(f"a {kind}" for kind in sorted(kinds)) or "an object"


def _host_random_state() -> bytes:
    name, keys, *rest = np.random.get_state()
    return repr((name, rest, random.getstate())).encode() + np.asarray(keys).tobytes()


def snapshot(env: Env) -> dict[str, Any]:
    """All that hangs on an environment, by name, in a form that can be compared later."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(name: str, x: Any, depth: int, made: bool = False) -> None:
        try:
            look(name, x, depth, made)
        except BaseException:  # what can't be looked at is held to stay as it is
            found[name] = "unseen"

    def look(name: str, x: Any, depth: int, made: bool) -> None:
        """`made`: by a mapping, as it was asked for `x`, so that the id of `x` means nothing."""
        if isinstance(x, np.ndarray):
            some = x if x.nbytes < 1_000_000 else x.reshape(-1)[:: x.size // 10_000]
            found[name] = (x.shape, str(x.dtype), some.tobytes())
        elif isinstance(x, jax.core.Tracer):
            found[name] = f"traced {id(x)}"
        elif isinstance(x, np.random.Generator | np.random.RandomState | random.Random):
            found[name] = f"random state {_generator_state(x)}"
        elif isinstance(x, bool | int | float | complex | str | bytes | None):
            found[name] = x
        else:
            found[name] = type(x).__name__ if made else id(x)
            opaque = isinstance(x, jax.Array | type | types.ModuleType) or callable(x)
            if id(x) in seen or depth == 0 or opaque:
                return
            seen.add(id(x))
            made = made or (isinstance(x, Mapping) and not isinstance(x, dict))
            for part_name, value in _members(name, x):
                visit(part_name, value, depth - 1, made)

    for name, value in getattr(env, "__dict__", {}).items():
        visit(f"self.{name}", value, 5)
    for owner in type(env).__mro__[:-1]:
        if not owner.__module__.startswith(("brax.", "abc")):
            for name, value in list(vars(owner).items()):
                if not name.startswith("__") and not hasattr(value, "__get__"):
                    visit(f"{owner.__name__}.{name}", value, 2)
    return found


def _members(name: str, x: Any) -> list[tuple[str, Any]]:
    if isinstance(x, Mapping):
        return [(f"{name}[{key!r}]", value) for key, value in x.items()]
    if isinstance(x, list | tuple | set):
        return [(f"{name}[{i}]", value) for i, value in enumerate(x)]
    return [(f"{name}.{key}", value) for key, value in getattr(x, "__dict__", {}).items()]


def _generator_state(x: Any) -> Any:
    if isinstance(x, np.random.Generator):
        return x.bit_generator.state
    return x.get_state() if isinstance(x, np.random.RandomState) else x.getstate()


def changes(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Names whose value changed, and names that are new or were None; the deepest of each."""
    new = [n for n in after if before.get(n) is None and after[n] is not None]
    new = [n for n in new if not str(after[n]).startswith("traced ")]
    changed = [n for n in {**before, **after} if n not in new and before.get(n) != after.get(n)]

    def deepest(names: list[str]) -> list[str]:
        return [n for n in names if not any(m != n and m.startswith(n) for m in names)]

    return deepest(changed), deepest(new)


KEY = jax.ShapeDtypeStruct((2,), jnp.uint32)


def abstract_action(actions: Actions, size: int) -> jax.ShapeDtypeStruct:
    """An action: (size,) float32, or () int32."""
    if actions == "discrete":
        return jax.ShapeDtypeStruct((), jnp.int32)
    return jax.ShapeDtypeStruct((size,), jnp.float32)


def number() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), jnp.float32)


# Keys under which Brax's and this package's wrappers keep what is theirs.
GUESTS: dict[str, tuple[str, ...]] = {
    "metrics": ("reward",),
    "info": (
        "steps",
        "truncation",
        "episode_done",
        "episode_metrics",
        "eval_metrics",
        "first_obs",
        "first_pipeline_state",
        "final_obs",
        "reset_key",
        "reset_pool",
    ),
}


def with_guests(state: State) -> State:
    """`state` as `step` gets it from the training wrappers: with entries that are not its own."""
    episode = {name: number() for name in ("sum_reward", "length", *state.metrics)}
    guests: dict[str, Any] = {name: number() for name in GUESTS["info"]}
    guests |= {"episode_metrics": episode, "reset_key": KEY, "first_obs": state.obs}
    guests |= {"first_pipeline_state": state.pipeline_state}
    return state.replace(
        metrics={"reward": number(), **state.metrics}, info={**guests, **state.info}
    )
