"""What is trained, and how. Yours: `copier update` never touches this file."""

from .env import Acrobot
from .kit import PPOConfig, Task, make_network_factory

THRESHOLD = -100.0  # the mean return that counts as solved

task = Task(
    environment=Acrobot,
    settings=PPOConfig(
        episode_length=500,
        num_timesteps=200_000,
        # Explores better here (docs/training.md).
        normalize_observations=False,
        init_value_from_rollouts=False,
    ),
    network_factory=make_network_factory(Acrobot.action_space),
)
