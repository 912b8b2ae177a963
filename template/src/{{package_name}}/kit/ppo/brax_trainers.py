"""Lets the trainers of Brax (`brax.training.agents`) run on JAX 0.10 and newer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def enable_brax_trainers() -> None:
    """Gives JAX the function back that the trainers of Brax 0.14.2 call and JAX 0.10 removed.

    Call it once before `train` of `brax.training.agents.ppo`, `sac` or `apg`. Without it they fail
    with `AttributeError: jax.device_put_replicated` (google/brax#671). Where JAX has the function,
    nothing is changed; a second call changes nothing either.
    """
    if not hasattr(jax, "device_put_replicated"):
        jax.device_put_replicated = _device_put_replicated  # type: ignore


def _device_put_replicated(tree: Any, devices: Any) -> Any:
    """Stacks each array of `tree` once per device: (...) becomes (devices, ...)."""
    mesh = jax.sharding.Mesh(np.asarray(devices), ("devices",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    return jax.tree.map(
        lambda x: jax.device_put(jnp.stack([jnp.asarray(x)] * len(devices)), sharding), tree
    )
