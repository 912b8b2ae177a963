"""What is trained, and how. Yours: `copier update` never touches this file."""

from .env import Pendulum
from .kit import PPOConfig, Task, make_network_factory

THRESHOLD = -200.0  # the mean return that counts as solved

task = Task(
    environment=Pendulum,
    settings=PPOConfig(
        episode_length=200,
        num_timesteps=300_000,
    ),
    network_factory=make_network_factory(Pendulum.action_space),
)
