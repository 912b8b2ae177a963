"""The environment. Yours: `copier update` never touches this file."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State
from PIL import Image, ImageDraw

from .kit import Discrete

OBSERVATION_SIZE = 6
ACTION_SPACE = Discrete(3)

MAX_SPEEDS = (4 * np.pi, 9 * np.pi)  # of the two joints, radians per second
GRAVITY = 9.8
DT = 0.2  # seconds per step


class Links(flax.struct.PyTreeNode):
    """What `step` needs to know of the step before.

    Attributes:
      angles: (2,) float32 in [-pi, pi): of the first link from hanging down, and of the second
        from the direction of the first.
      speeds: (2,) float32, in radians per second.
    """

    angles: jax.Array
    speeds: jax.Array


class Acrobot(Env):
    """Two links hang from a joint; a torque between them has to swing the tip above a line.

    Acrobot-v1 of Gymnasium, after Sutton 1996 ("Generalization in reinforcement learning:
    Successful examples using sparse coarse coding", NIPS 8), with the equations of motion of
    Sutton and Barto's book. Both links are 1 m long, weigh 1 kg and have a moment of inertia of 1.

    Observation: (6,) float32: cosine and sine of the first angle, those of the second, both speeds.
    Action: () int32: the torque, 0, 1, 2 for -1, 0 and 1 newton metres.
    Reward: -1 for each step, 0 for the one that reaches the line.
    Done: when the tip is more than 1 m above the upper joint. The time limit is 500 steps.

    A mean return of -100 counts as solved (Gymnasium's `reward_threshold`).
    """

    observation_size = OBSERVATION_SIZE
    action_size = ACTION_SPACE.size
    action_space = ACTION_SPACE
    backend = "none"  # not one of Brax's physics engines

    def reset(self, rng: jax.Array) -> State:
        """Starts an episode, hanging down and nearly at rest. `rng` is (2,) uint32."""
        angles, speeds = jax.random.uniform(rng, (2, 2), jnp.float32, -0.1, 0.1)
        links = Links(angles=angles, speeds=speeds)
        reward, done = jnp.zeros(2, jnp.float32)
        return State(pipeline_state=links, obs=self._observe(links), reward=reward, done=done)

    def step(self, state: State, action: jax.Array) -> State:
        """Advances by DT, with one step of the classic Runge-Kutta method."""
        links: Links = state.pipeline_state
        torque = jnp.float32(action) - 1.0
        s = jnp.concatenate([links.angles, links.speeds])
        k1 = _change(s, torque)
        k2 = _change(s + DT / 2 * k1, torque)
        k3 = _change(s + DT / 2 * k2, torque)
        k4 = _change(s + DT * k3, torque)
        s = s + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        highest = jnp.array(MAX_SPEEDS, jnp.float32)
        links = Links(
            angles=(s[:2] + jnp.pi) % (2 * jnp.pi) - jnp.pi,
            speeds=jnp.clip(s[2:], -highest, highest),
        )
        first, second = links.angles
        reached = -jnp.cos(first) - jnp.cos(first + second) > 1.0
        return state.replace(
            pipeline_state=links,
            obs=self._observe(links),
            reward=reached.astype(jnp.float32) - 1.0,
            done=reached.astype(jnp.float32),
        )

    def _observe(self, links: Links) -> jax.Array:
        """(6,) float32."""
        cos, sin = jnp.cos(links.angles), jnp.sin(links.angles)
        return jnp.concatenate([jnp.stack([cos, sin], axis=1).ravel(), links.speeds])

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch: (128, 128, 3) uint8."""
        image = Image.new("RGB", (512, 512), "white")
        draw = ImageDraw.Draw(image)
        draw.line((0, 136, 512, 136), (60, 170, 90), 8)
        joint, angle = (256.0, 256.0), 0.0
        for turn in state.pipeline_state.angles:
            angle += float(turn)
            end = (joint[0] + 120 * np.sin(angle), joint[1] + 120 * np.cos(angle))
            draw.line((*joint, *end), (70, 130, 200), 24)
            draw.circle(joint, 16, (230, 190, 60))
            joint = end
        return np.asarray(image.reduce(4))


def _change(s: jax.Array, torque: jax.Array) -> jax.Array:
    """Time derivative of both angles and both speeds, (4,) float32."""
    angle1, angle2, speed1, speed2 = s
    d1 = 3.5 + jnp.cos(angle2)
    d2 = 1.25 + 0.5 * jnp.cos(angle2)
    phi2 = 0.5 * GRAVITY * jnp.cos(angle1 + angle2 - jnp.pi / 2)
    phi1 = (
        -0.5 * speed2**2 * jnp.sin(angle2)
        - speed1 * speed2 * jnp.sin(angle2)
        + 1.5 * GRAVITY * jnp.cos(angle1 - jnp.pi / 2)
        + phi2
    )
    acceleration2 = (torque + d2 / d1 * phi1 - 0.5 * speed1**2 * jnp.sin(angle2) - phi2) / (
        1.25 - d2**2 / d1
    )
    acceleration1 = -(d2 * acceleration2 + phi1) / d1
    return jnp.stack([speed1, speed2, acceleration1, acceleration2])
