"""What the networks and the statistics that training starts from do to PPO, over seeds.

    python benchmarks/start.py [--seeds 40] [--first-seed 0] [--tasks CartPole ...]
                               [--variants default ...]

The default settings with another activation, other initial weights, or running statistics of the
observations that know the first rollouts before anything is learned. Tasks and steps are those of
settings.py. Printed are the seeds that end at the threshold or above, the mean and the worst
return at the end, and the median of the steps after which the return stays at the threshold.
"""

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import settings  # before all of JAX, since it finds the kit  # isort: skip
import jax
import numpy as np
from brax.training import networks
from brax.training.agents.ppo.networks import PPONetworks
from flax import linen as nn
from jax.nn.initializers import Initializer, lecun_uniform, orthogonal, zeros
from kit.ppo.settings import PPOConfig
from kit.ppo.task import Task
from kit.tools.tune.ladder import solved_after
from kit.tools.tune.trainer import Curves

USUAL = lecun_uniform()
SMALL = nn.initializers.variance_scaling(1e-4, "fan_in", "uniform")  # a hundredth of the usual


@dataclass(frozen=True)
class Variant:
    """What training starts from; as by default, where nothing else is given."""

    activation: Callable[[jax.Array], jax.Array] = nn.swish
    hidden: Initializer = USUAL
    policy_output: Initializer = USUAL
    value_output: Initializer = zeros
    warm_up: bool = False


VARIANTS = {
    "default": Variant(),
    "tanh": Variant(activation=nn.tanh),
    "relu": Variant(activation=nn.relu),
    # Andrychowicz et al. 2021, arXiv:2006.05990.
    "policy's output / 100": Variant(policy_output=SMALL),
    "value's output as Brax does": Variant(value_output=USUAL),
    "value's output / 100": Variant(value_output=SMALL),
    # CleanRL's ppo.py (Huang et al. 2022, JMLR 23:274).
    "orthogonal": Variant(nn.swish, orthogonal(2**0.5), orthogonal(0.01), orthogonal(1.0)),
    "orthogonal, tanh": Variant(nn.tanh, orthogonal(2**0.5), orthogonal(0.01), orthogonal(1.0)),
    "statistics of the first rollouts": Variant(warm_up=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=0)
    tasks = ["CartPole", "Acrobot", "Pendulum"]
    parser.add_argument("--tasks", nargs="+", default=tasks, choices=settings.TASKS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    arguments = parser.parse_args()
    seeds = np.arange(arguments.seeds, dtype=np.uint32) + np.uint32(arguments.first_seed)
    print("| task | variant | solved | mean | worst | solved after |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    for name in arguments.tasks:
        for variant in arguments.variants:
            print(row(name, variant, seeds), flush=True)


def row(name: str, variant: str, seeds: np.ndarray) -> str:
    task = make_task(name, VARIANTS[variant])
    steps, returns = settings.curves(task, seeds, warm_up=VARIANTS[variant].warm_up)
    after = solved_after(Curves(steps, returns), settings.TASKS[name][2])
    solved = f"{np.isfinite(after).sum()} of {len(seeds)}"
    return (
        f"| {name} | {variant} | {solved} | {returns[-1].mean():.4g} | {returns[-1].min():.4g} | "
        f"{np.median(after):,.0f} |"
    )


def make_task(name: str, variant: Variant) -> Task:
    space, limit, _, thousands = settings.TASKS[name]

    def factory(shape: Any, size: int, preprocess_observations_fn: Any = None) -> PPONetworks:
        distribution = space.distribution()
        shared: dict[str, Any] = {
            "hidden_layer_sizes": (64, 64),
            "activation": variant.activation,
            "kernel_init": variant.hidden,
            "preprocess_observations_fn": preprocess_observations_fn,
        }
        policy = networks.make_policy_network(distribution.param_size, shape, **shared)
        value = networks.make_value_network(shape, **shared)
        return PPONetworks(
            with_output(policy, variant.policy_output),
            with_output(value, variant.value_output),
            distribution,
        )

    return Task(
        environment=lambda: settings.with_space(getattr(settings.correct, name)(), space),
        settings=PPOConfig(episode_length=limit, num_timesteps=1000 * thousands),
        network_factory=factory,
    )


def with_output(
    network: networks.FeedForwardNetwork, init: Initializer
) -> networks.FeedForwardNetwork:
    """The network with other initial weights in its last layer."""

    def init_all(key: jax.Array) -> Any:
        layers = dict(network.init(key)["params"])
        last = max(layers)
        kernel = init(jax.random.fold_in(key, 1), layers[last]["kernel"].shape)
        return {"params": {**layers, last: {**layers[last], "kernel": kernel}}}

    return dataclasses.replace(network, init=init_all)


if __name__ == "__main__":
    main()
