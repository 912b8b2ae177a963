"""What is trained, and how. Yours: `copier update` never touches this file."""

import dataclasses

from .env import CartPolePositions
from .kit import FrameStack, PPOConfig, Task, make_network_factory

THRESHOLD = 475.0  # the mean return that counts as solved; that of CartPole-v1

task = Task(
    environment=lambda: FrameStack(CartPolePositions(), num_frames=4),
    settings=PPOConfig(
        episode_length=500,
        num_timesteps=300_000,
        entropy_cost=1e-2,
        # Once each episode lasts 500 steps, advantages are noise, which must not be enlarged.
        normalize_advantage=False,
    ),
    network_factory=make_network_factory(CartPolePositions.action_space),
)

# The same from one observation at a time, which does not tell how fast anything moves.
without_memory = dataclasses.replace(task, environment=CartPolePositions)
