"""Batches of environments: vmap, then episodes, then auto-reset; and stacked observations.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State, Wrapper
from brax.envs.wrappers import training

from .errors import UsageError

RandomizationFn = Callable[[Any], tuple[Any, Any]]

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


def wrap_for_training(
    env: Env,
    episode_length: int = 1000,
    action_repeat: int = 1,
    randomization_fn: RandomizationFn | None = None,
) -> Wrapper:
    """Batches an environment, limits its episodes and starts a new one where one has ended.

    This is what `brax.training.agents.ppo.train` takes as `wrap_env_fn`.

    Args:
      env: one environment, not batched. `env.preserve_info`, a tuple of names, may name entries of
        `info` that auto-reset leaves as they are, for a curriculum for example.
      episode_length: time limit in steps; `info["truncation"]` is 1 where it ended an episode.
      action_repeat: how many steps each action is applied for; rewards and metrics are summed.
      randomization_fn: domain randomisation, as Brax takes it. Each environment of the batch keeps
        its own randomised system in all its episodes.

    Returns:
      A batched environment: `reset` takes keys (batch, 2) uint32, or typed keys (batch,); `step`
      takes actions (batch, ...); each array of the state has shape (batch, ...).
    """
    return AutoResetWrapper(_limit_episodes(env, episode_length, action_repeat, randomization_fn))


def wrap_for_evaluation(
    env: Env,
    episode_length: int = 1000,
    action_repeat: int = 1,
    randomization_fn: RandomizationFn | None = None,
) -> Wrapper:
    """Like `wrap_for_training`, for one episode per environment: nothing is reset after `done`."""
    return OneEpisodeWrapper(_limit_episodes(env, episode_length, action_repeat, randomization_fn))


def _limit_episodes(
    env: Env, episode_length: int, action_repeat: int, randomization_fn: RandomizationFn | None
) -> "EpisodeWrapper":
    if randomization_fn is None:
        batch: Wrapper = training.VmapWrapper(env)
    elif hasattr(env.unwrapped, "sys"):
        batch = training.DomainRandomizationVmapWrapper(env, randomization_fn)
    else:
        name = type(env.unwrapped).__name__
        raise UsageError(
            f"randomization_fn changes env.sys, which {name} does not have: set self.sys in "
            "__init__ to the arrays that reset and step read and that are to differ."
        )
    return EpisodeWrapper(batch, episode_length, action_repeat)


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
            after = jax.tree.map(lambda old, new: _where(ended, old, new), state, after)
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


class AutoResetWrapper(Wrapper):
    """Starts a new episode, with a new key, wherever one has ended.

    At the step that ends an episode `reward`, `done` and `metrics` are that step's, while `obs`,
    `pipeline_state` and the environment's own entries of `info` are already the next episode's.
    Entries of `info` that wrappers made keep their meaning. The state can be differentiated: a
    new episode does not depend on the one before it.

    `info["reset_key"]`, one per environment, is the key that its next episode starts from, and
    `info["final_obs"]` the observation that the step itself gave, where an episode ended too.
    """

    def __init__(self, env: EpisodeWrapper) -> None:
        super().__init__(env)
        self._batch = env.env  # without the time limit
        self._kept_info = WRAPPER_INFO | set(getattr(env, "preserve_info", ()))

    def reset(self, rng: jax.Array) -> State:
        keys = jax.vmap(jax.random.split)(rng)
        state = self.env.reset(keys[:, 0])
        info = {**state.info, "reset_key": keys[:, 1], "final_obs": state.obs}
        return state.replace(info=info)

    def step(self, state: State, action: jax.Array) -> State:
        # The episode wrapper counts on from `steps`, so that a new episode has to start at 0.
        steps = jnp.where(state.done > 0, 0.0, state.info["steps"])
        state = state.replace(info={**state.info, "steps": steps}, done=jnp.zeros_like(state.done))
        state = self.env.step(state, action)
        return self._restart(state.replace(info={**state.info, "final_obs": state.obs}))

    def _restart(self, state: State) -> State:
        # Leaves that the batch shares, such as those of MJX-Warp, stay as they are.
        batch = state.done.shape[0]
        batched = jax.tree.map(lambda x: x if jnp.shape(x)[:1] == (batch,) else None, state)

        @jax.custom_jvp  # because the loop over resets has no reverse gradient
        def restart(state: State) -> State:
            return _as_one_batch(self._reset_done, state, jnp.arange(batch))

        @restart.defjvp
        def restart_jvp(primals: tuple[State], tangents: tuple[State]) -> tuple[State, State]:
            return restart(*primals), self._cut(tangents[0], primals[0].done > 0)

        restarted = restart(batched)
        return jax.tree.map(
            lambda new, old: old if new is None else new, restarted, state, is_leaf=_is_none
        )

    def _cut(self, tangent: State, ended: jax.Array) -> State:
        """The derivative of `_reset_done`: 0 for what a new episode has drawn."""

        def cut(tree: Any) -> Any:
            return jax.tree.map(
                # Whole numbers have tangents of a type of their own.
                lambda x: x if x.dtype == jax.dtypes.float0 else _where(ended, 0 * x, x),
                tree,
            )

        info = {k: x if k in self._kept_info else cut(x) for k, x in tangent.info.items()}
        return tangent.replace(
            pipeline_state=cut(tangent.pipeline_state), obs=cut(tangent.obs), info=info
        )

    def _reset_done(self, state: State, domains: jax.Array) -> State:
        """Resets a few environments at a time until none is left to reset.

        Args:
          state: (batch, ...) leaves, and None in place of those that the batch shares.
          domains: (batch,) int32, the row of the randomised system that each environment has.
        """
        batch = state.done.shape[0]
        at_a_time = _resets_at_a_time(batch)

        def reset_some(carry: tuple[jax.Array, State]) -> tuple[jax.Array, State]:
            pending, state = carry
            # On a CPU `top_k` takes a quarter of the time of `nonzero`.
            is_pending, rows = jax.lax.top_k(pending, at_a_time)
            rows = jnp.where(is_pending > 0, rows, batch)  # out of bounds: dropped by `put`

            def take(x: jax.Array) -> jax.Array:
                return x.at[rows].get(mode="clip")

            def put(old: Any, new: Any) -> Any:
                def put_rows(x: Any, y: Any) -> Any:
                    # An array that the batch shares may be as long as the batch by chance.
                    if x is None or jnp.shape(y)[:1] != (at_a_time,):
                        return x
                    return x.at[rows].set(y, mode="drop")

                return jax.tree.map(put_rows, old, new, is_leaf=_is_none)

            keys = jax.vmap(jax.random.split)(take(state.info["reset_key"]))
            fresh = self._reset_rows(keys[:, 0], take(domains))
            new_info = {k: x for k, x in fresh.info.items() if k not in self._kept_info}
            new_info["reset_key"] = keys[:, 1]
            info = {name: put(state.info[name], x) for name, x in new_info.items()}
            state = state.replace(
                pipeline_state=put(state.pipeline_state, fresh.pipeline_state),
                obs=put(state.obs, fresh.obs),
                info={**state.info, **info},
            )
            return pending.at[rows].set(0.0, mode="drop"), state

        pending = (state.done > 0).astype(jnp.float32)
        return jax.lax.while_loop(
            lambda carry: jnp.any(carry[0] > 0), reset_some, (pending, state)
        )[1]

    def _reset_rows(self, keys: jax.Array, domains: jax.Array) -> State:
        """Resets as many environments as there are keys, each with its own randomised system."""
        batch = self._batch
        if not isinstance(batch, training.DomainRandomizationVmapWrapper):
            return batch.reset(keys)

        def reset(key: jax.Array, domain: jax.Array) -> State:
            def take(axis: int | None, part: Any) -> Any:
                return jax.tree.map(
                    lambda x: x if axis is None else jnp.take(x, domain, axis), part
                )

            system = jax.tree.map(take, batch._in_axes, batch._sys_v, is_leaf=_is_none)
            with batch.v_env_fn(system) as env:
                return env.reset(key)

        return jax.vmap(reset)(keys, domains)


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


def _as_one_batch(fun: Callable[..., Any], *args: Any) -> Any:
    """Calls `fun` once for the whole batch, also under `vmap`.

    A `while_loop` under `vmap` would compute its body for every element as long as any needs it.
    So a vmapped axis, of seeds for example, becomes part of the batch.

    Args:
      fun: works on each element of a batch by itself.
      *args: (batch, ...) leaves, as the result has.
    """
    # `fun` may use arrays that are batched under `vmap` too; `custom_vmap` has to be told of them.
    jaxpr, shapes = jax.make_jaxpr(fun, return_shape=True)(*args)
    batch = jax.tree.leaves(args)[0].shape[0]

    def evaluate(held: list[jax.Array], args: Any) -> Any:
        leaves = jax.core.eval_jaxpr(jaxpr.jaxpr, held, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    call = jax.custom_batching.custom_vmap(evaluate)

    @call.def_vmap
    def call_vmapped(axis_size: int, in_batched: Any, held: list[jax.Array], args: Any) -> Any:
        held_batched, args_batched = in_batched
        if any(held_batched):  # the environment itself differs along the axis: slower, but right
            in_axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, in_batched)
            out = jax.vmap(evaluate, tuple(in_axes))(held, args)
        else:

            def flatten(x: jax.Array, is_batched: bool) -> jax.Array:
                x = x if is_batched else jnp.broadcast_to(x, (axis_size, *x.shape))
                return x.reshape(axis_size * batch, *x.shape[2:])

            out = _as_one_batch(fun, *jax.tree.map(flatten, args, args_batched))
            out = jax.tree.map(lambda x: x.reshape(axis_size, batch, *x.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return call(jaxpr.consts, args)


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


def _resets_at_a_time(batch: int) -> int:
    return min(batch, max(4, batch // 64))


def _is_none(x: Any) -> bool:
    return x is None


def _where(mask: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """`x` where (batch,) `mask`, else `y`; `y` too where they have no batch axis."""
    if jnp.shape(y)[:1] != mask.shape:
        return y
    return jnp.where(mask.reshape(mask.shape + (1,) * (y.ndim - 1)), x, y)
