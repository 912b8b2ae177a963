"""What is trained, and how. Yours: `copier update` never touches this file."""

from .env import CartPole
from .kit.networks import make_network_factory
from .kit.ppo import PPOConfig
from .kit.task import Task

THRESHOLD = 475.0  # the mean return that counts as solved

task = Task(
    environment=CartPole,
    settings=PPOConfig(
        episode_length=500,
        num_timesteps=200_000,
    ),
    network_factory=make_network_factory(CartPole.action_space),
)
