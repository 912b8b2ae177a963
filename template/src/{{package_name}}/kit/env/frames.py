"""Frame stacking."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State, Wrapper

from ..errors import UsageError


class FrameStack(Wrapper):
    """Observes the last `num_frames` observations at once, the oldest first.

    A policy without memory can then tell how things move, as Mnih et al. 2015 did it for Atari
    (doi:10.1038/nature14236). Vectors (n,) become (num_frames * n,), images (height, width,
    channels) become (height, width, num_frames * channels). An episode starts with its first
    observation repeated.

    It wraps one environment before it is batched, so it belongs in the `environment` of a task.
    The earlier observations are kept in `obs` itself and nowhere else, so a wrapper around this
    one must not change them.

    Args:
      env: one environment, not batched; its observation is a vector, or a dict of vectors and
        images.
      num_frames: how many observations to stack, 1 or more.

    Raises:
      UsageError: `num_frames` is not a whole number above 0.
    """

    def __init__(self, env: Env, num_frames: int = 4) -> None:
        super().__init__(env)
        if not isinstance(num_frames, int) or num_frames < 1:
            raise UsageError(f"num_frames is {num_frames}, which has to be a whole number above 0.")
        self.num_frames = num_frames

    @property
    def observation_size(self) -> Any:
        def stacked(size: Any) -> Any:
            if isinstance(size, (tuple, list)):
                return (*size[:-1], self.num_frames * size[-1])
            return self.num_frames * size

        size = self.env.observation_size
        if isinstance(size, Mapping):
            return {name: stacked(part) for name, part in size.items()}
        return stacked(size)

    def reset(self, rng: jax.Array) -> State:
        state = self.env.reset(rng)
        obs = jax.tree.map(lambda x: jnp.concatenate([x] * self.num_frames, -1), state.obs)
        return state.replace(obs=obs)

    def step(self, state: State, action: jax.Array) -> State:
        def newest(stack: jax.Array) -> jax.Array:
            return stack[..., -(stack.shape[-1] // self.num_frames) :]

        def push(stack: jax.Array, frame: jax.Array) -> jax.Array:
            return jnp.concatenate([stack[..., frame.shape[-1] :], frame], axis=-1)

        after = self.env.step(state.replace(obs=jax.tree.map(newest, state.obs)), action)
        return after.replace(obs=jax.tree.map(push, state.obs, after.obs))
