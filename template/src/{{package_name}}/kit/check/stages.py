"""What several rules look at: a frozen dataclass for each stage, made one after another.

First `reset` and `step` are traced, which needs no compilation. Where that shows no error, whole
episodes of a batch are run (rollout.py).
"""

import numbers
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env

from ..env.actions import ActionSpace, Continuous, Discrete, abstract, known_space
from ..env.keys import is_typed_key
from ..errors import Failure, UsageError, failure
from ..ppo.task import Task
from ..trace import jaxprs
from ..trace.calls import KEY, Call, trace
from .foreign import adapted


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
class Subject:
    """What is checked: a task, and its environment, or the `Failure` of making it."""

    task: Task
    seed: int
    clock: Clock
    env: Any = None


@dataclass(frozen=True)
class Attempt:
    """What the environment declares, and whether `reset` and `step` can be traced.

    Attributes:
      declared: the action space that the environment names, if it does.
      space: the action space that `step` takes.
      reset, step: the first trace of each; `step` is None if `reset` failed.
      resets, steps: all traces of each that went through.
      refused: why `step` does not take an action of the declared size, but takes `space`.
      unknown: what to write instead of an action space that is none of this package's.
    """

    declared: ActionSpace | None
    space: ActionSpace
    reset: Call | Failure
    step: Call | Failure | None
    resets: tuple[Call, ...]
    steps: tuple[Call, ...]
    refused: Failure | None
    unknown: str | None


def attempt(subject: Subject) -> Attempt:
    env, named, declared, unknown = subject.env, ask(subject.env, "action_space"), None, None
    if named is not None and not isinstance(named, Failure):
        try:
            declared = known_space(named)
        except UsageError as error:
            unknown = str(error)
    space, step, refused = declared or Continuous(1), None, None
    resets, steps = [reset := trace(env, lambda rng: env.reset(rng), KEY)], []
    if isinstance(reset, Call):
        space, step, refused = _find_space(env, reset, declared, ask(env, "action_size"))
        steps.append(step)
        if isinstance(step, Call):
            resets += [trace(env, env.reset, KEY)]
            steps += [trace(env, env.step, reset.state, abstract(space))]
            resets += [trace(env, env.reset, KEY)]
    traced = tuple(x for x in resets if isinstance(x, Call))
    steps_traced = tuple(x for x in steps if isinstance(x, Call))
    return Attempt(declared, space, reset, step, traced, steps_traced, refused, unknown)


@dataclass(frozen=True)
class Traced:
    """What `reset` and `step` compute."""

    space: ActionSpace
    reset: Call
    step: Call

    @property
    def calls(self) -> tuple[tuple[str, Call], tuple[str, Call]]:
        return ("reset", self.reset), ("step", self.step)

    @property
    def unchanged(self) -> set[str]:
        """Paths at which `step` returns what it was given."""
        after = self.step.outputs
        digests = {path: jaxprs.input_digest(i) for i, path in enumerate(self.reset.leaves)}
        return {p for p, digest in digests.items() if p in after and after[p].digest == digest}

    @property
    def keys(self) -> set[str]:
        """Paths of random keys: `step` draws from them, or `reset` made them as keys."""
        made = self.reset.outputs  # from input 0, its key
        return {
            path
            for i, (path, leaf) in enumerate(self.reset.leaves.items())
            if i in self.step.reading.keys
            or is_typed_key(leaf)
            or (leaf.dtype == jnp.uint32 and made[path].copies & {0, jaxprs.KEY_DATA})
        }

    def wrong(
        self, field: str, right: Callable[[str, Any], bool]
    ) -> dict[str, tuple[str, jax.ShapeDtypeStruct]]:
        """Leaves of a field that are not `right`: path -> (function, leaf)."""
        found = [(p, name, x) for name, call in self.calls for p, x in call.of(field).items()]
        return {p: (name, x) for p, name, x in reversed(found) if not right(p, x)}


def make(env: Any) -> Any:
    """What `env` makes if it is a function or a class, else `env`; a `Failure` if that raises.

    Environments of Playground and of gymnax become Brax's.
    """
    if isinstance(env, Env) or not callable(env):
        return env
    try:
        return adapted(env())
    except BaseException as error:
        return failure(error, env)


def ask(env: Env, name: str) -> Any:
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


def is_size(x: Any) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool) and int(x) > 0


def _find_space(
    env: Env, reset: Call, declared: ActionSpace | None, size: Any
) -> tuple[ActionSpace, Call | Failure, Failure | None]:
    """The actions that `step` takes: those that are declared, if it takes them."""
    size = declared.size if declared else int(size) if is_size(size) else None
    kinds, sizes = (Continuous, Discrete), [size] if size else range(1, 9)
    spaces = [declared] if declared else [kind(n) for n in sizes for kind in kinds]
    tried = [(space, trace(env, env.step, reset.state, abstract(space))) for space in spaces]

    def fits(call: Call | Failure) -> bool:
        shapes = {path: leaf.shape for path, leaf in reset.leaves.items()}
        return isinstance(call, Call) and shapes == {p: x.shape for p, x in call.leaves.items()}

    if runs := [x for x in tried if isinstance(x[1], Call)]:
        return *next((x for x in runs if fits(x[1])), runs[0]), None
    failures = [(space, call) for space, call in tried if isinstance(call, Failure)]
    if size and not isinstance(declared, Discrete):
        for n in (n for n in (*range(1, 9), size - 1, size + 1) if n > 0):
            call = trace(env, env.step, reset.state, abstract(Continuous(n)))
            if fits(call):
                return Continuous(n), call, failures[0][1]
    # JAX raises this where an array is indexed with floats: then actions are choices.
    indexed = any("nteger" in failure.message for _, failure in failures)
    return *next((x for x in failures if (x[0].shape == ()) == indexed), failures[0]), None
