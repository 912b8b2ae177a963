"""What lies in the state or on `self` and is observed later: prices, a deck of cards.

A planner that reads it knows the future. So it searches from states that might as well be the true
one, as far as observations tell. Tables on `self` are only found.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State, Wrapper

from ...env.actions import ActionSpace
from ...trace import jaxprs
from ...trace.calls import leaves
from .trials import DECISIONS, differs, follow, observed, take_rows

UNITS = 256  # groups of elements that are exchanged, at most
OTHERS = 512  # other starts, at most
ROWS = 8192  # of all starts together, at most
BYTES = 2**26  # of states, at most
ALIKE = 4  # other starts with the same observations so far, at least
NEAREST = 32  # of others that are only similar
SMALL = 16  # a table has more elements


class Unseen:
    """What observations have not shown yet of a state.

    Other starts are followed under the same actions. Where enough of them have given the same
    observations so far, the planner searches from their states. Elsewhere, as with continuous
    observations, it keeps the true state, but for parts that never change and were not shown: these
    are taken from other starts with similar observations. Whether an element was shown is found by
    exchanging it at the start: it was, once another observation or another end follows.

    Args:
      env: as `follow` takes it, with its observations.
      space: its actions.
      start: (B, ...) states that `env.reset` gave.
      constant: paths of parts that never change and that observations show.
      key: (2,) uint32, consumed, for other starts.

    Attributes:
      shows_all: whether the first observation shows all of these parts.
      was_told: whether there were always enough starts with the same observations.
    """

    def __init__(
        self, env: Env, space: ActionSpace, start: State, constant: Sequence[str], key: jax.Array
    ) -> None:
        self._batch, self._paths, self.was_told = len(start.done), tuple(constant), True
        each = sum(getattr(x, "nbytes", 8) for x in jax.tree.leaves(start)) // self._batch + 1
        rows = max(64, min(ROWS, BYTES // each) // self._batch)
        self._count = min(OTHERS, rows)
        others = jax.jit(env.reset)(jax.random.split(key, self._count))
        self._parts = [leaves(others)[path] for path in constant]
        values = _flat([leaves(start)[path] for path in constant], self._batch)
        elements = values.shape[1]
        self._unit = np.arange(elements) // max(1, math.ceil(elements / min(UNITS, rows)))
        self._units = int(self._unit[-1]) + 1 if elements else 0

        # Rows: each start as it is, with each of its units exchanged, and the other starts.
        own = np.arange(self._batch)
        probes = np.repeat(own, self._units)
        partner = np.concatenate([own, probes, np.repeat(own, self._count)])
        donor = _unlike(values, _flat(self._parts, self._count), self._unit).ravel()
        each_unit = jnp.tile(jnp.eye(self._units, dtype=bool), (self._batch, 1))
        exchanged = self._exchange(take_rows(start, probes, self._batch), donor, each_unit)
        self._state = self._first = jax.tree.map(
            lambda x, y, z: (
                jnp.concatenate([x, y, *[z] * self._batch])
                if jnp.shape(x)[:1] == (self._batch,)
                else x
            ),
            start,
            exchanged,
            others,
        )
        mode = space.distribution().mode

        def look(t: jax.Array, state: State, alive: jax.Array) -> Any:
            over, both = state.done > 0, alive & alive[partner]
            goes_on = both & ~over & ~over[partner]
            other_end = both & (over != over[partner])
            return goes_on & differs(observed(state.obs), partner) | other_end, goes_on

        @jax.jit
        def play(state: State, alive: Any, actions: Any, hold: Any, steps: Any) -> Any:
            return follow(env, lambda t, _: actions[t // hold][partner], state, alive, steps, look)

        self._play, self._partner, self._mode = play, partner, mode
        self.begin()
        held = [np.repeat(x[None], self._batch, 0) for x in space.held().values()]
        looks = [
            self._follow(np.repeat(x[None], DECISIONS, 0), 1, 1)[2]
            for x in (held[0], held[-1], np.asarray(space.sample(key, (self._batch,))))
        ]
        shown, goes_on = (self._split(np.stack(x))[0] for x in zip(*looks, strict=True))
        # The first observation may show what the next one does, whatever the action.
        self._at_once = np.any(shown, axis=0) & ~np.any(goes_on & ~shown, axis=0)
        self.shows_all = bool(np.all(self._at_once))

    def begin(self) -> None:
        """Goes back to the first observation."""
        self._state, self._alive = self._first, jnp.ones(len(self._partner), bool)
        self._unlike = self._split(np.asarray(differs(observed(self._state.obs), self._partner)))[1]
        self._shown = getattr(self, "_at_once", np.zeros((self._batch, self._units), bool))
        self._choose()

    def watch(self, plans: jax.Array, hold: int, steps: int) -> None:
        """Follows (B, DECISIONS, width) plans, as the episodes do, and sees what is shown."""
        actions = jnp.moveaxis(self._mode(plans), 0, 1)
        self._state, self._alive, (shown, _) = self._follow(actions, hold, steps)
        shown, unlike = self._split(shown)
        self._shown, self._unlike = self._shown | shown, self._unlike | unlike
        self._choose()

    def replace(self, state: State, key: jax.Array, scenario: np.ndarray) -> State:
        """States to search from in place of `state`, which has as many rows for each start.

        Of one start, those with the same number in `scenario`, (rows,), are alike.
        """
        rows = np.repeat(np.arange(self._batch), len(scenario) // self._batch)
        number = jax.random.randint(key, (max(scenario) + 1,), 0, 2**30)[scenario]
        number %= self._choices[rows]
        donor = self._chosen[rows, number]
        exchanged = self._exchange(state, donor, jnp.asarray(~self._shown)[rows])
        begin = self._batch * (1 + self._units)
        alike = take_rows(self._state, begin + rows * self._count + donor, len(self._partner))
        return _where(self._is_told[rows], alike, exchanged)

    def _choose(self) -> None:
        """Finds the other starts that are most alike for each of the B."""
        alike = np.sum(~self._unlike, axis=1)
        is_told = alike >= ALIKE
        goes_on = np.asarray(self._alive)[: self._batch]
        self.was_told &= bool(np.all(is_told | ~goes_on))
        obs = _flat(jax.tree.leaves(observed(self._state.obs)), len(self._partner))
        own, others = obs[: self._batch], obs[self._batch * (1 + self._units) :]
        others = others.reshape(self._batch, self._count, -1)
        apart = _uncorrelated(others - own[:, None], others)
        far = np.sum(apart**2, axis=-1) + 1e9 * self._unlike
        self._chosen = jnp.asarray(np.argsort(np.nan_to_num(far, nan=np.inf), axis=1))
        self._is_told = jnp.asarray(is_told)
        self._choices = jnp.asarray(np.where(is_told, alike, min(NEAREST, self._count)))

    def _follow(self, actions: Any, hold: int, steps: int) -> tuple[Any, Any, list[np.ndarray]]:
        """The states after these steps, which go on, and what `look` found."""
        state, alive, seen = self._play(self._state, self._alive, actions, hold, steps)
        return state, alive, [np.asarray(x) for x in seen.watched]

    def _split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(..., rows) as (..., B, units) and (..., B, other starts)."""
        end = self._batch * (1 + self._units)
        probes, others = rows[..., self._batch : end], rows[..., end:]
        shape = (*rows.shape[:-1], self._batch)
        return probes.reshape(*shape, self._units), others.reshape(*shape, self._count)

    def _exchange(self, state: State, donor: Any, take: Any) -> State:
        """`state` with the units `take`, (rows, units) bool, of other starts, `donor` (rows,)."""
        return _exchange(state, self._parts, jnp.asarray(donor), take, self._unit, self._paths)


def _uncorrelated(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """(..., n) as what is uncorrelated in `like`, so that small differences count too.

    Those of two prices in a row, for example. Images are only scaled.
    """
    like = like.reshape(-1, like.shape[-1])
    scale = np.std(like, axis=0) + 1e-9
    if like.shape[1] > 64:
        return x / scale
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(like / scale, rowvar=False)))
    kept = values > 1e-6
    return x / scale @ vectors[:, kept] / np.sqrt(values[kept])


def _unlike(values: np.ndarray, others: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Another start for each start and unit, (B, units), in which its elements are not the same."""
    begins, found = np.flatnonzero(np.diff(unit, prepend=-1)), [np.zeros((0, len(values)), int)]
    for begin, end in zip(begins, [*begins[1:], len(unit)], strict=False):
        unlike = np.any(others[None, :, begin:end] != values[:, None, begin:end], axis=2)
        # Not the same one for all starts.
        order = (np.arange(len(others)) + np.arange(len(values))[:, None]) % len(others)
        first = np.argmax(np.take_along_axis(unlike, order, 1), axis=1)
        found.append(np.take_along_axis(order, first[:, None], 1).T)
    return np.concatenate(found).T


@jax.jit
def _where(mask: jax.Array, x: State, y: State) -> State:
    """Rows of `x` where `mask` is set, else of `y`; what the batch shares stays as it is."""

    def choose(x: jax.Array, y: jax.Array) -> jax.Array:
        if jnp.shape(y)[:1] != mask.shape:
            return y
        return jnp.where(mask.reshape(-1, *(1,) * (y.ndim - 1)), x, y)

    return jax.tree.map(choose, x, y)


@functools.partial(jax.jit, static_argnames="paths")
def _exchange(
    state: State, others: Any, donor: Any, take: Any, unit: Any, paths: tuple[str, ...]
) -> State:
    found, at = leaves(state), 0
    for path, other in zip(paths, others, strict=True):
        x = found[path]
        elements = unit[at : at + other[0].size]
        found[path] = jnp.where(take[:, elements].reshape(x.shape), other[donor], x)
        at += len(elements)
    return jax.tree.unflatten(jax.tree.structure(state), found.values())


def _flat(arrays: Sequence[Any], rows: int) -> np.ndarray:
    """All elements side by side, (rows, elements) float64."""
    flat = [np.asarray(x, float).reshape(rows, -1) for x in arrays]
    return np.concatenate([np.zeros((rows, 0)), *flat], axis=1)


# ---- tables on `self` ---------------------------------------------------------------------------


def tables(closed: Any) -> list[np.ndarray]:
    """Constant arrays in which a program looks something up, at an index that it computes.

    Args:
      closed: what `jax.make_jaxpr` gives.
    """
    found: dict[int, np.ndarray] = {}
    _look_up(closed, [None] * len(closed.jaxpr.invars), found)
    return list(found.values())


def _look_up(program: Any, inputs: Sequence[Any], found: dict[int, np.ndarray]) -> list[Any]:
    """Adds to `found`; a value is None, or the constant array that it was made of alone."""
    jaxpr = getattr(program, "jaxpr", program)
    known = dict(zip(jaxpr.constvars, getattr(program, "consts", ()), strict=False))
    known |= zip(jaxpr.invars, inputs, strict=True)
    for eqn in jaxpr.eqns:
        of = [x.val if hasattr(x, "val") else known[x] for x in eqn.invars]
        if (inner := jaxprs.called(eqn)) is not None:
            known.update(zip(eqn.outvars, _look_up(inner, of, found), strict=True))
            continue
        if eqn.primitive.name in ("gather", "dynamic_slice"):
            is_table = of[0] is not None and np.size(of[0]) > SMALL
            if is_table and any(x is None for x in of[1:]):
                found[id(of[0])] = of[0]
        result = None if any(x is None for x in of) else max(of, key=np.size, default=None)
        known.update(dict.fromkeys(eqn.outvars, result))
    return [x.val if hasattr(x, "val") else known[x] for x in jaxpr.outvars]


class WithoutTables(Wrapper):
    """Finds the first entry, wherever `step` looks something up in a table."""

    def step(self, state: State, action: jax.Array) -> State:
        closed, shape = jax.make_jaxpr(self.env.step, return_shape=True)(state, action)
        after = _run(closed, jax.tree.leaves((state, action)), set(map(id, tables(closed))))
        return jax.tree.unflatten(jax.tree.structure(shape), after)


def _run(program: Any, inputs: Sequence[Any], emptied: set[int]) -> list[Any]:
    """Evaluates a program; constants with these ids have their first entry everywhere."""
    jaxpr, consts = getattr(program, "jaxpr", program), getattr(program, "consts", ())
    consts = [
        np.broadcast_to(np.asarray(x)[:1], x.shape) if id(x) in emptied else x for x in consts
    ]
    known = dict(zip(jaxpr.constvars, map(jnp.asarray, consts), strict=False))
    known |= zip(jaxpr.invars, inputs, strict=True)
    for eqn in jaxpr.eqns:
        of = [x.val if hasattr(x, "val") else known[x] for x in eqn.invars]
        inner = jaxprs.called(eqn)
        results = jaxprs.evaluate(eqn, of) if inner is None else _run(inner, of, emptied)
        known.update(zip(eqn.outvars, results, strict=True))
    return [x.val if hasattr(x, "val") else known[x] for x in jaxpr.outvars]


def names(environment: Env, arrays: Sequence[np.ndarray]) -> list[str]:
    """What tables are called on an environment: `self.prices`."""
    found = []
    for array in arrays:
        env, name = environment, f"a table of shape {np.shape(array)}"
        while env is not None:
            for key, x in vars(env).items():
                if np.shape(array) == getattr(x, "shape", None) and np.array_equal(x, array):
                    name = f"self.{key}"
            env = vars(env).get("env")
        found.append(name)
    return found
