"""The environment. Yours: `copier update` never touches this file."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State
from PIL import Image, ImageDraw

from .kit import Continuous

OBSERVATION_SIZE = 3
ACTION_SPACE = Continuous(1)

MAX_TORQUE = 2.0  # newton metres
MAX_SPEED = 8.0  # radians per second
GRAVITY = 10.0
DT = 0.05  # seconds per step


class Pose(flax.struct.PyTreeNode):
    """What `step` needs to know of the step before.

    Attributes:
      angle: () float32, in radians, counter-clockwise from upright; it counts whole turns.
      speed: () float32, in radians per second.
    """

    angle: jax.Array
    speed: jax.Array


class Pendulum(Env):
    """A rod to be swung up and held upright by a motor too weak to lift it.

    Pendulum-v1 of Gymnasium, after Doya 2000 ("Reinforcement learning in continuous time and
    space", Neural Computation 12). The rod is 1 m long and weighs 1 kg.

    Observation: (3,) float32: cosine and sine of the angle, and the speed.
    Action: (1,) float32 in [-1, 1], the share of MAX_TORQUE.
    Reward: minus a cost of the angle, the speed and the torque, those before the step.
    Done: never; the time limit is 200 steps.

    Gymnasium registers no threshold. Commonly, a mean return of -200 counts as solved.
    """

    observation_size = OBSERVATION_SIZE
    action_size = ACTION_SPACE.size
    action_space = ACTION_SPACE
    backend = "none"  # not one of Brax's physics engines

    def reset(self, rng: jax.Array) -> State:
        """Starts an episode at any angle, slowly. `rng` is (2,) uint32."""
        high = jnp.array([jnp.pi, 1.0], jnp.float32)
        angle, speed = jax.random.uniform(rng, (2,), jnp.float32, -high, high)
        pose = Pose(angle=angle, speed=speed)
        reward, done = jnp.zeros(2, jnp.float32)
        return State(pipeline_state=pose, obs=self._observe(pose), reward=reward, done=done)

    def step(self, state: State, action: jax.Array) -> State:
        """Advances by DT."""
        pose: Pose = state.pipeline_state
        torque = MAX_TORQUE * jnp.clip(action[0], -1.0, 1.0)
        off = (pose.angle + jnp.pi) % (2 * jnp.pi) - jnp.pi  # in [-pi, pi), 0 is upright
        cost = off**2 + 0.1 * pose.speed**2 + 0.001 * torque**2
        acceleration = 1.5 * GRAVITY * jnp.sin(pose.angle) + 3.0 * torque
        speed = jnp.clip(pose.speed + DT * acceleration, -MAX_SPEED, MAX_SPEED)
        pose = Pose(angle=pose.angle + DT * speed, speed=speed)  # by the new speed
        return state.replace(pipeline_state=pose, obs=self._observe(pose), reward=-cost)

    def _observe(self, pose: Pose) -> jax.Array:
        """(3,) float32."""
        return jnp.stack([jnp.cos(pose.angle), jnp.sin(pose.angle), pose.speed])

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch: (128, 128, 3) uint8."""
        angle = float(state.pipeline_state.angle)
        image = Image.new("RGB", (512, 512), "white")
        draw = ImageDraw.Draw(image)
        tip = (256 - 200 * np.sin(angle), 256 - 200 * np.cos(angle))
        draw.line((256, 256, *tip), (205, 80, 65), 56)
        for end in ((256, 256), tip):
            draw.circle(end, 28, (205, 80, 65))
        draw.circle((256, 256), 12, (40, 40, 40))
        return np.asarray(image.reduce(4))
