"""Rules: `reset` and `step` are pure functions, and chance comes from the key."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ..env.actions import abstract
from ..trace.calls import KEY, Call, failure, leaves, name_on_self, part, trace
from ..trace.jaxprs import leaked
from .engine import Finding, error, names, warning
from .rollout import Rollout
from .stages import Attempt, Subject, Traced

EAGER_OPERATIONS = 300  # a program with more takes long when it is not compiled
CALLBACK = 'jax.pure_callback(f, shape, x, vmap_method="sequential")  # or write it with jnp'


@error("no-tracer-leak", "no traced value outlives `reset` or `step`", "no-self-write")
def no_tracer_leak(subject: Subject, traced: Traced) -> Iterator[Finding]:
    env, action = subject.env, abstract(traced.space)
    holders = {
        "reset": leaked(env.reset, KEY),
        "step": leaked(env.step, traced.reset.state, action),
    }
    fix = "return it, in info or pipeline_state, instead of keeping it elsewhere"
    for function, holder in holders.items():
        if holder is not None:
            yield Finding(f"{function} leaves a traced value in {holder}", fix)


@error(
    "host-randomness",
    "no NumPy or Python randomness, no clock, no global variable that changes",
    "no-tracer-leak",
)
def host_randomness(attempt: Attempt, traced: Traced) -> Iterator[Finding]:
    fix = "jax.random.uniform(key)  # a key split from rng in reset, or kept in pipeline_state"
    again = {"reset": attempt.resets, "step": attempt.steps}
    for function, call in traced.calls:
        first, *rest = call.outputs, *(other.outputs for other in again[function])
        changed = [p for p in first if any(p in o and o[p].digest != first[p].digest for o in rest)]
        if changed:
            what = f"two traces of {function} compute {names(changed)} differently: NumPy's or "
            yield Finding(f"{what}Python's random numbers, a clock or a global variable", fix)


@warning("no-file-read", "`reset` and `step` open no file: it is only read when they are traced")
def no_file_read(attempt: Attempt) -> Iterator[Finding]:
    for function, calls in (("reset", attempt.resets), ("step", attempt.steps)):
        # What the first call alone reads, and keeps on `self`, is a constant made late.
        found = {x for i, call in enumerate(calls) if i or not call.written for x in call.opened}
        if found:
            what = (
                f"{function} reads {names(sorted(found))}, when it is traced and then never again"
            )
            yield Finding(what, "self.table = np.load(path)  # in __init__")


@warning("no-nan-constant", "the arrays that `reset` and `step` compute with hold no NaN")
def no_nan_constant(subject: Subject, traced: Traced) -> Iterator[Finding]:
    for function, call in traced.calls:
        for array in call.reading.with_nan if not call.reading.asks_for_nan else ():
            name = name_on_self(subject.env, array) or f"an array of shape {array.shape}"
            at = np.argwhere(np.isnan(array))
            what = f"{function} computes with {name}, which is NaN at {at[0].tolist()}"
            what += f" and at {len(at) - 1} more places" if len(at) > 1 else ""
            yield Finding(what, "assert not np.any(np.isnan(table))  # where it is made or read")


@error(
    "given-state-kept",
    "`step` leaves the given state as it was, so that a second step from it does the same",
    "host-randomness",
)
def given_state_kept(subject: Subject, traced: Traced) -> Iterator[Finding]:
    env, once, given = subject.env, traced.step.outputs, traced.step.given
    state, action = traced.reset.state, abstract(traced.space)
    if not given:
        return
    twice = trace(env, lambda s, a: (env.step(s, a), env.step(s, a))[1], state, action)
    again = twice.outputs if isinstance(twice, Call) else {}
    if changed := [p for p in once if p in again and once[p].digest != again[p].digest]:
        what = f"step writes {names(given)} in place; a second step from that state gives "
        fix = f"return a new value in state.replace(...) instead of writing to {names(given)}"
        yield Finding(f"{what}another {names(changed)}", fix, given)


@warning("state-in-place", "`step` returns new dicts and does not write to those it is given")
def state_in_place(traced: Traced) -> Iterator[Finding]:
    if given := [path for path in traced.step.given if path in traced.reset.leaves]:
        fix = f"return the new values in state.replace({part(given[0])}=...) instead"
        yield Finding(f"step writes {names(given)} in place", fix, tuple(given))


@error("runs-under-vmap", "`reset` and `step` run under `jax.vmap`", "given-state-kept")
def runs_under_vmap(subject: Subject, traced: Traced) -> Iterator[Finding]:
    env = subject.env
    try:
        states = jax.eval_shape(jax.vmap(env.reset), jax.ShapeDtypeStruct((2, 2), jnp.uint32))
        jax.eval_shape(jax.vmap(env.step), states, abstract(traced.space, 2))
    except BaseException as error:
        yield Finding(f"under jax.vmap, {failure(error, env)}", CALLBACK)


@error("same-bits", "the same arguments give the same bits, compiled or not")
def same_bits(subject: Subject, traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    fix = "remove what it remembers outside of the state: a callback's memory, a global variable"
    for function in ("reset", "step"):
        if paths := [path for name, path in rollout.repeated if name == function]:
            what = f"{function}, called twice with equal arguments, changed {names(paths)}"
            yield Finding(what, fix)
    readings = [call.reading for _, call in traced.calls]
    count = sum(sum(reading.operations.values()) for reading in readings)
    if count > EAGER_OPERATIONS or any(reading.batched_by_hand for reading in readings):
        return
    fix = "compute the same whether it is traced or not: no isinstance(x, jax.core.Tracer)"
    try:
        if apart := rollout.apart(subject.env.reset, subject.env.step, [0]):
            what = f"compiled and not compiled, {names(path for _, path in apart)} differ"
            yield Finding(what, fix)
    except BaseException as error:
        yield Finding(f"{failure(error, subject.env)} when nothing is compiled", fix)


@error("key-used", "where numbers are random, different keys give different episodes")
def key_used(traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    random = [name for name, call in traced.calls if frozenset() in call.reading.drawn]
    if random and not rollout.last["key_matters"]:
        what = f"{' and '.join(random)} draws with a key that is always the same, and episodes "
        fix = "jax.random.uniform(rng)  # what is the same in all episodes is drawn in __init__"
        yield Finding(what + "from different keys are equal to the bit", fix)


@warning("key-moves-on", "`step` draws with another key each time", "key-used")
def key_moves_on(traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    paths = list(traced.reset.leaves)
    kept = {i for i, path in enumerate(paths) if path in traced.unchanged}
    for inputs in [x for x in traced.step.reading.drawn if x <= kept][:1]:
        source = names(paths[i] for i in sorted(inputs))
        source = f"{source}, which step does not change" if inputs else "constants"
        fix = "key, draw = jax.random.split(state.pipeline_state.key)  # return key in the state"
        what = f"step draws with a key made from {source}: the same numbers at every step"
        yield Finding(what, fix)


@warning("start-varies", "where an episode starts depends on the key", "key-used")
def start_varies(traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    found = leaves(rollout.start).items()
    starts = [np.asarray(x) for path, x in found if path not in traced.keys]
    if all(np.all(x == x[:1]) for x in starts):
        what = f"{len(rollout.kinds)} resets with different keys gave one and the same state"
        yield Finding(what, "jax.random.uniform(rng, shape, minval=-0.1, maxval=0.1)  # in reset")


@error("auto-reset", "nothing of the last episode is left after an auto-reset", "same-bits")
def auto_reset(rollout: Rollout) -> Iterator[Finding]:
    # A metric of its own past is another rule's.
    for source in ("metrics", "reward"):
        if paths := [p for p in rollout.stale[source] if part(p) != source or source == "reward"]:
            what = f"step computes {names(paths)} from the last step's {source}, which auto-reset "
            fix = "keep it in pipeline_state, which auto-reset renews"
            yield Finding(what + "does not reset", fix)


@error("vmap-equals-loop", "a batch gives what its environments give alone", "same-bits")
def vmap_equals_loop(traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    # JAX makes the batch of everything else than callbacks and the like.
    if not any(call.reading.batched_by_hand for _, call in traced.calls):
        return
    if alone := rollout.apart_when_alone():
        function, path = alone[0]
        more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
        yield Finding(f"{path}{more} after {function} differs between a batch and a loop", CALLBACK)
