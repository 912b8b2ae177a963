"""What is trained, and how. Yours: `copier update` never touches this file."""

from .env import InvertedPendulum
from .kit import PPOConfig, Task, make_network_factory

THRESHOLD = 950.0  # the mean return that counts as solved

task = Task(
    environment=InvertedPendulum,
    settings=PPOConfig(
        episode_length=1000,
        num_timesteps=80_000,
        discounting=0.99,
        # Once each episode lasts 1000 steps, advantages are noise, which must not be enlarged.
        normalize_advantage=False,
        num_evals=4,  # an evaluation of 1000 steps takes longer than the training between two
    ),
    network_factory=make_network_factory(InvertedPendulum.action_space),
)
