"""All that is seen of an environment, stage by stage. The template's: not for editing."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from .running import (
    PAST_END,
    SAME,
    bits,
    far_apart,
    one_of,
    plan,
    raw_keys,
    restarts,
    rollout,
    short_run,
    single,
    touchy,
    unequal,
    wrappings,
)
from .tracing import (
    KEY,
    Actions,
    Call,
    Failure,
    abstract_action,
    failure,
    is_key,
    is_size,
    leak,
    leaves,
    part,
    trace,
    with_guests,
)


@dataclass
class Seen:
    """What is known of an environment so far; filled from top to bottom.

    Attributes:
      asked: the kind of action that `step` is said to take; None to find out.
      observation_size, action_size, backend: as declared, or the `Failure` of asking.
      actions, size: the kind of action that `step` takes, and its length or number of choices.
      reset, step: the first trace of each.
      resets, steps: all traces of each that went through.
      refused: why an action of the declared size does not do, where one of `size` does.
      guests: `step` given a state that holds the training wrappers' entries too.
      twice: the second of two calls of `step` on one state.
      other_size: `step` given an action of length 1 instead of the declared one.
      leaks: where traced values were left behind, by function.
      short: the first steps, compiled.
      eager: paths that differed when nothing was compiled.
      rollout: whole episodes.
      loop: (function, path) where a batch differed from one environment alone.
      stale: what `step` computes from the last step's "metrics" and "reward": paths.
      inert: components of the action, or choices, that changed nothing.
      wrappings: what goes wrong under training wrappers, by their name.
      restarts: what auto-reset got wrong.
      crash: what stopped a stage.
      violations, puzzles: of the rules applied so far, and rules that could not be applied.
    """

    env: Env
    seed: int
    episode_length: int
    deadline: float
    asked: Actions | None = None
    observation_size: Any = None
    action_size: Any = None
    backend: Any = None
    actions: Actions = "continuous"
    size: int = 1
    reset: Any = None
    step: Any = None
    resets: list[Call] = field(default_factory=list)
    steps: list[Call] = field(default_factory=list)
    refused: Failure | None = None
    guests: Call | Failure | None = None
    twice: Call | Failure | None = None
    other_size: Call | Failure | None = None
    leaks: dict[str, str] = field(default_factory=dict)
    one: Any = None
    short: Any = None
    eager: Any = ()
    rollout: Any = None
    loop: Any = ()
    stale: dict[str, list[str]] = field(default_factory=dict)
    inert: list[int] = field(default_factory=list)
    wrappings: dict[str, Failure] = field(default_factory=dict)
    restarts: Any = ()
    crash: Failure | None = None
    violations: list[Any] = field(default_factory=list)
    puzzles: dict[str, str] = field(default_factory=dict)

    def broken(self, *rules: str) -> bool:
        """Whether one of `rules`, or any error where none is named, was found broken."""
        if rules:
            return any(v.rule in rules for v in self.violations)
        return any(v.severity == "error" for v in self.violations)


def declare(seen: Seen) -> bool:
    """Asks for the sizes and the backend."""
    env = seen.env
    seen.observation_size = _ask(env, lambda: env.observation_size)
    seen.action_size = _ask(env, lambda: env.action_size)
    seen.backend = _ask(env, lambda: env.backend)
    return True


def _ask(env: Env, question: Callable[[], Any]) -> Any:
    """An answer without computing it: Brax's own environments run `reset` to tell their size."""
    answers: list[Any] = []
    try:
        jax.eval_shape(lambda: answers.append(question()))
        if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(answers)):
            return answers[0]
    except BaseException:  # it may need numbers after all
        pass
    try:
        return question()
    except BaseException as error:
        return failure(error, env)


def trace_all(seen: Seen) -> bool:
    """Traces `reset` and `step`, each again after the other, and `step` on other arguments."""
    env = seen.env
    seen.reset = trace(env, lambda rng: env.reset(rng), KEY)
    if isinstance(seen.reset, Failure):
        return False
    seen.resets = [seen.reset]
    find_action(seen)
    if isinstance(seen.step, Failure):
        return False
    state, action = seen.reset.state, abstract_action(seen.actions, seen.size)
    seen.steps = [seen.step]
    for calls, function, args in (
        (seen.resets, env.reset, (KEY,)),
        (seen.steps, env.step, (state, action)),
        (seen.resets, env.reset, (KEY,)),
    ):
        if isinstance(call := trace(env, function, *args), Call):
            calls.append(call)
    seen.guests = trace(env, env.step, with_guests(state), action)
    if seen.step.given:
        seen.twice = trace(env, lambda s, a: (env.step(s, a), env.step(s, a))[1], state, action)
    if seen.actions == "continuous" and seen.size > 1:
        seen.other_size = trace(env, env.step, state, abstract_action("continuous", 1))
    for name, function, args in (
        ("reset", env.reset, (KEY,)),
        ("step", env.step, (state, action)),
    ):
        if held := leak(function, *args):
            seen.leaks[name] = held
    return True


def find_action(seen: Seen) -> None:
    """Finds out which actions `step` takes: of the declared size if it can be."""
    env, state = seen.env, seen.reset.state
    kinds: list[Actions] = [seen.asked] if seen.asked else ["continuous", "discrete"]
    declared = int(seen.action_size) if is_size(seen.action_size) else None
    tried: list[tuple[Actions, int, Any]] = []
    for size in (declared,) if declared else range(1, 9):
        tried += [(k, size, trace(env, env.step, state, abstract_action(k, size))) for k in kinds]

    def fits(call: Any) -> bool:
        return isinstance(call, Call) and {p: x.shape for p, x in call.leaves.items()} == {
            p: x.shape for p, x in seen.reset.leaves.items()
        }

    def worth(attempt: tuple[Actions, int, Any]) -> int:
        """A call that gives back the state it got, else one that runs, else one that says why."""
        kind, _, call = attempt
        if isinstance(call, Call):
            return 3 + fits(call)
        indexed = any(isinstance(t[2], Failure) and "nteger" in t[2].message for t in tried)
        return int((kind == "discrete") == indexed)

    seen.actions, seen.size, seen.step = max(tried, key=worth)
    if isinstance(seen.step, Failure) and declared:
        for size in (s for s in (*range(1, 9), declared - 1, declared + 1) if s > 0):
            for kind in kinds:
                call = trace(env, env.step, state, abstract_action(kind, size))
                if kind == "continuous" and fits(call):
                    seen.refused, seen.step = seen.step, call
                    seen.actions, seen.size = kind, size
                    return


def run_one(seen: Seen) -> bool:
    """Compiles `reset` and `step` of one environment and takes its first steps."""
    rng = np.random.default_rng(seen.seed)
    key, actions = raw_keys(rng), plan(seen.actions, seen.size, rng, 0)[:4, 0]
    seen.one = single(seen.env)
    seen.short = short_run(seen.one, key, actions)
    count = sum(sum(call.reading.operations.values()) for call in (seen.reset, seen.step))
    if count < 1000:  # more would take long
        start = jax.tree.map(jnp.asarray, seen.short.start)
        try:
            seen.eager = far_apart(seen.short.start, seen.env.reset(jnp.asarray(key)))
            after = seen.env.step(start, jnp.asarray(actions[0]))
            seen.eager += step_apart(seen, seen.short.first, after, start, actions[0])
        except BaseException as error:
            seen.eager = failure(error, seen.env)
    return True


def step_apart(seen: Seen, first: State, again: State, start: State, action: Any) -> list[str]:
    """Where two states that `step` gave from one state differ, and rounding can't be why."""
    if off := far_apart(first, again):
        rounding = touchy(seen.one.step, start, action)
        off = [path for path in off if path not in rounding]
    return off


def run_many(seen: Seen) -> bool:
    """Follows whole episodes, and looks what their states depend on."""
    env, one = seen.env, seen.one
    try:
        jax.eval_shape(jax.vmap(env.reset), jax.ShapeDtypeStruct((2, 2), jnp.uint32))
        found = rollout(
            env, seen.actions, seen.size, seen.seed, seen.episode_length + PAST_END, seen.deadline
        )
    except BaseException as error:
        seen.loop = failure(error, env)
        return False
    seen.rollout, seen.loop = found, []
    for i in (0, SAME, len(found.kinds) - 1):
        start, first = one_of(found.start, i), one_of(found.first, i)
        alone = one.reset(found.start_keys[i])
        seen.loop += [("reset", path) for path in far_apart(start, alone)]
        action = found.start_action[i]
        off = step_apart(seen, first, one.step(start, action), start, action)
        seen.loop += [("step", path) for path in off]
    seen.loop = sorted(set(seen.loop))[:1]
    seen.stale = stale(seen)
    seen.inert = inert(seen)
    return True


def stale(seen: Seen) -> dict[str, list[str]]:
    """What `step` computes from the metrics and the reward of the last step, by path."""
    found: dict[str, list[str]] = {"metrics": [], "reward": []}
    action = seen.rollout.start_action[0]
    for state in seen.rollout.samples:
        after = seen.one.step(state, action)
        for name, paths in found.items():
            other = jax.tree.map(lambda x: (x + 1).astype(x.dtype), getattr(state, name))
            other = state.replace(**{name: other})
            changed = unequal(after, seen.one.step(other, action))
            kept = [p for p in leaves(state) if part(p) == name and p not in unequal(state, after)]
            paths += [p for p in changed if p not in kept and p not in paths]
    return found


def inert(seen: Seen) -> list[int]:
    """Components of the action, or choices, that made no difference in any of the samples."""
    samples, step, size = seen.rollout.samples, seen.one.step, seen.size
    if size == 1 and seen.actions == "discrete":
        return []

    def after(state: State, action: Any) -> tuple[bytes, ...]:
        results = jax.tree.leaves(step(state, action))
        # One zero has a sign, which is no difference; adding 0 takes it off.
        numbers = (x if is_key(x) else np.asarray(x) + np.zeros((), x.dtype) for x in results)
        return tuple(bits(x) for x in numbers)

    alike: dict[Any, list[int]]
    if seen.actions == "discrete":
        choices = np.arange(min(size, 32), dtype=np.int32)
        groups = [list(range(len(choices)))]
        for state in samples:
            if all(len(g) == 1 for g in groups) or time.monotonic() > seen.deadline:
                break
            split: list[list[int]] = []
            for group in groups:
                alike = {}
                for c in group:
                    alike.setdefault(after(state, choices[c]), []).append(c)
                split += alike.values()
            groups = split
        return sorted(c for group in groups for c in group[1:])

    left = set(range(size))
    base = np.full((size,), 0.25, np.float32)

    def changed(i: int, to: float) -> np.ndarray:
        return np.where(np.arange(size) == i, np.float32(to), base)

    for state in samples:
        usual = after(state, base)
        for i in sorted(left):
            if time.monotonic() > seen.deadline:
                return []
            if any(after(state, changed(i, x)) != usual for x in (-1.0, 1.0)):
                left.discard(i)
    return sorted(left)


def wrap(seen: Seen) -> bool:
    """Puts the environment under the training wrappers."""
    env = seen.env
    seen.wrappings = wrappings(env, seen.actions, seen.size)
    if seen.wrappings:
        return True
    try:
        seen.restarts = restarts(env, seen.one, seen.actions, seen.size, seen.seed)
    except BaseException as error:
        seen.restarts = failure(error, env)
    return True
