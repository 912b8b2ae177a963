"""Rules: the environment runs in the wrappers of training, and in what its task puts around it."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State, Wrapper
from brax.envs.wrappers import training

from ..env.actions import abstract
from ..env.wrappers import wrap_for_training
from ..errors import UsageError
from ..trace.calls import KEY, Call, failure, leaves, part, trace
from ..trace.jaxprs import Value
from .engine import Finding, error, names
from .rollout import Rollout
from .stages import Subject, Traced

BATCH, LIMIT, STEPS = 3, 4, 20
RANDOMIZE = "return sys.replace(mass=masses), axes  # masses: (batch,), one for each key of rng"
WRAP = "return wrap_for_training(MyWrapper(env), episode_length, action_repeat, randomization_fn)"


@error(
    "survives-wrappers",
    "it runs, and restarts, in the training wrappers",
    "same-bits",
    "auto-reset",
    "vmap-equals-loop",
)
def survives_wrappers(subject: Subject, traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    env, seen = subject.env, list[dict[str, Value]]()
    wrappers = [("wrap_for_training", wrap_for_training, _Spy(env, seen))]
    if jnp.result_type(float) != jnp.float64:  # Brax's own mix float32 and float64 then
        wrappers.append(("Brax's own wrappers", training.wrap, env))
    for name, wrap, inner in wrappers:

        def episode(keys: Any, action: Any, wrap: Any = wrap, inner: Env = inner) -> Any:
            wrapped = training.EvalWrapper(wrap(inner, episode_length=4, action_repeat=2))
            start = wrapped.reset(keys)
            return jax.lax.scan(lambda s, _: (wrapped.step(s, action), None), start, None, 3)

        try:
            keys = jax.ShapeDtypeStruct((3, 2), jnp.uint32)
            jax.eval_shape(episode, keys, abstract(traced.space, 3))
        except BaseException as error:
            fix = "return what `step` was given with state.replace(...), in the same shapes"
            yield Finding(f"in {name}, {failure(error, env)}", fix)
            return
    usual = traced.reset.outputs
    if other := [p for p in usual if any(o[p].digest != usual[p].digest for o in seen if p in o)]:
        what = f"reset computes {names(other)} differently when auto-reset calls it"
        yield Finding(what, "let reset depend on its key alone, not on who calls it")


class _Spy(Wrapper):
    """Remembers what `reset` computes wherever it is called."""

    def __init__(self, env: Env, seen: list[dict[str, Value]]) -> None:
        super().__init__(env)
        self._seen = seen

    def reset(self, rng: jax.Array) -> State:
        call = trace(self.env, self.env.reset, KEY)
        self._seen += [call.outputs] if isinstance(call, Call) else []
        return self.env.reset(rng)


@error(
    "wrap-env-fn",
    "`wrap_env_fn` gives a batch with a time limit and with auto-reset",
    "survives-wrappers",
)
def wrap_env_fn(subject: Subject, traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    wrap = subject.task.wrap_env_fn
    if wrap is None:
        return

    def steps(keys: jax.Array, actions: jax.Array) -> tuple[State, State]:
        batch = wrap(subject.env, episode_length=LIMIT, action_repeat=1, randomization_fn=None)
        start = batch.reset(keys)
        return start, jax.lax.scan(lambda s, a: (batch.step(s, a),) * 2, start, actions)[1]

    keys, actions = _keys_and_actions(subject, traced, 2 * LIMIT)
    try:
        start, after = _run(subject, steps, keys, actions)
    except BaseException as error:
        yield Finding(f"{failure(error, wrap)}, when wrapped by wrap_env_fn", WRAP)
        return
    if start.done.shape != (BATCH,):
        yield Finding(f"done has shape {start.done.shape} for {BATCH} environments", WRAP)
    elif "truncation" not in after.info:
        yield Finding(
            "info has no 'truncation', which is 1 where the time limit ends an episode", WRAP
        )
    elif not np.all(np.any(after.done[:LIMIT] > 0, 0)):
        yield Finding(f"an episode lasts longer than episode_length={LIMIT} steps", WRAP)
    elif np.any(np.all(after.done[LIMIT:] > 0, 0) & (after.done[0] == 0)):
        yield Finding("done stays 1 once an episode has ended: nothing is reset", WRAP)


@error(
    "randomization",
    "`randomization_fn` gives each environment of a batch another system, which matters",
    "survives-wrappers",
)
def randomization(subject: Subject, traced: Traced, rollout: Rollout) -> Iterator[Finding]:
    fn, env = subject.task.randomization_fn, subject.env
    if fn is None:
        return
    if not hasattr(env.unwrapped, "sys"):
        what = f"{type(env.unwrapped).__name__} has no `sys`, which randomization_fn changes"
        yield Finding(what, "self.sys = ...  # in __init__: arrays that reset and step read")
        return
    keys, actions = _keys_and_actions(subject, traced, STEPS)
    try:
        returned = fn(env.sys, rng=keys)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise UsageError(f"randomization_fn returns a {type(returned).__name__} and not a pair")
        systems, axes = returned
        varying = _varying(env.sys, systems, axes)
    except UsageError as error:
        yield Finding(str(error), RANDOMIZE)
        return
    except BaseException as error:
        yield Finding(f"{failure(error, fn)}, in randomization_fn", RANDOMIZE)
        return

    def steps(keys: jax.Array, actions: jax.Array) -> State:
        batch = wrap_for_training(env, STEPS, 1, lambda _: (systems, axes))
        start = batch.reset(keys)
        return jax.lax.scan(lambda s, a: (batch.step(s, a),) * 2, start, actions)[1]

    # The same key and the same actions for all: what differs is due to the systems.
    same = jnp.broadcast_to(keys[0], keys.shape), jnp.broadcast_to(actions[:, :1], actions.shape)
    try:
        seen = leaves(_run(subject, steps, *same))
    except BaseException as error:
        yield Finding(f"{failure(error, env)}, with a system of randomization_fn", RANDOMIZE)
        return
    if not any(np.any(x != x[:, :1]) for x in map(np.asarray, seen.values())):
        what = f"{names(varying)} differ between environments, and nothing changes in {STEPS} steps"
        yield Finding(what, "let reset or step read self.sys")
        return
    odd = [p for p, x in seen.items() if part(p) in ("obs", "reward") and not np.isfinite(x).all()]
    if odd:
        what = f"{names(odd)}: NaN or infinite with a system of randomization_fn"
        yield Finding(what, "draw from a range in which physics are stable")


def _varying(known: Any, systems: Any, axes: Any) -> list[str]:
    """The paths of what differs between environments; raises UsageError where nothing can."""
    before, now = (
        {f"sys{jax.tree_util.keystr(path)}": x for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (known, systems)
    )
    if before.keys() != now.keys():
        raise UsageError(f"randomization_fn returns {names(now)} for {names(before)}")
    all_axes = jax.tree.leaves(
        jax.tree.broadcast(axes, systems, is_leaf=_is_none), is_leaf=_is_none
    )
    varying = {path: axis for path, axis in zip(now, all_axes, strict=True) if axis is not None}
    for path, axis in varying.items():
        one, shape = np.shape(before[path]), np.shape(now[path])
        expected = (*one[:axis], BATCH, *one[axis:])
        if shape != expected:
            raise UsageError(f"{path} is {shape}, and for {BATCH} keys it has to be {expected}")
    if all(np.all(np.diff(now[path], axis=axis) == 0) for path, axis in varying.items()):
        raise UsageError("randomization_fn gives all environments the same system")
    return list(varying)


def _is_none(x: Any) -> bool:
    return x is None


def _keys_and_actions(subject: Subject, traced: Traced, steps: int) -> tuple[jax.Array, jax.Array]:
    keys, chance = jax.random.split(jax.random.PRNGKey(subject.seed))
    return jax.random.split(keys, BATCH), traced.space.sample(chance, (steps, BATCH))


def _run(subject: Subject, function: Any, *args: jax.Array) -> Any:
    with subject.clock.compiling():
        compiled = jax.jit(function).lower(*args).compile()
    return jax.device_get(compiled(*args))
