"""Catch, compared with what bsuite says of it. Yours: `copier update` never touches this file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import State

from catch.config import THRESHOLD, task
from catch.env import COLUMNS, ROWS

env = task.environment()
reset, step = jax.jit(env.reset), jax.jit(env.step)


class Reference:
    """The rules of bsuite's `catch.py` once more, with NumPy and one cell at a time."""

    def __init__(self, column: int) -> None:
        self.row, self.column, self.paddle = 0, column, 2

    def step(self, action: int) -> tuple[float, bool]:
        self.paddle = min(max(self.paddle + (-1, 0, 1)[action], 0), 4)
        self.row += 1
        if self.row < 9:
            return 0.0, False
        return (1.0 if self.paddle == self.column else -1.0), True

    def board(self) -> np.ndarray:
        board = np.zeros((10, 5), np.float32)
        board[self.row, self.column] = board[9, self.paddle] = 1
        return board


def play(state: State, actions: np.ndarray) -> float:
    """The return of an episode, which has to be equal to the reference's in every step."""
    reference = Reference(int(state.pipeline_state.column))
    for action in actions:
        np.testing.assert_array_equal(state.obs.reshape(10, 5), reference.board())
        state = step(state, jnp.int32(action))
        assert (float(state.reward), bool(state.done)) == reference.step(action)
    np.testing.assert_array_equal(state.obs.reshape(10, 5), reference.board())
    assert state.done == 1
    return float(state.reward)


def test_three_hundred_episodes_are_those_of_the_reference() -> None:
    rng = np.random.default_rng(0)
    returns = [
        play(reset(jax.random.PRNGKey(seed)), rng.integers(3, size=9)) for seed in range(300)
    ]
    assert set(returns) == {-1.0, 1.0}


@pytest.mark.parametrize("seed", range(10))
def test_perfect_play_catches_every_ball(seed: int) -> None:
    state = reset(jax.random.PRNGKey(seed))
    distance = int(state.pipeline_state.column) - COLUMNS // 2
    actions = np.full(ROWS - 1, 1)
    actions[: abs(distance)] = 1 + np.sign(distance)
    assert play(state, actions) == THRESHOLD


def test_the_ball_starts_in_every_column() -> None:
    keys = jax.random.split(jax.random.PRNGKey(0), 1000)
    columns = np.asarray(jax.vmap(env.reset)(keys).pipeline_state.column)
    counts = np.bincount(columns, minlength=COLUMNS)
    assert counts.min() > 150
    assert counts.sum() == 1000


def test_it_draws_ball_and_paddle() -> None:
    state = jax.device_get(reset(jax.random.PRNGKey(0)))
    image = env.render(state)
    assert (image.shape, image.dtype) == ((160, 80, 3), np.uint8)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 3
