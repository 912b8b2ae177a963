"""The environment. Yours: `copier update` never touches this file.

It starts as a small task that trains as it stands, so that you can change one thing at a time and
see what it does. A point in the plane is pushed about by the action and has to reach the origin.
"""

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from . import spec

PUSH = 0.1  # how far one full push moves the point
ARENA = 2.0  # the episode ends when a coordinate leaves [-ARENA, ARENA]


class MyEnv(Env):
    """A point that is pushed to the origin; the reward is minus its squared distance.

    Observation: (VECTOR_SIZE,) float32, the point's coordinates, repeated to fill it.
    Action: (ACTION_SIZE,) float32 in [-1, 1]; the components push along x, y, x, y, ...
    """

    def __init__(self) -> None:
        # What never changes goes on `self`, here and only here: `reset` and `step` are traced once
        # and run compiled, so whatever they wrote to `self` would be lost or stale.
        # The plane, unless the sizes are too small for it: then a line.
        self._axes = min(2, spec.VECTOR_SIZE, spec.ACTION_SIZE)
        turns = np.arange(spec.ACTION_SIZE) % self._axes
        directions = np.eye(self._axes)[turns] / np.bincount(turns)
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
        position = jax.random.uniform(rng, (self._axes,), minval=-1.0, maxval=1.0)
        reward, done, distance = jnp.zeros(3)
        return State(
            # Whatever `step` has to remember lives in `pipeline_state`, which auto-reset renews.
            # Here the observation is all there is to remember; else put a flax struct here.
            pipeline_state=None,
            obs=self._observe(position),
            reward=reward,
            done=done,
            metrics={"distance": distance},
        )

    def step(self, state: State, action: jax.Array) -> State:
        """Moves on by one step."""
        push = jnp.clip(action, -1.0, 1.0) @ self._directions
        position = state.obs[: self._axes] + PUSH * push
        offset = position  # from the goal, the origin
        return state.replace(
            obs=self._observe(position),
            reward=-jnp.sum(offset**2),
            # One float, 0 or 1, however many coordinates there are: hence `any`.
            done=jnp.any(jnp.abs(position) > ARENA).astype(jnp.float32),
            # The value of this step: evaluation adds it up over the episode. Extended and never
            # replaced, like `info`, because the training wrappers keep entries of theirs there.
            metrics={**state.metrics, "distance": jnp.linalg.norm(offset)},
        )

    def _observe(self, position: jax.Array) -> jax.Array:
        """The coordinates, repeated to fill the vector: (VECTOR_SIZE,) float32."""
        return jnp.resize(position, (spec.VECTOR_SIZE,))

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch of them: (128, 128, 3) uint8."""
        goal, position = np.zeros(self._axes), np.asarray(state.obs[: self._axes])
        frame = np.full((128, 128, 3), 255, np.uint8)
        y, x = np.mgrid[ARENA:-ARENA:128j, -ARENA:ARENA:128j]  # y points up
        for place, radius, colour in ((goal, 0.18, (60, 170, 90)), (position, 0.1, (40, 80, 200))):
            across, up = np.resize(place, 2) * (1, self._axes > 1)
            frame[(x - across) ** 2 + (y - up) ** 2 < radius**2] = colour
        return frame

    def best_return(self, start: State, steps: int) -> jax.Array:
        """What no policy can beat from `start` in `steps` steps: a yardstick for training.

        A push moves each coordinate by at most PUSH, and the coordinates don't mind each other.
        Goes when your own task comes.
        """
        offset = start.obs[: self._axes]
        distance = jnp.abs(offset)
        left = distance - PUSH * jnp.arange(1, steps + 1)[:, None]
        return -jnp.sum(jnp.maximum(left, 0.0) ** 2)
