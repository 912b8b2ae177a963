"""Whole episodes of a batch of environments, run in two compiled programs.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import State

from ..actions import ActionSpace
from . import jaxprs
from .tracing import Call, Failure, bits, conform, failure, far_apart, is_key, leaves, part, unequal

if TYPE_CHECKING:
    from .stages import Settings, Traced

PAST_END = 16  # steps for which an episode is followed after its end
SAME = 4  # episodes that differ in nothing but the key
MOST_STEPS = 20_000
EAGER_OPERATIONS = 300  # a program with more takes long when it is not compiled


@dataclass(frozen=True)
class Rollout:
    """What was seen in a batch of episodes [B], one after another for T steps.

    Attributes:
      kinds: [B], the actions of each; `samples`: how many states `stale` and `alike` were tried in.
      wanted: how many steps should have been taken.
      start: the states after the first reset, [B, ...].
      series: [T, B] each. "restart": an episode starts here. "past": steps since its end, -1 before
        it. "reward", "done": of the state after the step; "reset_reward", "reset_done": before it.
      metrics: the metrics, [T, B], by name; `sizes`: the greatest absolute values in a leaf before
        and after the step, [T, B], by path.
      lowest, highest: the range of each component of the observation, by path.
      key_matters: whether episodes that differ in the key alone differed anywhere.
      outside: where an index was out of range while an episode ran: line -> (t, b).
      repeated: (function, path) where a call with the same arguments gave other bits.
      eager: paths that differ where nothing is compiled, or what is raised there.
      alone: (function, path) where a batch differs from one environment alone.
      stale: paths that `step` computes from the last step's "metrics" and "reward".
      alike: for each group of actions that differ in one respect, those with equal effects.
    """

    kinds: list[str]
    samples: int
    wanted: int
    start: State
    series: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]
    sizes: dict[str, np.ndarray]
    lowest: dict[str, np.ndarray]
    highest: dict[str, np.ndarray]
    key_matters: bool
    outside: dict[str, tuple[int, int]]
    repeated: list[tuple[str, str]]
    eager: Sequence[str] | Failure
    alone: list[tuple[str, str]]
    stale: dict[str, list[str]]
    alike: dict[str, list[list[int]]]

    @property
    def steps(self) -> int:
        return len(self.series["done"])

    @classmethod
    def of(cls, settings: Settings, traced: Traced) -> Rollout:
        rng = np.random.default_rng(settings.seed)
        wanted = min(settings.episode_length + PAST_END, MOST_STEPS)
        kinds, plan = _plan(traced.space, wanted, settings.action_repeat, rng)
        batch = Batch(traced, settings, rng.integers(2**32, size=(len(kinds), 2), dtype=np.uint32))
        carry, samples = batch.begin(), [batch.start]
        rows: list[dict[str, Any]] = []
        fresh, restart = batch.start, np.ones(len(kinds), bool)
        while len(rows) < wanted and not (rows and settings.clock.over(0.8)):
            if rows and np.any(restart):
                keys = rng.integers(2**32, size=(len(kinds), 2), dtype=np.uint32)
                fresh = batch.reset(keys)
            carry, row = batch.advance(carry, fresh, restart, plan[len(rows)])
            restart = np.asarray(row["past"]) >= PAST_END
            rows.append(row)
            if len(rows) in (1, 4, 16, 64, 256, 1024):
                samples.append(carry["state"])
        rows = jax.device_get(rows)
        series = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        metrics, sizes, outside = (series.pop(n) for n in ("metrics", "sizes", "outside"))
        hits = np.argwhere(outside & (series["past"] <= 0)[:, None])[::-1]
        first = samples[1]
        repeated = [("reset", path) for path in unequal(batch.start, batch.reset(batch.keys))]
        repeated += [("step", p) for p in unequal(first, batch.step(batch.start, plan[0]))]
        return cls(
            kinds,
            len(samples) * len(kinds),
            wanted,
            batch.start,
            series,
            dict(zip(batch.metrics, metrics.swapaxes(0, 1), strict=True)),
            dict(zip(batch.floats, sizes.swapaxes(0, 1), strict=True)),
            {path: np.min(x, axis=0) for path, x in carry["lowest"].items()},
            {path: np.max(x, axis=0) for path, x in carry["highest"].items()},
            bool(carry["key_matters"]),
            {batch.lines[n]: (int(t), int(i)) for t, n, i in hits},
            repeated,
            batch.eager(first, plan[0]),
            batch.alone(first, plan[0]),
            batch.stale(samples, plan[0]),
            batch.alike(samples),
        )


def _plan(
    space: ActionSpace, steps: int, repeat: int, rng: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """What each environment of the batch does, in words and as [T, B, *space.shape]."""
    count, held = -(-steps // repeat), space.held()
    key = rng.integers(2**32, size=2, dtype=np.uint32)
    drawn = np.asarray(jax.jit(lambda key: space.sample(key, (count, 2)))(key))
    stack = np.stack([np.asarray(action, space.dtype) for action in held.values()])
    mixed = np.take_along_axis(stack, rng.integers(len(stack), size=(count, *space.shape)), 0)
    columns = [*[drawn[:, 0]] * SAME, drawn[:, 1]]
    columns += [np.broadcast_to(action, mixed.shape) for action in stack] + [mixed]
    kinds = ["random actions"] * (SAME + 1) + [f"{name} held" for name in held]
    return [*kinds, "extreme actions at random"], np.stack(columns, 1).repeat(repeat, 0)


class Batch:
    """`reset` and `step` of a batch, compiled once each.

    Attributes:
      keys, start: of the first reset, [B, 2] uint32 and [B, ...].
      reset: keys -> State.
      advance: carry, fresh states, where to go on from those, actions -> carry, row of the series.
      lines: of `row["outside"]`; `metrics`, `floats`: names of `row["metrics"]`, `row["sizes"]`.
    """

    def __init__(self, traced: Traced, settings: Settings, keys: np.ndarray) -> None:
        self._traced, self._settings, self.keys = traced, settings, keys
        self.metrics = [k for k, x in traced.reset.state.metrics.items() if x.shape == ()]
        reals = (p for p, x in traced.reset.leaves.items() if jnp.issubdtype(x.dtype, jnp.inexact))
        self.floats = list(reals)
        self._run_step, self.lines = jaxprs.checked(traced.step.closed)
        self.reset = self._compile(jax.vmap(_replay(traced.reset)), keys)
        self.start = self.reset(keys)

    def _compile(self, function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
        lowered = jax.jit(function).lower(*args)
        with self._settings.clock.compiling():
            return lowered.compile()

    def begin(self) -> dict[str, Any]:
        """The carry of `advance` before the first step."""
        obs = {p: x for p, x in leaves(self.start).items() if part(p) == "obs"}
        obs = {path: x.shape for path, x in obs.items() if "pixels/" not in path}
        self._carry = {
            "state": self.start,
            "past": np.full(len(self.keys), -1, np.int32),
            "key_matters": np.zeros((), bool),
            "lowest": {path: np.full(shape, np.inf, np.float32) for path, shape in obs.items()},
            "highest": {path: np.full(shape, -np.inf, np.float32) for path, shape in obs.items()},
        }
        args = self._carry, self.start, np.ones(len(self.keys), bool), self._actions(0)
        self.advance = self._compile(self._advance, *args)
        return self._carry

    def _actions(self, action: Any) -> np.ndarray:
        """[B, ...] actions, from as many or from one for all."""
        space = self._traced.space
        shape = (len(self.keys), *space.shape)
        return np.broadcast_to(np.asarray(action, space.dtype), shape)

    def step(self, state: State, action: Any) -> State:
        """One step of every environment."""
        args = {**self._carry, "state": state}, state, np.zeros(len(self.keys), bool)
        return self.advance(*args, self._actions(action))[0]["state"]

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

        def stack(rows: list[Any]) -> jax.Array:
            return jnp.stack(rows) if rows else jnp.zeros((0, len(self.keys)), bool)

        row = {
            "restart": restart,
            "past": past,
            "reward": _flat(state.reward),
            "done": _flat(state.done),
            "reset_reward": _flat(given.reward),
            "reset_done": _flat(given.done),
            "metrics": stack([_flat(state.metrics[name]) for name in self.metrics]),
            "sizes": stack([size(path) for path in self.floats]),
            "outside": stack(outside),
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

    def eager(self, first: State, action: Any) -> list[str] | Failure:
        readings = [call.reading for _, call in self._traced.calls]
        count = sum(sum(reading.operations.values()) for reading in readings)
        if count > EAGER_OPERATIONS or any(reading.batched_by_hand for reading in readings):
            return []
        env, start = self._settings.env, _lane(self.start, 0)
        try:
            off = far_apart(start, env.reset(jnp.asarray(self.keys[0])))
            state = env.step(jax.tree.map(jnp.asarray, start), jnp.asarray(action[0]))
        except BaseException as error:
            return failure(error, env)
        stepped = far_apart(_lane(first, 0), state)
        rounding = _touchy(lambda s: self.step(s, action), self.start) if stepped else set()
        return off + [path for path in stepped if path not in rounding]

    def alone(self, first: State, action: Any) -> list[tuple[str, str]]:
        """Only callbacks and the like are compared, as JAX makes a batch of everything else."""
        if not any(call.reading.batched_by_hand for _, call in self._traced.calls):
            return []
        reset, replay = (jax.jit(_replay(call)) for _, call in self._traced.calls)

        def step(state: State, action: Any) -> State:
            return replay(state, action)

        found = set()
        for i in (0, SAME, len(self.keys) - 1):
            start = _lane(self.start, i)
            found |= {("reset", path) for path in far_apart(start, reset(self.keys[i]))}
            if off := far_apart(_lane(first, i), step(start, action[i])):
                rounding = _touchy(partial(step, action=action[i]), start)
                found |= {("step", path) for path in off if path not in rounding}
        return sorted(found)

    def stale(self, samples: list[State], action: Any) -> dict[str, list[str]]:
        """Paths that change when the metrics or the reward of the given state do."""
        found: dict[str, list[str]] = {"metrics": [], "reward": []}
        for state in samples:
            after = self.step(state, action)
            moved = unequal(state, after)
            for name, paths in found.items():
                value = jax.tree.map(lambda x: (x + 1).astype(x.dtype), getattr(state, name))
                changed = unequal(after, self.step(state.replace(**{name: value}), action))
                kept = [p for p in leaves(state) if part(p) == name and p not in moved]
                paths += [p for p in changed if p not in kept and p not in paths]
        return found

    def alike(self, samples: list[State]) -> dict[str, list[list[int]]]:
        """In each group of actions: sets of those that had the same effect in all samples."""

        def effect(state: State, action: Any) -> tuple[bytes, ...]:
            results = jax.tree.leaves(self.step(state, action))
            # A zero has a sign, which is no difference: adding 0 takes it off.
            numbers = (x if is_key(x) else np.asarray(x) + np.zeros((), x.dtype) for x in results)
            return tuple(bits(x) for x in numbers)

        found: dict[str, list[list[int]]] = {}
        for name, group in self._traced.space.groups().items():
            alike = [list(range(len(group)))]
            for state in samples:
                classes: dict[Any, list[int]] = {}
                for number, members in enumerate(alike):
                    for i in members if len(members) > 1 else ():
                        classes.setdefault((number, effect(state, group[i])), []).append(i)
                alike = list(classes.values())
            found[name] = [members for members in alike if len(members) > 1]
        return found


def _replay(call: Call) -> Callable[..., State]:
    """The traced call as a function: it computes the same without running the user's Python."""
    run, _ = jaxprs.checked(call.closed)
    tree = jax.tree.structure(call.state)
    return lambda *args: jax.tree.unflatten(tree, run(*jax.tree.leaves(args))[0])


def _flat(x: Any) -> jax.Array:
    """One number for each environment, whatever it gave for a number."""
    x = jnp.asarray(x, jnp.float32)
    return x if x.ndim == 1 else jnp.max(x, axis=tuple(range(1, x.ndim)))


def _lane(batch: State, index: int) -> State:
    """One state of a batch."""
    return jax.tree.map(lambda x: x[index] if is_key(x) else np.asarray(x)[index], batch)


def _touchy(step: Callable[[State], State], state: State) -> set[str]:
    """Paths at which `step` gives far apart states when its input changes in the last digits.

    Where bodies touch, for example, rounding decides between two outcomes.
    """
    rng, usual = np.random.default_rng(0), step(state)

    def nudge(x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        sign = rng.choice([-1.0, 1.0], np.shape(x))
        return jnp.asarray(x * (1 + 1e-6 * sign) + 1e-7 * sign, x.dtype)

    nudged = [step(jax.tree.map(nudge, state)) for _ in range(8)]
    return {path for other in nudged for path in far_apart(other, usual)}
