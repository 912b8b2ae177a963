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
        unroll_length=64,
        batch_size=2,
        num_minibatches=8,
        num_updates_per_batch=4,
        discounting=0.99,
        clipping_epsilon=0.2,
        max_grad_norm=0.5,
        # With running statistics fewer seeds are solved (docs/training.md).
        normalize_observations=False,
    ),
    network_factory=make_network_factory(CartPole.action_space),
)
