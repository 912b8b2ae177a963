"""What a setting of PPO does to the returns of published tasks, over seeds.

    python benchmarks/settings.py [--seeds 5] [--first-seed 0] [--steps N]
                                  [--tasks Acrobot ...] [--variants default ...]

The default settings, with the task's own time limit and one setting changed at a time. All seeds
train in one program. Printed are the steps, in thousands, after which the mean return of 128
deterministic episodes reaches the published threshold and stays there to the end ("-" where it
does not), and the return at the end, both by seed.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "template/src/{{package_name}}"), str(ROOT / "tests/check")]
from kit.env.actions import Continuous, Discrete  # noqa: E402
from kit.ppo import algorithm  # before Brax, which it keeps quiet  # noqa: E402
from kit.ppo.networks import make_network_factory  # noqa: E402
from kit.ppo.settings import PPOConfig  # noqa: E402
from kit.ppo.task import Task  # noqa: E402
from kit.tools.tune.ladder import solved_after  # noqa: E402
from kit.tools.tune.trainer import Curves  # noqa: E402

# isort: split
import correct  # noqa: E402  environments of tests/check
import jax  # noqa: E402
import numpy as np  # noqa: E402
from brax.training.agents.ppo import losses  # noqa: E402

# Action space, time limit, threshold and thousands of steps; as Gymnasium registers them.
TASKS: dict[str, tuple[Any, int, float, int]] = {
    "Pendulum": (Continuous(1), 200, -200.0, 400),
    "CartPole": (Discrete(2), 500, 475.0, 200),
    "Acrobot": (Discrete(3), 500, -100.0, 200),
    "MountainCarContinuous": (Continuous(1), 999, 90.0, 400),
}
CONSTANT: dict[str, Any] = {"learning_rate_schedule": "constant"}
RAW: dict[str, Any] = {"normalize_advantage": False}
FOUND: dict[str, Any] = {  # by a search of `tune` for CartPole
    **{"learning_rate": 1.3e-3, "entropy_cost": 1.4e-3, "discounting": 0.9907},
    **{"gae_lambda": 0.89, "clipping_epsilon": 0.16, "reward_scaling": 0.027},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "constant learning rate": CONSTANT,
    "discount factor 0.99": {"discounting": 0.99},
    "entropy cost 0.01": {"entropy_cost": 1e-2},
    "entropy cost 0.05": {"entropy_cost": 5e-2},
    "value starts at 0": {"init_value_from_rollouts": False},
    "bootstrap_on_timeout": {"bootstrap_on_timeout": True},
    "cut-off steps as in Brax": {},
    "rewards as they are": {"normalize_rewards": False},
    "without normalisation": {"normalize_observations": False},
    "without normalisation, value starts at 0": {
        "normalize_observations": False,
        "init_value_from_rollouts": False,
    },
    "rewards x 10": {"reward_scaling": 1.0},
    "rewards / 10": {"reward_scaling": 0.01},
    "advantages not normalised": RAW,
    "advantages not normalised, rewards x 10": {**RAW, "reward_scaling": 1.0},
    "advantages not normalised, rewards / 10": {**RAW, "reward_scaling": 0.01},
    "earlier defaults": {
        **CONSTANT,
        "discounting": 0.95,
        "entropy_cost": 1e-2,
        "init_value_from_rollouts": False,
    },
    "found": FOUND,
    "found, advantages not normalised": {**FOUND, **RAW},
}
EVALUATIONS = 25


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of the task's")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    arguments = parser.parse_args()
    seeds = np.arange(arguments.seeds, dtype=np.uint32) + np.uint32(arguments.first_seed)
    print(
        "| task | variant | solved after, thousand steps | solved | return at the end | seconds |"
    )
    print("| --- | --- | --- | ---: | --- | ---: |", flush=True)
    for name in arguments.tasks:
        for variant in arguments.variants:
            print(row(name, variant, seeds, arguments.steps), flush=True)


def row(name: str, variant: str, seeds: np.ndarray, steps: int | None) -> str:
    space, limit, threshold, thousands = TASKS[name]
    steps = steps or 1000 * thousands
    task = Task(
        environment=lambda: with_space(getattr(correct, name)(), space),
        settings=dataclasses.replace(
            PPOConfig(episode_length=limit, num_timesteps=steps), **VARIANTS[variant]
        ),
        network_factory=make_network_factory(space),
    )
    start = time.perf_counter()
    loss = brax_loss if variant == "cut-off steps as in Brax" else algorithm.ppo_loss
    with mock.patch.object(algorithm, "ppo_loss", loss):
        at, returns = curves(task, seeds)
    after = solved_after(Curves(at, returns), threshold)
    solved = [f"{x / 1000:.0f}" if np.isfinite(x) else "-" for x in after]
    last = " ".join(f"{x:.1f}" for x in returns[-1])
    count = f"{np.isfinite(after).sum()}/{len(seeds)}"
    seconds = time.perf_counter() - start
    return f"| {name} | {variant} | {' '.join(solved)} | {count} | {last} | {seconds:.0f} |"


def brax_loss(*args: Any, networks: Any, settings: PPOConfig, factors: Any) -> Any:
    """Brax's own, with the arguments of `ppo_loss`."""
    return losses.compute_ppo_loss(
        *args,
        ppo_network=networks,
        clipping_epsilon_value=settings.clipping_epsilon_value,
        normalize_advantage=settings.normalize_advantage,
        vf_coefficient=settings.vf_loss_coefficient,
        entropy_cost=factors.entropy_cost,
        discounting=factors.discounting,
        reward_scaling=factors.reward_scaling,
        gae_lambda=factors.gae_lambda,
        clipping_epsilon=factors.clipping_epsilon,
    )


def with_space(env: Any, space: Any) -> Any:
    env.action_space = space
    return env


def curves(
    task: Task, seeds: np.ndarray, *, warm_up: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Steps, [evaluations], and returns, [evaluations, seeds].

    With `warm_up` the running statistics are those after the first update, from the start.
    """
    algorithm, config = task.make_ppo(), task.settings
    updates = -(-config.num_updates // EVALUATIONS)
    state = jax.jit(jax.vmap(algorithm.init))(seeds)
    epoch = jax.jit(jax.vmap(algorithm.epoch, in_axes=(0, None)))
    evaluate = jax.jit(jax.vmap(algorithm.evaluate))
    if warm_up:
        state = state.replace(normalizer_params=epoch(state, np.int32(1))[0].normalizer_params)
    returns = []
    for _ in range(config.num_updates // updates):
        state, _ = epoch(state, np.int32(updates))
        returns.append(np.asarray(evaluate(state)["eval/episode_reward"]))
    steps = config.steps_per_update * updates * (1 + np.arange(len(returns)))
    return steps, np.stack(returns)


if __name__ == "__main__":
    main()
