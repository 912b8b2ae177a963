"""Rules: `reset` and `step` are pure functions, and chance comes from the key.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

from collections.abc import Iterator

import numpy as np

from .engine import Finding, names, rule
from .form import FORM
from .rollout import Rollout
from .stages import Settings, Traced, Wrapped
from .tracing import Call, Failure, is_key, leaves, part, snapshot

PURE = ("no-self-write", "no-tracer-leak", "host-randomness", "given-state-kept")


@rule("error", "no traced value outlives `reset` or `step`", ["no-self-write"])
def no_tracer_leak(traced: Traced) -> Iterator[Finding]:
    for function, holder in traced.leaks.items():
        if holder is None:
            continue
        fix = "return it, in info or pipeline_state, instead of keeping it elsewhere"
        yield Finding(f"{function} leaves a traced value in {holder}", fix)


@rule(
    "error",
    "no NumPy or Python randomness, no clock, no global variable that changes",
    ["no-self-write", "no-tracer-leak"],
)
def host_randomness(settings: Settings, traced: Traced) -> Iterator[Finding]:
    fix = "jax.random.uniform(key)  # a key split from rng in reset, or kept in pipeline_state"
    hangs = snapshot(settings.env)
    for function, calls in (("reset", traced.resets), ("step", traced.steps)):
        drawn = any(call.host_random for call in calls)
        drawn |= any(hangs[n].generator for c in calls for n in c.written if n in hangs)
        first, *rest = [call.outputs for call in calls]
        changed = [p for p in first if any(p in o and o[p].digest != first[p].digest for o in rest)]
        if drawn:
            where = f", so that two traces differ in {names(changed)}" if changed else ""
            yield Finding(f"{function} draws from NumPy's or Python's random{where}", fix)
        elif changed:
            what = f"two traces of {function} compute {names(changed)} differently: a NumPy "
            yield Finding(what + "generator, a clock or a global variable is used", fix)


@rule(
    "error",
    "`step` leaves the given state as it was, so that a second step from it does the same",
    ["no-self-write", "no-tracer-leak", "host-randomness"],
)
def given_state_kept(traced: Traced) -> Iterator[Finding]:
    once = traced.step.outputs
    again = traced.twice.outputs if isinstance(traced.twice, Call) else {}
    changed = [p for p in once if p in again and once[p].digest != again[p].digest]
    if changed:
        given = traced.step.given
        what = f"step writes {names(given)} in place; a second step from that state gives "
        fix = f"return a new value in state.replace(...) instead of writing to {names(given)}"
        yield Finding(f"{what}another {names(changed)}", fix, given)


@rule("error", "the same arguments give the same bits, compiled or not", PURE)
def same_bits(rollout: Rollout) -> Iterator[Finding]:
    fix = "remove what it remembers outside of the state: a callback's memory, a global variable"
    for function in ("reset", "step"):
        if paths := [path for name, path in rollout.repeated if name == function]:
            yield Finding(
                f"{function}, called twice with equal arguments, changed {names(paths)}", fix
            )
    if isinstance(rollout.eager, Failure):
        yield Finding(f"{rollout.eager} when nothing is compiled", fix)
    elif rollout.eager and not rollout.repeated:
        fix = "compute the same whether it is traced or not: no isinstance(x, jax.core.Tracer)"
        yield Finding(f"compiled and not compiled, {names(rollout.eager)} differ", fix)


@rule("error", "where numbers are random, different keys give different episodes", PURE)
def key_used(traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    random = [name for name, call in traced.calls if frozenset() in call.reading.drawn]
    if random and not rollout.key_matters:
        what = f"{' and '.join(random)} draws with a key that is always the same, and episodes "
        fix = "jax.random.uniform(rng)  # what is the same in all episodes is drawn in __init__"
        yield Finding(what + "from different keys are equal to the bit", fix)


@rule("warning", "`step` draws with another key each time", [*PURE, "key-used"])
def key_moves_on(traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    paths = list(traced.reset.leaves)
    kept = {i for i, path in enumerate(paths) if path in traced.unchanged}
    for inputs in traced.step.reading.drawn:
        if inputs <= kept:
            source = names(paths[i] for i in sorted(inputs))
            source = f"{source}, which step does not change" if inputs else "constants"
            what = f"step draws with a key made from {source}: the same numbers at every step"
            fix = (
                "key, draw = jax.random.split(state.pipeline_state.key)  # return key in the state"
            )
            yield Finding(what, fix)
            return


@rule("warning", "where an episode starts depends on the key", [*PURE, "key-used"])
def start_varies(rollout: Rollout) -> Iterator[Finding]:
    starts = [np.asarray(x) for x in leaves(rollout.start).values() if not is_key(x)]
    if all(np.all(x == x[:1]) for x in starts):
        what = f"{len(rollout.kinds)} resets with different keys gave one and the same state"
        yield Finding(what, "jax.random.uniform(rng, shape, minval=-0.1, maxval=0.1)  # in reset")


@rule("error", "nothing of the last episode is left after an auto-reset", [*PURE, "same-bits"])
def auto_reset(rollout: Rollout) -> Iterator[Finding]:
    # A metric of its own past is another rule's.
    for source in ("metrics", "reward"):
        if paths := [p for p in rollout.stale[source] if part(p) != source or source == "reward"]:
            what = f"step computes {names(paths)} from the last step's {source}, which auto-reset "
            fix = "keep it in pipeline_state, which auto-reset renews"
            yield Finding(what + "does not reset", fix)


@rule("error", "`reset` and `step` run under `jax.vmap`", PURE)
def runs_under_vmap(traced: Traced) -> Iterator[Finding]:
    if traced.vmapped is not None:
        fix = 'jax.pure_callback(f, shape, x, vmap_method="sequential")  # or write it with jnp'
        yield Finding(f"under jax.vmap, {traced.vmapped}", fix)


@rule("error", "a batch gives what its environments give alone", [*PURE, "same-bits"])
def vmap_equals_loop(rollout: Rollout) -> Iterator[Finding]:
    if rollout.alone:
        function, path = rollout.alone[0]
        fix = 'jax.pure_callback(f, shape, x, vmap_method="sequential")  # or write it with jnp'
        more = f" (and {len(rollout.alone) - 1} more)" if len(rollout.alone) > 1 else ""
        yield Finding(f"{path}{more} after {function} differs between a batch and a loop", fix)


@rule("warning", "`step` returns new dicts and does not write to those it is given")
def state_in_place(traced: Traced) -> Iterator[Finding]:
    if given := [path for path in traced.step.given if path in traced.reset.leaves]:
        fix = f"return the new values in state.replace({part(given[0])}=...) instead"
        yield Finding(f"step writes {names(given)} in place", fix, tuple(given))


@rule(
    "error",
    "it runs, and restarts, in the training wrappers",
    [*FORM, *PURE, "one-trace", "same-bits", "auto-reset", "vmap-equals-loop"],
)
def survives_wrappers(wrapped: Wrapped) -> Iterator[Finding]:
    fix = "return what `step` was given with state.replace(...), in the same shapes"
    for name, fail in wrapped.failures.items():
        yield Finding(f"in {name}, {fail}", fix)
    if wrapped.restarted and not wrapped.failures:
        what = f"reset computes {names(wrapped.restarted)} differently when auto-reset calls it"
        yield Finding(what, "let reset depend on its key alone, not on who calls it")
