"""Rules: the state keeps its form from `reset` to every `step`.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from .jaxprs import input_digest
from .rules import Finding, key_of, names, rule, shape_of
from .stages import Settings, Traced, Wrapped
from .tracing import Failure, containers, leaves, part, with_wrapper_entries

KEYS = ("wrapper-keys", "metrics-keys", "info-keys", "state-structure")
FORM = ("reward-scalar", "done-scalar", "metric-scalar", "observation-type", "reserved-keys", *KEYS)
FORM += ("state-shapes", "state-dtypes")


def extended(traced: Traced, name: str) -> str:
    """The line that extends `metrics` or `info` with the environment's own entries."""
    own = dict.fromkeys(map(key_of, traced.step.of(name)))
    entries = "".join(f", {key!r}: {key}" for key in own)
    return f"{name}={{**state.{name}{entries}}}" if own else f"{name}=state.{name}"


@rule("error", "`step` keeps the entries of `metrics` and `info` that the wrappers put there")
def wrapper_keys(traced: Traced) -> Iterator[Finding]:
    wrapped = traced.wrapped
    if isinstance(wrapped, Failure):
        what = f"{wrapped} when the wrappers' entries are in the state"
        yield Finding(what, f"{extended(traced, 'info')}  # and the same for metrics")
        return
    outputs = wrapped.outputs
    given = {p: i for i, p in enumerate(leaves(with_wrapper_entries(traced.reset.state)))}
    for name in ("metrics", "info"):
        theirs = [p for p in given if part(p) == name and p not in traced.reset.leaves]
        lost = [p for p in given if part(p) == name and p not in outputs]
        fix = f"state.replace({extended(traced, name)})  # in step"
        if any(path in theirs for path in lost):
            keys = names(dict.fromkeys(map(key_of, lost)), 8)
            yield Finding(f"step drops {keys} from {name}", fix, tuple(lost))
        elif changed := [p for p in theirs if outputs[p].digest != input_digest(given[p])]:
            yield Finding(f"step changes {names(changed)}, which the wrappers own", fix)


def _same_keys(traced: Traced, name: str) -> Iterator[Finding]:
    before, after = traced.reset.of(name), traced.step.of(name)
    for path in after.keys() - before.keys():
        leaf = after[path]
        fix = f"{key_of(path)!r}: jnp.zeros({leaf.shape}, jnp.{leaf.dtype})  # in {name}, in reset"
        yield Finding(f"step adds {path}", fix, (path,))
    for path in before.keys() - after.keys():
        fix = f"{extended(traced, name)}  # in step"
        yield Finding(f"step drops {path}", fix, (path,))


@rule("error", "`metrics` has the same keys after `reset` and `step`")
def metrics_keys(traced: Traced) -> Iterator[Finding]:
    yield from _same_keys(traced, "metrics")


@rule("error", "`info` has the same keys after `reset` and `step`")
def info_keys(traced: Traced) -> Iterator[Finding]:
    yield from _same_keys(traced, "info")


@rule("error", "`pipeline_state` and `obs` have the same leaves after `reset` and `step`")
def state_structure(traced: Traced) -> Iterator[Finding]:
    reset, step = traced.reset, traced.step
    for name in ("pipeline_state", "obs"):
        before, after = reset.of(name), step.of(name)
        more, less = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
        if more or less:
            what = [f"step returns {names(more)}, which reset does not"] * bool(more)
            what += [f"reset returns {names(less)}, which step does not"] * bool(less)
            fix = f"return {names([*less, *more])} from both reset and step"
            yield Finding("; ".join(what), fix, (*more, *less))
    if set(reset.leaves) == set(step.leaves):
        before, after = containers(reset.state), containers(step.state)
        for path in sorted(before.keys() | after.keys()):
            old, new = before.get(path, "nothing"), after.get(path, "nothing")
            if old != new and part(path) != "obs":
                fix = f"make {path} a {old} in step too"
                yield Finding(f"{path} is a {old} after reset and a {new} after step", fix)
                break


def _drift(
    traced: Traced, differs: Callable[[Any, Any], bool], fix: Callable[[str, Any, Any], str]
) -> Iterator[Finding]:
    after = traced.step.leaves
    for path, old in traced.reset.leaves.items():
        if path in after and differs(old, after[path]):
            new = after[path]
            what = f"{path} is {shape_of(old)} after reset and {shape_of(new)} after step"
            yield Finding(what, fix(path, old, new), (path,))


@rule("error", "every leaf keeps its shape")
def state_shapes(traced: Traced) -> Iterator[Finding]:
    yield from _drift(
        traced,
        lambda old, new: old.shape != new.shape,
        lambda path, old, new: f"return {path} with shape {old.shape} from both reset and step",
    )


@rule("error", "every leaf keeps its dtype")
def state_dtypes(traced: Traced) -> Iterator[Finding]:
    yield from _drift(
        traced,
        lambda old, new: old.shape == new.shape and old.dtype != new.dtype,
        lambda path, old, _: f"{path}.astype(jnp.{old.dtype})  # in step",
    )


@rule(
    "error", "the state keeps one type, so that nothing is traced again", [*FORM, "no-self-write"]
)
def one_trace(traced: Traced) -> Iterator[Finding]:
    trees = [str(jax.tree.structure(c.state)) for c in (*traced.resets[:2], traced.step)]
    same = [jax.tree.structure(c.state) for c in (*traced.resets[:2], traced.step)]
    if any(tree != same[0] for tree in same):
        at = next((i for i, (a, b) in enumerate(zip(trees[0], trees[-1])) if a != b), 0)  # noqa: B905
        owners = re.findall(r"CustomNode\((\w+)", trees[0][:at])
        what = f"a static field of {owners[-1]} changes" if owners else "its tree changes"
        what = f"the state after step is of another type than after reset: {what}"
        yield Finding(what, "count: jax.Array  # not flax.struct.field(pytree_node=False)")


@rule(
    "error",
    "it runs, and restarts, in the training wrappers",
    [*FORM, "one-trace", "auto-reset", "vmap-equals-loop"],
)
def survives_wrappers(wrapped: Wrapped) -> Iterator[Finding]:
    fix = "return what `step` was given with `state.replace(...)`, in the same shapes"
    for name, fail in wrapped.failures.items():
        yield Finding(f"in {name}, {fail}", fix)
    if wrapped.restarted and not wrapped.failures:
        what = f"reset computes {names(wrapped.restarted)} differently when auto-reset calls it"
        yield Finding(what, "let reset depend on its key alone, not on who calls it")


@rule("warning", "dtypes are explicit and not left to Python numbers", [*FORM, "no-self-write"])
def weak_type(traced: Traced) -> Iterator[Finding]:
    numbers = traced.reset.numbers | traced.step.numbers
    found = []
    for path, old in traced.reset.leaves.items():
        new = traced.step.leaves[path]
        if old.weak_type != new.weak_type and path not in numbers & {"reward", "done"}:
            found.append(path)
    if found:
        what = f"{names(found)}: weakly typed after only one of reset and step, so that step is "
        fix = f"{found[0]}.astype(jnp.{traced.reset.leaves[found[0]].dtype})  # in reset and step"
        yield Finding(what + "compiled twice", fix, tuple(found))


@rule("warning", "`step` returns new dicts and does not write to those it is given")
def state_in_place(traced: Traced) -> Iterator[Finding]:
    given = [p for p in traced.step.given if p in traced.reset.leaves]
    if given:
        name = part(given[0])
        fix = extended(traced, name) if name in ("metrics", "info") else f"copy {name} first"
        yield Finding(f"step writes {names(given)} in place", fix, tuple(given))


@rule("warning", "what `step` remembers is in `pipeline_state`, not in `info`", ["info-keys"])
def info_state(settings: Settings, traced: Traced) -> Iterator[Finding]:
    outputs, memory = traced.step.outputs, []
    kept = tuple(getattr(settings.env, "preserve_info", ()))
    for index, path in enumerate(traced.reset.leaves):
        if part(path) == "info" and path in outputs and key_of(path) not in kept:
            changed = path not in traced.unchanged
            if changed and any(index in value.inputs for value in outputs.values()):
                memory.append(path)
    if memory:
        what = f"step computes with {names(memory)} of the last step, which Brax's own auto-reset "
        fix = f"move {names(map(key_of, memory))} to pipeline_state"
        yield Finding(what + "does not reset", fix, tuple(memory))
