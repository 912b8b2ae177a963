"""What is seen of an environment: a frozen dataclass for each stage, made one after another.

From the template: changes of yours are kept, `copier update` merges new versions in.

First `reset` and `step` are traced, which needs no compilation. Then a batch of whole episodes is
run in two compiled programs. At last the training wrappers are put around it and traced.
"""

import numbers
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State, Wrapper
from brax.envs.wrappers import training

from ..actions import ActionSpace, Continuous, Discrete
from ..wrappers import wrap_for_training
from . import jaxprs
from .rollout import Rollout
from .tracing import KEY, Call, Failure, failure, trace, with_wrapper_entries


class Clock:
    """Counts seconds, those of compiling apart, which may take four times as long."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._began, self._compiled = time.monotonic(), 0.0
        self._compiling_since: float | None = None

    @contextmanager
    def compiling(self) -> Iterator[None]:
        self._compiling_since = start = time.monotonic()
        try:
            yield
        finally:
            self._compiled, self._compiling_since = self._compiled + time.monotonic() - start, None

    def over(self, share: float = 1.0) -> bool:
        """Whether that share of the time is used up."""
        now = time.monotonic()
        compiled = self._compiled + now - (self._compiling_since or now)
        return now - self._began - compiled > share * self.limit or compiled > 4 * self.limit


@dataclass(frozen=True)
class Settings:
    """What is checked, and how; see `check_env`."""

    env: Env
    seed: int
    episode_length: int
    action_repeat: int
    action_space: ActionSpace | None
    clock: Clock


@dataclass(frozen=True)
class Attempt:
    """What the environment declares, and whether `reset` and `step` can be traced.

    Attributes:
      observation_size, action_size, backend: as declared, or the `Failure` of asking.
      declared: the action space that the caller or the environment names, if one does.
      space: the action space that `step` takes.
      reset, step: the first trace of each; `step` is None if `reset` failed.
      resets, steps: all traces of each that went through.
      refused: why `step` does not take an action of the declared size, but takes `space`.
    """

    observation_size: Any
    action_size: Any
    backend: Any
    declared: ActionSpace | None
    space: ActionSpace
    reset: Call | Failure
    step: Call | Failure | None
    resets: tuple[Call, ...]
    steps: tuple[Call, ...]
    refused: Failure | None


@dataclass(frozen=True)
class Traced:
    """What `reset` and `step` compute.

    Attributes:
      reset, step: the first trace of each; `resets`, `steps`: all of them.
      wrapped: `step` given a state with the training wrappers' entries.
      twice: the second of two calls of `step` on one state, where it writes to that state.
      leaks: what holds traced values after `reset` or `step`.
      vmapped: what they raise under `jax.vmap`.
    """

    space: ActionSpace
    reset: Call
    step: Call
    resets: tuple[Call, ...]
    steps: tuple[Call, ...]
    wrapped: Call | Failure
    twice: Call | Failure | None
    leaks: dict[str, str | None]
    vmapped: Failure | None

    @property
    def calls(self) -> tuple[tuple[str, Call], tuple[str, Call]]:
        return ("reset", self.reset), ("step", self.step)

    @property
    def unchanged(self) -> set[str]:
        """Paths at which `step` returns what it was given."""
        after = self.step.outputs
        digests = {path: jaxprs.input_digest(i) for i, path in enumerate(self.reset.leaves)}
        return {p for p, digest in digests.items() if p in after and after[p].digest == digest}

    def wrong(
        self, field: str, right: Callable[[str, Any], bool]
    ) -> dict[str, tuple[str, jax.ShapeDtypeStruct]]:
        """Leaves of a field that are not `right`: path -> (function, leaf)."""
        found = [(p, name, x) for name, call in self.calls for p, x in call.of(field).items()]
        return {p: (name, x) for p, name, x in reversed(found) if not right(p, x)}


@dataclass(frozen=True)
class Wrapped:
    """The environment in the wrappers that training puts around it, traced and not run.

    Attributes:
      failures: what is raised, by the wrappers' name.
      restarted: paths that `reset` computes differently when auto-reset calls it.
    """

    failures: dict[str, Failure]
    restarted: tuple[str, ...]


STAGES = (Settings, Attempt, Traced, Rollout, Wrapped)


def observe(settings: Settings) -> Iterator[Any]:
    """Yields the stages, as far as the environment lets it get."""
    attempt = _attempt(settings)
    yield attempt
    reset, step = attempt.reset, attempt.step
    if isinstance(reset, Call) and isinstance(step, Call):
        traced = _trace(settings.env, attempt, reset, step)
        yield traced
        if traced.vmapped is None:
            yield Rollout.of(settings, traced)
            yield _wrap(settings.env, traced)


def _attempt(settings: Settings) -> Attempt:
    env, declared = settings.env, settings.action_space
    size, action_size, backend = (
        _ask(env, name) for name in ("observation_size", "action_size", "backend")
    )
    if declared is None and hasattr(env, "action_space"):
        named = _ask(env, "action_space")
        declared = named if isinstance(named, ActionSpace) else None
    space, step, refused = declared or Continuous(1), None, None
    reset = trace(env, lambda rng: env.reset(rng), KEY)
    calls: dict[str, list[Any]] = {"reset": [reset], "step": []}
    if isinstance(reset, Call):
        space, step, refused = _find_space(env, reset, declared, action_size)
        calls["step"].append(step)
        if isinstance(step, Call):
            calls["reset"].append(trace(env, env.reset, KEY))
            calls["step"].append(trace(env, env.step, reset.state, abstract(space)))
            calls["reset"].append(trace(env, env.reset, KEY))
    resets, steps = (tuple(c for c in some if isinstance(c, Call)) for some in calls.values())
    return Attempt(size, action_size, backend, declared, space, reset, step, resets, steps, refused)


def _ask(env: Env, name: str) -> Any:
    """A property without computing it: Brax's own environments run `reset` for their size."""
    answers: list[Any] = []
    try:
        jax.eval_shape(lambda: answers.append(getattr(env, name)))
        if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(answers)):
            return answers[0]
    except BaseException:  # it may need numbers after all
        pass
    try:
        return getattr(env, name)
    except BaseException as error:
        return failure(error, env)


def abstract(space: ActionSpace, *batch: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*batch, *space.shape), space.dtype)


def is_size(x: Any) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool) and int(x) > 0


def _find_space(
    env: Env, reset: Call, declared: ActionSpace | None, size: Any
) -> tuple[ActionSpace, Call | Failure, Failure | None]:
    """The actions that `step` takes: those that are declared, if it takes them."""
    size = declared.size if declared else int(size) if is_size(size) else None
    sizes = [size] if size else range(1, 9)
    kinds = (Continuous, Discrete)
    spaces = [declared] if declared else [kind(n) for n in sizes for kind in kinds]
    tried = [(space, trace(env, env.step, reset.state, abstract(space))) for space in spaces]
    # JAX raises this where an array is indexed with floats: then actions are choices.
    indexed = any(isinstance(c, Failure) and "nteger" in c.message for _, c in tried)

    def fits(call: Call | Failure) -> bool:
        return isinstance(call, Call) and {p: x.shape for p, x in call.leaves.items()} == {
            p: x.shape for p, x in reset.leaves.items()
        }

    def worth(found: tuple[ActionSpace, Call | Failure]) -> int:
        """A call that returns the state it got, else one that runs, else one that explains."""
        runs = isinstance(found[1], Call)
        return 3 + fits(found[1]) if runs else int((found[0].shape == ()) == indexed)

    space, step = max(tried, key=worth)
    if isinstance(step, Failure) and size and not isinstance(declared, Discrete):
        for n in (n for n in (*range(1, 9), size - 1, size + 1) if n > 0):
            call = trace(env, env.step, reset.state, abstract(Continuous(n)))
            if fits(call):
                return Continuous(n), call, step
    return space, step, None


def _trace(env: Env, attempt: Attempt, reset: Call, step: Call) -> Traced:
    state, action = reset.state, abstract(attempt.space)
    wrapped, twice, vmapped = trace(env, env.step, with_wrapper_entries(state), action), None, None
    if step.given:
        twice = trace(env, lambda s, a: (env.step(s, a), env.step(s, a))[1], state, action)
    leaks = {"reset": jaxprs.leaked(env.reset, KEY), "step": jaxprs.leaked(env.step, state, action)}
    try:
        states = jax.eval_shape(jax.vmap(env.reset), jax.ShapeDtypeStruct((2, 2), jnp.uint32))
        jax.eval_shape(jax.vmap(env.step), states, abstract(attempt.space, 2))
    except BaseException as error:
        vmapped = failure(error, env)
    calls = (reset, step, attempt.resets, attempt.steps)
    return Traced(attempt.space, *calls, wrapped, twice, leaks, vmapped)


def _wrap(env: Env, traced: Traced) -> Wrapped:
    seen: list[dict[str, jaxprs.Value]] = []
    failures: dict[str, Failure] = {}
    keys = jax.ShapeDtypeStruct((3, 2), jnp.uint32)
    wrappers = [("wrap_for_training", wrap_for_training, _Spy(env, seen))]
    if jnp.result_type(float) != jnp.float64:  # Brax's own mix float32 and float64 then
        wrappers.append(("Brax's own wrappers", training.wrap, env))
    for name, wrap, inner in wrappers:

        def episode(keys: Any, action: Any, wrap: Any = wrap, inner: Env = inner) -> Any:
            wrapped = training.EvalWrapper(wrap(inner, episode_length=4, action_repeat=2))
            start = wrapped.reset(keys)
            return jax.lax.scan(lambda s, _: (wrapped.step(s, action), None), start, None, 3)

        try:
            jax.eval_shape(episode, keys, abstract(traced.space, 3))
        except BaseException as error:
            failures[name] = failure(error, env)
    usual = traced.reset.outputs
    other = {p for o in seen for p in usual if p in o and o[p].digest != usual[p].digest}
    return Wrapped(failures, tuple(p for p in usual if p in other))


class _Spy(Wrapper):
    """Remembers what `reset` computes wherever it is called."""

    def __init__(self, env: Env, seen: list[dict[str, jaxprs.Value]]) -> None:
        super().__init__(env)
        self._seen = seen

    def reset(self, rng: jax.Array) -> State:
        call = trace(self.env, self.env.reset, KEY)
        self._seen += [call.outputs] if isinstance(call, Call) else []
        return self.env.reset(rng)
