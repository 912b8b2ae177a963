"""What `diagnose` tries before it plans: actions, a policy, and parts of the state exchanged."""

import itertools
from collections.abc import Collection, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from ...env.actions import ActionSpace
from ...env.episodes import Policy
from ...env.time_limit import WRAPPER_INFO
from ...trace.calls import leaves
from .trials import Followed, Outcome, differs, follow, observed, take_rows

SWAPS = 24  # parts of the state that are exchanged, at most
SMALL = 16  # an array with more elements is exchanged as a whole, and in quarters


def play(env: Env, policy: Policy, start: State, limit: int, key: jax.Array) -> Outcome:
    """An episode of a policy, which takes one observation and a key, from each of B starts."""
    batch = len(start.done)

    def act(t: jax.Array, state: State) -> jax.Array:
        return jax.vmap(policy)(state.obs, jax.random.split(jax.random.fold_in(key, t), batch))[0]

    run = jax.jit(lambda state: follow(env, act, state, jnp.ones(batch, bool), limit)[2])
    return _outcome(jax.device_get(run(start)))


def _outcome(seen: Followed) -> Outcome:
    rewards = float(np.min(seen.low)), float(np.max(seen.high))
    return Outcome(seen.returns, seen.lengths, seen.ended, rewards)


class Part(NamedTuple):
    """Elements of one leaf of the state, and its paths with and without their numbers."""

    path: str
    leaf: str
    elements: list[int]
    is_piece: bool = False


class Exchange(NamedTuple):
    """What followed when a part was exchanged between two starts, under the same actions.

    Attributes:
      part: of the state.
      shown: whether any observation after the first step was another.
      late: whether mostly the first two of these were the same.
      decides: whether one sequence of actions was better before, and worse after it.
    """

    part: Part
    shown: bool
    late: bool
    decides: bool


class Tried(NamedTuple):
    """Outcomes by name, "random" first; whether actions change anything; what was exchanged."""

    played: dict[str, Outcome]
    action_changes: bool
    exchanges: list[Exchange]


class Rows(NamedTuple):
    """A batch of episodes: of each the start, the sequence of actions, and a row to compare with.

    Sequence 0 is random, each other one holds an action.
    """

    start: np.ndarray
    sequence: np.ndarray
    partner: np.ndarray


def try_actions(
    env: Env, space: ActionSpace, start: State, limit: int, key: jax.Array, keys: Collection[str]
) -> Tried:
    """Random and constant actions from each start, and from starts with a part exchanged.

    All are rows of one batch, so that the environment is compiled once. `keys` are paths of random
    keys.
    """
    constants, batch = space.held(), len(start.done)
    count = 1 + len(constants)
    parts = sorted(parts_that_vary(start, keys), key=lambda x: x.is_piece)[:SWAPS]
    sequence, row = (x.ravel() for x in np.mgrid[:count, :batch])
    plain = Rows(row, sequence, row)  # compared with random actions
    s, r = (x.ravel() for x in np.mgrid[: min(5, count), : min(8, batch)])
    exchanged = Rows(r, s, s * batch + r)  # compared with what is not exchanged
    rows = Rows(*map(np.concatenate, zip(plain, *[exchanged] * len(parts), strict=True)))
    state = take_rows(start, rows.start, batch)
    begin = len(row)
    for i, part_ in enumerate(parts):
        at = np.arange(begin + i * len(s), begin + (i + 1) * len(s))
        state = _exchanged(state, start, part_, r, at)
    seen = _play_rows(env, space, state, rows, limit, key, keys)
    played = {}
    for name, at in zip(["random", *constants], np.split(np.arange(begin), count), strict=True):
        played[name] = _outcome(jax.tree.map(lambda x, at=at: x[at], seen._replace(watched=())))
    changes, shows, early = seen.watched
    own, exchanges = seen.returns[exchanged.partner].reshape(-1, min(8, batch)), []
    for i, part_ in enumerate(parts):
        at = np.arange(begin + i * len(s), begin + (i + 1) * len(s))
        is_late = 2 * np.sum(early[at]) < np.sum(shows[at])
        decides = not part_.is_piece and _is_reversed(own, seen.returns[at].reshape(own.shape))
        exchanges.append(Exchange(part_, bool(np.any(shows[at])), bool(is_late), decides))
    return Tried(played, bool(np.any(changes[:begin])), exchanges)


def _play_rows(
    env: Env,
    space: ActionSpace,
    state: State,
    rows: Rows,
    limit: int,
    key: jax.Array,
    keys: Collection[str],
) -> Followed:
    """Plays them; watches what differs from the partner: anything, what is observed, and early."""
    actions = np.stack([np.zeros(space.shape, space.dtype), *space.held().values()])[rows.sequence]

    def watch(t: jax.Array, state: State, alive: jax.Array) -> tuple[jax.Array, ...]:
        goes_on = alive & (state.done == 0)  # no policy sees the observation of an end
        changes = alive & alive[rows.partner] & differs(state, rows.partner, keys)
        shows = differs(observed(state.obs), rows.partner) & goes_on & goes_on[rows.partner]
        return changes, shows, shows & (t < 2)

    @jax.jit
    def play(state: State, key: jax.Array) -> Followed:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(rows.start)
        is_random = (rows.sequence == 0).reshape(-1, *(1,) * len(space.shape))

        def act(t: jax.Array, _: State) -> jax.Array:
            drawn = jax.vmap(lambda key: space.sample(jax.random.fold_in(key, t)))(keys)
            return jnp.where(is_random, drawn, actions)

        return follow(env, act, state, jnp.ones(len(rows.start), bool), limit, watch)[2]

    return jax.device_get(play(state, key))


def _is_reversed(own: np.ndarray, after: np.ndarray) -> bool:
    """Whether one sequence is better than another before, and worse after; (sequences, starts)."""
    enough = 0.01 * max(float(np.ptp(own)), 1e-6)
    x, y = (z[:, None] - z[None] for z in (own, after))
    return bool(np.any((np.minimum(np.abs(x), np.abs(y)) > enough) & (x * y < 0)))


def _exchanged(state: State, start: State, part_: Part, own: np.ndarray, at: np.ndarray) -> State:
    """Rows `at`, whose starts are `own`, with a part from another start in which it differs."""
    batch, found = len(start.done), leaves(state)
    values = np.asarray(leaves(start)[part_.leaf]).reshape(batch, -1)[:, part_.elements]
    unlike = [np.any(np.roll(values, -j, 0) != values[j], 1) for j in own]
    other = [(j + np.argmax(x)) % batch for j, x in zip(own, unlike, strict=True)]
    x = np.array(found[part_.leaf])
    x.reshape(len(x), -1)[at[:, None], part_.elements] = values[other]
    found[part_.leaf] = jnp.asarray(x)
    return jax.tree.unflatten(jax.tree.structure(state), found.values())


def parts_that_vary(start: State, keys: Collection[str]) -> Iterator[Part]:
    """Parts of the state that differ between starts; `keys` are left out."""
    for path, x in leaves(start).items():
        of_wrapper = any(path.startswith(f"info['{name}']") for name in WRAPPER_INFO)
        if not path.startswith(("pipeline_state", "info")) or of_wrapper or path in keys:
            continue
        flat = np.asarray(x).reshape(len(start.done), -1)
        size, varies = flat.shape[1], np.flatnonzero(np.any(flat != flat[:1], axis=0)).tolist()
        if not varies or 1 < size <= SMALL:
            yield from (Part(f"{path}[{i}]", path, [i]) for i in varies)
            continue
        yield Part(path, path, list(range(size)))
        if size > SMALL:
            for begin, end in itertools.pairwise(np.linspace(0, size, 5).astype(int).tolist()):
                if set(varies) & set(range(begin, end)):
                    yield Part(path, path, list(range(begin, end)), is_piece=True)
