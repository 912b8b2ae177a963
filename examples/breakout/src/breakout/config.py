"""What is trained, and how. Yours: `copier update` never touches this file."""

from .encoder import BoardEncoder
from .env import Breakout
from .kit import PPOConfig, Task, make_network_factory

# The mean return that counts as solved. purejaxrl reaches about 40 within 10 million steps.
THRESHOLD = 40.0

task = Task(
    environment=Breakout,
    settings=PPOConfig(
        episode_length=1000,
        num_timesteps=15_000_000,
        num_envs=64,
        unroll_length=64,
        batch_size=16,
        num_minibatches=8,
        num_updates_per_batch=4,
        entropy_cost=1e-2,
        discounting=0.99,
        clipping_epsilon=0.2,
    ),
    network_factory=make_network_factory(Breakout.action_space, encoder=BoardEncoder()),
)
