"""What is trained, and how. Yours: `copier update` never touches this file."""

from .env import Catch
from .kit import PPOConfig, Task, make_network_factory

THRESHOLD = 1.0  # the return of perfect play

task = Task(
    environment=Catch,
    settings=PPOConfig(
        episode_length=100,  # never reached: the ball lands after 9 steps
        num_timesteps=100_000,
    ),
    network_factory=make_network_factory(Catch.action_space),
)
