"""The environment. Yours: `copier update` never touches this file."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from .kit import Discrete

SIZE = 4  # of the map, along each side
TILES = SIZE * SIZE
OBSERVATION_SIZE = 2 * TILES - 2
ACTION_SPACE = Discrete(4)  # left, down, right, up

FROZEN = 0.8  # the probability that a tile is no hole

MOVES = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)], np.int32)  # row, column


class Lake(flax.struct.PyTreeNode):
    """The map of an episode, and where the agent is on it.

    Attributes:
      holes: (SIZE, SIZE) bool.
      position: (2,) int32, row and column.
    """

    holes: jax.Array
    position: jax.Array


class FrozenLake(Env):
    """Crosses a frozen lake without falling into a hole, on a new map in each episode.

    FrozenLake-v1 of Gymnasium with `is_slippery=False`, and with what `generate_random_map(4)`
    draws in place of its one map. The agent sees the map, since it can't learn it by heart.

    `reset` is expensive: it draws maps until one has a way from the start, in the upper left
    corner, to the goal, in the lower right corner.

    Observation: (30,) float32 of 0 and 1: the holes, row by row, without the start and the goal,
      which are none; then the position, one-hot.
    Action: 0 to 3 move left, down, right and up; the border can't be crossed.
    Reward: 1 for reaching the goal, else 0.
    Done: at the goal and in a hole. The time limit is 100 steps.

    A mean return of 0.95 counts as solved, the share of the best possible return that Gymnasium
    asks for on slippery ice.
    """

    observation_size = OBSERVATION_SIZE
    action_size = ACTION_SPACE.size
    action_space = ACTION_SPACE
    backend = "none"  # not one of Brax's physics engines

    def reset(self, rng: jax.Array) -> State:
        """Starts an episode on a new map. All randomness comes from `rng`, (2,) uint32."""

        def draw(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            rng, key = jax.random.split(carry[0])
            holes = ~jax.random.bernoulli(key, FROZEN, (SIZE, SIZE))
            return rng, holes.at[0, 0].set(False).at[-1, -1].set(False)

        _, holes = jax.lax.while_loop(
            lambda carry: ~has_way(carry[1]), draw, (rng, jnp.ones((SIZE, SIZE), bool))
        )
        lake = Lake(holes=holes, position=jnp.zeros(2, jnp.int32))
        reward, done = jnp.zeros(2, jnp.float32)
        return State(pipeline_state=lake, obs=self._observe(lake), reward=reward, done=done)

    def step(self, state: State, action: jax.Array) -> State:
        """Moves by one tile."""
        lake: Lake = state.pipeline_state
        position = jnp.clip(lake.position + jnp.asarray(MOVES)[action], 0, SIZE - 1)
        # Holes and the goal are not left again.
        position = jnp.where(self._has_ended(lake), lake.position, position)
        after = lake.replace(position=position)
        at_goal = jnp.all(position == SIZE - 1) & ~self._has_ended(lake)
        return state.replace(
            pipeline_state=after,
            obs=self._observe(after),
            reward=at_goal.astype(jnp.float32),
            done=self._has_ended(after).astype(jnp.float32),
        )

    def _has_ended(self, lake: Lake) -> jax.Array:
        """() bool."""
        row, column = lake.position
        return lake.holes[row, column] | jnp.all(lake.position == SIZE - 1)

    def _observe(self, lake: Lake) -> jax.Array:
        """(OBSERVATION_SIZE,) float32."""
        row, column = lake.position
        position = jax.nn.one_hot(row * SIZE + column, TILES)
        return jnp.concatenate([lake.holes.reshape(-1)[1:-1].astype(jnp.float32), position])

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch: (128, 128, 3) uint8."""
        lake = state.pipeline_state
        tiles = np.where(lake.holes[:, :, None], (70, 110, 160), (225, 238, 250)).astype(np.uint8)
        tiles[-1, -1] = (60, 170, 90)
        image = tiles.repeat(32, axis=0).repeat(32, axis=1)
        image[::32] = image[:, ::32] = 255
        pixels = np.arange(128)
        row, column = 32 * lake.position + 16
        image[np.hypot(pixels - column, pixels[:, None] - row) < 10] = (200, 70, 50)
        return image


def has_way(holes: jax.Array) -> jax.Array:
    """Whether a way leads from the upper left corner to the lower right one, by flood fill.

    Args:
      holes: (SIZE, SIZE) bool.

    Returns:
      () bool; False if the upper left corner is a hole.
    """

    def spread(_: int, reached: jax.Array) -> jax.Array:
        wide = jnp.pad(reached, 1)
        beside = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
        return (reached | beside) & ~holes

    start = jnp.zeros((SIZE, SIZE), bool).at[0, 0].set(True)
    return jax.lax.fori_loop(0, TILES, spread, start)[-1, -1]
