"""From one environment to a batch that restarts by itself. The template's: not for editing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State, Wrapper
from brax.envs.wrappers import training


def wrap_for_training(
    env: Env,
    episode_length: int = 1000,
    action_repeat: int = 1,
    randomization_fn: Callable[[Any], tuple[Any, Any]] | None = None,
) -> Wrapper:
    """Makes an environment ready for training: vmap, then episodes, then fresh auto-reset.

    What `brax.training.agents.ppo.train` takes as `wrap_env_fn`. Brax's own wrapper puts each
    environment back to one and the same start for the whole run (google/brax#167); this one calls
    `reset` with a new key each time.

    Args:
      env: one environment, not yet batched.
      episode_length: steps after which an episode is cut off (`info["truncation"]` is 1 then).
      action_repeat: how often each action is applied; rewards add up.
      randomization_fn: domain randomisation, as Brax takes it.

    Returns:
      An environment whose `reset` takes keys of shape (batch, 2) uint32.
    """
    if randomization_fn is None:
        batch: Wrapper = training.VmapWrapper(env)
    else:
        batch = training.DomainRandomizationVmapWrapper(env, randomization_fn)
    return FreshAutoResetWrapper(training.EpisodeWrapper(batch, episode_length, action_repeat))


class FreshAutoResetWrapper(Wrapper):
    """Starts a new episode, with a new key, wherever one has ended.

    At the step that ends an episode `reward`, `done` and `metrics` are that step's, while `obs`,
    `pipeline_state` and the environment's own entries of `info` are already the next episode's.
    Entries of `info` that the wrappers made (`steps`, `truncation`, ...) keep their meaning.
    """

    def __init__(self, env: training.EpisodeWrapper) -> None:
        super().__init__(env)
        self._reset = env.env.reset  # batched, without the episode's bookkeeping

    def reset(self, rng: jax.Array) -> State:
        keys = jax.vmap(jax.random.split)(rng)  # (batch, 2, 2)
        state = self.env.reset(keys[:, 0])
        state.info["reset_key"] = keys[:, 1]
        return state

    def step(self, state: State, action: jax.Array) -> State:
        # The episode wrapper counts on from `steps`: an episode that ended before starts at 0.
        steps = jnp.where(state.done, 0.0, state.info["steps"])
        state = state.replace(info={**state.info, "steps": steps}, done=jnp.zeros_like(state.done))
        state = self.env.step(state, action)
        # Episodes mostly end together or not at all: then no reset is computed.
        return jax.lax.cond(jnp.any(state.done), self._restart, lambda state: state, state)

    def _restart(self, state: State) -> State:
        keys = jax.vmap(jax.random.split)(state.info["reset_key"])
        fresh = self._reset(keys[:, 0])

        def where_done(new: jax.Array, old: jax.Array) -> jax.Array:
            done = state.done.reshape(state.done.shape + (1,) * (jnp.ndim(old) - 1))
            return jnp.where(done, new, old)

        renewed = {"reset_key": keys[:, 1], **fresh.info}
        return state.replace(
            pipeline_state=jax.tree.map(where_done, fresh.pipeline_state, state.pipeline_state),
            obs=jax.tree.map(where_done, fresh.obs, state.obs),
            info={
                **state.info,
                **{key: jax.tree.map(where_done, renewed[key], state.info[key]) for key in renewed},
            },
        )
