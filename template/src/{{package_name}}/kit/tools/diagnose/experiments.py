"""What `diagnose` tries before it plans: what `step` reads, actions, and parts of the state."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State, Wrapper

from ...env.actions import ActionSpace
from ...env.episodes import Policy
from ...env.time_limit import WRAPPER_INFO
from ...run import fingerprint
from ...trace.calls import Failure, leaves, part, trace
from ...trace.jaxprs import input_digest
from .foresight import tables
from .trials import Outcome, differs, follow, observed, take_rows

SWAPS = 24  # parts of the state that are exchanged, at most
SMALL = 16  # an array with more elements is exchanged as a whole, and in quarters


class Reads(NamedTuple):
    """What `step` reads.

    Attributes:
      reward_reads: whether the reward, or how often it is paid, is computed from the state or the
        action.
      obs_is_read: whether anything but the next observation is computed from the observation.
      constant: paths in the state that it hands on as they are.
      tables: constant arrays in which it looks something up.
    """

    reward_reads: bool = True
    obs_is_read: bool = True
    constant: frozenset[str] = frozenset()
    tables: Sequence[np.ndarray] = ()


def reading_of(environment: Env, space: ActionSpace) -> Reads:
    """What `step` reads, by tracing it; if that fails, both are true and nothing is found."""
    state = fingerprint.reset_shapes(environment)
    action = jax.ShapeDtypeStruct(space.shape, space.dtype)
    call = trace(environment, environment.step, state, action)
    if isinstance(call, Failure):
        return Reads()
    reward, done = call.outputs["reward"], call.outputs["done"]
    paths = list(leaves(state))
    ends = bool(done.inputs - {paths.index("done")})  # it may hand on the one that it was given
    obs = {i for i, path in enumerate(paths) if part(path) == "obs"}
    users = [x for path, x in call.outputs.items() if part(path) != "obs"]
    digests = {path: input_digest(i) for i, path in enumerate(paths)}
    return Reads(
        bool(reward.inputs) or (reward.possible != {0.0} and ends),
        any(obs & x.inputs for x in users),
        frozenset(path for path, x in call.outputs.items() if x.digest == digests.get(path)),
        tables(call.closed),
    )


class WithoutObs(Wrapper):
    """Gives no observations, which are then not even computed: for images that takes longest."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._obs = fingerprint.reset_shapes(env).obs

    def reset(self, rng: jax.Array) -> State:
        return self.env.reset(rng).replace(obs=jnp.zeros(1))

    def step(self, state: State, action: jax.Array) -> State:
        # Some observations are made of the one before, such as stacked frames.
        obs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._obs)
        return self.env.step(state.replace(obs=obs), action).replace(obs=jnp.zeros(1))


def play(env: Env, policy: Policy, start: State, limit: int, key: jax.Array) -> Outcome:
    """An episode of a policy, which takes one observation and a key, from each of B starts."""
    batch = len(start.done)

    def act(t: jax.Array, state: State) -> jax.Array:
        return jax.vmap(policy)(state.obs, jax.random.split(jax.random.fold_in(key, t), batch))[0]

    run = jax.jit(lambda state: follow(env, act, state, jnp.ones(batch, bool), limit)[2])
    seen = jax.device_get(run(start))
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


def try_actions(
    env: Env, space: ActionSpace, start: State, limit: int, key: jax.Array, keys: Collection[str]
) -> Tried:
    """Random and constant actions from each start, and from starts with a part exchanged.

    All are rows of one batch, so that the environment is compiled once. A row has a partner: the
    row that it is compared with at every step. `keys` are paths of random keys.
    """
    constants, batch = space.held(), start.done.shape[0]
    held = np.stack([np.zeros(space.shape, space.dtype), *constants.values()])  # the first: random
    count, few, followed = len(held), min(5, len(held)), min(8, batch)
    parts = sorted(parts_that_vary(start, keys), key=lambda x: x.is_piece)[:SWAPS]
    sequence, row = (x.ravel() for x in np.mgrid[:count, :batch])
    s, r = (x.ravel() for x in np.mgrid[:few, :followed])
    partner = np.concatenate([row, *[s * batch + r] * len(parts)])  # random, or not exchanged
    sequence = np.concatenate([sequence, *[s] * len(parts)])
    row = np.concatenate([row, *[r] * len(parts)])
    plain = count * batch
    state = _exchanged(start, row, parts, plain)

    def watch(t: jax.Array, state: State, alive: jax.Array) -> tuple[jax.Array, ...]:
        goes_on = alive & (state.done == 0)  # no policy sees the observation of an end
        changes = alive & alive[partner] & differs(state, partner, keys)
        shows = goes_on & goes_on[partner] & differs(observed(state.obs), partner)
        return changes, shows, shows & (t < 2)

    @jax.jit
    def play(state: State, key: jax.Array) -> Any:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(row)
        is_random = (sequence == 0).reshape(-1, *(1,) * len(space.shape))

        def act(t: jax.Array, _: State) -> jax.Array:
            drawn = jax.vmap(lambda key: space.sample(jax.random.fold_in(key, t)))(keys)
            return jnp.where(is_random, drawn, held[sequence])

        return follow(env, act, state, jnp.ones(len(row), bool), limit, watch)[2]

    seen = jax.device_get(play(state, key))
    changes, shows, early = seen.watched
    played = {}
    for name, at in zip(["random", *constants], np.split(np.arange(plain), count), strict=True):
        rewards = float(np.min(seen.low[at])), float(np.max(seen.high[at]))
        played[name] = Outcome(seen.returns[at], seen.lengths[at], seen.ended[at], rewards)

    own = seen.returns[:plain].reshape(count, batch)[:few, :followed]
    enough = 0.01 * max(float(np.ptp(own)), 1e-6)
    exchanges = []
    for i, part_ in enumerate(parts):
        rows = slice(plain + i * len(s), plain + (i + 1) * len(s))
        after = seen.returns[rows].reshape(own.shape)
        x, y = (z[:, None] - z[None] for z in (own, after))
        is_reversed = (np.minimum(np.abs(x), np.abs(y)) > enough) & (x * y < 0)
        is_late = 2 * np.sum(early[rows]) < np.sum(shows[rows])
        exchanges.append(
            Exchange(
                part_,
                shown=bool(np.any(shows[rows])),
                late=bool(is_late),
                decides=bool(np.any(is_reversed)) and not part_.is_piece,
            )
        )
    return Tried(played, bool(np.any(changes[:plain])), exchanges)


def _exchanged(start: State, row: np.ndarray, parts: Sequence[Part], plain: int) -> State:
    """Rows of the starts; after `plain` of them with each part in turn from another start."""
    batch, found = len(start.done), leaves(take_rows(start, row, len(start.done)))
    begins = leaves(start)
    for part_, at in zip(
        parts, np.split(np.arange(plain, len(row)), max(1, len(parts))), strict=False
    ):
        values = np.asarray(begins[part_.leaf]).reshape(batch, -1)[:, part_.elements]
        # The next start in which these elements are not the same.
        unlike = [np.any(np.roll(values, -j, 0) != values[j], 1) for j in row[at]]
        other = [(j + np.argmax(x)) % batch for j, x in zip(row[at], unlike, strict=True)]
        x = np.array(found[part_.leaf])
        flat = x.reshape(len(row), -1)
        flat[at[:, None], part_.elements] = values[other]
        found[part_.leaf] = jnp.asarray(flat.reshape(x.shape))
    return jax.tree.unflatten(jax.tree.structure(start), found.values())


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
