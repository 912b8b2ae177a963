"""The environment. Yours: `copier update` never touches this file."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from .kit import Discrete

SIZE = 10  # of the board, along each side
IMAGE_SHAPE = (SIZE, SIZE, 4)  # channels: paddle, ball, its trail, bricks
ACTION_SPACE = Discrete(3)  # stay, left, right

WALL = np.zeros((SIZE, SIZE), bool)
WALL[1:4] = True


class Game(flax.struct.PyTreeNode):
    """The state of a game; columns and rows are () int32, from the upper left corner.

    Attributes:
      paddle: its column; it is always in the last row.
      x: the ball's column.
      y: the ball's row.
      dx: the ball's direction along the columns, -1 or 1.
      dy: the ball's direction along the rows, -1 or 1.
      last_x: the ball's column before this step.
      last_y: the ball's row before this step.
      bricks: (SIZE, SIZE) bool.
      strike: whether the last step met a brick, so that the next one breaks none; () bool.
      last_action: () int32.
      rng: for the sticky actions, (2,) uint32.
    """

    paddle: jax.Array
    x: jax.Array
    y: jax.Array
    dx: jax.Array
    dy: jax.Array
    last_x: jax.Array
    last_y: jax.Array
    bricks: jax.Array
    strike: jax.Array
    last_action: jax.Array
    rng: jax.Array


class Breakout(Env):
    """A paddle keeps a ball in play that breaks the bricks of a wall.

    Breakout of MinAtar (Young and Tian 2019, arXiv:1903.03176) with its minimal action set and its
    sticky actions. In MinAtar the first action of a game may be the last one of the game before;
    here it may be to stay.

    Observation: {"pixels/board": (10, 10, 4) float32}, 0 or 1.
    Action: 0, 1 or 2; the paddle stays, moves left or moves right.
    Reward: 1 for each brick. A new wall appears when the last one is broken.
    Done: when the ball is lost. MinAtar has no time limit; that of gymnax is 1000 steps.

    MinAtar has no threshold; a mean return of 40, where the published curve of purejaxrl ends after
    10 million steps, counts as solved.

    Args:
      sticky: the probability that the action before is taken again instead.
    """

    action_size = ACTION_SPACE.size
    action_space = ACTION_SPACE
    backend = "none"  # not one of Brax's physics engines

    def __init__(self, sticky: float = 0.1) -> None:
        self.sticky = sticky

    @property
    def observation_size(self) -> dict[str, tuple[int, ...]]:
        return {"pixels/board": IMAGE_SHAPE}

    def reset(self, rng: jax.Array) -> State:
        """Starts a game. All randomness comes from `rng`, (2,) uint32."""
        key_side, key_game = jax.random.split(rng)
        right = jax.random.bernoulli(key_side)
        x = jnp.where(right, SIZE - 1, 0).astype(jnp.int32)
        y = jnp.int32(3)
        game = Game(
            paddle=jnp.int32(4),
            x=x,
            y=y,
            dx=jnp.where(right, -1, 1).astype(jnp.int32),
            dy=jnp.int32(1),
            last_x=x,
            last_y=y,
            bricks=jnp.asarray(WALL),
            strike=jnp.zeros((), bool),
            last_action=jnp.int32(0),
            rng=key_game,
        )
        reward, done = jnp.zeros(2, jnp.float32)
        return State(pipeline_state=game, obs=self._observe(game), reward=reward, done=done)

    def step(self, state: State, action: jax.Array) -> State:
        """Moves the paddle, then the ball."""
        game: Game = state.pipeline_state
        rng, key = jax.random.split(game.rng)
        action = jnp.where(jax.random.bernoulli(key, self.sticky), game.last_action, action)
        after, reward, lost = _move(game, action)
        after = after.replace(last_action=action.astype(jnp.int32), rng=rng)
        return state.replace(
            pipeline_state=after,
            obs=self._observe(after),
            reward=reward.astype(jnp.float32),
            done=lost.astype(jnp.float32),
        )

    def _observe(self, game: Game) -> dict[str, jax.Array]:
        paddle = _cell(game.paddle, SIZE - 1)
        ball, trail = _cell(game.x, game.y), _cell(game.last_x, game.last_y)
        board = jnp.stack([paddle, ball, trail, game.bricks], axis=-1)
        return {"pixels/board": board.astype(jnp.float32)}

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch: (120, 120, 3) uint8."""
        channels = np.asarray(state.obs["pixels/board"]) > 0
        image = np.full((SIZE, SIZE, 3), 255, np.uint8)
        image[channels[:, :, 3]] = np.linspace((230, 140, 50), (200, 70, 50), SIZE)[
            np.nonzero(channels[:, :, 3])[0]
        ]
        image[channels[:, :, 2]] = 215
        image[channels[:, :, 0]] = (40, 80, 200)
        image[channels[:, :, 1]] = 60
        return image.repeat(12, axis=0).repeat(12, axis=1)


def _move(game: Game, action: jax.Array) -> tuple[Game, jax.Array, jax.Array]:
    """The game after a step, whether a brick was broken and whether the ball was lost: () bool."""
    paddle = jnp.clip(game.paddle - (action == 1) + (action == 2), 0, SIZE - 1)
    x, y = game.x + game.dx, game.y + game.dy
    at_side = (x < 0) | (x >= SIZE)
    x = jnp.clip(x, 0, SIZE - 1)
    at_top = y < 0
    there = _cell(x, y)
    on_brick = jnp.any(there & game.bricks)
    breaks = on_brick & ~game.strike
    at_bottom = y >= SIZE - 1
    # The paddle sends the ball back as it came, or mirrored where it was right above.
    above = at_bottom & (game.x == paddle)
    ahead = at_bottom & (game.x != paddle) & (x == paddle)

    bricks = game.bricks & ~(there & breaks)
    bricks = jnp.where(at_bottom & ~jnp.any(bricks), WALL, bricks)
    bounces = breaks | above | ahead
    after = game.replace(
        paddle=paddle,
        x=x,
        y=jnp.where(bounces, game.y, jnp.clip(y, 0, SIZE - 1)),
        dx=jnp.where(at_side ^ ahead, -game.dx, game.dx),
        dy=jnp.where(at_top | bounces, -game.dy, game.dy),
        last_x=game.x,
        last_y=game.y,
        bricks=bricks,
        strike=on_brick,
    )
    return after, breaks, at_bottom & ~above & ~ahead


def _cell(x: jax.Array, y: jax.Array | int) -> jax.Array:
    """Where on the board a cell is, (SIZE, SIZE) bool; nowhere if it is outside."""
    return (jnp.arange(SIZE)[:, None] == y) & (jnp.arange(SIZE) == x)
