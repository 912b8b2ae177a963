"""Which part of observation normalisation keeps PPO from solving Acrobot, with small batches.

    python benchmarks/normalisation.py [--seeds 8] [--steps 150000]

The inputs of the policy and of the value network are normalised, or centred alone, or divided by
their standard deviation alone, or left as they are; the value starts at 0, or at another constant
that is added to it. The other settings are CleanRL's (4 environments, rollouts of 128). Printed are
the seeds that end at -100 or above and stay there, as in settings.py; docs/training.md has them.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import settings  # before all of JAX, since it finds the kit  # isort: skip
import jax
import numpy as np
from brax.training.networks import FeedForwardNetwork
from kit.networks import make_network_factory
from kit.ppo import PPOConfig
from kit.task import Task

SMALL_BATCHES = PPOConfig(
    episode_length=500,
    num_envs=4,
    unroll_length=128,
    batch_size=1,
    num_minibatches=4,
    num_updates_per_batch=4,
    learning_rate=2.5e-4,
    learning_rate_schedule="constant",
    discounting=0.99,
    entropy_cost=1e-2,
    reward_scaling=1.0,
    clipping_epsilon=0.2,
    max_grad_norm=0.5,
    init_value_from_rollouts=False,
)
INPUTS: dict[str, Callable[[Any, Any], jax.Array]] = {
    "as they are": lambda obs, statistics: obs,
    "divided": lambda obs, statistics: obs / statistics.std,
    "centred": lambda obs, statistics: obs - statistics.mean,
    "normalised": lambda obs, statistics: (obs - statistics.mean) / statistics.std,
}
# Inputs of the policy, those of the value network, and what the value starts at.
VARIANTS = [
    *((kind, kind, 0.0) for kind in INPUTS),
    ("normalised", "as they are", 0.0),
    ("as they are", "normalised", 0.0),
    ("as they are", "as they are", -99.0),
    ("normalised", "normalised", -99.0),
    ("normalised", "normalised", 30.0),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150_000)
    arguments = parser.parse_args()
    print("| policy's inputs | value's inputs | value starts at | solved |")
    print("| --- | --- | ---: | ---: |", flush=True)
    for policy, value, start in VARIANTS:
        _, returns = settings.curves(task(policy, value, start, arguments.steps), arguments.seeds)
        solved = int(np.sum(returns[-1] >= -100))
        print(f"| {policy} | {value} | {start:g} | {solved} of {arguments.seeds} |", flush=True)


def task(policy: str, value: str, start: float, steps: int) -> Task:
    space = settings.TASKS["Acrobot"][0]
    make = make_network_factory(space)

    def factory(shape: Any, size: int, preprocess_observations_fn: Any = None) -> Any:
        networks = make(shape, size, INPUTS[policy])
        net = make(shape, size, INPUTS[value]).value_network
        moved = FeedForwardNetwork(net.init, lambda *args: net.apply(*args) + start)
        return dataclasses.replace(networks, value_network=moved)

    return Task(
        environment=lambda: settings.with_space(settings.correct.Acrobot(), space),
        settings=dataclasses.replace(SMALL_BATCHES, num_timesteps=steps),
        network_factory=factory,
    )


if __name__ == "__main__":
    main()
