"""The rules of a Brax environment, in the order in which they matter. The template's: not for
editing.

Each is one function that reads what was seen of an environment and yields what breaks the rule:
what is expected, what was found, and a line that mends it. A rule keeps quiet where what it sees
only follows from the break of another.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from . import jaxprs
from .running import unequal
from .seen import Seen
from .tracing import (
    GUESTS,
    Call,
    Failure,
    NotAState,
    abstract_action,
    containers,
    is_key,
    is_size,
    leaves,
    part,
    snapshot,
    with_guests,
)

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Violation:
    """A rule that an environment breaks.

    Attributes:
      rule: which one, such as `done-scalar`; these names stay.
      severity: "error" when training would fail or learn something else, else "warning".
      expected: what the rule asks for.
      actual: what was found, and where.
      fix: a line of code that mends it.
    """

    rule: str
    severity: Severity
    expected: str
    actual: str
    fix: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.actual} (expected {self.expected}). Try: {self.fix}"


Finding = tuple[str, str, str]  # expected, actual, fix
MINE = "'mine': value"  # an entry of the user's own, in a mend
Stage = Literal["declared", "traced", "run", "rollout", "wrapped", "end"]


@dataclass(frozen=True)
class Rule:
    """A rule: its name, what it asks in words, and what looks whether it is kept."""

    id: str
    severity: Severity
    stage: Stage
    says: str
    look: Callable[[Seen], Iterator[Finding]]

    @property
    def early(self) -> bool:
        """Whether it can be asked although its stage was not gone through to the end."""
        return self.stage in ("declared", "traced", "end") or self.id == "vmap-equals-loop"


RULES: list[Rule] = []
HIDDEN = ("no-self-write", "host-randomness", "same-bits")  # what makes any two results differ


def rule(id: str, severity: Severity, stage: Stage, says: str) -> Callable[[Any], Any]:
    """Adds the function below to `RULES`; it yields a `Finding` for each break."""

    def add(look: Callable[[Seen], Iterator[Finding]]) -> Any:
        RULES.append(Rule(id, severity, stage, says, look))
        return look

    return add


# ---------------------------------------------------------------------------------------------
# DECLARED AND RUNNING


@rule("reset-runs", "error", "traced", "`reset(rng)` runs on a raw (2,) uint32 key")
def _(seen: Seen) -> Iterator[Finding]:
    if isinstance(seen.reset, Failure) and not isinstance(seen.reset.error, NotAState):
        yield _raised("reset", seen.reset)


@rule("step-runs", "error", "traced", "`step(state, action)` runs on what `reset` gave")
def _(seen: Seen) -> Iterator[Finding]:
    if isinstance(seen.step, Failure) and not isinstance(seen.step.error, NotAState):
        leaked = "UnexpectedTracer" in seen.step.message and any(c.written for c in seen.resets)
        if not leaked:
            yield _raised("step", seen.step)


@rule("returns-state", "error", "traced", "`reset` and `step` return a `State` of arrays")
def _(seen: Seen) -> Iterator[Finding]:
    for name, call in (("reset", seen.reset), ("step", seen.step)):
        if isinstance(call, Failure) and isinstance(call.error, NotAState):
            fix = "return State(pipeline_state, obs, reward, done, metrics, info)"
            if name == "step":
                fix = "return state.replace(obs=obs, reward=reward, done=done)"
            yield "a brax State whose leaves are arrays", f"{name} gives {call.error}", fix


@rule("runs-compiled", "error", "end", "what can be traced can be compiled and run")
def _(seen: Seen) -> Iterator[Finding]:
    if seen.crash is not None and not seen.broken():
        yield _raised("the compiled step", seen.crash)


@rule("observation-size", "error", "traced", "`observation_size` is the observation's true size")
def _(seen: Seen) -> Iterator[Finding]:
    size = seen.observation_size
    if isinstance(size, Failure):
        yield _raised("observation_size", size)
        return
    if not isinstance(seen.reset, Call) or not (obs := _of(seen.reset, "obs")):
        return
    flat = list(obs) == ["state.obs"]
    true = {path: shape.shape for path, shape in obs.items()}
    says = "{" + ", ".join(f"{_key(p)!r}: {_size(s)}" for p, s in true.items()) + "}"
    says = _size(true["state.obs"]) if flat else says
    fix = f"def observation_size(self): return {says}"
    if flat and len(true["state.obs"]) != 1:
        shape = true["state.obs"]
        fix = 'obs={"pixels/view": image}' if len(shape) > 1 else "obs=jnp.stack([...])"
        yield "a flat observation, (n,)", f"reset gives obs of shape {shape}", fix
    elif flat and not is_size(size):
        yield f"the int {says}", f"observation_size is {size!r}, a {type(size).__name__}", fix
    elif not flat and not isinstance(size, Mapping):
        yield says, f"observation_size is {size!r}, but obs is a dict", fix
    else:
        declared = leaves(size, "state.obs") if flat else _declared_sizes(size)
        for path in sorted({**true, **declared}):
            if path not in declared or path not in true:
                where = "observation_size" if path in declared else "the obs that reset gives"
                yield says, f"{_key(path)!r} is in {where} alone", fix
            elif _as_shape(declared[path]) != true[path]:
                actual = f"observation_size says {declared[path]!r}, reset gives {_name(path)} "
                yield says, actual + f"of shape {true[path]}", fix


@rule("action-size", "error", "traced", "`action_size` is an int, and `step` takes such actions")
def _(seen: Seen) -> Iterator[Finding]:
    size = seen.action_size
    fix = "def action_size(self): return 2  # numbers in an action, or choices"
    if isinstance(size, Failure):
        yield _raised("action_size", size)
    elif not is_size(size):
        yield "an int, 1 or more", f"action_size is {size!r}, a {type(size).__name__}", fix
    elif seen.refused is not None:
        actual = f"an action of the declared size {size} makes {seen.refused.where} raise "
        actual += f"{seen.refused.message}; one of size {seen.size} does not"
        yield (
            "a step that takes actions of the declared size",
            actual,
            (f"def action_size(self): return {seen.size}"),
        )


@rule("backend", "error", "declared", "`backend` is a string")
def _(seen: Seen) -> Iterator[Finding]:
    if isinstance(seen.backend, Failure):
        yield _raised("backend", seen.backend)
    elif not isinstance(seen.backend, str):
        actual = f"backend is {seen.backend!r}, a {type(seen.backend).__name__}"
        yield "a str", actual, 'def backend(self): return "abstract"'


# ---------------------------------------------------------------------------------------------
# REWARD, DONE, OBSERVATION, METRICS


def _scalar(seen: Seen, name: str, fix: str) -> Iterator[Finding]:
    """Reward and done alike: a () float, and no Python number."""
    expected = f"{name} is a () float32 array"
    found: dict[str, list[str]] = {}
    for function, call in _calls(seen):
        leaf = call.leaves.get(f"state.{name}")
        if leaf is None:
            kind = type(getattr(call.state, name)).__name__
            found.setdefault(f"a {kind} for {name}", []).append(function)
        elif leaf.shape != () or not jnp.issubdtype(leaf.dtype, jnp.floating):
            found.setdefault(f"{name} as {_shape(leaf)}", []).append(function)
        elif f"state.{name}" in call.numbers:
            found.setdefault(f"{name} as a Python number", []).append(function)
    for what, functions in found.items():
        verb = "give" if len(functions) > 1 else "gives"
        own = f"{name}=jnp.float32({name})" if "Python" in what else fix
        yield expected, f"{' and '.join(functions)} {verb} {what}", own


@rule("reward-scalar", "error", "traced", "`reward` is one float, an array without axes")
def _(seen: Seen) -> Iterator[Finding]:
    yield from _scalar(seen, "reward", "reward=jnp.sum(reward).astype(jnp.float32)")


@rule("done-scalar", "error", "traced", "`done` is one float, an array without axes")
def _(seen: Seen) -> Iterator[Finding]:
    yield from _scalar(seen, "done", "done=jnp.any(outside).astype(jnp.float32)")


@rule("reset-at-zero", "error", "rollout", "after `reset`, `done` and `reward` are 0")
def _(seen: Seen) -> Iterator[Finding]:
    for name in ("reward", "done"):
        values = seen.rollout.series[f"reset_{name}"][seen.rollout.series["restart"]]
        if np.any(wrong := values != 0) and not seen.broken(f"{name}-scalar"):
            count = f"{np.sum(wrong)} of {len(values)} resets"
            actual = f"{name} is {values[wrong][0]:g} after {count}"
            yield f"{name} is 0 after reset", actual, f"{name}=jnp.zeros(())"


@rule("done-binary", "error", "rollout", "`done` is 0 or 1 and nothing between")
def _(seen: Seen) -> Iterator[Finding]:
    done = seen.rollout.series["done"]
    wrong = (done != 0) & (done != 1) & ~np.isnan(done)
    if np.any(wrong) and not seen.broken("done-scalar"):
        t, i = np.argwhere(wrong)[0]
        actual = f"done is {done[t, i]:g} at step {_step(seen, t, i)} under {_kind(seen, i)}"
        yield "done is 0.0 or 1.0", actual, "done=jnp.where(outside, 1.0, 0.0).astype(jnp.float32)"


@rule("observation-type", "error", "traced", "observations are float, or uint8 under `pixels/`")
def _(seen: Seen) -> Iterator[Finding]:
    bad: set[str] = set()
    for function, call in _calls(seen):
        for path, leaf in _of(call, "obs").items():
            pixels = _key(path).startswith("pixels/")
            fine = jnp.issubdtype(leaf.dtype, jnp.floating) or (pixels and leaf.dtype == jnp.uint8)
            if not fine and path not in bad:
                bad.add(path)
                name = _name(path)
                yield (
                    "float32 observations (uint8 for an entry named pixels/...)",
                    f"{function} gives {name} as {_shape(leaf)}",
                    "obs=obs.astype(jnp.float32)",
                )
            elif fine and path != "state.obs" and leaf.ndim != 1 and not pixels and path not in bad:
                bad.add(path)
                yield (
                    "(n,) observations; images under a key that starts with pixels/",
                    f"{function} gives {_name(path)} as {_shape(leaf)}",
                    "obs=" + _dict(f'"pixels/{_key(path)}": image'),
                )


@rule("metric-scalar", "error", "traced", "each metric is one float")
def _(seen: Seen) -> Iterator[Finding]:
    bad: set[str] = set()
    for function, call in _calls(seen):
        for path, leaf in _of(call, "metrics").items():
            if path in bad:
                continue
            if leaf.shape != () or not jnp.issubdtype(leaf.dtype, jnp.floating):
                bad.add(path)
                fix = _extended("metrics", f"{_key(path)!r}: jnp.mean(x, dtype=jnp.float32)")
                actual = f"{function} gives {_name(path)} as {_shape(leaf)}"
                yield "() float32 in every metric", actual, fix


# ---------------------------------------------------------------------------------------------
# THE STATE KEEPS ITS FORM


@rule("wrapper-keys", "error", "traced", "`metrics` and `info` keep what the wrappers put there")
def _(seen: Seen) -> Iterator[Finding]:
    expected = "step hands on the entries that training wrappers keep in metrics and info"
    if isinstance(seen.step, Failure) or seen.guests is None:
        return
    if isinstance(seen.guests, Failure):
        what = (
            f"{seen.guests.where} raises {seen.guests.message} once the wrappers' entries are there"
        )
        yield expected, what, "info={**state.info, 'mine': value}  # never loop over all of info"
        return
    given = leaves(with_guests(seen.reset.state))
    outputs = seen.guests.outputs()
    touched = {
        path: outputs[path].inputs == {index}  # whether by nothing but itself
        for index, path in enumerate(given)
        if path not in seen.reset.leaves
        and path in outputs
        and outputs[path].digest != jaxprs.input_digest(index)
    }
    same = _same_numbers(seen) if all(touched.values()) and touched else set()
    for path in touched:
        if path not in same:
            name = part(path)
            actual = f"step changes {_name(path)}, which is a wrapper's"
            yield expected, actual, _extended(name, MINE)
            return
    for name in ("metrics", "info"):
        lost = [p for p in given if part(p) == name and p not in seen.reset.leaves | outputs]
        if lost:
            keys = sorted({_key(p) for p in lost})
            own = [_key(p) for p in _of(seen.reset, name) if p not in outputs]
            actual = f"step drops {', '.join(map(repr, keys))} from {name}"
            actual += f", and its own {', '.join(map(repr, own))}" if own else ""
            yield expected, actual, f"state.replace({_extended(name, MINE)})"


@rule("reserved-keys", "error", "traced", "`metrics` and `info` use no name of the wrappers'")
def _(seen: Seen) -> Iterator[Finding]:
    if not isinstance(seen.reset, Call):
        return
    taken = {"metrics": ("reward", "sum_reward", "length"), "info": GUESTS["info"]}
    for name, names in taken.items():
        for key in getattr(seen.reset.state, name):
            if key in names:
                actual = f"{name}[{key!r}] is the environment's own"
                yield (
                    f"no {key!r} in {name}: a wrapper keeps its own there",
                    actual,
                    _extended(name, f"'my_{key}': value"),
                )


def _same_numbers(seen: Seen) -> set[str]:
    """Entries of the wrappers' that come out of `step` as they went in, like `x[None][0]`."""
    rng = np.random.default_rng(seen.seed)

    def draw(x: Any) -> jax.Array:
        return jnp.asarray(rng.uniform(1, 9, x.shape), x.dtype)

    try:
        given = jax.tree.map(draw, with_guests(seen.reset.state))
        action = draw(abstract_action(seen.actions, seen.size))
        after = jax.jit(seen.env.step)(given, action)
    except Exception:  # it does not run on any numbers: no more is known
        return set()
    return set(leaves(given)) - set(unequal(given, after))


def _same_keys(seen: Seen, name: str) -> Iterator[Finding]:
    """Metrics and info alike: the same entries out of `reset` and `step`."""
    if not isinstance(seen.step, Call):
        return
    before, after = _of(seen.reset, name), _of(seen.step, name)
    for path in after.keys() - before.keys():
        fix = f"{name}=" + _dict(f"{_key(path)!r}: jnp.zeros(())") + "  # in reset"
        yield f"the same keys in {name} out of reset and step", f"step adds {_name(path)}", fix
    replaced = any(v.rule == "wrapper-keys" and f"from {name}" in v.actual for v in seen.violations)
    for path in before.keys() - after.keys():
        if not replaced:
            fix = _extended(name, MINE)
            yield f"the same keys in {name} out of reset and step", f"step drops {_name(path)}", fix


@rule("metrics-keys", "error", "traced", "`metrics` has the same keys out of `reset` and `step`")
def _(seen: Seen) -> Iterator[Finding]:
    yield from _same_keys(seen, "metrics")


@rule("info-keys", "error", "traced", "`info` has the same keys out of `reset` and `step`")
def _(seen: Seen) -> Iterator[Finding]:
    yield from _same_keys(seen, "info")


@rule("state-structure", "error", "traced", "the rest of the state has the same leaves throughout")
def _(seen: Seen) -> Iterator[Finding]:
    if not isinstance(seen.step, Call):
        return
    expected = "the same tree out of reset and step"
    for name in ("pipeline_state", "obs"):
        before, after = _of(seen.reset, name), _of(seen.step, name)
        more, less = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
        if more or less:
            has = [f"step gives {', '.join(map(_name, more))}, which reset does not"] * bool(more)
            has += [f"reset gives {', '.join(map(_name, less))}, which step does not"] * bool(less)
            fix = f"{name}=state.{name}  # where step has nothing new to say"
            fix = f"{name}=...  # in reset too, with the same leaves" if more else fix
            yield expected, "; ".join(has), fix
    if not seen.broken("state-structure", "metrics-keys", "info-keys"):
        before, after = containers(seen.reset.state), containers(seen.step.state)
        for path in sorted(before.keys() | after.keys()):
            old, new = (kinds.get(path, "nothing") for kinds in (before, after))
            if old != new and part(path) != "obs":
                actual = f"{_name(path)} is a {old} out of reset and a {new} out of step"
                yield expected, actual, f"{old}(...)  # {_name(path)} in step"
                break


def _drift(seen: Seen, differs: Callable[[Any, Any], bool]) -> Iterator[tuple[str, Any, Any]]:
    """Leaves that `step` gives otherwise than `reset`, unless a rule about their kind said so."""
    if not isinstance(seen.step, Call):
        return
    after = seen.step.leaves
    for path, old in seen.reset.leaves.items():
        said = [v for v in seen.violations if f" {_name(path)} as " in v.actual]
        said = [v for v in said if "Python number" not in v.actual]
        if path in after and not said and differs(old, after[path]):
            yield _name(path), old, after[path]


@rule("state-shapes", "error", "traced", "every leaf keeps its shape")
def _(seen: Seen) -> Iterator[Finding]:
    for name, old, new in _drift(seen, lambda old, new: old.shape != new.shape):
        actual = f"{name} is {_shape(old)} out of reset and {_shape(new)} out of step"
        yield f"{name} keeps one shape", actual, f"jnp.reshape(x, {old.shape})  # {name} in step"


@rule("state-dtypes", "error", "traced", "every leaf keeps its dtype")
def _(seen: Seen) -> Iterator[Finding]:
    def differs(old: Any, new: Any) -> bool:
        return old.shape == new.shape and old.dtype != new.dtype

    for name, old, new in _drift(seen, differs):
        actual = f"{name} is {_shape(old)} out of reset and {_shape(new)} out of step"
        yield f"{name} keeps one dtype", actual, f"x.astype(jnp.{old.dtype})  # {name} in step"


@rule("one-trace", "error", "run", "`reset` and `step` are traced once, not again at each call")
def _(seen: Seen) -> Iterator[Finding]:
    if seen.broken("state-structure", "state-shapes", "state-dtypes", "metrics-keys", "info-keys"):
        return
    if seen.broken("wrapper-keys", "no-self-write", "reward-scalar", "done-scalar"):
        return
    for name, count in seen.short.traces.items():
        # Weakly typed leaves cost more of them, which is a rule of its own: one at least, and again
        # for as long as one leaf hands its value to the next.
        kept = len({str(jax.tree.structure(s)) for s in (seen.short.start, seen.short.first)}) == 1
        weak = name == "step" and any(_weak_changes(seen))
        allowed = 1 + weak * (3 if kept else 1)
        if count > allowed:
            yield (
                "one trace, whatever the number of calls",
                f"{name} was traced {count} times in {4 if name == 'step' else 3} calls: "
                f"{_static_change(seen)}",
                "count: jax.Array  # an array, not flax.struct.field(pytree_node=False)",
            )


# ---------------------------------------------------------------------------------------------
# PURE FUNCTIONS


@rule("no-self-write", "error", "traced", "nothing is written to `self`")
def _(seen: Seen) -> Iterator[Finding]:
    hangs = snapshot(seen.env)
    for function, calls in (("reset", seen.resets), ("step", seen.steps)):
        again = {name for call in calls[1:] for name in (*call.written, *call.made)}
        # What the first call alone wrote is a constant made late, unless it is a traced value.
        first = {name for call in calls[:1] for name in call.written}
        if len(calls) > 1:
            first = {name for name in first if str(hangs.get(name)).startswith("traced ")}
        names = [name for name in sorted(first | again) if not _is_generator(seen.env, name)]
        if names:
            fix = "pipeline_state=state.pipeline_state.replace(count=count + 1)"
            yield (
                "reset and step leave the environment as it is",
                (f"{function} writes {', '.join(names)}"),
                fix,
            )


@rule("host-randomness", "error", "traced", "no NumPy or Python randomness, clock or global inside")
def _(seen: Seen) -> Iterator[Finding]:
    expected = "what is random comes from the key"
    fix = "jax.random.uniform(key, (2,))  # key: split from rng, or kept in pipeline_state"
    for function, calls in (("reset", seen.resets), ("step", seen.steps)):
        drawn = any(call.host_random for call in calls)
        drawn |= any(_is_generator(seen.env, name) for call in calls for name in call.written)
        changed = _changed_between(calls)
        if drawn:
            where = f" (two traces differ in {', '.join(changed)})" if changed else ""
            yield expected, f"{function} draws from NumPy's or Python's random{where}", fix
        elif changed and not seen.broken("no-self-write") and not seen.leaks:
            actual = f"two traces of {function} compute {', '.join(changed)} differently: "
            yield expected, actual + "a NumPy generator, a clock or a global gets in", fix


@rule("no-tracer-leak", "error", "traced", "no traced value outlives `reset` or `step`")
def _(seen: Seen) -> Iterator[Finding]:
    for function, held in seen.leaks.items():
        if not seen.broken("no-self-write"):
            fix = "info={**state.info, 'seen': value}  # return it, don't keep it elsewhere"
            yield (
                "values stay inside the functions",
                f"{function} leaves a traced value in {held}",
                fix,
            )


@rule("given-state-kept", "error", "traced", "`step` does not change what the given state says")
def _(seen: Seen) -> Iterator[Finding]:
    if not isinstance(seen.step, Call) or not isinstance(seen.twice, Call):
        return
    once, again = seen.step.outputs(), seen.twice.outputs()
    changed = [p for p in once if p in again and once[p].digest != again[p].digest]
    if changed and not seen.broken("no-self-write", "host-randomness"):
        names = ", ".join(map(_name, seen.step.given))
        actual = f"step writes {names} in place; a second step from the same state then gives "
        actual += f"another {', '.join(map(_name, changed))}"
        name = part(seen.step.given[0])
        yield (
            "two steps from one state are the same",
            actual,
            _extended(name, f"{_key(seen.step.given[0])!r}: value"),
        )


@rule("same-bits", "error", "run", "the same key and inputs give the same bits, compiled or not")
def _(seen: Seen) -> Iterator[Finding]:
    expected = "equal results from equal arguments"
    fix = "remove the hidden state: a callback, a global, a generator"
    for function in ("reset", "step"):
        paths = [path for name, path in seen.short.again if name == function]
        if paths:
            names = ", ".join(map(_name, paths))
            actual = f"{function}, called twice with the same arguments, changed {names}"
            yield expected, actual, fix
    if isinstance(seen.eager, Failure):
        actual = f"{seen.eager.where} raises {seen.eager.message} when nothing is compiled"
        yield expected, actual, fix
    elif seen.eager and not seen.short.again and not seen.broken():
        names = ", ".join(map(_name, seen.eager))
        yield (
            expected,
            f"compiled and not compiled differ in {names}",
            ("no isinstance(x, jax.core.Tracer), no branch on how it is called"),
        )


@rule("key-used", "error", "rollout", "different keys give different episodes where chance plays")
def _(seen: Seen) -> Iterator[Finding]:
    random = [n for n, call in _calls(seen) if frozenset() in call.reading.drawn]
    if random and not seen.rollout.key_matters and not seen.broken("host-randomness"):
        actual = f"{' and '.join(random)} draws random numbers with a key that is always the same, "
        actual += "and episodes from different keys are equal to the bit"
        fix = "jax.random.uniform(rng, ...)  # what is fixed on purpose is drawn in __init__"
        yield "random numbers that come from the key given to reset", actual, fix


# ---------------------------------------------------------------------------------------------
# EPISODES


@rule("finite", "error", "rollout", "no NaN and no infinity, in any episode or past its end")
def _(seen: Seen) -> Iterator[Finding]:
    hits: list[tuple[int, int, str, str]] = []
    starts = leaves(seen.rollout.start)
    written = any(call.reading.infinite for _, call in _calls(seen))
    for name, sizes in seen.rollout.series.items():
        path = name.removeprefix("size ")
        # A state may hold infinity on purpose, as for "nothing yet"; what is observed or paid not.
        memory = name != path and part(path) in ("pipeline_state", "info")
        sentinel = memory and (written or np.any(np.isinf(starts[path])))
        for what, bad in (("NaN", np.isnan(sizes)), ("infinity", np.isinf(sizes))):
            if name != path and np.any(bad) and not (what == "infinity" and sentinel):
                hits += [(int(t), int(i), path, what) for t, i in np.argwhere(bad)[:1]]
    if hits:
        t, i, _, _ = min(hits)
        first = [h for h in hits if h[0] == t]
        kinds: dict[str, list[str]] = {}
        for _, _, path, what in first:
            kinds.setdefault(_name(path), []).append(what)
        names = ", ".join(f"{name} ({' and '.join(what)})" for name, what in kinds.items())
        later = sorted({_name(h[2]) for h in hits} - {_name(h[2]) for h in first})
        at_reset = not all(np.all(np.isfinite(starts[h[2]])) for h in first)
        stepped = not (t == 0 and at_reset)
        when = f"at step {_step(seen, t, i)} under {_kind(seen, i)}"
        when = when if stepped else "after reset"
        past = seen.rollout.series["past"]
        if stepped and past[t, i] > 0:
            when += f", {past[t, i]} steps past the episode's end"
        actual = f"{names} {when}" + (f"; later {', '.join(later)} too" if later else "")
        fix = "jnp.sqrt(jnp.maximum(x, 0.0)), x / jnp.maximum(y, 1e-6), jnp.clip(v, -VMAX, VMAX)"
        yield "finite numbers in every leaf", actual, fix


@rule("metric-per-step", "error", "rollout", "a metric is this step's value, not a running sum")
def _(seen: Seen) -> Iterator[Finding]:
    expected = "this step's value: evaluation adds it up by itself"
    stale = [] if seen.broken(*HIDDEN) else seen.stale.get("metrics", [])
    own = {_name(p) for p in stale if part(p) == "metrics"}
    for name in sorted(own):
        key = _key(f"state.{name}")
        fix = _extended("metrics", f"{key!r}: reward")
        yield expected, f"{name} is computed from its own last value", fix
    for name, total in _running_sums(seen):
        if f"metrics[{name!r}]" not in own and _only_counted(seen, name):
            fix = _extended("metrics", f"{name!r}: {total}")
            yield expected, f"metrics[{name!r}] is the sum of {total} so far", fix


@rule("vmap-equals-loop", "error", "rollout", "a batch gives what its environments give alone")
def _(seen: Seen) -> Iterator[Finding]:
    fix = 'jax.pure_callback(f, shape, x, vmap_method="sequential")  # or write it in jnp'
    if isinstance(seen.loop, Failure):
        actual = f"{seen.loop.where} raises {seen.loop.message} under jax.vmap"
        yield "reset and step under jax.vmap", actual, fix
    elif seen.loop and not seen.broken(*HIDDEN):
        for function, path in seen.loop:
            actual = f"{_name(path)} after {function} differs between a batch and a loop"
            yield "a batch equal to a loop", actual, fix


@rule("auto-reset", "error", "rollout", "an episode starts anew: nothing of the last one is left")
def _(seen: Seen) -> Iterator[Finding]:
    expected = "the episode after an auto-reset is like one after reset"
    if seen.broken(*HIDDEN):
        return
    for source in ("metrics", "reward"):
        paths = [p for p in seen.stale.get(source, []) if part(p) != source or source == "reward"]
        if paths:
            names = ", ".join(map(_name, paths))
            actual = f"step computes {names} from the last step's {source}, which auto-reset keeps"
            yield expected, actual, "pipeline_state=Memory(total=...)  # what step remembers"


@rule("survives-wrappers", "error", "wrapped", "it runs, and starts anew, under training wrappers")
def _(seen: Seen) -> Iterator[Finding]:
    expected = "reset, step and auto-reset run under wrap_for_training"
    fix = "state.replace(...)  # in step: no new State, no other shapes"
    for name, fail in seen.wrappings.items():
        yield expected, f"under {name}, {fail.where} raises {fail.message}", fix
    if isinstance(seen.restarts, Failure):
        if not seen.wrappings:
            yield expected, f"{seen.restarts.where} raises {seen.restarts.message}", fix
    elif seen.restarts and not seen.broken():
        t, path, is_, fresh = seen.restarts[0]
        actual = f"{_name(path)} is {_value(is_)} after the auto-reset at step {t}, "
        yield expected, actual + f"and {_value(fresh)} after a reset with the same key", fix


# ---------------------------------------------------------------------------------------------
# WARNINGS: it trains, but look twice


@rule("weak-type", "warning", "traced", "dtypes are said, not left to Python numbers")
def _(seen: Seen) -> Iterator[Finding]:
    for name in _weak_changes(seen):
        if not seen.broken("no-self-write"):
            actual = f"{name} is weakly typed in one of reset and step and not in the other, "
            actual += "so the second call of step is compiled anew"
            fix = f"x.astype(jnp.float32)  # {name}, as in jnp.where(outside, 1.0, 0.0)"
            yield f"{name} has a dtype of its own", actual, fix


@rule("state-in-place", "warning", "traced", "`step` makes new dicts rather than change the given")
def _(seen: Seen) -> Iterator[Finding]:
    if isinstance(seen.step, Call) and seen.step.given and not seen.broken("given-state-kept"):
        names = [_name(p) for p in seen.step.given]
        fields = sorted({part(p) for p in seen.step.given})
        if not seen.broken("metrics-keys", "info-keys", "wrapper-keys", "state-structure"):
            yield (
                "the given state stays as it was",
                f"step writes {', '.join(names)} in place",
                _extended(fields[0], "...") + "  # instead of .update(...)",
            )


@rule("action-broadcast", "warning", "traced", "an action of another size is not stretched to fit")
def _(seen: Seen) -> Iterator[Finding]:
    if seen.actions != "continuous" or not isinstance(seen.step, Call):
        return
    for size, call in ((seen.size, seen.step), (1, seen.other_size)):
        if size == 1 and isinstance(call, Call):
            index = len(seen.reset.leaves)
            lengths = sorted({k for i, k in call.reading.stretched if i == index})
            if lengths:
                yield (
                    "one number in an action for each that step uses",
                    f"an action of shape (1,) is stretched over {lengths[-1]} numbers",
                    "action[0]  # where one number drives all"
                    if seen.size == 1
                    else "assert action.shape == (self.action_size,)",
                )
                return


@rule("key-moves-on", "warning", "rollout", "`step` draws with another key each time")
def _(seen: Seen) -> Iterator[Finding]:
    if seen.broken("host-randomness", "key-used"):
        return
    outputs, paths = seen.step.outputs(), list(seen.reset.leaves)
    kept = {
        i
        for i, path in enumerate(paths)
        if path in outputs and outputs[path].digest == jaxprs.input_digest(i)
    }
    for inputs in seen.step.reading.drawn:
        if inputs <= kept:
            names = ", ".join(_name(paths[i]) for i in sorted(inputs))
            source = f"{names}, which it hands on as it is" if inputs else "nothing that changes"
            yield (
                "other random numbers at each step",
                f"step draws with a key made from {source}: the same numbers at every step",
                "key, draw = jax.random.split(state.pipeline_state.key)  # and hand key on",
            )
            return


@rule("start-varies", "warning", "rollout", "the start depends on the key")
def _(seen: Seen) -> Iterator[Finding]:
    starts = [np.asarray(x) for x in leaves(seen.rollout.start).values() if not is_key(x)]
    if all(np.all(x == x[:1]) for x in starts) and not seen.broken("key-used", "host-randomness"):
        count = len(seen.rollout.kinds)
        actual = f"{count} resets with different keys gave one and the same state"
        yield "starts that differ", actual, "jax.random.uniform(rng, (n,), minval=-0.1, maxval=0.1)"


@rule("action-matters", "warning", "rollout", "every component of the action does something")
def _(seen: Seen) -> Iterator[Finding]:
    if seen.inert and not seen.broken():
        which = ", ".join(map(str, seen.inert[:8])) + (", ..." if len(seen.inert) > 8 else "")
        states = len(seen.rollout.samples)
        if seen.actions == "discrete":
            actual = f"choice {which} does the same as another one in {states} states"
        else:
            actual = f"action[{which}] changed nothing in {states} states"
        fix = f"def action_size(self): return {max(1, seen.size - len(seen.inert))}"
        yield "each changes the state it is taken in", actual, fix


@rule("observation-scale", "warning", "rollout", "observations vary, on scales alike")
def _(seen: Seen) -> Iterator[Finding]:
    expected = "components that vary by amounts like 1"
    for path, low in seen.rollout.lowest.items():
        if _key(path).startswith("pixels/") or seen.broken("finite"):
            continue
        low, span = low.ravel(), (seen.rollout.highest[path] - low).ravel()
        constant = np.flatnonzero(span == 0)
        if len(constant):
            which = "is" if span.size == 1 else f"{_list(constant)} of {span.size} is"
            actual = f"{_name(path)} {which} {low[constant[0]]:g} throughout"
            yield expected, actual, "obs=jnp.stack([x, y])  # without what never changes"
        moving = np.sort(span[span > 0])
        if len(moving) > 1 and moving[-1] > 1000 * moving[(len(moving) - 1) // 2]:
            at = int(np.argmax(span))
            actual = f"{_name(path)}[{at}] spans {span[at]:.3g}, others about "
            actual += f"{moving[(len(moving) - 1) // 2]:.3g}"
            yield expected, actual, f"obs = obs.at[{at}].divide({float(f'{span[at]:.1g}'):g})"


@rule("info-state", "warning", "traced", "what `step` remembers is in `pipeline_state`, not `info`")
def _(seen: Seen) -> Iterator[Finding]:
    if not isinstance(seen.step, Call):
        return
    outputs, memory = seen.step.outputs(), []
    for index, path in enumerate(seen.reset.leaves):
        if part(path) != "info" or path not in outputs:
            continue
        changed = outputs[path].digest != jaxprs.input_digest(index)
        if changed and any(index in x.inputs for x in outputs.values()):
            memory.append(_name(path))
    if memory:
        actual = f"step goes on from {', '.join(memory)}, which Brax's own auto-reset leaves as "
        actual += "it was when the episode ended"
        fix = "pipeline_state=state.pipeline_state.replace(...)"
        yield "memory that auto-reset renews", actual, fix


@rule("host-callback", "warning", "traced", "nothing calls back into Python while it runs")
def _(seen: Seen) -> Iterator[Finding]:
    for function, call in _calls(seen):
        if call.reading.callbacks:
            names = ", ".join(call.reading.callbacks)
            actual = f"{function} holds {names}: it stops the device at each step"
            yield "compiled code alone", actual, "write it in jnp, or put it behind a debug flag"


@rule("one-step-episode", "warning", "rollout", "an episode lasts longer than one step")
def _(seen: Seen) -> Iterator[Finding]:
    restart, done = seen.rollout.series["restart"], seen.rollout.series["done"]
    if np.all(done[restart] == 1) and not seen.broken("done-scalar", "done-binary", "finite"):
        actual = f"all {int(np.sum(restart))} episodes ended at their first step"
        yield "episodes of more than one step", actual, "done=jnp.zeros(())  # or so be it"


@rule("leaf-width", "warning", "traced", "numbers are 32 bits wide")
def _(seen: Seen) -> Iterator[Finding]:
    wide = {}
    for _, call in _calls(seen):
        for path, leaf in call.leaves.items():
            if str(leaf.dtype) in ("float64", "int64", "uint64", "float16", "bfloat16"):
                wide[_name(path)] = leaf
    for name, leaf in wide.items():
        actual = f"{name} is {_shape(leaf)}"
        yield "float32 and int32", actual, f"x.astype(jnp.float32)  # {name}"


@rule("reset-cost", "warning", "run", "`reset` costs about what `step` does")
def _(seen: Seen) -> Iterator[Finding]:
    reset, step = seen.short.seconds["reset"], seen.short.seconds["step"]
    if reset > 20 * step and reset > 1e-3:
        actual = f"reset takes {1e3 * reset:.1f} ms, step {1e3 * step:.2f} ms"
        fix = "train --resets pool  # episodes start where one of many resets, made once, put them"
        yield "a reset that can be run whenever an episode ends", actual, fix


@rule("time-limit", "warning", "end", "the check came to its end")
def _(seen: Seen) -> Iterator[Finding]:
    if seen.rollout is not None and seen.rollout.steps < seen.episode_length:
        actual = f"episodes were followed for {seen.rollout.steps} of {seen.episode_length} steps"
        yield "whole episodes within the time limit", actual, "check --time-limit 300"


# ---------------------------------------------------------------------------------------------
# WORDS AND SMALL LOOKS


def _calls(seen: Seen) -> list[tuple[str, Call]]:
    calls = [("reset", seen.reset), ("step", seen.step)]
    return [(name, call) for name, call in calls if isinstance(call, Call)]


def _of(call: Call, field: str) -> dict[str, Any]:
    """The leaves of one field of the state that a call gave."""
    return {path: leaf for path, leaf in call.leaves.items() if part(path) == field}


def _raised(name: str, fail: Failure) -> Finding:
    fixes = {
        "TracerBool": "jnp.where(condition, a, b)  # in place of `if`",
        "TracerArray": "jnp.sin(x)  # jnp in place of np",
        "TracerInteger": "jnp.take(table, index)  # in place of a Python index",
        "Concretization": "jnp.float32(x)  # in place of float(x), int(x), bool(x)",
        "KeyError": 'info={"key": value}  # in reset, whatever step reads',
        "NotImplementedError": f"def {name}(self, ...): ...",
    }
    fix = next((fixes[kind] for kind in fixes if fail.message.startswith(kind)), None)
    fix = fix or f"see {fail.where}"
    return f"{name} runs, traced by JAX", f"{fail.where} raises {fail.message}", fix


def _name(path: str) -> str:
    return path.removeprefix("state.")


def _dict(*items: str) -> str:
    """A dict as Python writes it."""
    return "{" + ", ".join(items) + "}"


def _extended(name: str, item: str) -> str:
    """A line that extends `metrics` or `info` rather than replaces it."""
    return f"{name}=" + _dict(f"**state.{name}", item)


def _key(path: str) -> str:
    """The first key in a path: `wind` in `state.info['wind']`; nothing where there is none."""
    found = re.search(r"\['([^']*)'\]", path)
    return found[1] if found else ""


def _shape(leaf: Any) -> str:
    return f"{leaf.shape} {leaf.dtype}"


def _value(x: Any) -> str:
    return np.array2string(np.asarray(x), precision=3, threshold=6, separator=", ")


def _list(indices: np.ndarray) -> str:
    shown = ", ".join(map(str, indices[:8]))
    return f"[{shown}{', ...' if len(indices) > 8 else ''}]"


def _size(shape: tuple[int, ...]) -> str:
    return str(shape[0]) if len(shape) == 1 else str(shape)


def _as_shape(size: Any) -> Any:
    """The shape that a declared size stands for, or the size itself where it is none."""
    if is_size(size):
        return (int(size),)
    return tuple(size) if isinstance(size, tuple | list) else size


def _declared_sizes(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"state.obs[{key!r}]": size for key, size in sizes.items()}


def _kind(seen: Seen, i: int) -> str:
    return seen.rollout.kinds[i]


def _step(seen: Seen, t: int, i: int) -> str:
    """The step within its episode, and that of the whole run where they differ."""
    restart = seen.rollout.series["restart"][: t + 1, i]
    began = int(np.flatnonzero(restart)[-1])
    return str(t + 1 - began) + (f" of a later episode (step {t + 1} in all)" if began else "")


def _weak_changes(seen: Seen) -> list[str]:
    """Leaves whose dtype is left to a Python number in `reset` or `step` alone."""
    if not isinstance(seen.step, Call):
        return []
    found, after = [], seen.step.leaves
    for path, old in seen.reset.leaves.items():
        new = after.get(path)
        if new is not None and (old.shape, old.dtype) == (new.shape, new.dtype):
            said = path in ("state.reward", "state.done") and path in (
                seen.reset.numbers | seen.step.numbers
            )
            if old.weak_type != new.weak_type and not said:
                found.append(_name(path))
    return found


def _changed_between(calls: list[Call]) -> list[str]:
    """Leaves that two traces of one function compute differently."""
    outputs = [call.outputs() for call in calls]
    first = outputs[0] if outputs else {}
    return [
        _name(path)
        for path, value in first.items()
        if any(path in o and o[path].digest != value.digest for o in outputs[1:])
    ]


def _is_generator(env: Any, name: str) -> bool:
    """Whether what was written is the state of a random generator that hangs on `self`."""
    value = snapshot(env).get(name)
    return isinstance(value, str) and value.startswith("random state ")


def _running_sums(seen: Seen) -> Iterator[tuple[str, str]]:
    """Metrics that are the sum of the rewards, or of another metric, since the episode began."""
    series = seen.rollout.series
    named = {n.removeprefix("metric "): x for n, x in series.items() if n.startswith("metric ")}
    running = series["past"] <= 0
    begins = np.maximum.accumulate(
        np.where(series["restart"], np.arange(len(running))[:, None], 0), axis=0
    )
    for total, terms in {"reward": series["reward"], **named}.items():
        terms = np.where(np.isfinite(terms), terms, 0.0).astype(np.float64)
        if np.ptp(terms[running]) == 0:
            continue
        upto = np.cumsum(terms, axis=0)
        before = np.take_along_axis(upto - terms, begins, axis=0)
        sums = (upto - before)[running]
        for name, values in named.items():
            seen_values = values[running].astype(np.float64)
            off = 1e-3 * np.max(np.abs(sums))
            alike = np.allclose(seen_values, sums, rtol=1e-3, atol=off)
            if name != total and alike and not np.allclose(sums, terms[running], atol=off):
                yield name, total


def _only_counted(seen: Seen, name: str) -> bool:
    """Whether a metric comes from memory that serves nothing else.

    A position is the sum of the rewards too where progress is paid, but something follows from it.
    """
    given, outputs = list(seen.reset.leaves), seen.step.outputs()
    for index in outputs[f"state.metrics[{name!r}]"].inputs:
        used = {p for p, x in outputs.items() if index in x.inputs and part(p) != "metrics"}
        if index < len(given) and used <= {given[index]}:
            return True
    return False


def _static_change(seen: Seen) -> str:
    before, after = (str(jax.tree.structure(call.state)) for _, call in _calls(seen))
    if before == after:
        return "it gives a state that JAX takes for one of another kind"
    at = next(i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    owners = re.findall(r"CustomNode\((\w+)", before[:at])
    return f"a static field of {owners[-1] if owners else 'the state'} changes"
