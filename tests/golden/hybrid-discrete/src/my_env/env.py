"""The environment. Yours: `copier update` never touches this file.

It starts as a small task that trains as it stands, so that you can change one thing at a time and
see what it does. A point in the plane is pushed one way at each step and has to reach a goal. The
goal is seen in the image alone and the point in the vector alone, so a policy needs both.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from . import spec

PUSH = 0.1  # how far one full push moves the point
ARENA = 2.0  # the episode ends when a coordinate leaves [-ARENA, ARENA]


@flax.struct.dataclass
class PointState:
    """What the observation does not hold whole; carried from step to step.

    Attributes:
      position: where the point is, (axes,) float32.
      goal: where it should be, (axes,) float32.
    """

    position: jax.Array
    goal: jax.Array


class MyEnv(Env):
    """A point that is pushed to a goal; the reward is minus its squared distance.

    Observation: (OBSERVATION_SIZE,) float32, the image (height x width x channels, in [0, 1]) flat,
      then the vector (the point's coordinates, repeated to fill it).
    Action: () int32, one of ACTION_SIZE compass directions, counted from the x axis.
    """

    def __init__(self) -> None:
        # What never changes goes on `self`, here and only here: `reset` and `step` are traced once
        # and run compiled, so whatever they wrote to `self` would be lost or stale.
        choices = np.arange(spec.ACTION_SIZE)
        angles = 2 * np.pi * choices / spec.ACTION_SIZE
        # The plane, unless the sizes are too small for it: then a line.
        self._axes = 2 if min(spec.VECTOR_SIZE, spec.ACTION_SIZE - 1, spec.IMAGE_SIZE) > 1 else 1
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[:, : self._axes]
        self._directions = directions.astype(np.float32)  # (ACTION_SIZE, axes)

    @property
    def observation_size(self) -> int:
        return spec.OBSERVATION_SIZE

    @property
    def action_size(self) -> int:
        return spec.ACTION_SIZE

    @property
    def backend(self) -> str:
        return "abstract"  # no physics engine of Brax's

    def reset(self, rng: jax.Array) -> State:
        """Starts an episode. Everything random comes from `rng`, a raw (2,) uint32 key."""
        rng_position, rng_goal = jax.random.split(rng)
        position = jax.random.uniform(rng_position, (self._axes,), minval=-1.0, maxval=1.0)
        goal = jax.random.uniform(rng_goal, (self._axes,), minval=-1.0, maxval=1.0)
        point = PointState(position=position, goal=goal)
        reward, done, distance = jnp.zeros(3)
        return State(
            # Whatever `step` has to remember lives in `pipeline_state`, which auto-reset renews.
            # Nothing of it goes into `info`.
            pipeline_state=point,
            obs=self._observe(point),
            reward=reward,
            done=done,
            metrics={"distance": distance},
        )

    def step(self, state: State, action: jax.Array) -> State:
        """Moves on by one step."""
        push = jnp.asarray(self._directions)[action]
        point: PointState = state.pipeline_state
        position = point.position + PUSH * push
        offset = position - point.goal
        point = PointState(position=position, goal=point.goal)
        return state.replace(
            pipeline_state=point,
            obs=self._observe(point),
            reward=-jnp.sum(offset**2),
            # One float, 0 or 1, however many coordinates there are: hence `any`.
            done=jnp.any(jnp.abs(position) > ARENA).astype(jnp.float32),
            # The value of this step: evaluation adds it up over the episode. Extended and never
            # replaced, like `info`, because the training wrappers keep entries of theirs there.
            metrics={**state.metrics, "distance": jnp.linalg.norm(offset)},
        )

    def _observe(self, point: PointState) -> jax.Array:
        """The image of the goal, flat, then the vector: (OBSERVATION_SIZE,) float32."""
        height, width, _ = spec.IMAGE_SHAPE
        spot = jnp.outer(_bump(height, point.goal[-1]), _bump(width, point.goal[0]))
        image = jnp.broadcast_to(spot[..., None], spec.IMAGE_SHAPE)
        vector = jnp.resize(point.position, (spec.VECTOR_SIZE,))
        return jnp.concatenate([image.reshape(-1), vector])

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch of them: (128, 128, 3) uint8."""
        point: PointState = state.pipeline_state
        goal, position = np.asarray(point.goal), np.asarray(point.position)
        frame = np.full((128, 128, 3), 255, np.uint8)
        y, x = np.mgrid[ARENA:-ARENA:128j, -ARENA:ARENA:128j]  # y points up
        for place, radius, colour in ((goal, 0.18, (60, 170, 90)), (position, 0.1, (40, 80, 200))):
            across, up = np.resize(place, 2) * (1, self._axes > 1)
            frame[(x - across) ** 2 + (y - up) ** 2 < radius**2] = colour
        return frame

    def best_return(self, start: State, steps: int) -> jax.Array:
        """What no policy can beat from `start` in `steps` steps: a yardstick for training.

        A push moves the point by at most PUSH, so at best its distance falls by PUSH at each step.
        Goes when your own task comes.
        """
        offset = start.pipeline_state.position - start.pipeline_state.goal
        distance = jnp.linalg.norm(offset, keepdims=True)
        left = distance - PUSH * jnp.arange(1, steps + 1)[:, None]
        return -jnp.sum(jnp.maximum(left, 0.0) ** 2)


def _bump(size: int, centre: jax.Array) -> jax.Array:
    """A soft spot at `centre`, in [-1, 1], on a row of `size` pixels: (size,) float32 in [0, 1]."""
    pixels = jnp.linspace(-1.0, 1.0, size)
    width = max(0.25, 2.0 / size)  # wide enough that a single pixel still tells where it is
    return jnp.exp(-0.5 * ((pixels - centre) / width) ** 2)
