"""What the result of a run depends on besides its settings, in a form that can be compared."""

import hashlib
import inspect
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from brax.envs.base import Env, State
from brax.training.agents.ppo.networks import make_inference_fn

from ..env.actions import action_space_of
from ..env.keys import raw
from ..ppo.algorithm import PPO


def describe(environment: Env, ppo: PPO) -> dict[str, Any]:
    """Sizes, digests of the environment's source and of the networks, versions; as JSON types."""
    packages = ["jax", "brax", "flax", "optax"]
    if _uses_mujoco(reset_shapes(environment)):
        packages += ["mujoco", "mujoco-mjx"]
    versions = {package: metadata.version(package) for package in packages}
    return {
        **sizes(environment),
        "source": _source(environment),
        "networks": _networks(ppo),
        "versions": {"python": platform.python_version(), **versions},
        "device": jax.devices()[0].device_kind,
    }


def sizes(environment: Env) -> dict[str, Any]:
    """Observation shapes and action space; with others, parameters can't be used."""
    shapes = jax.tree.map(lambda x: x.shape, reset_shapes(environment).obs)
    return json.loads(
        json.dumps({"observation": shapes, "action_space": str(action_space_of(environment))})
    )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences about what differs between two results of `describe`, sizes left out."""
    names = {"python": "Python", "jax": "JAX", "brax": "Brax", "mujoco": "MuJoCo"}
    told = [
        f"{names.get(package, package)} was {before['versions'][package][:40]} and is "
        f"{version} now."
        for package, version in now["versions"].items()
        if before["versions"].get(package, version) != version
    ]
    if before["device"] != now["device"]:
        told.append(f"The device was {before['device'][:40]} and is {now['device']} now.")
    if before["source"] != now["source"]:
        told.append("The file that defines the environment has changed since the run started.")
    same_jax = before["versions"].get("jax") == now["versions"]["jax"]
    if same_jax and before["networks"] != now["networks"]:
        told.append(
            "The networks have changed since the run started: their sizes are the same, but they "
            "compute something else, as with another activation."
        )
    return told


def reset_shapes(environment: Env) -> State:
    """What `reset` returns, as shapes and dtypes."""
    return jax.eval_shape(environment.reset, jax.ShapeDtypeStruct((2,), np.uint32))


def _source(environment: Env) -> str:
    """A digest of the file that defines the environment; empty where there is none."""
    try:
        source = Path(inspect.getsourcefile(type(environment.unwrapped)) or "").read_bytes()
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(source).hexdigest()


def _networks(ppo: PPO) -> str:
    """A digest of the networks' jaxpr, whatever their parameters; another JAX has another one."""

    def act(statistics: Any, params: Any, obs: Any, key: jax.Array) -> Any:
        policy = make_inference_fn(ppo.networks)((statistics, params.policy, params.value))
        value = ppo.networks.value_network.apply(statistics, params.value, obs)
        return policy(obs, key), value

    state = jax.eval_shape(ppo.init, np.uint32(0))
    obs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), state.env_state.obs
    )
    key = jax.ShapeDtypeStruct((2,), np.uint32)
    jaxpr = jax.make_jaxpr(act)(state.normalizer_params, state.params, obs, key)
    digest = hashlib.sha256(str(jaxpr).encode())  # JAX leaves the addresses of functions out
    for constant in jaxpr.consts:
        digest.update(np.asarray(raw(constant)).tobytes())
    return digest.hexdigest()


def _uses_mujoco(state: State) -> bool:
    """Whether the state of an environment holds anything of MuJoCo's."""

    def is_mujoco(x: Any) -> bool:
        return type(x).__module__.startswith("mujoco")

    return any(map(is_mujoco, jax.tree.leaves(state, is_leaf=is_mujoco)))
