"""Auto-reset: a new start for each environment whose episode has ended."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State, Wrapper
from brax.envs.wrappers import training

from .time_limit import WRAPPER_INFO, EpisodeWrapper, where


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
                lambda x: x if x.dtype == jax.dtypes.float0 else where(ended, 0 * x, x),
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
        if not isinstance(batch, RandomisedBatch):
            return batch.reset(keys)

        def reset(key: jax.Array, domain: jax.Array) -> State:
            def take(axis: int | None, part: Any) -> Any:
                return jax.tree.map(
                    lambda x: x if axis is None else jnp.take(x, domain, axis), part
                )

            systems, in_axes = batch.randomised
            system = jax.tree.map(take, in_axes, systems, is_leaf=_is_none)
            with batch.v_env_fn(system) as env:
                return env.reset(key)

        return jax.vmap(reset)(keys, domains)


class RandomisedBatch(training.DomainRandomizationVmapWrapper):
    """Brax's wrapper; `randomised` is what `randomization_fn` gave: systems and their axes."""

    def __init__(self, env: Env, randomization_fn: Callable[[Any], tuple[Any, Any]]) -> None:
        self.randomised = randomization_fn(env.sys)
        super().__init__(env, lambda _: self.randomised)


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


def _resets_at_a_time(batch: int) -> int:
    return min(batch, max(4, batch // 64))


def _is_none(x: Any) -> bool:
    return x is None
