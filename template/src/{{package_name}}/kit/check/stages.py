"""What is seen of an environment: one frozen dataclass for each stage, made one after another.

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
import numpy as np
from brax.envs.base import Env, State, Wrapper
from brax.envs.wrappers import training

from .. import actions
from ..wrappers import wrap_for_training
from . import jaxprs, tracing
from .compare import bits, conform, far_apart, lane, touchy, unequal
from .tracing import KEY, Call, Failure, failure, is_key, leaves, part, trace

PAST_END = 16  # steps for which an episode is followed after its end
SAME = 4  # episodes that differ in nothing but the key
MOST_STEPS = 20_000
EAGER_OPERATIONS = 1000  # a program with more takes long when it is not compiled


class Clock:
    """Counts seconds, those of XLA apart. What compiles may take four times as long."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._began = time.monotonic()
        self._compiled = 0.0
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
        now, since = time.monotonic(), self._compiling_since
        compiled = self._compiled + (now - since if since is not None else 0.0)
        spent = now - self._began - compiled
        return spent > share * self.limit or compiled > 4 * self.limit


@dataclass(frozen=True)
class Settings:
    """What is checked, and how; see `check_env`."""

    env: Env
    seed: int
    episode_length: int
    action_repeat: int
    action_space: actions.ActionSpace | None
    clock: Clock


def observe(settings: Settings) -> Iterator[Any]:
    """Yields the stages, as far as the environment lets it get."""
    attempt = Attempt.of(settings)
    yield attempt
    reset, step = attempt.reset, attempt.step
    if isinstance(reset, Call) and isinstance(step, Call):
        traced = Traced.of(settings, attempt, reset, step)
        yield traced
        if traced.vmapped is None:
            yield Rollout.of(settings, traced)
            yield Wrapped.of(settings, traced)


@dataclass(frozen=True)
class Attempt:
    """What the environment declares, and whether `reset` and `step` can be traced.

    Attributes:
      observation_size, action_size, backend: as declared, or the `Failure` of asking.
      declared: the action space that the environment or the caller names; None if neither does.
      space: the one that `step` takes.
      reset, step: the first trace of each; `step` is None where `reset` failed.
      resets, steps: all traces of each that went through.
      refused: why `step` does not take an action of the declared size, where it takes `space`.
    """

    observation_size: Any
    action_size: Any
    backend: Any
    declared: actions.ActionSpace | None
    space: actions.ActionSpace
    reset: Call | Failure
    step: Call | Failure | None
    resets: tuple[Call, ...]
    steps: tuple[Call, ...]
    refused: Failure | None

    @classmethod
    def of(cls, settings: Settings) -> "Attempt":
        env = settings.env
        asked = [
            _ask(env, lambda name=name: getattr(env, name))
            for name in ("observation_size", "action_size", "backend")
        ]
        declared = settings.action_space
        if declared is None:
            named = _ask(env, lambda: getattr(env, "action_space", None))
            declared = named if isinstance(named, actions.ActionSpace) else None
        calls: tuple[list[Call | Failure], list[Call | Failure]] = ([], [])
        reset = trace(env, lambda rng: env.reset(rng), KEY)
        space, step, refused = declared or actions.Continuous(1), None, None
        if isinstance(reset, Call):
            space, step, refused = _find_space(env, reset, declared, asked[1])
            calls = ([reset], [step])
            if isinstance(step, Call):
                args = (reset.state, abstract(space))
                calls[0].append(trace(env, env.reset, KEY))
                calls[1].append(trace(env, env.step, *args))
                calls[0].append(trace(env, env.reset, KEY))
        resets, steps = map(tracing.without_failures, calls)
        return cls(*asked, declared, space, reset, step, resets, steps, refused)


def _ask(env: Env, question: Callable[[], Any]) -> Any:
    """An answer without computing it: Brax's own environments run `reset` to give their size."""
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


def abstract(space: actions.ActionSpace) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(space.shape, space.dtype)


def is_size(x: Any) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool) and int(x) > 0


def _find_space(
    env: Env, reset: Call, declared: actions.ActionSpace | None, size: Any
) -> tuple[actions.ActionSpace, Call | Failure, Failure | None]:
    """The actions that `step` takes: those that are declared if it can be."""

    def attempt(space: actions.ActionSpace) -> tuple[actions.ActionSpace, Call | Failure]:
        return space, trace(env, env.step, reset.state, abstract(space))

    def fits(call: Call | Failure) -> bool:
        return isinstance(call, Call) and {p: x.shape for p, x in call.leaves.items()} == {
            p: x.shape for p, x in reset.leaves.items()
        }

    sizes = [int(size)] if is_size(size) else range(1, 9)
    both = [(actions.Continuous(n), actions.Discrete(n)) for n in sizes]
    spaces = [declared] if declared else [space for pair in both for space in pair]
    tried = [attempt(space) for space in spaces]
    # JAX says so where an array is indexed with a float: then the choices are discrete.
    indexed = any(isinstance(c, Failure) and "nteger" in c.message for _, c in tried)

    def worth(found: tuple[actions.ActionSpace, Call | Failure]) -> int:
        """A call that returns the state it got, else one that runs, else one that explains."""
        if isinstance(found[1], Call):
            return 3 + fits(found[1])
        return int((found[0].shape == ()) == indexed)

    space, step = max(tried, key=worth)
    own = declared.size if declared else size
    if isinstance(step, Failure) and is_size(own) and not isinstance(declared, actions.Discrete):
        for n in (n for n in (*range(1, 9), own - 1, own + 1) if n > 0):
            other, call = attempt(actions.Continuous(n))
            if isinstance(call, Call) and fits(call):
                return other, call, step
    return space, step, None


@dataclass(frozen=True)
class Traced:
    """What `reset` and `step` compute.

    Attributes:
      reset, step: the first trace of each; `resets`, `steps`: all of them.
      wrapped: `step` given a state with the training wrappers' entries.
      twice: the second of two calls of `step` on one state, where it writes to that state.
      leaks: what holds traced values after `reset` or `step`.
      vmapped: what `jax.vmap` of them raises.
    """

    space: actions.ActionSpace
    reset: Call
    step: Call
    resets: tuple[Call, ...]
    steps: tuple[Call, ...]
    wrapped: Call | Failure
    twice: Call | None
    leaks: dict[str, str]
    vmapped: Failure | None

    @classmethod
    def of(cls, settings: Settings, attempt: Attempt, reset: Call, step: Call) -> "Traced":
        env, state, action = settings.env, reset.state, abstract(attempt.space)
        wrapped = trace(env, env.step, tracing.with_wrapper_entries(state), action)
        twice = None
        if step.given:
            twice = trace(env, lambda s, a: (env.step(s, a), env.step(s, a))[1], state, action)
        leaks = {
            "reset": jaxprs.leaked(env.reset, KEY),
            "step": jaxprs.leaked(env.step, state, action),
        }
        vmapped = None
        try:
            keys, batch = (jax.ShapeDtypeStruct((2, *x.shape), x.dtype) for x in (KEY, action))
            jax.eval_shape(jax.vmap(env.step), jax.eval_shape(jax.vmap(env.reset), keys), batch)
        except BaseException as error:
            vmapped = failure(error, env)
        return cls(
            attempt.space,
            reset,
            step,
            attempt.resets,
            attempt.steps,
            wrapped,
            twice if isinstance(twice, Call) else None,
            {name: holder for name, holder in leaks.items() if holder},
            vmapped,
        )

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
    def done(self) -> frozenset[float] | None:
        """All values that `done` can have in a running episode, where tracing can tell."""
        return self.step.outputs["done"].possible if "done" in self.step.outputs else None


@dataclass(frozen=True)
class Rollout:
    """Whole episodes of a batch, [B], with other actions in each; [T, B] are series.

    Attributes:
      kinds: [B], the actions of each.
      steps: how many steps were taken, T; `wanted`: how many should have been.
      start, first: the states after the first reset and one step later, [B, ...].
      repeated: (function, path) where a call with the same arguments gave other bits.
      eager: paths that differ where nothing is compiled, or what is raised there.
      alone: (function, path) where a batch differs from one environment alone.
      stale: what `step` computes from the last step's "metrics" and "reward": paths.
      alike: for each group of actions that differ in one respect, those with equal effects.
      samples: how many states were tried for `stale` and `alike`.
      restart: whether an episode starts here, [T, B]; `past`: steps since its end, -1 before it.
      reward, done: of the state after each step, [T, B].
      reset_reward, reset_done: of the state before it.
      metrics: by name; `sizes`: the greatest absolute value in a leaf around the step, by path.
      lowest, highest: the range of each component of the observation, by path.
      key_matters: whether episodes that differ in the key alone differed anywhere.
      outside: where an index was out of range while an episode ran: line -> (t, b).
    """

    kinds: list[str]
    steps: int
    wanted: int
    start: State
    first: State
    repeated: tuple[tuple[str, str], ...]
    eager: tuple[str, ...] | Failure
    alone: tuple[tuple[str, str], ...]
    stale: dict[str, list[str]]
    alike: dict[str, list[list[int]]]
    samples: int
    restart: np.ndarray
    past: np.ndarray
    reward: np.ndarray
    done: np.ndarray
    reset_reward: np.ndarray
    reset_done: np.ndarray
    metrics: dict[str, np.ndarray]
    sizes: dict[str, np.ndarray]
    lowest: dict[str, np.ndarray]
    highest: dict[str, np.ndarray]
    key_matters: bool
    outside: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, settings: Settings, traced: Traced) -> "Rollout":
        env, clock, space = settings.env, settings.clock, traced.space
        rng = np.random.default_rng(settings.seed)
        wanted = min(settings.episode_length + PAST_END, MOST_STEPS)
        kinds, plan = _plan(space, wanted, settings.action_repeat, rng)
        batch = Batch(traced, len(kinds), clock)
        keys = _keys(rng, len(kinds))
        start = fresh = batch.reset(keys)
        carry = batch.begin(start)
        samples: list[State] = []
        rows: list[dict[str, Any]] = []
        restart = np.ones(len(kinds), bool)
        while len(rows) < wanted and not (clock.over(0.8) and rows):
            if rows and np.any(restart):
                fresh = batch.reset(_keys(rng, len(kinds)))
            carry, row = batch.advance(carry, fresh, restart, plan[len(rows)])
            restart = np.asarray(row["past"]) >= PAST_END
            rows.append(row)
            if len(rows) in (1, 4, 16, 64, 256, 1024):
                samples.append(carry["state"])
        first, samples = samples[0], [start, *samples]
        found = jax.device_get(rows)
        series = {name: np.stack([row[name] for row in found]) for name in found[0]}
        again = [("reset", path) for path in unequal(start, batch.reset(keys))]
        again += [("step", path) for path in unequal(first, batch.step(start, plan[0]))]
        hits = series["outside"] & (series["past"] <= 0)[:, None]
        lines = {
            line: (int(np.argwhere(hits[:, n])[0][0]), int(np.argwhere(hits[:, n])[0][1]))
            for n, line in enumerate(batch.lines)
            if np.any(hits[:, n])
        }
        return cls(
            kinds,
            len(rows),
            wanted,
            start,
            first,
            tuple(again),
            _eager(env, traced, batch, keys, start, first, plan[0]),
            _alone(traced, batch, keys, start, first, plan[0], clock),
            _stale(batch, samples, plan[0]),
            _alike(batch, samples, space, clock),
            len(samples) * len(kinds),
            *(series[n] for n in ("restart", "past", "reward", "done")),
            *(series[n] for n in ("reset_reward", "reset_done")),
            {name: series["metrics"][:, i] for i, name in enumerate(batch.metrics)},
            {path: series["sizes"][:, i] for i, path in enumerate(batch.floats)},
            {path: np.min(x, axis=0) for path, x in carry["lowest"].items()},
            {path: np.max(x, axis=0) for path, x in carry["highest"].items()},
            bool(carry["key_matters"]),
            lines,
        )

    @property
    def ended(self) -> int:
        """How many episodes ended by themselves."""
        return int(np.sum(self.past == 0))


def _keys(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(2**32, size=(*shape, 2), dtype=np.uint32)


def _plan(
    space: actions.ActionSpace, steps: int, repeat: int, rng: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """What each environment of the batch does, in words and as [T, B, *space.shape]."""
    count = -(-steps // repeat)
    drawn = np.asarray(jax.jit(lambda key: space.sample(key, (count, 2)))(_keys(rng)))
    held = space.held()
    stack = np.stack([np.asarray(action, space.dtype) for action in held.values()])
    mixed = np.take_along_axis(stack, rng.integers(len(stack), size=(count, *space.shape)), 0)
    columns = [*[drawn[:, 0]] * SAME, drawn[:, 1]]
    columns += [np.broadcast_to(action, mixed.shape) for action in stack] + [mixed]
    kinds = ["random actions"] * (SAME + 1) + [f"{name} held" for name in held]
    return [*kinds, "extreme actions at random"], np.stack(columns, 1).repeat(repeat, 0)


class Batch:
    """`reset` and `step` of a batch, compiled once each.

    Attributes:
      reset: keys (B, 2) uint32 -> State.
      advance: carry, fresh states, where to start with those, actions -> carry, row of the series.
      lines: of `row["outside"]`; `metrics` and `floats`: names of `row["metrics"]`, `row["sizes"]`.
    """

    def __init__(self, traced: Traced, count: int, clock: Clock) -> None:
        self._traced, self._count, self._clock = traced, count, clock
        self.metrics = [k for k, x in traced.reset.state.metrics.items() if x.shape == ()]
        self.floats = [
            p for p, x in traced.reset.leaves.items() if jnp.issubdtype(x.dtype, jnp.inexact)
        ]
        self._run_step, self.lines = jaxprs.checked(traced.step.closed)
        self.reset = self._compile(jax.vmap(_replay(traced.reset)), _keys_like(count))

    def _compile(self, function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
        lowered = jax.jit(function).lower(*args)
        with self._clock.compiling():
            return lowered.compile()

    def begin(self, start: State) -> dict[str, Any]:
        """The carry of `advance` before the first step."""
        obs = {p: x for p, x in leaves(start).items() if part(p) == "obs" and "pixels/" not in p}
        carry: dict[str, Any] = {
            "state": start,
            "past": np.full(self._count, -1, np.int32),
            "key_matters": np.zeros((), bool),
            "lowest": {path: np.full(x.shape, np.inf, np.float32) for path, x in obs.items()},
            "highest": {path: np.full(x.shape, -np.inf, np.float32) for path, x in obs.items()},
        }
        space = self._traced.space
        action = jax.ShapeDtypeStruct((self._count, *space.shape), space.dtype)
        restart = jax.ShapeDtypeStruct((self._count,), bool)
        self.advance = self._compile(self._advance, carry, start, restart, action)
        self._carry = carry
        return carry

    def step(self, state: State, action: np.ndarray) -> State:
        """One step of every environment; actions are [B, ...], or one for all."""
        space, nowhere = self._traced.space, np.zeros(self._count, bool)
        action = np.broadcast_to(np.asarray(action, space.dtype), (self._count, *space.shape))
        return self.advance({**self._carry, "state": state}, state, nowhere, action)[0]["state"]

    def _advance(self, carry: Any, fresh: State, restart: Any, action: Any) -> tuple[Any, Any]:
        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(restart.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        given = jax.tree.map(choose, fresh, carry["state"])
        outputs, outside = jax.vmap(self._run_step)(*jax.tree.leaves(given), action)
        tree = jax.tree.structure(self._traced.step.state)
        state = conform(jax.tree.unflatten(tree, outputs), given)
        past = jnp.where(restart, -1, carry["past"])
        past = jnp.where(past >= 0, past + 1, jnp.where(_flat(state.done) != 0, 0, -1))
        before, after = leaves(given), leaves(state)

        def size(path: str) -> jax.Array:
            both = jnp.maximum(jnp.abs(before[path]), jnp.abs(after[path]))
            return jnp.max(both, tuple(range(1, both.ndim)), initial=0.0).astype(jnp.float32)

        def stack(rows: list[Any], dtype: Any) -> jax.Array:
            return jnp.stack(rows) if rows else jnp.zeros((0, self._count), dtype)

        row = {
            "restart": restart,
            "past": past,
            "reward": _flat(state.reward),
            "done": _flat(state.done),
            "reset_reward": _flat(given.reward),
            "reset_done": _flat(given.done),
            "metrics": stack(
                [state.metrics[name].astype(jnp.float32) for name in self.metrics], jnp.float32
            ),
            "sizes": stack([size(path) for path in self.floats], jnp.float32),
            "outside": stack(outside, bool),
        }
        differ = [jnp.any(x[:SAME] != x[:1]) for x in after.values() if not is_key(x)]
        obs = {path: after[path].astype(jnp.float32) for path in carry["lowest"]}
        return {
            "state": state,
            "past": past,
            "key_matters": carry["key_matters"] | jnp.any(jnp.stack(differ)),
            "lowest": jax.tree.map(jnp.minimum, carry["lowest"], obs),
            "highest": jax.tree.map(jnp.maximum, carry["highest"], obs),
        }, row


def _keys_like(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*shape, 2), jnp.uint32)


def _replay(call: Call) -> Callable[..., State]:
    """The traced call as a function: it computes the same without running the user's Python."""
    run, _ = jaxprs.checked(call.closed)
    tree = jax.tree.structure(call.state)
    return lambda *args: jax.tree.unflatten(tree, run(*jax.tree.leaves(args))[0])


def _flat(x: Any) -> jax.Array:
    """One number for each environment, whatever it gave for a number."""
    x = jnp.asarray(x, jnp.float32)
    return x if x.ndim == 1 else jnp.max(x, axis=tuple(range(1, x.ndim)))


def _eager(
    env: Env, traced: Traced, batch: Batch, keys: Any, start: State, first: State, action: Any
) -> tuple[str, ...] | Failure:
    count = sum(sum(call.reading.operations.values()) for _, call in traced.calls)
    if count > EAGER_OPERATIONS or any(call.reading.batched_by_hand for _, call in traced.calls):
        return ()
    state = jax.tree.map(jnp.asarray, lane(start, 0))
    try:
        off = far_apart(lane(start, 0), env.reset(jnp.asarray(keys[0])))
        stepped = far_apart(lane(first, 0), env.step(state, jnp.asarray(action[0])))
    except BaseException as error:
        return failure(error, env)
    if stepped:
        rounding = touchy(lambda s: batch.step(s, action), start)
        off += [path for path in stepped if path not in rounding]
    return tuple(off)


def _alone(
    traced: Traced,
    batch: Batch,
    keys: Any,
    start: State,
    first: State,
    action: Any,
    clock: Clock,
) -> tuple[tuple[str, str], ...]:
    """JAX makes a batch of everything but callbacks and the like: only those are compared."""
    if not any(call.reading.batched_by_hand for _, call in traced.calls):
        return ()
    reset, step = (jax.jit(_replay(call)) for _, call in traced.calls)
    found = set()
    for i in (0, SAME, len(action) - 1):
        with clock.compiling():
            begin = reset(keys[i])
            alone = step(lane(start, i), action[i])
        found |= {("reset", path) for path in far_apart(lane(start, i), begin)}
        if off := far_apart(lane(first, i), alone):
            rounding = touchy(lambda s, i=i: step(s, action[i]), lane(start, i))
            found |= {("step", path) for path in off if path not in rounding}
    return tuple(sorted(found))


def _stale(batch: Batch, samples: list[State], action: Any) -> dict[str, list[str]]:
    """Paths that change when the metrics or the reward of the given state do."""
    found: dict[str, list[str]] = {"metrics": [], "reward": []}
    for state in samples:
        after = batch.step(state, action)
        for name, paths in found.items():
            value = jax.tree.map(lambda x: (x + 1).astype(x.dtype), getattr(state, name))
            changed = unequal(after, batch.step(state.replace(**{name: value}), action))
            moved = unequal(state, after)
            kept = [p for p in leaves(state) if part(p) == name and p not in moved]
            paths += [p for p in changed if p not in kept and p not in paths]
    return found


def _alike(
    batch: Batch, samples: list[State], space: actions.ActionSpace, clock: Clock
) -> dict[str, list[list[int]]]:
    """In each group of actions: sets of those that had the same effect in all samples."""

    def effect(state: State, action: Any) -> tuple[bytes, ...]:
        results = jax.tree.leaves(batch.step(state, action))
        # A zero has a sign, which is no difference: adding 0 takes it off.
        numbers = (x if is_key(x) else np.asarray(x) + np.zeros((), x.dtype) for x in results)
        return tuple(bits(x) for x in numbers)

    found: dict[str, list[list[int]]] = {}
    for name, group in space.groups().items():
        alike = [list(range(len(group)))]
        for state in samples:
            classes: dict[Any, list[int]] = {}
            for number, members in enumerate(alike):
                for i in members:
                    same = effect(state, group[i]) if len(members) > 1 else ()
                    classes.setdefault((number, same), []).append(i)
            alike = list(classes.values())
            if clock.over(0.9):
                return {}
        found[name] = [members for members in alike if len(members) > 1]
    return found


@dataclass(frozen=True)
class Wrapped:
    """The environment in the wrappers that training puts around it, traced and not run.

    Attributes:
      failures: what is raised, by the wrappers' name.
      restarted: paths that `reset` computes differently when auto-reset calls it.
    """

    failures: dict[str, Failure]
    restarted: tuple[str, ...]

    @classmethod
    def of(cls, settings: Settings, traced: Traced) -> "Wrapped":
        env, space = settings.env, traced.space
        seen: list[dict[str, jaxprs.Value]] = []
        failures = {}
        for name, wrap, inner in (
            ("wrap_for_training", wrap_for_training, _Spy(env, seen)),
            ("Brax's own wrappers", training.wrap, env),
        ):

            def episode(keys: Any, action: Any, wrap: Any = wrap, inner: Env = inner) -> Any:
                wrapped = training.EvalWrapper(wrap(inner, episode_length=4, action_repeat=2))
                start = wrapped.reset(keys)
                return jax.lax.scan(lambda s, _: (wrapped.step(s, action), None), start, None, 3)

            try:
                action = jax.ShapeDtypeStruct((3, *space.shape), space.dtype)
                jax.eval_shape(episode, _keys_like(3), action)
            except BaseException as error:
                failures[name] = failure(error, env)
        usual = traced.reset.outputs
        other = {p for o in seen for p in usual if p in o and o[p].digest != usual[p].digest}
        return cls(failures, tuple(p for p in usual if p in other))


class _Spy(Wrapper):
    """Remembers what `reset` computes wherever it is called."""

    def __init__(self, env: Env, seen: list[dict[str, jaxprs.Value]]) -> None:
        super().__init__(env)
        self._seen = seen

    def reset(self, rng: jax.Array) -> State:
        call = trace(self.env, self.env.reset, KEY)
        if isinstance(call, Call):
            self._seen.append(call.outputs)
        return self.env.reset(rng)
