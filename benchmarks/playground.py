"""Environments of MuJoCo Playground: this template's `train` beside Brax's `ppo.train`.

    uv run --with playground==0.2.0 python benchmarks/playground.py

Both have Playground's settings of PPO for the environment (`mujoco_playground.config`), the same
networks and the same number of steps; Brax has Playground's wrapper. Batches are smaller than
Playground's, which are made for a GPU, and so is the value network. Printed is the return of the
last evaluation, for each seed.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "template" / "src" / "{{package_name}}"))

from brax.training.agents.ppo import networks
from brax.training.agents.ppo import train as ppo
from kit import (
    Continuous,
    PPOConfig,
    Task,
    enable_brax_trainers,
    from_playground,
    make_network_factory,
    train,
)
from mujoco_playground import registry, wrapper
from mujoco_playground.config import dm_control_suite_params

SIZES = {"num_envs": 256, "batch_size": 256, "num_minibatches": 8, "unroll_length": 10}
LAYERS = {"policy_hidden_layer_sizes": (32, 32, 32, 32), "value_hidden_layer_sizes": (64, 64)}


def settings_of(name: str, steps: int) -> dict[str, Any]:
    """Playground's settings that both take, with smaller batches."""
    config = dm_control_suite_params.brax_ppo_config(name).to_dict()
    both = PPOConfig.__dataclass_fields__.keys() & config.keys() - {"num_evals"}
    return {name: config[name] for name in both} | SIZES | {"num_timesteps": steps}


def ours(name: str, settings: dict[str, Any], seed: int) -> float:
    def make() -> Any:
        return from_playground(registry.load(name, config_overrides={"impl": "jax"}))

    factory = make_network_factory(Continuous(make().action_size), **LAYERS)
    task = Task(make, PPOConfig(**settings, seed=seed), factory)
    with tempfile.TemporaryDirectory() as folder:
        run = train(task, name="task", run_dir=Path(folder) / "run")
        *_, last = (run / "metrics.jsonl").read_text().splitlines()
    return float(json.loads(last)["eval/episode_reward"])


def brax(name: str, settings: dict[str, Any], seed: int) -> float:
    seen: list[float] = []
    ppo.train(
        environment=registry.load(name, config_overrides={"impl": "jax"}),
        eval_env=registry.load(name, config_overrides={"impl": "jax"}),
        wrap_env_fn=wrapper.wrap_for_brax_training,
        network_factory=lambda *a, **k: networks.make_ppo_networks(*a, **k, **LAYERS),
        progress_fn=lambda _, metrics: seen.append(float(metrics["eval/episode_reward"])),
        num_evals=5,
        seed=seed,
        **settings,
    )
    return seen[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["CartpoleBalance", "ReacherEasy"])
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    enable_brax_trainers()
    for name in asked.names:
        settings = settings_of(name, asked.steps)
        print(name, settings, flush=True)
        for who in (ours, brax):
            began = time.monotonic()
            returns = [who(name, settings, seed) for seed in range(asked.seeds)]
            seconds = (time.monotonic() - began) / asked.seeds
            shown = ", ".join(f"{x:.0f}" for x in returns)
            print(f"{name}: {who.__name__} {shown}; {seconds:.0f} s for each", flush=True)


if __name__ == "__main__":
    main()
