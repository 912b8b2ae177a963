"""The environment. Yours: `copier update` never touches this file."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State
from PIL import Image, ImageDraw

from .kit import Discrete

OBSERVATION_SIZE = 4
ACTION_SPACE = Discrete(2)

FORCE = 10.0  # newtons
GRAVITY = 9.8
CART_MASS, POLE_MASS = 1.0, 0.1
MASS = CART_MASS + POLE_MASS
LENGTH = 0.5  # half the pole's
DT = 0.02  # seconds per step

MAX_POSITION = 2.4
MAX_ANGLE = 12 * 2 * np.pi / 360


class Motion(flax.struct.PyTreeNode):
    """What `step` needs to know of the step before.

    Attributes:
      x, x_dot: () float32, position and speed of the cart.
      theta, theta_dot: () float32, angle of the pole from upright, clockwise, and its speed.
    """

    x: jax.Array
    x_dot: jax.Array
    theta: jax.Array
    theta_dot: jax.Array


class CartPole(Env):
    """A pole to be balanced on a cart that is pushed to the left or right.

    CartPole-v1 of Gymnasium, after Barto, Sutton and Anderson 1983 ("Neuronlike adaptive elements
    that can solve difficult learning control problems", IEEE Transactions on Systems, Man, and
    Cybernetics 13), without their friction.

    Observation: (4,) float32: x, x_dot, theta and theta_dot of `Motion`.
    Action: () int32: 0 pushes to the left, 1 to the right, always with FORCE.
    Reward: 1 for each step, also for the one in which the pole falls.
    Done: when the pole leans by more than 12 degrees, or the cart is farther than 2.4 from the
      middle. The time limit is 500 steps.

    A mean return of 475 counts as solved (Gymnasium's `reward_threshold`).
    """

    observation_size = OBSERVATION_SIZE
    action_size = ACTION_SPACE.size
    action_space = ACTION_SPACE
    backend = "none"  # not one of Brax's physics engines

    def reset(self, rng: jax.Array) -> State:
        """Starts an episode near the middle, nearly upright. `rng` is (2,) uint32."""
        motion = Motion(*jax.random.uniform(rng, (4,), jnp.float32, -0.05, 0.05))
        reward, done = jnp.zeros(2, jnp.float32)
        return State(pipeline_state=motion, obs=self._observe(motion), reward=reward, done=done)

    def step(self, state: State, action: jax.Array) -> State:
        """Advances by DT."""
        now: Motion = state.pipeline_state
        force = jnp.where(action == 1, FORCE, -FORCE)
        sin, cos = jnp.sin(now.theta), jnp.cos(now.theta)
        push = (force + POLE_MASS * LENGTH * now.theta_dot**2 * sin) / MASS
        theta_acc = (GRAVITY * sin - cos * push) / (
            LENGTH * (4.0 / 3.0 - POLE_MASS * cos**2 / MASS)
        )
        x_acc = push - POLE_MASS * LENGTH * theta_acc * cos / MASS
        motion = Motion(  # Euler's method: by the speeds before the step
            x=now.x + DT * now.x_dot,
            x_dot=now.x_dot + DT * x_acc,
            theta=now.theta + DT * now.theta_dot,
            theta_dot=now.theta_dot + DT * theta_acc,
        )
        fell = (jnp.abs(motion.x) > MAX_POSITION) | (jnp.abs(motion.theta) > MAX_ANGLE)
        return state.replace(
            pipeline_state=motion,
            obs=self._observe(motion),
            reward=jnp.ones((), jnp.float32),
            done=fell.astype(jnp.float32),
        )

    def _observe(self, motion: Motion) -> jax.Array:
        """(4,) float32."""
        return jnp.stack([motion.x, motion.x_dot, motion.theta, motion.theta_dot])

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch: (96, 192, 3) uint8."""
        motion: Motion = state.pipeline_state
        image = Image.new("RGB", (768, 384), "white")
        draw = ImageDraw.Draw(image)
        x, theta = 384 + 140 * float(motion.x), float(motion.theta)
        draw.line((0, 320, 768, 320), (150, 150, 150), 6)
        draw.rectangle((x - 56, 288, x + 56, 344), (60, 60, 60))
        tip = (x + 220 * np.sin(theta), 288 - 220 * np.cos(theta))
        draw.line((x, 288, *tip), (200, 150, 100), 20)
        draw.circle((x, 288), 12, (130, 130, 200))
        return np.asarray(image.reduce(4))
