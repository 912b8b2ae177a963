"""Rules: it runs, declares its sizes, and returns values of the right kind.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .rules import Finding, key_of, names, rule, shape_of
from .stages import Attempt, Traced, is_size
from .tracing import WRAPPER_INFO, WRAPPER_METRICS, Call, Failure, NotAState

FIXES = {
    jax.errors.TracerBoolConversionError: "jnp.where(condition, a, b)  # instead of `if`",
    jax.errors.TracerArrayConversionError: "jnp.sin(x)  # jnp instead of np, for traced values",
    jax.errors.TracerIntegerConversionError: "jnp.asarray(table)[index]  # a jnp array can be indexed",
    jax.errors.ConcretizationTypeError: "x.astype(jnp.float32)  # instead of float(x) or int(x)",
    KeyError: "add that key in reset, to the same dict",
    NotImplementedError: "implement it: the class inherits it from brax's Env",
}


def _raised(failure: Failure) -> Finding:
    kinds = (fix for kind, fix in FIXES.items() if isinstance(failure.error, kind))
    return Finding(str(failure), next(kinds, f"correct {failure.where}"))


@rule("error", "`reset(rng)` runs on a raw (2,) uint32 key")
def reset_runs(attempt: Attempt) -> Iterator[Finding]:
    reset = attempt.reset
    if isinstance(reset, Failure) and not isinstance(reset.error, NotAState):
        yield _raised(reset)


@rule("error", "`step(state, action)` runs on the state that `reset` returned", ["reset-runs"])
def step_runs(attempt: Attempt) -> Iterator[Finding]:
    step = attempt.step
    if isinstance(step, Failure) and not isinstance(step.error, NotAState):
        # `step` may only meet what `reset` left on `self`, which is another rule's.
        leaked = isinstance(step.error, jax.errors.UnexpectedTracerError)
        if not (leaked and any(call.written for call in attempt.resets)):
            yield _raised(step)


@rule("error", "`reset` and `step` return a brax `State` whose leaves are arrays")
def returns_state(attempt: Attempt) -> Iterator[Finding]:
    for name, call in (("reset", attempt.reset), ("step", attempt.step)):
        if isinstance(call, Failure) and isinstance(call.error, NotAState):
            fix = "return State(pipeline_state, obs, reward, done, metrics, info)"
            if name == "step":
                fix = "return state.replace(obs=obs, reward=reward, done=done)"
            if path := call.error.path:
                fix = f"leave {path} out of the state: what never changes goes on self, in __init__"
            yield Finding(f"{name} returns {call.error}", fix)


@rule("error", "`observation_size` is the size of the observation that `reset` returns")
def observation_size(attempt: Attempt) -> Iterator[Finding]:
    size, reset = attempt.observation_size, attempt.reset
    if isinstance(size, Failure):
        yield _raised(size)
    elif isinstance(reset, Call) and (obs := reset.of("obs")):
        flat = list(obs) == ["obs"]
        shapes = {key_of(path): leaf.shape for path, leaf in obs.items()}
        if flat and len(shapes[""]) != 1:
            fix = "obs=obs.reshape(-1)  # in reset and step"
            yield Finding(f"reset returns obs of shape {shapes['']}", fix, ("obs",))
            return
        true = {key: s[0] if len(s) == 1 else s for key, s in shapes.items()}
        if flat and is_size(size) and int(size) == true[""]:
            return
        if (
            not flat
            and isinstance(size, Mapping)
            and {k: _shape(s) for k, s in size.items()} == shapes
        ):
            return
        fix = f"return {true[''] if flat else true}  # in observation_size"
        what = f"observation_size is {size!r}, a {type(size).__name__}, and reset returns "
        yield Finding(what + names([f"{p} of shape {x.shape}" for p, x in obs.items()]), fix)


def _shape(size: Any) -> Any:
    return (int(size),) if is_size(size) else tuple(size) if isinstance(size, list) else size


@rule("error", "`action_size` is an int, and `step` takes actions of that size")
def action_size(attempt: Attempt) -> Iterator[Finding]:
    size, space = attempt.action_size, attempt.declared
    if isinstance(size, Failure):
        yield _raised(size)
    elif not is_size(size):
        what = f"action_size is {size!r}, a {type(size).__name__}"
        yield Finding(what, f"return {attempt.space.size}  # in action_size")
    elif attempt.refused is not None:
        what = f"step refuses actions of size {space.size if space else size}: {attempt.refused}"
        fix = f"return {attempt.space.size}  # in action_size"
        if space:
            fix = f"ACTION_SPACE = {attempt.space}"
        yield Finding(f"{what}; it takes those of size {attempt.space.size}", fix)
    elif space is not None and space.size != size:
        fix = "return self.action_space.size  # in action_size"
        yield Finding(f"action_size is {size}, and action_space is {space}", fix)


@rule("error", "`backend` is a string")
def backend(attempt: Attempt) -> Iterator[Finding]:
    if isinstance(attempt.backend, Failure):
        yield _raised(attempt.backend)
    elif not isinstance(attempt.backend, str):
        what = f"backend is {attempt.backend!r}, a {type(attempt.backend).__name__}"
        yield Finding(what, 'return "abstract"  # in backend')


def _scalar(traced: Traced, name: str, reduce: str) -> Iterator[Finding]:
    found: dict[str, list[str]] = {}
    for function, call in traced.calls:
        leaf = call.leaves.get(name)
        if leaf is None:
            found.setdefault("nothing", []).append(function)
        elif leaf.shape != () or not jnp.issubdtype(leaf.dtype, jnp.floating):
            found.setdefault(shape_of(leaf), []).append(function)
        elif name in call.numbers:
            found.setdefault("a Python number", []).append(function)
    for what, functions in found.items():
        fix = f"{name}={reduce}({name}).astype(jnp.float32)"
        if "number" in what or what == "nothing":
            fix = f"{name}=jnp.float32({name})"
        # A Python number has the right shape and dtype: other rules may still look at it.
        parts = () if "number" in what else (name,)
        yield Finding(f"{' and '.join(functions)}: {name} is {what}", fix, parts)


@rule("error", "`reward` is one float, an array of shape ()")
def reward_scalar(traced: Traced) -> Iterator[Finding]:
    yield from _scalar(traced, "reward", "jnp.sum")


@rule("error", "`done` is one float, an array of shape ()")
def done_scalar(traced: Traced) -> Iterator[Finding]:
    yield from _scalar(traced, "done", "jnp.any")


@rule("error", "an observation is (n,) float, or a dict of such and of images under `pixels/...`")
def observation_type(traced: Traced) -> Iterator[Finding]:
    seen: set[str] = set()
    for function, call in traced.calls:
        for path, leaf in call.of("obs").items():
            image = key_of(path).startswith("pixels/")
            real = jnp.issubdtype(leaf.dtype, jnp.floating) or (image and leaf.dtype == jnp.uint8)
            nested = path.count("[") > 1 or (path != "obs" and not key_of(path))
            if not real:
                fix = f"{path}.astype(jnp.float32)  # in reset and step"
            elif nested:
                fix = f"{path}: use one dict of arrays, without dicts or tuples in it"
            elif path != "obs" and leaf.ndim != (3 if image else 1):
                fix = f"{path}.reshape(-1)  # or as an image (height, width, channels), named pixels/..."
                fix = f"{path}: make it (height, width, channels)" if image else fix
            else:
                continue
            if path not in seen:
                yield Finding(f"{function} returns {path} as {shape_of(leaf)}", fix, (path,))
            seen.add(path)


@rule("error", "each metric is one float, an array of shape ()")
def metric_scalar(traced: Traced) -> Iterator[Finding]:
    seen: set[str] = set()
    for function, call in traced.calls:
        for path, leaf in call.of("metrics").items():
            wrong = leaf.shape != () or not jnp.issubdtype(leaf.dtype, jnp.floating)
            if wrong and path not in seen:
                fix = f"{key_of(path)!r}: jnp.mean({key_of(path)}, dtype=jnp.float32)"
                what = f"{function} returns {path} as {shape_of(leaf)}"
                yield Finding(what, f"{fix}  # in metrics, in reset and step", (path,))
            seen |= {path} if wrong else set()


@rule("error", "`metrics` and `info` use no name that the training wrappers use")
def reserved_keys(traced: Traced) -> Iterator[Finding]:
    taken = {"metrics": (*WRAPPER_METRICS, "sum_reward", "length"), "info": WRAPPER_INFO}
    for name, keys in taken.items():
        for key in [key for key in getattr(traced.reset.state, name) if key in keys]:
            path = f"{name}[{key!r}]"
            yield Finding(
                f"{path} is the environment's own", f"rename {key!r} to 'my_{key}'", (path,)
            )


@rule("warning", "numbers are 32 bits wide")
def leaf_width(traced: Traced) -> Iterator[Finding]:
    wide = ("float64", "int64", "uint64") if not jax.config.jax_enable_x64 else ()
    for _, call in traced.calls[:1]:
        found = [
            p for p, x in call.leaves.items() if str(x.dtype) in (*wide, "float16", "bfloat16")
        ]
        if found:
            what = f"{names(f'{p} is {shape_of(call.leaves[p])}' for p in found)}"
            yield Finding(what, f"{found[0]}.astype(jnp.float32)", tuple(found))


@rule("warning", "nothing calls back into Python while it runs")
def host_callback(traced: Traced) -> Iterator[Finding]:
    for function, call in traced.calls:
        if call.reading.callbacks:
            what = (
                f"{function} has {names(call.reading.callbacks)}, which stops the device each time"
            )
            yield Finding(what, "write it with jnp, or remove it when debugging is done")
