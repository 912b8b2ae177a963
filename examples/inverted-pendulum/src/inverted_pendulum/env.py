"""The environment. Yours: `copier update` never touches this file."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from brax.envs.base import Env, State
from mujoco import mjx

from .kit import Continuous

OBSERVATION_SIZE = 4
ACTION_SPACE = Continuous(1)

FRAME_SKIP = 2  # steps of the simulation for each action
LARGEST_FORCE = 3.0  # before the gear
LARGEST_ANGLE = 0.2  # radians
NOISE = 0.01  # of the start
POLE_LENGTH = 0.6

MODEL = """
<mujoco model="inverted pendulum">
  <option timestep="0.02" integrator="RK4" gravity="0 0 -9.81"/>
  <default>
    <joint damping="1" limited="true"/>
    <geom contype="0" conaffinity="0"/>
  </default>
  <worldbody>
    <body name="cart">
      <joint name="slider" type="slide" axis="1 0 0" range="-1 1"/>
      <geom type="capsule" size="0.1 0.1" quat="0.707 0 0.707 0"/>
      <body name="pole">
        <joint name="hinge" type="hinge" axis="0 1 0" range="-90 90"/>
        <geom type="capsule" size="0.049" fromto="0 0 0 0.001 0 0.6"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="slider" gear="100" ctrllimited="true" ctrlrange="-3 3"/>
  </actuator>
</mujoco>
"""


class InvertedPendulum(Env):
    """Balances a pole on a cart, simulated by MJX.

    The dynamics are those of Gymnasium's InvertedPendulum-v5, after Barto, Sutton and Anderson
    1983, doi:10.1109/TSMC.1983.6313077. `pipeline_state` is the whole of `mjx.Data`.

    Observation: (4,) float32, the position of the cart, the angle of the pole and their speeds.
    Action: (1,) float32 in [-1, 1], the share of LARGEST_FORCE that pushes the cart.
    Reward: 1 for each step after which the pole is upright, so 0 for the last one.
    Done: when the pole is more than 0.2 radians from upright. The time limit is 1000 steps.

    A mean return of 950 counts as solved (Gymnasium's `reward_threshold`).
    """

    observation_size = OBSERVATION_SIZE
    action_size = ACTION_SPACE.size
    action_space = ACTION_SPACE
    backend = "mjx"

    def __init__(self) -> None:
        self.sys = mjx.put_model(mujoco.MjModel.from_xml_string(MODEL))

    def reset(self, rng: jax.Array) -> State:
        """Starts an episode. All randomness comes from `rng`, (2,) uint32."""
        start = jax.random.uniform(rng, (4,), jnp.float32, -NOISE, NOISE)
        # `mjx.forward` is left to the first step, which begins with it: nothing here needs it yet.
        data = mjx.make_data(self.sys).replace(qpos=start[:2], qvel=start[2:])
        reward, done = jnp.zeros(2, jnp.float32)
        return State(pipeline_state=data, obs=self._observe(data), reward=reward, done=done)

    def step(self, state: State, action: jax.Array) -> State:
        """Advances by FRAME_SKIP steps of the simulation, 0.04 seconds."""
        ctrl = LARGEST_FORCE * jnp.clip(action, -1.0, 1.0)
        data = jax.lax.fori_loop(
            0,
            FRAME_SKIP,
            lambda _, data: mjx.step(self.sys, data),
            state.pipeline_state.replace(ctrl=ctrl),
        )
        obs = self._observe(data)
        is_upright = jnp.all(jnp.isfinite(obs)) & (jnp.abs(data.qpos[1]) <= LARGEST_ANGLE)
        upright = is_upright.astype(jnp.float32)
        return state.replace(pipeline_state=data, obs=obs, reward=upright, done=1.0 - upright)

    def _observe(self, data: mjx.Data) -> jax.Array:
        """(OBSERVATION_SIZE,) float32."""
        return jnp.concatenate([data.qpos, data.qvel])

    def render(self, state: State) -> np.ndarray:
        """Draws one state, not a batch: (96, 256, 3) uint8."""
        position, angle = state.pipeline_state.qpos
        image = np.full((96, 256, 3), 255, np.uint8)
        x = np.linspace(-1.2, 1.2, 256)
        y = np.linspace(0.7, -0.2, 96)[:, None]
        image[(np.abs(x) < 1.0) & (np.abs(y) < 0.01)] = 160  # the rail
        x = x - position
        image[np.hypot(np.maximum(np.abs(x) - 0.1, 0), y) < 0.1] = (60, 60, 60)
        along = x * np.sin(angle) + y * np.cos(angle)
        across = x * np.cos(angle) - y * np.sin(angle)
        nearest = np.clip(along, 0.0, POLE_LENGTH)
        image[np.hypot(along - nearest, across) < 0.049] = (40, 80, 200)
        return image
