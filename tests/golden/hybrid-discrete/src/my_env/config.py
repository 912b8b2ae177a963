"""The settings of this task. Yours: `copier update` never touches this file."""

from dataclasses import dataclass

from . import spec
from .encoder import HybridEncoder
from .kit.networks import make_network_factory
from .kit.ppo import PPOConfig


@dataclass(frozen=True)
class Config(PPOConfig):
    """How PPO trains on this task; each field is a flag of `train`. The rest is in `PPOConfig`."""

    num_timesteps: int = 100_000
    episode_length: int = spec.EPISODE_LENGTH


network_factory = make_network_factory(actions=spec.ACTIONS, encoder=HybridEncoder())
