"""What normalising the observations does to PPO, part by part.

    python benchmarks/normalisation.py [--seeds 8] [--steps 150000]
    python benchmarks/normalisation.py --defaults [--seeds 40] [--rows 1] [--tasks CartPole ...]

The inputs of the policy and of the value network are normalised, or centred alone, or divided by
their standard deviation or by their root mean square alone, or left as they are; the value starts
at 0, or at another constant that is added to it.

The first command asks which part keeps PPO from solving Acrobot with small batches (CleanRL's: 4
environments, rollouts of 128). The second one asks which of them could be the default: settings
and steps are those of settings.py, and observations are also given at another scale and with an
offset. Printed are the seeds that end at the threshold or above; benchmarks/LOG.md has them.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import settings  # before all of JAX, since it finds the kit  # isort: skip
import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State, Wrapper
from brax.training.networks import FeedForwardNetwork
from kit.ppo.networks import make_network_factory
from kit.ppo.settings import PPOConfig
from kit.ppo.task import Task

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
    "divided, if large": lambda obs, statistics: obs / jnp.maximum(statistics.std, 1),
    "divided by rms": lambda obs, statistics: obs / jnp.hypot(statistics.std, statistics.mean),
    "centred": lambda obs, statistics: obs - statistics.mean,
    "normalised": lambda obs, statistics: (obs - statistics.mean) / statistics.std,
}
# Inputs of the policy, those of the value network, and what the value starts at: None is the best
# constant, as by default.
Variant = tuple[str, str, float | None]
PARTS: list[Variant] = [
    *((kind, kind, 0.0) for kind in INPUTS if kind in ("as they are", "divided", "centred")),
    ("normalised", "normalised", 0.0),
    ("normalised", "as they are", 0.0),
    ("as they are", "normalised", 0.0),
    ("as they are", "as they are", -99.0),
    ("normalised", "normalised", -99.0),
    ("normalised", "normalised", 30.0),
]
DEFAULTS: list[Variant] = [
    ("normalised", "normalised", None),
    *((kind, kind, 0.0) for kind in INPUTS if kind not in ("centred", "normalised")),
    ("normalised", "as they are", 0.0),
    ("normalised", "divided by rms", 0.0),
]
# What the observations of a task are multiplied by, and what is added.
CHANGES = {"": (1.0, 0.0), " x 100": (100.0, 0.0), " + 10": (1.0, 10.0)}
TASKS = [task + change for task in settings.TASKS for change in CHANGES]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--defaults", action="store_true")
    parser.add_argument("--rows", type=int, help="the first rows of --defaults alone")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    arguments = parser.parse_args()
    print("| task | policy's inputs | value's inputs | value starts at | solved |")
    print("| --- | --- | --- | ---: | ---: |", flush=True)
    if arguments.defaults:
        for name in arguments.tasks:
            for variant in DEFAULTS[: arguments.rows]:
                row(name, default_settings(name), variant, arguments.seeds)
    else:
        for variant in PARTS:
            config = dataclasses.replace(SMALL_BATCHES, num_timesteps=arguments.steps)
            row("Acrobot", config, variant, arguments.seeds)


def default_settings(name: str) -> PPOConfig:
    _, limit, _, thousands = settings.TASKS[name.split()[0]]
    return PPOConfig(episode_length=limit, num_timesteps=1000 * thousands)


def row(name: str, config: PPOConfig, variant: Variant, seeds: int) -> None:
    policy, value, start = variant
    _, returns = settings.curves(
        make_task(name, config, variant), np.arange(seeds, dtype=np.uint32)
    )
    solved = int(np.sum(returns[-1] >= settings.TASKS[name.split()[0]][2]))
    at = "best constant" if start is None else f"{start:g}"
    print(f"| {name} | {policy} | {value} | {at} | {solved} of {seeds} |", flush=True)


def make_task(name: str, config: PPOConfig, variant: Variant) -> Task:
    policy, value, start = variant
    original = name.split()[0]
    space = settings.TASKS[original][0]
    scale, offset = CHANGES[name.removeprefix(original)]
    make = make_network_factory(space)

    def factory(shape: Any, size: int, preprocess_observations_fn: Any = None) -> Any:
        networks = make(shape, size, INPUTS[policy])
        net = make(shape, size, INPUTS[value]).value_network
        value_apply = net.apply
        if start is not None:
            net = FeedForwardNetwork(net.init, lambda *args: value_apply(*args) + start)
        return dataclasses.replace(networks, value_network=net)

    def environment() -> Env:
        env = getattr(settings.correct, original)()
        return settings.with_space(Changed(env, scale, offset), space)

    return Task(
        environment=environment,
        settings=dataclasses.replace(config, init_value_from_rollouts=start is None),
        network_factory=factory,
    )


class Changed(Wrapper):
    """Observations times `scale`, plus `offset`."""

    def __init__(self, env: Env, scale: float, offset: float) -> None:
        super().__init__(env)
        self.scale, self.offset = scale, offset

    def reset(self, rng: jax.Array) -> State:
        return self._changed(self.env.reset(rng))

    def step(self, state: State, action: jax.Array) -> State:
        before = state.replace(obs=(state.obs - self.offset) / self.scale)
        return self._changed(self.env.step(before, action))

    def _changed(self, state: State) -> State:
        return state.replace(obs=state.obs * self.scale + self.offset)


if __name__ == "__main__":
    main()
