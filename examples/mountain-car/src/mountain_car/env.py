"""The environment. Yours: `copier update` never touches this file."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State
from PIL import Image, ImageDraw

from .kit import Continuous

OBSERVATION_SIZE = 2
ACTION_SPACE = Continuous(1)

POWER = 0.0015
GRAVITY = 0.0025
MAX_SPEED = 0.07
LEFT, RIGHT = -1.2, 0.6
GOAL = 0.45


class Car(flax.struct.PyTreeNode):
    """What `step` needs to know of the step before.

    Attributes:
      position: () float32, from LEFT to RIGHT; the bottom of the valley is at -0.52.
      speed: () float32, to the right, per step.
    """

    position: jax.Array
    speed: jax.Array


class MountainCar(Env):
    """A car in a valley, too weak to drive straight up: it has to swing to reach the flag.

    MountainCarContinuous-v0 of Gymnasium, after Moore 1990 ("Efficient memory-based learning for
    robot control", PhD thesis, University of Cambridge). It is hard to explore: whoever never
    reaches the flag learns that standing still is cheapest.

    Observation: (2,) float32: position and speed.
    Action: (1,) float32 in [-1, 1], the force of the motor to the right.
    Reward: 100 for reaching the flag, minus 0.1 times the squared action in each step.
    Done: when the car is at GOAL or beyond. The time limit is 999 steps.

    A mean return of 90 counts as solved (Gymnasium's `reward_threshold`).
    """

    observation_size = OBSERVATION_SIZE
    action_size = ACTION_SPACE.size
    action_space = ACTION_SPACE
    backend = "none"  # not one of Brax's physics engines

    def reset(self, rng: jax.Array) -> State:
        """Starts an episode at rest, near the bottom. `rng` is (2,) uint32."""
        position = jax.random.uniform(rng, (), jnp.float32, -0.6, -0.4)
        reward, done, speed = jnp.zeros(3, jnp.float32)
        car = Car(position=position, speed=speed)
        return State(pipeline_state=car, obs=self._observe(car), reward=reward, done=done)

    def step(self, state: State, action: jax.Array) -> State:
        """Advances by one step."""
        car: Car = state.pipeline_state
        force = jnp.clip(action[0], -1.0, 1.0)
        speed = car.speed + POWER * force - GRAVITY * jnp.cos(3 * car.position)
        speed = jnp.clip(speed, -MAX_SPEED, MAX_SPEED)
        position = jnp.clip(car.position + speed, LEFT, RIGHT)
        speed = jnp.where((position <= LEFT) & (speed < 0), 0.0, speed)  # a wall stops it
        reached = ((position >= GOAL) & (speed >= 0)).astype(jnp.float32)
        car = Car(position=position, speed=speed)
        return state.replace(
            pipeline_state=car,
            obs=self._observe(car),
            reward=100.0 * reached - 0.1 * action[0] ** 2,  # of the action as it was given
            done=reached,
        )

    def _observe(self, car: Car) -> jax.Array:
        """(2,) float32."""
        return jnp.stack([car.position, car.speed])

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch: (96, 160, 3) uint8."""

        def place(x: float) -> np.ndarray:
            """Where a point of the road is in the image, in pixels."""
            return np.array([(x - LEFT) / (RIGHT - LEFT) * 640, 230 - 100 * np.sin(3 * x)])

        image = Image.new("RGB", (640, 384), "white")
        draw = ImageDraw.Draw(image)
        road = [tuple(place(x)) for x in np.linspace(LEFT, RIGHT, 100)]
        draw.polygon([*road, (640, 384), (0, 384)], (225, 215, 195))
        x, y = place(GOAL)
        draw.line((x, y, x, y - 90), (60, 60, 60), 6)
        draw.polygon([(x, y - 90), (x + 44, y - 72), (x, y - 54)], (60, 170, 90))
        x, y = place(float(state.pipeline_state.position))
        draw.circle((x, y - 22), 24, (40, 80, 200))
        return np.asarray(image.reduce(4))
