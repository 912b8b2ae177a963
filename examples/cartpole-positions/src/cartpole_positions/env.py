"""The environment. Yours: `copier update` never touches this file."""

import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State

from .kit import Discrete

OBSERVATION_SIZE = 2
ACTION_SPACE = Discrete(2)  # push to the left, to the right

GRAVITY = 9.8
CART_MASS = 1.0
POLE_MASS = 0.1
POLE_LENGTH = 0.5  # half of it: from the hinge to the centre of mass
PUSH = 10.0
TIME_STEP = 0.02
LARGEST_POSITION = 2.4
LARGEST_ANGLE = math.radians(12)


class CartPole(flax.struct.PyTreeNode):
    """The whole state, of which the agent sees half.

    Attributes:
      position: of the cart, () float32.
      velocity: of the cart, () float32.
      angle: of the pole in radians, () float32; 0 is upright.
      angular_velocity: of the pole, () float32.
    """

    position: jax.Array
    velocity: jax.Array
    angle: jax.Array
    angular_velocity: jax.Array


class CartPolePositions(Env):
    """Balances a pole on a cart without seeing how fast they move.

    The dynamics are those of Gymnasium's CartPole-v1 (Barto, Sutton and Anderson 1983,
    doi:10.1109/TSMC.1983.6313077). That only positions are observed is the idea of
    PositionOnlyCartPole in POPGym (Morad et al. 2023, arXiv:2303.01859), which scales the reward
    and has other time limits.

    Observation: (2,) float32, the position of the cart and the angle of the pole.
    Action: 0 pushes the cart to the left, 1 to the right.
    Reward: 1 for each step, the last one too.
    Done: when the cart is further than 2.4 from the middle, or the pole more than 12 degrees from
      upright. The time limit is 500 steps.

    A mean return of 475 counts as solved (`reward_threshold` of Gymnasium's CartPole-v1).
    """

    observation_size = OBSERVATION_SIZE
    action_size = ACTION_SPACE.size
    action_space = ACTION_SPACE
    backend = "none"  # not one of Brax's physics engines

    def reset(self, rng: jax.Array) -> State:
        """Starts an episode. All randomness comes from `rng`, (2,) uint32."""
        cartpole = CartPole(*jax.random.uniform(rng, (4,), jnp.float32, -0.05, 0.05))
        reward, done = jnp.zeros(2, jnp.float32)
        return State(pipeline_state=cartpole, obs=self._observe(cartpole), reward=reward, done=done)

    def step(self, state: State, action: jax.Array) -> State:
        """Advances by one step of Euler's method, as Gymnasium does it."""
        now: CartPole = state.pipeline_state
        mass = CART_MASS + POLE_MASS
        sin, cos = jnp.sin(now.angle), jnp.cos(now.angle)
        force = jnp.where(action == 1, PUSH, -PUSH)
        push = (force + POLE_MASS * POLE_LENGTH * now.angular_velocity**2 * sin) / mass
        angular_acceleration = (GRAVITY * sin - cos * push) / (
            POLE_LENGTH * (4 / 3 - POLE_MASS * cos**2 / mass)
        )
        acceleration = push - POLE_MASS * POLE_LENGTH * angular_acceleration * cos / mass
        # Positions move with the velocities from before the step.
        after = CartPole(
            position=now.position + TIME_STEP * now.velocity,
            velocity=now.velocity + TIME_STEP * acceleration,
            angle=now.angle + TIME_STEP * now.angular_velocity,
            angular_velocity=now.angular_velocity + TIME_STEP * angular_acceleration,
        )
        is_off = jnp.abs(after.position) > LARGEST_POSITION
        fell = jnp.abs(after.angle) > LARGEST_ANGLE
        return state.replace(
            pipeline_state=after,
            obs=self._observe(after),
            reward=jnp.ones((), jnp.float32),
            done=(is_off | fell).astype(jnp.float32),
        )

    def _observe(self, cartpole: CartPole) -> jax.Array:
        """(OBSERVATION_SIZE,) float32."""
        return jnp.stack([cartpole.position, cartpole.angle])

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch: (80, 200, 3) uint8."""
        position, angle = state.pipeline_state.position, state.pipeline_state.angle
        image = np.full((80, 200, 3), 255, np.uint8)
        x = np.linspace(-2.5, 2.5, 200) - position
        y = np.linspace(1.4, -0.6, 80)[:, None]
        image[np.abs(y + 0.15) < 0.02 + 0 * x] = 160  # the rail
        image[(np.abs(x) < 0.25) & (np.abs(y + 0.12) < 0.12)] = (60, 60, 60)
        along = x * np.sin(angle) + y * np.cos(angle)
        across = x * np.cos(angle) - y * np.sin(angle)
        image[(np.abs(along - POLE_LENGTH) < POLE_LENGTH) & (np.abs(across) < 0.05)] = (40, 80, 200)
        return image
