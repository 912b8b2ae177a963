"""What a task is.

From the template: changes of yours are kept, `copier update` merges new versions in.

`config.py` defines a task as a value; a second task is a second value beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from brax.envs.base import Env
from brax.training import types
from brax.training.agents.ppo.networks import PPONetworks

from .ppo import PPOConfig

NetworkFactory = types.NetworkFactory[PPONetworks]


@dataclass(frozen=True)
class Task:
    """An environment, the settings of PPO and the networks that it trains.

    Attributes:
      environment: makes one environment, not batched; the class itself will do.
      settings: how PPO trains; each is a flag of `train`.
      network_factory: as `ppo.train` takes it; see `kit.networks.make_network_factory`.
      wrap_env_fn: as `ppo.train` takes it; `kit.wrappers.wrap_for_training` if None.
      randomization_fn: domain randomisation, as `ppo.train` takes it.
    """

    environment: Callable[[], Env]
    settings: PPOConfig
    network_factory: NetworkFactory
    wrap_env_fn: Callable[..., Env] | None = None
    randomization_fn: Callable[..., tuple[Any, Any]] | None = None
