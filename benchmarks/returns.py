"""How near training comes to the best possible return, with the default settings, over seeds.

    python benchmarks/returns.py [--seeds 5] [--brax] [--kinds "hybrid discrete"]
                                 [--reward-scales 1e5 1e-5]

For each kind of project: the mean return of 256 episodes after training, and the gap, which is its
distance from the best possible return as a share of a random policy's distance. With --brax the
same for Brax's own `ppo.train` with the same settings, wrapper, networks and seeds. With
--reward-scales rewards are multiplied by each of these numbers while training.
"""

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

import project

LIMITS = {
    "vector continuous": 0.05,
    "vector discrete": 0.10,
    "vector multi_discrete": 0.10,
    "hybrid continuous": 0.10,
    "hybrid discrete": 0.10,
    "hybrid multi_discrete": 0.10,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--brax", action="store_true")
    parser.add_argument("--kinds", nargs="+", default=LIMITS, metavar="KIND")
    parser.add_argument("--reward-scales", nargs="+", type=float, default=[1.0], metavar="SCALE")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        measure(
            *arguments.worker,
            seeds=arguments.seeds,
            brax=arguments.brax,
            scales=arguments.reward_scales,
        )
        return
    print("| kind | loop | returns, by seed | best | random | gaps, by seed | allowed |")
    print("| --- | --- | --- | ---: | ---: | --- | ---: |", flush=True)
    failed = 0
    for kind in arguments.kinds:
        observation, actions = kind.split()
        with project.rendered(observation, actions) as src:
            command = [sys.executable, __file__, "--worker", kind, str(src)]
            command += ["--seeds", str(arguments.seeds)] + ["--brax"] * arguments.brax
            command += ["--reward-scales", *map(str, arguments.reward_scales)]
            failed += subprocess.run(command).returncode != 0
    sys.exit(failed > 0)


def measure(kind: str, src: str, *, seeds: int, brax: bool, scales: list[float]) -> None:
    my_env = project.import_project(Path(src))
    import jax
    import numpy as np
    from brax.envs.base import Wrapper
    from brax.training.agents.ppo import train as ppo_train
    from brax.training.agents.ppo.networks import make_inference_fn
    from my_env.config import task
    from my_env.kit import enable_brax_trainers, wrap_for_training
    from my_env.kit.ppo.state import policy_params

    enable_brax_trainers()
    best, random = project.best_and_random_return(my_env, task)

    def ours_at(scale: float):
        class Scaled(Wrapper):
            def step(self, state, action):
                state = self.env.step(state, action)
                return state.replace(reward=scale * state.reward)

        ppo = dataclasses.replace(task, environment=lambda: Scaled(task.environment())).make_ppo()
        init, epoch = jax.jit(ppo.init), jax.jit(ppo.epoch)

        def ours(seed: int):
            state, _ = epoch(init(np.uint32(seed)), np.int32(task.settings.num_updates))
            return make_inference_fn(ppo.networks)(policy_params(state), deterministic=True)

        return ours

    def theirs(seed: int):
        # With more evaluations it rounds the steps up for each of them.
        settings = dataclasses.replace(task.settings, seed=seed)
        make_policy, params, _ = ppo_train.train(
            task.environment(),
            wrap_env_fn=wrap_for_training,
            network_factory=task.network_factory,
            **project.settings_for_brax(settings) | {"num_evals": 1},
        )
        return make_policy(params, deterministic=True)

    good = True
    loops = {f"emitted, rewards x {scale:g}": ours_at(scale) for scale in scales}
    for name, trained in (loops | {"`ppo.train`": theirs} if brax else loops).items():
        returns = [project.mean_return(task, trained(seed)) for seed in range(seeds)]
        gaps = [(best - value) / (best - random) for value in returns]
        good &= trained is theirs or max(gaps) <= LIMITS[kind]
        print(
            f"| {kind} | {name} | {' '.join(f'{value:.2f}' for value in returns)} | {best:.2f} "
            f"| {random:.2f} | {' '.join(f'{100 * gap:.1f} %' for gap in gaps)} "
            f"| {100 * LIMITS[kind]:.0f} % |",
            flush=True,
        )
    sys.exit(not good)


if __name__ == "__main__":
    main()
