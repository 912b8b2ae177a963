"""Whole episodes: to evaluate a policy, to draw it and to time the environment."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from brax.envs.base import Env, State

from .actions import ActionSpace

Policy = Callable[[Any, jax.Array], tuple[jax.Array, Any]]


class EpisodeSums(flax.struct.PyTreeNode):
    """What a batch of episodes added up to, (num_envs,) each.

    Attributes:
      metrics: sums of `reward` and of each metric.
      steps: how many steps the episode took, float32.
      cut_off: bool, whether the time limit ended it, and the environment itself did not.
      goes_on: bool, whether it has not ended yet.
    """

    metrics: dict[str, jax.Array]
    steps: jax.Array
    cut_off: jax.Array
    goes_on: jax.Array


def random_policy(action_space: ActionSpace) -> Policy:
    """A policy that takes uniformly random actions and ignores the observation."""

    def policy(obs: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        del obs
        return action_space.sample(key), {}

    return policy


def run_episodes(
    env: Env, policy: Policy, key: jax.Array, *, num_envs: int, num_steps: int
) -> EpisodeSums:
    """Plays one episode in each of `num_envs` environments. Pure: to be jitted.

    Args:
      env: batched and with a time limit, as `wrap_for_evaluation` gives it.
      policy: takes one observation and a key, not a batch.
      key: (2,) uint32, consumed.
      num_envs: how many episodes.
      num_steps: the time limit, in actions.
    """
    key_reset, key_steps = jax.random.split(key)

    def goes_on(carry: tuple[jax.Array, State, EpisodeSums]) -> jax.Array:
        count, _, sums = carry
        return (count < num_steps) & jnp.any(sums.goes_on)

    def step(carry: tuple[jax.Array, State, EpisodeSums]) -> tuple[jax.Array, State, EpisodeSums]:
        count, state, sums = carry
        keys = jax.random.split(jax.random.fold_in(key_steps, count), num_envs)
        action, _ = jax.vmap(policy)(state.obs, keys)
        state = strip_weak_types(env.step(state, action))
        return count + 1, state, _add_step(sums, state)

    state = strip_weak_types(env.reset(jax.random.split(key_reset, num_envs)))
    start = EpisodeSums(
        metrics=jax.tree.map(jnp.zeros_like, {**state.metrics, "reward": state.reward}),
        steps=jnp.zeros(num_envs, jnp.float32),
        cut_off=jnp.zeros(num_envs, bool),
        goes_on=jnp.ones(num_envs, bool),
    )
    return jax.lax.while_loop(goes_on, step, (jnp.int32(0), state, start))[2]


def _add_step(sums: EpisodeSums, state: State) -> EpisodeSums:
    """Adds a step; what follows the end of an episode does not count, even if it is NaN."""
    new = {**state.metrics, "reward": state.reward}
    return EpisodeSums(
        metrics={
            name: jnp.where(sums.goes_on, x + new[name], x) for name, x in sums.metrics.items()
        },
        steps=jnp.where(sums.goes_on, state.info["steps"], sums.steps),
        cut_off=jnp.where(sums.goes_on, state.info["truncation"] > 0, sums.cut_off),
        goes_on=sums.goes_on & (state.done == 0),
    )


def strip_weak_types(tree: Any) -> Any:
    """Removes weak types, which come from Python numbers: types may not change in a loop."""
    return jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.asarray(x).dtype), tree)
