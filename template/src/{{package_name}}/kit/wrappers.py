"""From one environment to a batch that restarts by itself. The template's: not for editing."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State, Wrapper
from brax.envs.wrappers import training

Resets = Literal["fresh", "pool", "cached"]


def wrap_for_training(
    env: Env,
    episode_length: int = 1000,
    action_repeat: int = 1,
    randomization_fn: Callable[[Any], tuple[Any, Any]] | None = None,
    *,
    resets: Resets = "fresh",
    num_starts: int = 256,
    keep_final_obs: bool = False,
) -> Wrapper:
    """Makes an environment ready for training: vmap, then episodes, then auto-reset.

    What `brax.training.agents.ppo.train` takes as `wrap_env_fn`; the settings behind the star go
    in with `functools.partial(wrap_for_training, resets="pool")`.

    Args:
      env: one environment, not yet batched.
      episode_length: steps after which an episode is cut off (`info["truncation"]` is 1 then).
      action_repeat: how often each action is applied; rewards add up.
      randomization_fn: domain randomisation, as Brax takes it.
      resets: where a new episode starts. "fresh": where `reset` puts it, called with a new key.
        "pool": at one of the starts made at the first reset, drawn anew each time; for a `reset`
        that costs much more than a step. "cached": Brax's own, at one and the same start for the
        whole run (google/brax#167), with `info` as the last episode left it.
      num_starts: how many starts the pool has at least: each environment makes as many as any
        other, and all share them.
      keep_final_obs: whether `info["final_obs"]` holds the observation that the step ended in,
        which `obs` does not at the end of an episode. For those who bootstrap from it.

    Returns:
      An environment whose `reset` takes keys of shape (batch, 2) uint32.

    Raises:
      ValueError: a setting is none of these, or can't go with another.
    """
    if resets not in ("fresh", "pool", "cached"):
        raise ValueError(f"resets is {resets!r}; it has to be 'fresh', 'pool' or 'cached'.")
    if num_starts < 1:
        raise ValueError(f"num_starts is {num_starts}; it has to be 1 or more.")
    if resets == "cached" and keep_final_obs:
        raise ValueError("keep_final_obs needs resets='fresh' or 'pool': Brax's own keep none.")
    if resets == "pool" and randomization_fn is not None:
        raise ValueError(
            "resets='pool' shares starts among environments, which randomization_fn makes "
            "different from each other; it needs resets='fresh' or 'cached'."
        )
    if randomization_fn is None:
        batch: Wrapper = training.VmapWrapper(env)
    else:
        batch = training.DomainRandomizationVmapWrapper(env, randomization_fn)
    episodes = training.EpisodeWrapper(batch, episode_length, action_repeat)
    if resets == "cached":
        return training.AutoResetWrapper(episodes)
    if resets == "pool":
        return PoolAutoResetWrapper(episodes, keep_final_obs, num_starts)
    return FreshAutoResetWrapper(episodes, keep_final_obs)


class FreshAutoResetWrapper(Wrapper):
    """Starts a new episode, with a new key, wherever one has ended.

    At the step that ends an episode `reward`, `done` and `metrics` are that step's, while `obs`,
    `pipeline_state` and the environment's own entries of `info` are already the next episode's.
    Entries of `info` that the wrappers made (`steps`, `truncation`, ...) keep their meaning.
    """

    def __init__(self, env: training.EpisodeWrapper, keep_final_obs: bool = False) -> None:
        super().__init__(env)
        self._batch = env.env  # without the episode's bookkeeping
        self._keep_final_obs = keep_final_obs

    def reset(self, rng: jax.Array) -> State:
        keys = jax.vmap(jax.random.split)(rng)  # (batch, 2, 2)
        state = self.env.reset(keys[:, 0])
        state.info["reset_key"] = keys[:, 1]
        if self._keep_final_obs:
            state.info["final_obs"] = state.obs
        return state

    def step(self, state: State, action: jax.Array) -> State:
        # The episode wrapper counts on from `steps`: an episode that ended before starts at 0.
        steps = jnp.where(state.done, 0.0, state.info["steps"])
        state = state.replace(info={**state.info, "steps": steps}, done=jnp.zeros_like(state.done))
        state = self.env.step(state, action)
        if self._keep_final_obs:
            state.info["final_obs"] = state.obs
        # Episodes mostly end together or not at all: then no reset is computed.
        return jax.lax.cond(jnp.any(state.done), self._restart, lambda state: state, state)

    def _restart(self, state: State) -> State:
        keys = jax.vmap(jax.random.split)(state.info["reset_key"])
        fresh = self._start(keys[:, 0], state)

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

    def _start(self, keys: jax.Array, state: State) -> State:
        """A start for each environment; `obs`, `pipeline_state` and `info` of it are used."""
        return self._batch.reset(keys)


class PoolAutoResetWrapper(FreshAutoResetWrapper):
    """Starts a new episode at a start drawn from a pool that the first reset made.

    The pool is in `info["reset_pool"]`, (batch, starts per environment, ...) in each leaf: `obs`,
    `pipeline_state` and the environment's own `info`, as many times over as there are starts.
    """

    def __init__(
        self,
        env: training.EpisodeWrapper,
        keep_final_obs: bool = False,
        num_starts: int = 256,
    ) -> None:
        super().__init__(env, keep_final_obs)
        self._num_starts = num_starts

    def reset(self, rng: jax.Array) -> State:
        starts_per_env = -(-self._num_starts // rng.shape[0])
        keys = jax.vmap(lambda key: jax.random.split(key, 1 + starts_per_env))(rng)

        def make(_: None, keys: jax.Array) -> tuple[None, tuple[Any, ...]]:
            start = self._batch.reset(keys)
            return None, (start.obs, start.pipeline_state, start.info)

        pool = jax.lax.scan(make, None, jnp.swapaxes(keys[:, 1:], 0, 1))[1]
        state = super().reset(keys[:, 0])
        state.info["reset_pool"] = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), pool)
        return state

    def _start(self, keys: jax.Array, state: State) -> State:
        pool = state.info["reset_pool"]
        size = math.prod(jax.tree.leaves(pool)[0].shape[:2])
        drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, size))(keys)
        obs, pipeline_state, info = jax.tree.map(
            lambda x: x.reshape(size, *x.shape[2:])[drawn], pool
        )
        return state.replace(obs=obs, pipeline_state=pipeline_state, info=info)
