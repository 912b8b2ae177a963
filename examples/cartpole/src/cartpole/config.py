"""What is trained, and how. Yours: `copier update` never touches this file."""

from .env import CartPole
from .kit import PPOConfig, Task, make_network_factory

THRESHOLD = 475.0  # the mean return that counts as solved

task = Task(
    environment=CartPole,
    settings=PPOConfig(
        episode_length=500,
        num_timesteps=200_000,
    ),
    network_factory=make_network_factory(CartPole.action_space),
)
