"""A small environment for the unit tests of the kit, with any observation and any actions."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State
from flax import linen as nn
from kit.env.actions import ActionSpace, Continuous, Discrete, MultiDiscrete
from kit.ppo.networks import make_network_factory
from kit.ppo.settings import PPOConfig
from kit.ppo.task import Task

SPACES: dict[str, ActionSpace] = {
    "continuous": Continuous(2),
    "discrete": Discrete(3),
    "multi_discrete": MultiDiscrete((3, 2)),
}

# Enough to run every line; nothing is learnt from so little.
TINY = PPOConfig(
    episode_length=8,
    num_envs=4,
    unroll_length=4,
    batch_size=4,
    num_minibatches=2,
    num_updates_per_batch=2,
    num_timesteps=96,
    num_evals=4,
    num_eval_envs=6,
)


class Toy(Env):
    """A point on a line, pushed by the sum of the action; the reward is minus its distance to 0."""

    backend = "abstract"

    def __init__(
        self,
        action_space: ActionSpace = SPACES["continuous"],
        observe: Callable[[jax.Array], Any] = lambda x: jnp.stack([x, x**2]),
        key: Callable[[jax.Array], jax.Array] | None = None,
    ) -> None:
        self.action_space = action_space
        self._observe = observe
        self._key = key
        self.sys = {"wind": jnp.zeros(())}

    @property
    def observation_size(self) -> Any:
        shapes = jax.tree.map(lambda x: x.shape, self._observe(jnp.zeros(())))
        return shapes if isinstance(shapes, dict) else shapes[0]

    @property
    def action_size(self) -> int:
        return self.action_space.size

    def reset(self, rng: jax.Array) -> State:
        x = jax.random.uniform(rng, (), jnp.float32, -1, 1)
        zero = jnp.zeros((), jnp.float32)
        memory = {"x": x, "wind": zero + self.sys["wind"]}
        if self._key is not None:
            memory["key"] = self._key(rng)
        return State(memory, self._observe(x), zero, zero, {"distance": zero})

    def step(self, state: State, action: jax.Array) -> State:
        push = jnp.sum(jnp.asarray(action, jnp.float32))
        x = jnp.clip(state.pipeline_state["x"] + 0.1 * push, -2, 2)
        return state.replace(
            pipeline_state={**state.pipeline_state, "x": x},
            obs=self._observe(x),
            reward=-jnp.abs(x),
            metrics={**state.metrics, "distance": jnp.abs(x)},
        )

    def render(self, state: State) -> np.ndarray:
        return np.full((8, 8, 3), 100 + 40 * state.pipeline_state["x"], np.uint8)


class Encoder(nn.Module):
    """Takes whatever it is given: vectors normalised, images between 0 and 1."""

    @nn.compact
    def __call__(self, observation: Any, normalized: Any) -> jax.Array:
        entries = normalized if isinstance(normalized, dict) else {"obs": normalized}
        flat = [
            jnp.asarray(x / 255, jnp.float32).reshape(*x.shape[:-3], -1) if "pixels" in key else x
            for key, x in sorted(entries.items())
        ]
        return nn.Dense(8)(jnp.concatenate(flat, axis=-1))


def image(x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(100 + 50 * x, (3, 4, 1)).astype(jnp.uint8)


# Every kind of observation that Brax allows.
OBSERVATIONS: dict[str, Callable[[jax.Array], Any]] = {
    "flat": lambda x: jnp.stack([x, x**2]),
    "image alone": lambda x: {"pixels/view": image(x)},
    "vector and image": lambda x: {"state": jnp.stack([x, -x]), "pixels/view": image(x)},
    "two vectors": lambda x: {"state": x[None], "privileged_state": jnp.stack([x, x, x])},
    "no state entry": lambda x: {"place": x[None], "speed": 2 * x[None]},
}


@functools.cache
def toy_task(
    action_space: ActionSpace = SPACES["continuous"],
    observe: Callable[[jax.Array], Any] = OBSERVATIONS["flat"],
    encoder: nn.Module | None = None,
    **settings: Any,
) -> Task:
    return Task(
        environment=lambda: Toy(action_space, observe),
        settings=dataclasses.replace(TINY, **settings),
        network_factory=make_network_factory(
            action_space,
            encoder=encoder,
            policy_hidden_layer_sizes=(8,),
            value_hidden_layer_sizes=(8,),
        ),
    )
