"""What an environment does when it is compiled and run. The template's: not for editing.

First alone for a few steps, then many at once for whole episodes under every kind of action, then
inside the wrappers that training puts around it. Nothing is judged here.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State, Wrapper
from brax.envs.wrappers import training

from ..wrappers import wrap_for_training
from .tracing import (
    Actions,
    Failure,
    Tree,
    abstract_action,
    failure,
    is_key,
    leaves,
    part,
)

PAST_END = 16  # steps that a rollout goes on for after an episode has ended
CHUNK = 64  # steps of a rollout between two looks at the clock
SAME = 4  # rollouts that differ in nothing but the key

# COMPARING states.


def bits(leaf: Any) -> bytes:
    """The bits of an array."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def unequal(a: Tree, b: Tree) -> list[str]:
    """Paths at which two states do not hold the same bits."""
    left, right = leaves(a), leaves(b)
    return [p for p in left if p in right and bits(left[p]) != bits(right[p])]


def far_apart(a: Tree, b: Tree) -> list[str]:
    """Paths at which two states differ by more than rounding: compilers may round in any order."""
    left, right, found = leaves(a), leaves(b), []
    for path in left.keys() & right.keys():
        x, y = (v if hasattr(v, "dtype") else np.asarray(v) for v in (left[path], right[path]))
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            continue
        if jnp.issubdtype(x.dtype, jnp.inexact):
            wide = np.complex128 if jnp.iscomplexobj(x) else np.float64
            x, y = (np.asarray(v, wide) for v in (x, y))
            if np.allclose(x, y, rtol=1e-2, atol=1e-2, equal_nan=True):
                continue
        elif x.dtype == np.uint8 and x.size >= 64:  # an image: here and there a level more or less
            off = np.abs(np.asarray(x, int) - np.asarray(y, int))
            if np.max(off) <= 1 and np.mean(off) < 0.1:
                continue
        elif bits(x) == bits(y):
            continue
        found.append(path)
    return sorted(found)


def touchy(step: Callable[..., State], state: State, action: Any) -> set[str]:
    """Paths at which `step` gives far apart states when its input changes in the last digits.

    Where bodies touch, for one, rounding decides between two outcomes.
    """
    rng, usual = np.random.default_rng(0), step(state, action)

    def nudge(x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        sign = rng.choice([-1.0, 1.0], np.shape(x))
        return jnp.asarray(x * (1 + 1e-6 * sign) + 1e-7 * sign, x.dtype)

    nudged = [step(jax.tree.map(nudge, state), action) for _ in range(8)]
    return {path for other in nudged for path in far_apart(other, usual)}


def conform(new: Tree, like: Tree) -> Tree:
    """`new` with the structure, shapes and dtypes of `like`, and where it lacks a leaf, `like`'s.

    So that a run can go on behind a step that gives something else than it got.
    """
    given = leaves(new)

    def fit(path: str, old: Any) -> Any:
        x = given.get(path, old)
        if jnp.shape(x) != jnp.shape(old):
            x = jnp.reshape(x, jnp.shape(old)) if jnp.size(x) == jnp.size(old) else old
        return jax.lax.convert_element_type(x, old.dtype) if not is_key(old) else x

    fitted = [fit(path, old) for path, old in leaves(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), fitted)


def one_of(batch: Tree, index: int) -> Tree:
    """One state out of a batch of them."""
    return jax.tree.map(lambda x: x[index] if is_key(x) else np.asarray(x)[index], batch)


# RUNNING one environment: compiled, as it stands.


@dataclass
class Single:
    """`reset` and `step` of one environment, compiled.

    Attributes:
      reset: (2,) uint32 -> State.
      step: State, action -> State.
      traces: how often each was traced so far.
    """

    reset: Callable[[Any], State]
    step: Callable[[State, Any], State]
    traces: dict[str, int]


def single(env: Env) -> Single:
    """Compiles nothing yet: that happens at the first call of each."""
    traces = {"reset": 0, "step": 0}

    def reset(key: jax.Array) -> State:
        traces["reset"] += 1
        return env.reset(key)

    def step(state: State, action: Any) -> State:
        traces["step"] += 1
        return env.step(state, action)

    return Single(jax.jit(reset), jax.jit(step), traces)


@dataclass
class Short:
    """The first steps of one environment.

    Attributes:
      start, first: the state after `reset` and after one `step` from there.
      again: what differed when a call was made again: (the call, the path).
      traces: how often `reset` and `step` were traced for four calls each.
      seconds: how long one compiled call of each takes.
    """

    start: State
    first: State
    again: list[tuple[str, str]]
    traces: dict[str, int]
    seconds: dict[str, float]


def short_run(one: Single, key: np.ndarray, actions: np.ndarray) -> Short:
    """Calls `reset` and `step` a few times, and again with the same arguments.

    Args:
      one: the compiled functions.
      key: (2,) uint32.
      actions: four of them, [4, ...].
    """
    start = one.reset(key)
    first = one.step(start, actions[0])
    state = first
    for action in actions[1:]:
        state = one.step(state, action)
    traces = dict(one.traces)
    one.reset(key + np.uint32(1))
    again = [("reset", path) for path in unequal(start, one.reset(key))]
    again += [("step", path) for path in unequal(first, one.step(start, actions[0]))]
    traces["reset"] = one.traces["reset"]
    seconds = {
        "reset": min(_seconds(one.reset, key) for _ in range(5)),
        "step": min(_seconds(one.step, start, actions[0]) for _ in range(5)),
    }
    return Short(start, first, again, traces, seconds)


def _seconds(function: Callable[..., Any], *args: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - start


# RUNNING many at once: whole episodes, under every kind of action.


def action_kinds(actions: Actions, size: int) -> list[str]:
    """What each environment of the rollout does; the first ones differ in the key alone."""
    if actions == "discrete":
        held = [f"choice {choice} held" for choice in range(min(size, 16))]
        return ["random actions"] * (SAME + 1) + ["each choice in turn"] + held
    return ["random actions"] * (SAME + 1) + ["zero", "+1", "-1", "+1 and -1 at random"]


def plan(actions: Actions, size: int, rng: np.random.Generator, begin: int) -> np.ndarray:
    """What every environment does in the next steps: (CHUNK, kinds, size) float32, or
    (CHUNK, kinds) int32.

    Made here and not in the compiled program, where drawing numbers takes long to compile.
    """
    if actions == "discrete":
        drawn = rng.integers(size, size=(CHUNK, 2))
        turn = (begin + np.arange(CHUNK))[:, None] % size
        held = np.tile(np.arange(min(size, 16)), (CHUNK, 1))
        columns = [drawn[:, :1].repeat(SAME, axis=1), drawn[:, 1:], turn, held]
        return np.concatenate(columns, axis=1).astype(np.int32)
    uniform = rng.uniform(-1, 1, (CHUNK, 2, size))
    constant = np.ones((CHUNK, 3, size)) * np.array([0, 1, -1])[:, None]
    corners = rng.choice([-1.0, 1.0], (CHUNK, 1, size))
    return np.concatenate(
        [uniform[:, :1].repeat(SAME, axis=1), uniform[:, 1:], constant, corners], axis=1
    ).astype(np.float32)


def raw_keys(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random keys, (*shape, 2) uint32."""
    return rng.integers(2**32, size=(*shape, 2), dtype=np.uint32)


@dataclass
class Rollout:
    """What was seen in whole episodes, [B] at once: one for each kind of action.

    Attributes:
      kinds: [B], what each of them did.
      steps: how many steps each was followed for, episodes one after the other.
      start, first: states at the first reset and one step on, [B, ...].
      start_keys, start_action: what was given to that reset and that step, [B, ...].
      series: [T, B] each. `restart`: an episode starts here; `past`: steps since the episode
        ended, -1 while it runs; `reward`, `done` and `metric ...` as `step` gave them;
        `reset_reward`, `reset_done`: of the state that it was given; `size ...`: the greatest
        absolute value in a leaf before and after the step, NaN where there is one.
      lowest, highest: the range of each component of the observation, by path.
      key_matters: whether episodes that differ in the key alone differed anywhere.
      samples: some states from all over, not batched.
    """

    kinds: list[str]
    steps: int = 0
    start: Any = None
    first: Any = None
    start_keys: Any = None
    start_action: Any = None
    series: dict[str, np.ndarray] = field(default_factory=dict)
    lowest: dict[str, np.ndarray] = field(default_factory=dict)
    highest: dict[str, np.ndarray] = field(default_factory=dict)
    key_matters: bool = False
    samples: list[State] = field(default_factory=list)


def rollout(
    env: Env, actions: Actions, size: int, seed: int, steps: int, deadline: float
) -> Rollout:
    """Follows a batch of environments for `steps` steps or until `deadline`.

    Each goes on for `PAST_END` steps after its episode has ended and then starts anew.
    """
    rng = np.random.default_rng(seed)
    kinds = action_kinds(actions, size)
    count = len(kinds)
    reset, step = jax.vmap(env.reset), jax.vmap(env.step)
    shapes = jax.eval_shape(reset, jax.ShapeDtypeStruct((count, 2), jnp.uint32))
    template = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def start_anew(state: State, keys: jax.Array, restart: jax.Array) -> State:
        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(restart.reshape(count, *(1,) * (new.ndim - 1)), new, old)

        return jax.tree.map(choose, conform(reset(keys), state), state)

    def take_step(carry: dict[str, Any], x: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        restart = carry["past"] >= PAST_END
        given = jax.lax.cond(
            jnp.any(restart), start_anew, lambda state, *_: state, carry["state"], x["key"], restart
        )
        state = conform(step(given, x["action"]), given)
        past = jnp.where(restart, -1, carry["past"])
        past = jnp.where(past >= 0, past + 1, jnp.where(_flat(state.done) != 0, 0, -1))
        row = {
            "restart": restart,
            "past": past,
            "reward": _flat(state.reward),
            "done": _flat(state.done),
            "reset_reward": _flat(given.reward),
            "reset_done": _flat(given.done),
        }
        before, after = leaves(given), leaves(state)
        for name, value in state.metrics.items():
            if jnp.ndim(value) == 1:
                row[f"metric {name}"] = value
        for path, new in after.items():
            if jnp.issubdtype(new.dtype, jnp.inexact):
                both = jnp.maximum(jnp.abs(before[path]), jnp.abs(new))
                row[f"size {path}"] = jnp.max(both, tuple(range(1, new.ndim)), initial=0.0)
        differ = [jnp.any(x[:SAME] != x[:1]) for x in after.values() if not is_key(x)]
        obs = {p: x.astype(jnp.float32) for p, x in after.items() if part(p) == "obs"}
        carry = {
            "state": state,
            "given": given,
            "past": past,
            "key_matters": carry["key_matters"] | jnp.any(jnp.stack(differ)),
            "lowest": jax.tree.map(jnp.minimum, carry["lowest"], obs),
            "highest": jax.tree.map(jnp.maximum, carry["highest"], obs),
        }
        return carry, row

    @jax.jit
    def advance(carry: dict[str, Any], x: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        rows = jax.eval_shape(take_step, carry, jax.tree.map(lambda x: x[0], x))[1]
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rows)

        def body(carry: dict[str, Any], x: dict[str, Any]) -> tuple[dict[str, Any], Any]:
            return jax.lax.cond(x["go"], take_step, lambda c, _: (c, nothing), carry, x)

        return jax.lax.scan(body, carry, x)

    obs = {path: x for path, x in leaves(template).items() if part(path) == "obs"}
    carry: dict[str, Any] = {
        "state": template,
        "given": template,
        "past": np.full(count, PAST_END, np.int32),
        "key_matters": np.zeros((), bool),
        "lowest": {path: np.full(x.shape, np.inf, np.float32) for path, x in obs.items()},
        "highest": {path: np.full(x.shape, -np.inf, np.float32) for path, x in obs.items()},
    }
    rows: list[dict[str, np.ndarray]] = []
    found = Rollout(kinds)
    while found.steps < steps and (time.monotonic() < deadline or found.steps < CHUNK):
        length = CHUNK if found.steps else 1  # the first step is looked at alone
        x = {
            "go": np.arange(CHUNK) < length,
            "key": raw_keys(rng, CHUNK, count),
            "action": plan(actions, size, rng, found.steps),
        }
        carry, row = jax.block_until_ready(advance(carry, x))
        if len(rows) < 400:
            rows.append({name: np.asarray(series)[:length] for name, series in row.items()})
        if not found.steps:
            found.start, found.first = carry["given"], carry["state"]
            found.start_keys, found.start_action = x["key"][0], x["action"][0]
            found.samples = [one_of(found.start, 0), one_of(found.first, 0)]
        elif len(found.samples) < 16:
            lane = len(rows) % count
            lanes = [(lane + 5 * i) % count for i in range(6)]
            found.samples += [one_of(carry["state"], i) for i in lanes]
        found.steps += length
    found.series = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    found.lowest = {path: np.min(x, axis=0) for path, x in carry["lowest"].items()}
    found.highest = {path: np.max(x, axis=0) for path, x in carry["highest"].items()}
    found.key_matters = bool(carry["key_matters"])
    return found


def _flat(x: Any) -> jax.Array:
    """One number for each environment, whatever it gave for a number."""
    x = jnp.asarray(x)
    return x if x.ndim == 1 else jnp.max(x, axis=tuple(range(1, x.ndim)))


# RUNNING under the training wrappers.


def wrappings(env: Env, actions: Actions, size: int) -> dict[str, Failure]:
    """What goes wrong, traced and not run, in the wrappers that training puts around `env`."""
    found = {}
    keys = jax.ShapeDtypeStruct((3, 2), jnp.uint32)
    action = abstract_action(actions, size)
    batch = jax.ShapeDtypeStruct((3, *action.shape), action.dtype)
    for name, wrap in (
        ("wrap_for_training", wrap_for_training),
        ("Brax's own wrap", training.wrap),
    ):

        def episode(keys: Any, action: Any, wrap: Callable[..., Env] = wrap) -> Any:
            wrapped = training.EvalWrapper(wrap(env, episode_length=4, action_repeat=2))
            return jax.lax.scan(
                lambda state, _: (wrapped.step(state, action), None), wrapped.reset(keys), None, 3
            )

        try:
            jax.eval_shape(episode, keys, batch)
        except BaseException as error:
            found[name] = failure(error, env)
    return found


class _Spy(Wrapper):
    """Remembers in `info` from which key an episode was started."""

    def reset(self, rng: jax.Array) -> State:
        state = self.env.reset(rng)
        return state.replace(info={**state.info, "check/key": rng})


def restarts(
    env: Env, one: Single, actions: Actions, size: int, seed: int
) -> list[tuple[int, str, Any, Any]]:
    """Lets three short episodes end under `wrap_for_training`.

    Returns:
      Where a state after auto-reset is not what `reset` gives for the same key:
      (step, path, what it is, what `reset` gives).
    """
    wrapped = wrap_for_training(_Spy(env), episode_length=2)
    rng = np.random.default_rng(seed)
    moves = plan(actions, size, rng, 0)[:6, :2]

    @jax.jit
    def episodes(keys: Any, moves: Any) -> State:
        def step(state: State, action: jax.Array) -> tuple[State, State]:
            state = wrapped.step(state, action)
            return state, state

        return jax.lax.scan(step, wrapped.reset(keys), moves)[1]

    states = episodes(raw_keys(rng, 2), moves)
    found = []
    for t in range(6):
        for i in range(2):
            if states.done[t, i]:
                state = one_of(one_of(states, t), i)
                fresh = one.reset(state.info["check/key"])
                parts = {"obs", "pipeline_state", "info"}
                for path in far_apart(state, fresh):
                    if part(path) in parts:
                        found.append((t, path, leaves(state)[path], leaves(fresh)[path]))
    return found
