"""What is trained, and how. Yours: `copier update` never touches this file."""

from .env import InvertedPendulum
from .kit.networks import make_network_factory
from .kit.ppo import PPOConfig
from .kit.task import Task

THRESHOLD = 950.0  # the mean return that counts as solved

task = Task(
    environment=InvertedPendulum,
    settings=PPOConfig(
        episode_length=1000,
        num_timesteps=200_000,
    ),
    network_factory=make_network_factory(InvertedPendulum.action_space),
)
