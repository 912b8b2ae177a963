"""The environment. Yours: `copier update` never touches this file."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from .kit import Discrete

ROWS, COLUMNS = 10, 5
OBSERVATION_SIZE = ROWS * COLUMNS
ACTION_SPACE = Discrete(3)  # left, stay, right


class Board(flax.struct.PyTreeNode):
    """Where things are.

    Attributes:
      row: of the ball, () int32.
      column: of the ball, () int32.
      paddle: its column, () int32; it is always in the last row.
    """

    row: jax.Array
    column: jax.Array
    paddle: jax.Array


class Catch(Env):
    """A ball falls straight down, and a paddle has to be where it lands.

    This is Catch of bsuite (Osband et al. 2020, arXiv:1908.03568), which is also an example of
    dm_env.

    Observation: (50,) float32, the board of 10 rows and 5 columns, row by row: 1 where the ball or
      the paddle is, else 0.
    Action: 0, 1 or 2; the paddle moves left, stays or moves right.
    Reward: when the ball lands 1 if it is caught, else -1; before that 0.
    Done: when the ball lands, which is after 9 steps. There is no time limit.

    bsuite has no threshold; only the best possible return, 1, counts as solved.
    """

    observation_size = OBSERVATION_SIZE
    action_size = ACTION_SPACE.size
    action_space = ACTION_SPACE
    backend = "none"  # not one of Brax's physics engines

    def reset(self, rng: jax.Array) -> State:
        """Starts an episode. All randomness comes from `rng`, (2,) uint32."""
        board = Board(
            row=jnp.int32(0),
            column=jax.random.randint(rng, (), 0, COLUMNS, jnp.int32),
            paddle=jnp.int32(COLUMNS // 2),
        )
        reward, done = jnp.zeros(2, jnp.float32)
        return State(pipeline_state=board, obs=self._observe(board), reward=reward, done=done)

    def step(self, state: State, action: jax.Array) -> State:
        """Moves the paddle, then the ball."""
        board: Board = state.pipeline_state
        board = board.replace(
            row=jnp.minimum(board.row + 1, ROWS - 1),
            paddle=jnp.clip(board.paddle + action - 1, 0, COLUMNS - 1),
        )
        landed = board.row == ROWS - 1
        caught = board.paddle == board.column
        return state.replace(
            pipeline_state=board,
            obs=self._observe(board),
            reward=(landed * jnp.where(caught, 1, -1)).astype(jnp.float32),
            done=landed.astype(jnp.float32),
        )

    def _observe(self, board: Board) -> jax.Array:
        """(OBSERVATION_SIZE,) float32."""
        rows, columns = jnp.arange(ROWS)[:, None], jnp.arange(COLUMNS)
        ball = (rows == board.row) & (columns == board.column)
        paddle = (rows == ROWS - 1) & (columns == board.paddle)
        return (ball | paddle).astype(jnp.float32).reshape(-1)

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch: (160, 80, 3) uint8."""
        board = state.pipeline_state
        image = np.full((ROWS, COLUMNS, 3), 255, np.uint8)
        image[board.row, board.column] = (200, 70, 50)
        image[-1, board.paddle] = (40, 80, 200)
        if (board.row, board.column) == (ROWS - 1, board.paddle):
            image[-1, board.paddle] = (60, 170, 90)  # caught
        return image.repeat(16, axis=0).repeat(16, axis=1)
