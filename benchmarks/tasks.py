"""Pendulum and CartPole as published: the `config.py` of a project to measure.

`classic.py` copies this file there. The environments are those of tests/check/correct.py.
"""

import correct
from my_env.kit import Continuous, Discrete, PPOConfig, Task, make_network_factory


class Pendulum(correct.Pendulum):
    action_space = Continuous(1)


class CartPole(correct.CartPole):
    action_space = Discrete(2)


# The settings that benchmarks/README.md was measured with.
MEASURED = {
    "learning_rate_schedule": "constant",
    "discounting": 0.95,
    "entropy_cost": 1e-2,
    "init_value_from_rollouts": False,
}

pendulum = Task(
    environment=Pendulum,
    # Every one of five seeds reached -200 with these.
    settings=PPOConfig(episode_length=200, num_timesteps=409_600, learning_rate=3e-3, **MEASURED),
    network_factory=make_network_factory(Pendulum.action_space),
)
cartpole = Task(
    environment=CartPole,
    settings=PPOConfig(episode_length=500, num_timesteps=204_800, **MEASURED),
    network_factory=make_network_factory(CartPole.action_space),
)
