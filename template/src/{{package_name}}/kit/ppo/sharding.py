"""What the devices of a mesh share: environments, minibatches or seeds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State, Wrapper
from jax.sharding import Mesh, PartitionSpec

AXIS = "devices"


class ShardedWrapper(Wrapper):
    """Steps a part of the batch on each device; the devices exchange nothing.

    Args:
      env: batched.
      mesh: the devices.
      specs: how they divide the state; see `divide`.
    """

    def __init__(self, env: Env, mesh: Mesh, specs: State) -> None:
        super().__init__(env)
        self._mesh = mesh
        self.specs = specs

    def reset(self, rng: jax.Array) -> State:
        return self._divide(self.env.reset, PartitionSpec(AXIS))(rng)

    def step(self, state: State, action: jax.Array) -> State:
        # Wrappers around this one may have added entries.
        own = state.replace(
            metrics={name: state.metrics[name] for name in self.specs.metrics},
            info={name: state.info[name] for name in self.specs.info},
        )
        after = self._divide(self.env.step, self.specs, PartitionSpec(AXIS))(own, action)
        return after.replace(
            metrics={**state.metrics, **after.metrics}, info={**state.info, **after.info}
        )

    def _divide(self, fun: Callable[..., State], *in_specs: Any) -> Callable[..., State]:
        return jax.shard_map(
            fun, mesh=self._mesh, in_specs=in_specs, out_specs=self.specs, check_vma=False
        )


def divide(env: Env, batch: int) -> State:
    """How the devices divide the state of a batch: what grows with the batch is divided."""
    smaller, larger = (
        jax.eval_shape(env.reset, jax.ShapeDtypeStruct((size, 2), jnp.uint32))
        for size in (batch, 2 * batch)
    )
    return jax.tree.map(
        lambda x, y: PartitionSpec(AXIS) if x.shape != y.shape else PartitionSpec(),
        smaller,
        larger,
    )


def divide_members(fun: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """vmaps over the first axis of the first argument, a part of it on each device."""

    def many(members: Any, *rest: Any) -> Any:
        return jax.vmap(fun, (0, *(None for _ in rest)))(members, *rest)

    if mesh is None:
        return many

    def divided(members: Any, *rest: Any) -> Any:
        specs = (PartitionSpec(AXIS), *(PartitionSpec() for _ in rest))
        return jax.shard_map(
            many, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
        )(members, *rest)

    return divided
