"""Time limits: episodes of a batch, their sums, and repeated actions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State, Wrapper

# Entries of `info` that belong to the wrappers here; an environment's own never replace them.
WRAPPER_INFO = frozenset(
    {
        "steps",
        "truncation",
        "episode_done",
        "episode_metrics",
        "not_finite",
        "reset_key",
        "final_obs",
    }
)


class EpisodeWrapper(Wrapper):
    """Ends episodes at a time limit, repeats actions and sums up each episode.

    Like Brax's wrapper of this name, with the same entries in `info`, each (batch,):
    `steps` taken in the episode, float32; `truncation`, 1 where the time limit ended it;
    `episode_done`; and `episode_metrics`, sums of the reward (`sum_reward`), the steps (`length`)
    and each metric. Unlike Brax's, it stops repeating an action where the episode ends, and sums
    the metrics of repeated steps as it does their rewards. Its own is `not_finite`, bool: `step`
    has given an observation, a reward or a `done` that is NaN or infinite, ever.
    """

    def __init__(self, env: Env, episode_length: int, action_repeat: int = 1) -> None:
        super().__init__(env)
        self.episode_length = episode_length
        self.action_repeat = action_repeat

    def reset(self, rng: jax.Array) -> State:
        state = self.env.reset(rng)
        zero = jnp.zeros(state.done.shape, jnp.float32)
        info = {
            "steps": zero,
            "truncation": jnp.zeros_like(state.done),
            "episode_done": jnp.zeros_like(state.done),
            "episode_metrics": {
                **jax.tree.map(jnp.zeros_like, state.metrics),
                "sum_reward": jnp.zeros_like(state.reward),
                "length": zero,
            },
            "not_finite": jnp.zeros(state.done.shape, bool),
        }
        return state.replace(info={**state.info, **info})

    def step(self, state: State, action: jax.Array) -> State:
        if self.action_repeat == 1:
            taken: Any = 1.0
            state = self.env.step(state, action)
        else:
            taken, state = self._repeat(state, action)
        not_finite = has_not_finite((state.obs, state.reward, state.done))
        steps = state.info["steps"] + taken
        time_is_up = steps >= self.episode_length
        done = jnp.where(time_is_up, jnp.ones_like(state.done), state.done)

        # `episode_done` is still that of the step before.
        starts = state.info["episode_done"] > 0
        # A wrapper around this one may have added metrics; there are no sums of those.
        sums = state.info["episode_metrics"]
        metrics = {name: x for name, x in state.metrics.items() if name in sums}
        new = {**metrics, "sum_reward": state.reward, "length": taken}
        sums = {
            name: jnp.where(starts, jnp.zeros_like(x), x) + new[name] for name, x in sums.items()
        }
        info = {
            **state.info,
            "steps": steps,
            "truncation": jnp.where(time_is_up, 1 - state.done, jnp.zeros_like(state.done)),
            "episode_done": done,
            "episode_metrics": sums,
            "not_finite": state.info["not_finite"] | not_finite,
        }
        return state.replace(done=done, info=info)

    def _repeat(self, state: State, action: jax.Array) -> tuple[jax.Array, State]:
        """Steps taken, (batch,) float32, and the state after them."""

        def step(carry: Any, _: None) -> Any:
            state, ended, taken, sums = carry
            after = self.env.step(state, action)
            sums = jax.tree.map(
                lambda total, x: total + jnp.where(ended, jnp.zeros_like(x), x),
                sums,
                (after.reward, after.metrics),
            )
            after = jax.tree.map(lambda old, new: where(ended, old, new), state, after)
            return (after, ended | (after.done > 0), taken + jnp.where(ended, 0.0, 1.0), sums), None

        no_steps = jnp.zeros(state.done.shape, jnp.float32)
        sums = jax.tree.map(jnp.zeros_like, (state.reward, state.metrics))
        carry = (state, jnp.zeros(state.done.shape, bool), no_steps, sums)
        (state, _, taken, (reward, metrics)), _ = jax.lax.scan(
            step, carry, length=self.action_repeat
        )
        return taken, state.replace(reward=reward, metrics=metrics)


class OneEpisodeWrapper(Wrapper):
    """Pays no reward and no metrics after the first `done`, which stays.

    The state goes on, and may even become NaN, which Brax's `EvalWrapper` would add up.
    """

    def step(self, state: State, action: jax.Array) -> State:
        over = state.done > 0
        after = self.env.step(state, action)
        reward, metrics = jax.tree.map(
            lambda x: jnp.where(over, jnp.zeros_like(x), x), (after.reward, after.metrics)
        )
        done = jnp.maximum(state.done, after.done)
        return after.replace(reward=reward, metrics=metrics, done=done)


def has_not_finite(tree: Any) -> jax.Array:
    """Whether any number of an environment is NaN or infinite, (batch,) bool."""
    return functools.reduce(
        jnp.logical_or,
        [
            jnp.any(~jnp.isfinite(x), axis=tuple(range(1, x.ndim)))
            for x in jax.tree.leaves(tree)
            if jnp.issubdtype(x.dtype, jnp.inexact)
        ],
    )


def where(mask: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """`x` where (batch,) `mask`, else `y`; `y` too where they have no batch axis."""
    if jnp.shape(y)[:1] != mask.shape:
        return y
    return jnp.where(mask.reshape(mask.shape + (1,) * (y.ndim - 1)), x, y)
