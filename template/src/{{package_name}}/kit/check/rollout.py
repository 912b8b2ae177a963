"""Whole episodes of a batch of environments, run in two compiled programs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import State

from ..env.actions import ActionSpace
from ..trace import jaxprs
from ..trace.calls import Call, bits, far_apart, leaves, part, unequal
from .stages import Subject, Traced

PAST_END = 16  # steps for which an episode is followed after its end
SAME = 4  # episodes that differ in nothing but the key
MOST_STEPS = 20_000
SAMPLED = (1, 4, 16, 64, 256, 1024)  # after so many steps states are kept


@dataclass(frozen=True)
class Rollout:
    """What is seen in a batch of episodes [B], one after another for T steps.

    Attributes:
      compile: compiles a function for such arguments; the time that it takes is not counted.
      reset: compiled: keys, [B, 2] uint32 -> states.
      advance: compiled: what episodes carry, fresh states, which episodes restart from these, [B]
        bool, and actions -> what they carry then, and a row of `series`.
      kinds: [B], the actions of each; `plan`: those actions, [T, B, ...].
      wanted: how many steps should be taken; `steps`: how many were.
      keys: of the first reset, [B, 2] uint32; `start`: the states after it, [B, ...].
      samples: `start` and some states along the way, by the number of steps taken.
      series: [T, B] each. "restart": an episode starts here. "past": steps since its end, -1 before
        it. "reward", "done": of the state after the step; "reset_reward", "reset_done": before it.
        "metrics": those after the step, by path.
        "sizes": the greatest absolute values in a leaf before and after the step, by path.
        "outside": whether an index was out of range, by source line.
      last: what episodes carry after the last step. "lowest", "highest": the range of each
        component of the observation, by path. "key_matters": whether episodes that differ in the
        key alone differed anywhere.
    """

    traced: Traced
    compile: Callable[..., Callable[..., Any]]
    reset: Callable[..., State]
    advance: Callable[..., tuple[Any, Any]]
    kinds: list[str]
    plan: np.ndarray
    wanted: int
    keys: np.ndarray
    start: State
    samples: dict[int, State]
    series: dict[str, Any]
    last: dict[str, Any]

    @property
    def steps(self) -> int:
        return len(self.series["done"])

    # EXPERIMENTS: single steps from states that were met.

    def step(self, state: State, action: Any) -> State:
        """One step of every environment; `action`: for each or one for all."""
        action = np.broadcast_to(np.asarray(action, self.plan.dtype), self.plan.shape[1:])
        carry, restart = {**self.last, "state": state}, np.zeros(len(self.kinds), bool)
        carry, _ = self.advance(carry, state, restart, action)
        return carry["state"]

    @cached_property
    def first(self) -> State:
        """The states after the first step."""
        return self.step(self.start, self.plan[0])

    @cached_property
    def repeated(self) -> list[tuple[str, str]]:
        """(function, path) where a call with the same arguments gives other bits."""
        reset = unequal(self.start, self.reset(self.keys))
        step = unequal(self.samples[1], self.first)
        return [("reset", path) for path in reset] + [("step", path) for path in step]

    @cached_property
    def moved(self) -> set[str]:
        """Paths of what is observed or remembered that a step changes in any sample."""
        found: set[str] = set()
        for t, state in self.samples.items():
            found.update(unequal(state, self.step(state, self.plan[min(t, len(self.plan) - 1)])))
        return {path for path in found if part(path) in ("obs", "pipeline_state", "info")}

    @cached_property
    def rounding(self) -> set[str]:
        """Paths at which `step` gives far apart states if its input changes in the last digits.

        Where bodies touch, for example, rounding decides between two outcomes.
        """
        rng = np.random.default_rng(0)

        def nudge(x: Any) -> Any:
            if not jnp.issubdtype(x.dtype, jnp.floating):
                return x
            sign = rng.choice([-1.0, 1.0], np.shape(x))
            return jnp.asarray(x * (1 + 1e-6 * sign) + 1e-7 * sign, x.dtype)

        nudged = [self.step(jax.tree.map(nudge, self.start), self.plan[0]) for _ in range(8)]
        return {path for state in nudged for path in far_apart(state, self.first)}

    def apart(
        self, reset: Callable[..., State], step: Callable[..., State], lanes: Iterable[int]
    ) -> list[tuple[str, str]]:
        """(function, path) where these give something else than the batch, but for rounding."""
        found = set()
        for i in lanes:
            start, after = _lane(self.start, i), _lane(self.first, i)
            key, action = jnp.asarray(self.keys[i]), jnp.asarray(self.plan[0, i])
            found |= {("reset", path) for path in far_apart(start, reset(key))}
            found |= {("step", path) for path in far_apart(after, step(start, action))}
        return sorted(x for x in found if x[0] == "reset" or x[1] not in self.rounding)

    def apart_when_alone(self) -> list[tuple[str, str]]:
        """(function, path) where compiled calls of single environments differ from the batch."""
        reset, step = (jax.jit(_replay(call)) for _, call in self.traced.calls)
        return self.apart(reset, step, (0, SAME, len(self.kinds) - 1))

    @cached_property
    def stale(self) -> dict[str, list[str]]:
        """Paths that change when the "metrics" or the "reward" of the given state do."""
        found: dict[str, list[str]] = {"metrics": [], "reward": []}
        for state in self.samples.values():
            after = self.step(state, self.plan[0])
            moved = unequal(state, after)
            for name, paths in found.items():
                value = jax.tree.map(lambda x: (x + 1).astype(x.dtype), getattr(state, name))
                changed = unequal(after, self.step(state.replace(**{name: value}), self.plan[0]))
                kept = [p for p in leaves(state) if part(p) == name and p not in moved]
                paths += [p for p in changed if p not in kept and p not in paths]
        return found

    def alike(self, index: int, count: int | None) -> list[list[int]]:
        """Sets of those values of one part of the action that have the same effect in all samples.

        The other parts are as in the plan. `count`: of choices; None for a number in [-1, 1], which
        is tried at its bounds, at 0 and at random, as -1 and 1 alone may well do the same.
        """
        rng, lanes = np.random.default_rng(index), len(self.kinds)
        found = {0: list(range(min(count or 8, 32)))}
        for t, state in self.samples.items():
            values = np.broadcast_to(np.arange(32)[:, None], (32, lanes))
            if count is None:
                bounds = np.broadcast_to([[-1.0], [1.0], [0.0]], (3, lanes))
                values = np.concatenate([bounds, rng.uniform(-1, 1, (5, lanes))])
            finer: dict[int, list[int]] = {}
            for before, members in found.items():
                for i in members if len(members) > 1 else ():
                    action = np.array(self.plan[min(t, len(self.plan) - 1)])
                    action.reshape(lanes, -1)[:, index] = values[i]
                    results = jax.tree.leaves(self.step(state, action))
                    # A zero has a sign, which is no difference: adding 0 takes it off.
                    numbers = (x + 0 if jnp.issubdtype(x.dtype, jnp.number) else x for x in results)
                    finer.setdefault(hash((before, *map(bits, numbers))), []).append(i)
            found = finer
            if count is None and len(found) > 1:
                return []
        return [members for members in found.values() if len(members) > 1]


def roll_out(subject: Subject, traced: Traced) -> Rollout:
    """Compiles `reset` and `step` of a batch, and follows episodes until the time is nearly up."""
    settings, rng = subject.task.settings, np.random.default_rng(subject.seed)
    wanted = min(settings.episode_length + PAST_END, MOST_STEPS)
    kinds, plan = _plan(traced.space, wanted, settings.action_repeat, rng)

    def compile(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
        lowered = jax.jit(function).lower(*args)
        with subject.clock.compiling():
            return lowered.compile()

    def draw() -> np.ndarray:
        return rng.integers(2**32, size=(len(kinds), 2), dtype=np.uint32)

    keys = draw()
    reset = compile(jax.vmap(_replay(traced.reset)), keys)
    fresh = start = reset(keys)
    obs = {path: x.shape for path, x in leaves(start).items() if part(path) == "obs"}
    obs = {path: shape for path, shape in obs.items() if "pixels/" not in path}
    carry = {
        "state": start,
        "past": np.full(len(kinds), -1, np.int32),
        "key_matters": np.zeros((), bool),
        "lowest": {path: np.full(shape, np.inf, np.float32) for path, shape in obs.items()},
        "highest": {path: np.full(shape, -np.inf, np.float32) for path, shape in obs.items()},
    }
    restart = np.ones(len(kinds), bool)
    advance = compile(_one_step(traced), carry, fresh, restart, plan[0])
    rows: list[Any] = []
    samples = {0: start}
    while len(rows) < wanted and not (rows and subject.clock.over(0.8)):
        if rows and np.any(restart):
            fresh = reset(draw())
        carry, row = advance(carry, fresh, restart, plan[len(rows)])
        restart = np.asarray(row["past"]) >= PAST_END
        rows.append(row)
        if len(rows) in SAMPLED:
            samples[len(rows)] = carry["state"]
    series = jax.tree.map(lambda *x: np.stack(x), *jax.device_get(rows))
    carry |= jax.device_get({name: carry[name] for name in ("lowest", "highest", "key_matters")})
    programs = compile, reset, advance
    return Rollout(traced, *programs, kinds, plan, wanted, keys, start, samples, series, carry)


def _one_step(traced: Traced) -> Callable[..., tuple[Any, Any]]:
    """The function `Rollout.advance`."""
    run = jaxprs.checked(traced.step.closed)

    def advance(carry: Any, fresh: State, restart: Any, action: Any) -> tuple[Any, Any]:
        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(restart.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        given = jax.tree.map(choose, fresh, carry["state"])
        outputs, outside = jax.vmap(run)(*jax.tree.leaves(given), action)
        state: State = jax.tree.unflatten(jax.tree.structure(given), outputs)
        past = jnp.where(restart, -1, carry["past"])
        past = jnp.where(past >= 0, past + 1, jnp.where(state.done != 0, 0, -1))
        before, after = leaves(given), leaves(state)

        def size(path: str) -> jax.Array:
            both = jnp.maximum(jnp.abs(before[path]), jnp.abs(after[path]))
            return jnp.max(both, tuple(range(1, both.ndim)), initial=0.0)

        row = {
            "restart": restart,
            "past": past,
            "reward": state.reward,
            "done": state.done,
            "reset_reward": given.reward,
            "reset_done": given.done,
            "metrics": {path: x for path, x in after.items() if part(path) == "metrics"},
            "sizes": {p: size(p) for p, x in after.items() if jnp.issubdtype(x.dtype, jnp.inexact)},
            "outside": outside,
        }
        keys = traced.keys
        differ = [jnp.any(x[:SAME] != x[:1]) for path, x in after.items() if path not in keys]
        # Some of what `reset` shows, `step` may never show again.
        obs = {p: jnp.stack([before[p], after[p]]).astype(jnp.float32) for p in carry["lowest"]}
        return {
            "state": state,
            "past": past,
            "key_matters": carry["key_matters"] | jnp.any(jnp.stack(differ)),
            "lowest": jax.tree.map(lambda x, y: jnp.minimum(x, y.min(0)), carry["lowest"], obs),
            "highest": jax.tree.map(lambda x, y: jnp.maximum(x, y.max(0)), carry["highest"], obs),
        }, row

    return advance


def _plan(
    space: ActionSpace, steps: int, repeat: int, rng: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """What each environment of the batch does, in words and as [T, B, *space.shape]."""
    count, held = -(-steps // repeat), space.held()
    key = jnp.asarray(rng.integers(2**32, size=2, dtype=np.uint32))
    drawn = np.asarray(space.sample(key, (count, 2)))
    stack = np.stack([np.asarray(action, space.dtype) for action in held.values()])
    mixed = np.take_along_axis(stack, rng.integers(len(stack), size=(count, *space.shape)), 0)
    columns = [*[drawn[:, 0]] * SAME, drawn[:, 1]]
    columns += [np.broadcast_to(action, mixed.shape) for action in stack] + [mixed]
    kinds = ["random actions"] * (SAME + 1) + [f"{name} held" for name in held]
    return [*kinds, "extreme actions at random"], np.stack(columns, 1).repeat(repeat, 0)


def _replay(call: Call) -> Callable[..., State]:
    """The traced call as a function: it computes the same without running the user's Python."""
    run = jaxprs.checked(call.closed)
    tree = jax.tree.structure(call.state)
    return lambda *args: jax.tree.unflatten(tree, run(*jax.tree.leaves(args))[0])


def _lane(batch: State, index: int) -> State:
    """One state of a batch."""
    return jax.tree.map(lambda x: x[index], batch)
