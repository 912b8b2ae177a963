"""Tests of the environment. Yours: `copier update` never touches this file."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import State
from gymnasium import make
from gymnasium.envs.toy_text import frozen_lake as gymnasium

from frozen_lake.config import task
from frozen_lake.env import FROZEN, SIZE, TILES, Lake, has_way
from frozen_lake.kit import compare

env = task.environment()
reset, step = jax.jit(env.reset), jax.jit(env.step)
KEYS = jax.random.split(jax.random.PRNGKey(0), 4000)
HOLES = np.asarray(jax.jit(jax.vmap(env.reset))(KEYS).pipeline_state.holes)


def letters(holes: np.ndarray) -> list[str]:
    """The map as Gymnasium writes it."""
    board = np.where(holes, "H", "F")
    board[0, 0], board[-1, -1] = "S", "G"
    return ["".join(row) for row in board]


def set_state(reference: Any, state: State) -> None:
    """Puts Gymnasium's environment into our state, the map included."""
    lake = state.pipeline_state
    reference.__init__(desc=letters(lake.holes), is_slippery=False)
    reference.s = int(lake.position @ [SIZE, 1])


def stroll(obs: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """To the right and down in half of all episodes, else to and fro at the start."""
    hole_nearby = obs[0] + obs[SIZE - 1] > 0  # right of the start, or below it
    onwards = 1 + jax.random.bernoulli(key).astype(jnp.int32)
    return jnp.where(hole_nearby, 0, onwards), {}


def test_it_equals_gymnasium_s() -> None:
    reference = make("FrozenLake-v1", is_slippery=False, disable_env_checker=True)
    holes: list[np.ndarray] = []

    def set_both(reference: Any, state: State) -> None:
        set_state(reference, state)
        holes[:] = [state.pipeline_state.holes.reshape(-1)[1:-1]]

    random, strolling = (
        compare(
            env,
            reference,
            set_both,
            episode_length=task.settings.episode_length,
            policy=policy,
            to_observation=lambda tile: np.concatenate([*holes, np.arange(TILES) == tile]),
        )
        for policy in (None, stroll)
    )
    assert random.difference is None, random.difference
    assert strolling.difference is None, strolling.difference
    assert random.terminations > 0
    assert strolling.terminations > 0
    assert strolling.time_limits > 0


def test_the_goal_is_rewarded_and_holes_are_not() -> None:
    start = reset(jax.random.PRNGKey(0))
    holes = jnp.zeros((SIZE, SIZE), bool).at[3, 1].set(True)
    results = []
    for row, column, action in ((3, 2, 2), (2, 3, 1), (3, 2, 0), (0, 0, 3)):
        lake = Lake(holes, jnp.array([row, column]))
        after = step(start.replace(pipeline_state=lake), jnp.int32(action))
        results.append((float(after.reward), float(after.done)))
    assert results == [(1, 1), (1, 1), (0, 1), (0, 0)]


def test_which_maps_have_a_way_is_gymnasiums_answer() -> None:
    maps = np.random.default_rng(0).random((2000, SIZE, SIZE)) < 0.4
    maps[:, 0, 0] = maps[:, -1, -1] = False
    found = np.asarray(jax.jit(jax.vmap(has_way))(maps))
    wanted = [gymnasium.is_valid([list(row) for row in letters(holes)], SIZE) for holes in maps]
    np.testing.assert_array_equal(found, wanted)
    assert 0.1 < found.mean() < 0.9


def test_maps_are_as_common_as_gymnasiums() -> None:
    drawn = [gymnasium.generate_random_map(SIZE, FROZEN, seed=seed) for seed in range(4000)]
    wanted = np.array([[list(row) for row in board] for board in drawn]) == "H"
    np.testing.assert_allclose(HOLES.mean(axis=0), wanted.mean(axis=0), atol=0.04)
    counts, wanted_counts = (
        np.bincount(x.sum(axis=(1, 2)), minlength=TILES) for x in (HOLES, wanted)
    )
    np.testing.assert_allclose(counts / 4000, wanted_counts / 4000, atol=0.04)


def test_every_map_can_be_crossed_and_maps_differ() -> None:
    assert np.all(jax.vmap(has_way)(jnp.asarray(HOLES)))
    assert len(np.unique(HOLES.reshape(-1, TILES), axis=0)) > 1000


def test_the_observation_shows_holes_and_position() -> None:
    holes = jnp.zeros((SIZE, SIZE), bool).at[1:4:2, 2].set(True)
    state = step(
        reset(jax.random.PRNGKey(0)).replace(pipeline_state=Lake(holes, jnp.array([1, 0]))),
        jnp.int32(1),  # down
    )
    assert np.flatnonzero(state.obs[:14]).tolist() == [1 * SIZE + 2 - 1, 3 * SIZE + 2 - 1]
    assert np.flatnonzero(state.obs[14:]).tolist() == [2 * SIZE]


def test_it_draws_the_lake() -> None:
    start = jax.device_get(reset(jax.random.PRNGKey(0)))
    image = env.render(start)
    assert (image.shape, image.dtype) == ((128, 128, 3), np.uint8)
    colours = np.unique(image.reshape(-1, 3), axis=0)
    assert len(colours) == 4 + bool(np.any(start.pipeline_state.holes))
