"""A cart-pole in MJX: the whole of `mjx.Data` in `pipeline_state`, as MuJoCo Playground does it."""

import jax
import jax.numpy as jnp
import mujoco
from brax.envs.base import Env, State
from mujoco import mjx

MODEL = """
<mujoco model="cartpole">
  <option timestep="0.02" integrator="Euler"><flag contact="disable"/></option>
  <worldbody>
    <body name="cart" pos="0 0 1">
      <joint name="slider" type="slide" axis="1 0 0" limited="true" range="-2.4 2.4"/>
      <geom type="box" size="0.2 0.15 0.1" mass="1"/>
      <body name="pole">
        <joint name="hinge" type="hinge" axis="0 1 0" damping="0.001"/>
        <geom type="capsule" fromto="0 0 0 0 0 1" size="0.045" mass="0.1"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="slider" gear="10" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


class MjxCartPole(Env):
    """Balance the pole; an episode ends when it falls or the cart is off its rail."""

    observation_size = 4
    action_size = 1
    backend = "mjx"

    def __init__(self) -> None:
        self._model = mjx.put_model(mujoco.MjModel.from_xml_string(MODEL))

    def reset(self, rng: jax.Array) -> State:
        start = jax.random.uniform(rng, (4,), minval=-0.05, maxval=0.05)
        data = mjx.make_data(self._model)
        data = mjx.forward(self._model, data.replace(qpos=start[:2], qvel=start[2:]))
        zero = jnp.zeros(())
        return State(data, self._observe(data), zero, zero, {"upright": zero})

    def step(self, state: State, action: jax.Array) -> State:
        data = mjx.step(self._model, state.pipeline_state.replace(ctrl=action))
        upright = jnp.cos(data.qpos[1])
        fell = (upright < 0.97) | (jnp.abs(data.qpos[0]) > 2.2)
        return state.replace(
            pipeline_state=data,
            obs=self._observe(data),
            reward=jnp.ones(()),
            done=fell.astype(jnp.float32),
            metrics={**state.metrics, "upright": upright},
        )

    def _observe(self, data: mjx.Data) -> jax.Array:
        return jnp.concatenate([data.qpos, data.qvel])
