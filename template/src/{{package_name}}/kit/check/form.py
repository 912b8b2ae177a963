"""Rules: it runs, declares its sizes, and its state keeps one form."""

import collections
import enum
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import State

from ..env.actions import abstract
from ..errors import Failure
from ..trace.calls import (
    GENERATOR,
    GENERATORS,
    INFO_OF_WRAPPERS,
    TRACED,
    Call,
    NotAState,
    key_of,
    leaves,
    part,
    snapshot,
    trace,
    with_wrapper_entries,
)
from ..trace.jaxprs import input_digest, tree_difference
from .advice import fix_of
from .engine import Finding, error, names, warning
from .stages import Attempt, Subject, Traced, ask, is_size


def _raised(fail: Failure) -> Finding:
    return Finding(str(fail), fix_of(fail))


def _shape(leaf: Any) -> str:
    return f"{leaf.shape} {leaf.dtype}"


@error("is-made", "the environment can be made, and has a `reset` and a `step`")
def is_made(subject: Subject) -> Iterator[Finding]:
    env = subject.env
    if isinstance(env, Failure):
        yield _raised(env)
    elif not all(callable(getattr(env, name, None)) for name in ("reset", "step")):
        what = f"the environment is {env!r:.60}, a {type(env).__name__}"
        yield Finding(what, "return an object of a class of brax.envs.base.Env")


PRESERVED = "in info, with preserve_info = ('{}',) in the class"  # outlives an auto-reset
SIGNATURES = {
    "reset": "def reset(self, rng: jax.Array) -> State:",
    "step": "def step(self, state: State, action: jax.Array) -> State:",
}


def _signature(env: Any, name: str) -> str | None:
    """What `reset` or `step` has to look like, if it does not take what it is given."""
    try:
        inspect.signature(getattr(env, name)).bind(*range(1 if name == "reset" else 2))
    except TypeError:
        return f"{SIGNATURES[name]}  # a key belongs in pipeline_state, and constants on self"
    except ValueError:  # it has no signature to look at
        pass
    return None


@error("reset-runs", "`reset(rng)` runs on a raw (2,) uint32 key")
def reset_runs(subject: Subject, attempt: Attempt) -> Iterator[Finding]:
    if isinstance(attempt.reset, Failure) and not isinstance(attempt.reset.error, NotAState):
        fix = _signature(subject.env, "reset") or fix_of(attempt.reset)
        yield Finding(str(attempt.reset), fix)


@error("step-runs", "`step(state, action)` runs on the state that `reset` returned", "reset-runs")
def step_runs(subject: Subject, attempt: Attempt) -> Iterator[Finding]:
    step = attempt.step
    if isinstance(step, Failure) and not isinstance(step.error, NotAState):
        # `step` may only meet what `reset` left on `self`, which another rule reports.
        leaked = isinstance(step.error, jax.errors.UnexpectedTracerError)
        if not (leaked and any(kind == TRACED for kind, _ in snapshot(subject.env).values())):
            yield Finding(str(step), _signature(subject.env, "step") or fix_of(step))


@error("returns-state", "`reset` and `step` return a brax `State` whose leaves are arrays")
def returns_state(subject: Subject, attempt: Attempt) -> Iterator[Finding]:
    fixes = {
        "reset": "return State(pipeline_state, obs, reward, done, metrics, info)",
        "step": "return state.replace(obs=obs, reward=reward, done=done)",
    }
    for name, call in (("reset", attempt.reset), ("step", attempt.step)):
        if isinstance(call, Failure) and isinstance(call.error, NotAState):
            wrong, fix = call.error, fixes[name]
            if wrong.path:
                fix = _array_instead(wrong.path, wrong.found)
            elif type(wrong.found).__name__ == State.__name__:
                fix = f"from brax.envs.base import State  # and {fixes['reset']}"
            yield Finding(f"{name} returns {wrong}", _signature(subject.env, name) or fix)


def _array_instead(path: str, leaf: Any) -> str:
    """How to keep what is no array in the state."""
    kind = type(leaf)
    if isinstance(leaf, enum.Enum):
        return f"{path}: jnp.int32({leaf.value!r})  # the number of {leaf!s}"
    if isinstance(leaf, str | bytes):
        return f"leave {path} out of the state, or keep its number, an int32, in a list on self"
    if isinstance(leaf, set | frozenset):
        return f"{path}: jnp.zeros(n, bool)  # a mask of n; x.at[i].set(True) adds i to it"
    if isinstance(leaf, collections.deque):
        return f"{path}: jnp.zeros(n)  # jnp.roll(x, 1).at[0].set(new) adds the newest in front"
    if isinstance(leaf, GENERATORS):
        return f"{path}: rng  # a key; key, draw = jax.random.split(key) before each draw"
    if isinstance(leaf, np.ndarray) or callable(leaf) or kind.__module__ == "builtins":
        return f"leave {path} out of the state: what never changes goes on self, in __init__"
    return f"class {kind.__name__}(flax.struct.PyTreeNode): ...  # x.replace(...) returns a new one"


@error("observation-size", "`observation_size` is the size of the observation that `reset` returns")
def observation_size(subject: Subject, attempt: Attempt) -> Iterator[Finding]:
    size, reset = ask(subject.env, "observation_size"), attempt.reset
    if isinstance(size, Failure):
        yield _raised(size)
    elif isinstance(reset, Call) and (obs := reset.of("obs")) and not _is_nested(obs):
        flat = list(obs) == ["obs"]
        shapes = {key_of(path): leaf.shape for path, leaf in obs.items()}
        if flat and (fix := _one_vector(obs["obs"], size)):
            yield Finding(f"reset returns obs as {_shape(obs['obs'])}", fix, ("obs",))
            return
        said = {"": size} if flat else size if isinstance(size, Mapping) else {}
        if {key: (int(n),) if is_size(n) else n for key, n in said.items()} != shapes:
            sizes = {key: shape[0] if len(shape) == 1 else shape for key, shape in shapes.items()}
            what = names(f"{path} of shape {leaf.shape}" for path, leaf in obs.items())
            what = f"observation_size is {size!r}, a {type(size).__name__}; reset returns {what}"
            yield Finding(what, f"return {sizes[''] if flat else sizes}  # in observation_size")


def _one_vector(obs: Any, size: Any) -> str | None:
    """How to make a vector of numbers of an array that is none, if it is none."""
    is_whole = jnp.issubdtype(obs.dtype, jnp.integer)
    if is_whole and obs.ndim < 2 and is_size(size):
        choices, left = divmod(int(size), max(obs.size, 1))
        if choices > 1 and not left:  # `size` counts the choices
            flat = ".reshape(-1)" if obs.ndim else ""
            return f"obs=jax.nn.one_hot(obs, {choices}){flat}  # in reset and step"
    if obs.ndim == 1:
        return None
    number = ".astype(jnp.float32)" if is_whole or obs.dtype == bool else ""
    return f"obs=obs.reshape(-1){number}  # in reset and step"


def _is_nested(obs: Mapping[str, Any]) -> bool:
    return any(path not in ("obs", f"obs[{key_of(path)!r}]") for path in obs)


def _flat_dict(obs: Mapping[str, Any]) -> str:
    """One dict of vectors and images with all leaves of a nested observation, and its size."""
    entries, sizes = [], {}
    for path, leaf in obs.items():
        key = "/".join(re.findall(r"[^\[\]'.]+", path.removeprefix("obs")))
        image = leaf.ndim == 3
        key = f"pixels/{key.removeprefix('pixels/')}" if image else key
        code = path if image or leaf.ndim == 1 else f"{path}.reshape(-1)"
        right = jnp.issubdtype(leaf.dtype, jnp.floating) or (image and leaf.dtype == jnp.uint8)
        entries.append(f"{key!r}: {code}" + ("" if right else ".astype(jnp.float32)"))
        sizes[key] = leaf.shape if image else leaf.size
    new = "{" + ", ".join(entries) + "}"
    return f"obs={new}  # in reset and step; observation_size = {sizes}"


@error("action-size", "`action_size` is an int, and `step` takes actions of that size")
def action_size(subject: Subject, attempt: Attempt) -> Iterator[Finding]:
    size, declared, space = ask(subject.env, "action_size"), attempt.declared, attempt.space
    fix = f"return {space.size}  # in action_size"
    if attempt.unknown is not None:
        what, fix = attempt.unknown.removesuffix(".").split(": ", 1)
        yield Finding(what, fix)
    elif isinstance(size, Failure):
        yield _raised(size)
    elif not is_size(size):
        yield Finding(f"action_size is {size!r}, a {type(size).__name__}", fix)
    elif attempt.refused is not None:
        fix = f"ACTION_SPACE = {space}" if declared else fix
        what = f"step takes actions of size {space.size}; with one of size "
        yield Finding(f"{what}{declared.size if declared else size}, {attempt.refused}", fix)
    elif declared is not None and declared.size != size:
        yield Finding(f"action_size is {size}, and the action space is {declared}", fix)


@error("backend", "`backend` is a string")
def backend(subject: Subject, attempt: Attempt) -> Iterator[Finding]:
    answer = ask(subject.env, "backend")
    if isinstance(answer, Failure):
        yield _raised(answer)
    elif not isinstance(answer, str):
        what = f"backend is {answer!r}, a {type(answer).__name__}"
        yield Finding(what, 'return "abstract"  # in backend')


def _one_float(traced: Traced, name: str, reduce: str) -> Iterator[Finding]:
    found: dict[str, list[str]] = {}
    for function, call in traced.calls:
        leaf = call.leaves.get(name)
        if leaf is None or leaf.shape != () or not jnp.issubdtype(leaf.dtype, jnp.floating):
            found.setdefault("nothing" if leaf is None else _shape(leaf), []).append(function)
        elif name in call.numbers:
            found.setdefault("a Python number", []).append(function)
    for what, functions in found.items():
        number = what == "a Python number"
        fix = f"jnp.float32({name})" if number else f"{reduce}({name}).astype(jnp.float32)"
        yield Finding(f"{' and '.join(functions)}: {name} is {what}", f"{name}={fix}", (name,))


@error("reward-scalar", "`reward` is one float, an array of shape ()")
def reward_scalar(traced: Traced) -> Iterator[Finding]:
    yield from _one_float(traced, "reward", "jnp.sum")


@error("done-scalar", "`done` is one float, an array of shape ()")
def done_scalar(traced: Traced) -> Iterator[Finding]:
    yield from _one_float(traced, "done", "jnp.any")


@error(
    "observation-type",
    "an observation is (n,) float, or a dict of such and of images under `pixels/...`",
)
def observation_type(traced: Traced) -> Iterator[Finding]:
    obs = traced.reset.of("obs")
    if _is_nested(obs):
        yield Finding(f"reset returns {names(obs)}", _flat_dict(obs), tuple(obs))
        return
    for path, (function, leaf) in traced.wrong("obs", _is_observation).items():
        image = key_of(path).startswith("pixels/")
        fix = f"{path}: uint8 or float32 of shape (height, width, channels)"
        if not image:
            number = "" if jnp.issubdtype(leaf.dtype, jnp.floating) else ".astype(jnp.float32)"
            flat = "" if leaf.ndim == 1 else ".reshape(-1)"
            fix = f"{path}{flat}{number}  # in reset and step"
        yield Finding(f"{function} returns {path} as {_shape(leaf)}", fix, (path,))


def _is_observation(path: str, leaf: Any) -> bool:
    real = jnp.issubdtype(leaf.dtype, jnp.floating)
    if path == "obs":  # its shape is judged with `observation_size`
        return real
    if path != f"obs[{key_of(path)!r}]":
        return False
    if key_of(path).startswith("pixels/"):
        return leaf.ndim == 3 and (real or leaf.dtype == jnp.uint8)
    return leaf.ndim == 1 and real


@error("metric-scalar", "each metric is one float, an array of shape ()")
def metric_scalar(traced: Traced) -> Iterator[Finding]:
    def right(_: str, leaf: Any) -> bool:
        return leaf.shape == () and jnp.issubdtype(leaf.dtype, jnp.floating)

    for path, (function, leaf) in traced.wrong("metrics", right).items():
        key = key_of(path)
        fix = f"{key!r}: jnp.mean({key}, dtype=jnp.float32)  # in reset and step"
        yield Finding(f"{function} returns {path} as {_shape(leaf)}", fix, (path,))


@error("reserved-keys", "`metrics` and `info` use no name that the training wrappers use")
def reserved_keys(traced: Traced) -> Iterator[Finding]:
    taken = {"metrics": ("reward", "sum_reward", "length"), "info": INFO_OF_WRAPPERS}
    for name, keys in taken.items():
        for key in [key for key in getattr(traced.reset.state, name) if key in keys]:
            path = f"{name}[{key!r}]"
            what = f"{path} is the environment's own"
            yield Finding(what, f"rename {key!r} to 'my_{key}'", (path,))


@error("no-self-write", "`reset` and `step` do not write to `self`")
def no_self_write(subject: Subject, attempt: Attempt) -> Iterator[Finding]:
    hangs = {name: kind for name, (kind, _) in snapshot(subject.env).items()}
    for function, calls in (("reset", attempt.resets), ("step", attempt.steps)):
        found = {name for call in calls[1:] for name in call.written}
        # What only the first call wrote is a constant made late, unless it is a traced value.
        found |= {n for call in calls[:1] for n in call.written if hangs.get(n) == TRACED}
        if found := {name for name in found if hangs.get(name) != GENERATOR}:
            name = re.split(r"[.\[]", min(found))[1]
            fix = "keep it in pipeline_state: reset puts it there and step returns the next value"
            fix += f"; what outlives episodes, such as a curriculum: {PRESERVED.format(name)}"
            yield Finding(f"{function} writes {names(sorted(found))}", fix)


def _extended(traced: Traced, name: str) -> str:
    """The line that extends `metrics` or `info` with the environment's own entries."""
    own = dict.fromkeys(map(key_of, traced.step.of(name)))
    entries = "".join(f", {key!r}: {key}" for key in own)
    return f"{name}=" + ("{**state." + name + entries + "}" if own else f"state.{name}")


@error(
    "wrapper-keys", "`step` keeps the entries of `metrics` and `info` that the wrappers put there"
)
def wrapper_keys(subject: Subject, traced: Traced) -> Iterator[Finding]:
    state = with_wrapper_entries(traced.reset.state)
    call = trace(subject.env, subject.env.step, state, abstract(traced.space))
    if isinstance(call, Failure):
        fix = f"{_extended(traced, 'metrics')}, {_extended(traced, 'info')}"
        yield Finding(f"with the wrappers' entries in the state, {call}", fix)
        return
    given = {path: input_digest(i) for i, path in enumerate(leaves(state))}
    for name in ("metrics", "info"):
        theirs = [p for p in given if part(p) == name and p not in traced.reset.leaves]
        lost = [p for p in given if part(p) == name and p not in call.outputs]
        fix = f"{_extended(traced, name)}  # in state.replace(...)"
        if any(path in theirs for path in lost):
            keys = names(dict.fromkeys(map(key_of, lost)), 8)
            yield Finding(f"step drops {keys} from {name}", fix, tuple(lost))
        elif changed := [p for p in theirs if call.outputs[p].digest != given[p]]:
            yield Finding(f"step changes {names(changed)}, which the wrappers own", fix)


@error(
    "state-structure",
    "`reset` and `step` return the same keys and types, so that `step` is compiled once",
)
def state_structure(traced: Traced) -> Iterator[Finding]:
    reset, step = traced.reset.leaves, traced.step.leaves
    for function, only, other in (("step", step, reset), ("reset", reset, step)):
        for name in dict.fromkeys(map(part, only)):
            if more := [p for p in only if p not in other and part(p) == name]:
                fix = f"return {names(more)} from both reset and step"
                if name in ("metrics", "info"):
                    zeros = f"jnp.zeros({only[more[0]].shape}, jnp.{only[more[0]].dtype})"
                    fix = f"{key_of(more[0])!r}: {zeros}  # in {name}, in reset"
                    fix = fix if function == "step" else f"{_extended(traced, name)}  # in step"
                yield Finding(f"only {function} returns {names(more)}", fix, tuple(more))
    difference = tree_difference(traced.reset.state, traced.step.state)
    if reset.keys() == step.keys() and difference:
        path, old, new = difference
        fix = f"return {path} as a {old} from step too"
        if "metadata" in old:
            fix = "count: jax.Array  # not flax.struct.field(pytree_node=False)"
        yield Finding(f"{path} is a {old} after reset and a {new} after step", fix)


@error("state-shapes", "every leaf keeps its shape and dtype")
def state_shapes(traced: Traced) -> Iterator[Finding]:
    for path, old in traced.reset.leaves.items():
        new = traced.step.leaves.get(path, old)
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            fix = f"return {path} with shape {old.shape} from both reset and step"
            if old.shape == new.shape:
                fix = f"{path}.astype(jnp.{old.dtype})  # in step"
            what = f"{path} is {_shape(old)} after reset and {_shape(new)} after step"
            yield Finding(what, fix, (path,))


@warning("weak-type", "dtypes are explicit and not left to Python numbers", "state-structure")
def weak_type(traced: Traced) -> Iterator[Finding]:
    before, after = traced.reset.leaves, traced.step.leaves
    if found := [p for p, old in before.items() if old.weak_type != after[p].weak_type]:
        what = f"{names(found)}: the dtype is weak after only one of reset and step, so that step "
        fix = f"{found[0]}.astype(jnp.{before[found[0]].dtype})  # in reset and step"
        yield Finding(what + "is compiled twice", fix, tuple(found))


@warning("leaf-width", "numbers are at least 32 bits wide")
def leaf_width(traced: Traced) -> Iterator[Finding]:
    half = {p: x for p, x in traced.reset.leaves.items() if x.dtype in (jnp.float16, jnp.bfloat16)}
    if half:
        what = names(f"{path} is {_shape(leaf)}" for path, leaf in half.items())
        yield Finding(what, f"{next(iter(half))}.astype(jnp.float32)", tuple(half))


@warning(
    "info-state", "what `step` remembers is in `pipeline_state`, not in `info`", "state-structure"
)
def info_state(subject: Subject, traced: Traced) -> Iterator[Finding]:
    outputs = traced.step.outputs.values()
    kept = tuple(getattr(subject.env, "preserve_info", ()))
    memory = [
        path
        for index, path in enumerate(traced.reset.leaves)
        if part(path) == "info" and path not in traced.unchanged and key_of(path) not in kept
        if any(index in value.inputs for value in outputs)
    ]
    if memory:
        what = f"step computes with the last {names(memory)}, which Brax's own auto-reset keeps"
        fix = f"move {names(map(key_of, memory))} to pipeline_state; what outlives episodes, such "
        fix += f"as a curriculum, stays {PRESERVED.format(key_of(memory[0]))}"
        yield Finding(what, fix, tuple(memory))


@warning("host-callback", "nothing calls back into Python while it runs")
def host_callback(traced: Traced) -> Iterator[Finding]:
    for function, call in traced.calls:
        if found := call.reading.callbacks:
            what = f"{function} has {names(found)}, which stops the device each time"
            yield Finding(what, "write it with jnp, or remove it when debugging is done")
