"""The environment. Yours: `copier update` never touches this file.

It starts with a small task that can be trained as it is: actions push a point, which should go to
the origin and stay there. Change one thing at a time, and run `check` and `train` in between.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from .kit import Continuous

OBSERVATION_SIZE = 2
ACTION_SPACE = Continuous(2)

# The point moves in a plane, or on a line where a size above is too small for a plane.
AXES = min(2, OBSERVATION_SIZE) if ACTION_SPACE.size > 1 else 1


class Point(flax.struct.PyTreeNode):
    """What `step` needs to know of the step before.

    Attributes:
      position: (AXES,) float32.
    """

    position: jax.Array


class MyEnv(Env):
    """A point that is pushed to the origin.

    Observation: (OBSERVATION_SIZE,) float32, the point's position, repeated to fill it.
    Action: from ACTION_SPACE; `_direction` says what it does.
    Reward: minus the squared distance to the origin.
    Done: when the point leaves the arena.

    Args:
      push: how far an action moves the point along an axis, at most.
      arena: the largest coordinate inside the arena.
    """

    observation_size = OBSERVATION_SIZE
    action_size = ACTION_SPACE.size
    action_space = ACTION_SPACE
    backend = "none"  # not one of Brax's physics engines

    def __init__(self, push: float = 0.1, arena: float = 2.0) -> None:
        # `self` is for constants. `reset` and `step` are compiled, so a change that they make to
        # `self` happens once, not at each step. What changes belongs in the state.
        self.push = push
        self.arena = arena

    def reset(self, rng: jax.Array) -> State:
        """Starts an episode. All randomness comes from `rng`, (2,) uint32."""
        point = Point(position=jax.random.uniform(rng, (AXES,), jnp.float32, -1.0, 1.0))
        reward, done, distance = jnp.zeros(3, jnp.float32)
        return State(
            pipeline_state=point,  # whatever `step` has to remember
            obs=self._observe(point),
            reward=reward,
            done=done,
            metrics={"distance": distance},
        )

    def step(self, state: State, action: jax.Array) -> State:
        """Advances by one step."""
        point: Point = state.pipeline_state
        position = point.position + self.push * self._direction(action)
        point = point.replace(position=position)
        distance = jnp.linalg.norm(position)
        outside = jnp.any(jnp.abs(position) > self.arena)  # `any`: one value for all axes
        return state.replace(
            pipeline_state=point,
            obs=self._observe(point),
            reward=-(distance**2),
            done=outside.astype(jnp.float32),  # one float, 0 or 1
            # Extend `metrics` and `info`, never replace them: the training wrappers keep entries of
            # theirs there. A metric is the value of this step; evaluation sums it over the episode.
            metrics={**state.metrics, "distance": distance},
        )

    def _direction(self, action: jax.Array) -> jax.Array:
        """Components of the action push along x, y, x, y, ...: (AXES,) float32 in [-1, 1]."""
        force = jnp.clip(jnp.float32(action), -1.0, 1.0)
        force = force.reshape(ACTION_SPACE.shape)  # refuses an action of another size
        return jnp.stack([force[axis::AXES].mean() for axis in range(AXES)])

    def _observe(self, point: Point) -> jax.Array:
        """(OBSERVATION_SIZE,) float32."""
        return jnp.resize(point.position, (OBSERVATION_SIZE,))

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch: (128, 128, 3) uint8."""
        image = np.full((128, 128, 3), 255, np.uint8)
        pixels = np.linspace(-self.arena, self.arena, 128)
        goal, position = np.zeros(AXES), np.asarray(state.pipeline_state.position)
        for place, colour in ((goal, (60, 170, 90)), (position, (40, 80, 200))):
            x, y = np.append(place, 0.0)[:2]
            image[np.hypot(pixels - x, -pixels[:, None] - y) < 0.12] = colour
        return image
