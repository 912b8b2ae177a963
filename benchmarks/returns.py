"""How near training comes to the best possible return, with the default settings, over seeds.

    python benchmarks/returns.py [--seeds 5] [--brax] [--kinds "hybrid discrete"]

For each kind of project: the gap, which is the distance from the best possible return as a part of
a random policy's distance, for the policy after training, over the same 256 starts; and with --brax
the same for Brax's own `ppo.train` with the same settings, wrapper, networks and seeds.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import project

LIMITS = {"vector continuous": 0.05, "vector discrete": 0.10, "hybrid continuous": 0.10,
          "hybrid discrete": 0.10}  # fmt: skip
EPISODES = 256


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--brax", action="store_true")
    parser.add_argument("--kinds", nargs="+", default=LIMITS, metavar="KIND")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        measure(*arguments.worker, seeds=arguments.seeds, brax=arguments.brax)
        return
    print("| kind | loop | returns, by seed | best | random | gaps, by seed | allowed | seconds |")
    print("| --- | --- | --- | ---: | ---: | --- | ---: | ---: |", flush=True)
    failed = 0
    for kind in arguments.kinds:
        observation, actions = kind.split()
        with project.rendered(observation, actions) as src:
            command = [sys.executable, __file__, "--worker", kind, str(src)]
            command += ["--seeds", str(arguments.seeds)] + ["--brax"] * arguments.brax
            failed += subprocess.run(command).returncode != 0
    sys.exit(failed > 0)


def measure(kind: str, src: str, *, seeds: int, brax: bool) -> None:
    my_env = project.import_project(Path(src))
    import dataclasses

    import jax
    import numpy as np
    from my_env import spec
    from my_env.config import Config, network_factory
    from my_env.kit.ppo import make_ppo, policy_params
    from my_env.kit.rollout import evaluate, random_policy
    from my_env.kit.wrappers import wrap_for_training

    env, config = my_env.MyEnv(), Config()

    def mean_return(policy) -> float:
        result = evaluate(
            env, policy, episode_length=config.episode_length, num_episodes=EPISODES, seed=99
        )
        return float(result.returns.mean())

    # The starts that `evaluate` draws, from the first half of its key.
    key, _ = jax.random.split(jax.random.PRNGKey(99))
    keys = jax.random.split(key, EPISODES)
    best = float(
        jax.vmap(lambda k: env.best_return(env.reset(k), config.episode_length))(keys).mean()
    )
    chance = mean_return(random_policy(spec.ACTIONS, env.action_size))

    def ours(seed: int) -> float:
        ppo = make_ppo(env, dataclasses.replace(config, seed=seed), network_factory)
        state, _ = epoch(init(np.uint32(seed)), np.int32(config.num_updates))
        make_policy = make_inference_fn(ppo.networks)
        return mean_return(make_policy(policy_params(state), deterministic=True))

    def theirs(seed: int) -> float:
        settings = {name: getattr(config, name) for name in project.BRAX_TAKES}
        settings |= {"seed": seed, "num_evals": 1}  # with more it rounds the steps up for each
        make_policy, params, _ = ppo_train.train(
            env, wrap_env_fn=wrap_for_training, network_factory=network_factory, **settings
        )
        return mean_return(make_policy(params, deterministic=True))

    from brax.training.agents.ppo import train as ppo_train
    from brax.training.agents.ppo.networks import make_inference_fn

    project.give_back_device_put_replicated()
    ppo = make_ppo(env, config, network_factory)
    init, epoch = jax.jit(ppo.init), jax.jit(ppo.epoch)
    good = True
    for name, trained in (("emitted", ours), ("ppo.train", theirs)):
        if name == "ppo.train" and not brax:
            continue
        start = time.perf_counter()
        returns = [trained(seed) for seed in range(seeds)]
        gaps = [(best - value) / (best - chance) for value in returns]
        good &= name != "emitted" or max(gaps) <= LIMITS[kind]
        print(
            f"| {kind} | {name} | {' '.join(f'{value:.2f}' for value in returns)} | {best:.2f} "
            f"| {chance:.2f} | {' '.join(f'{100 * gap:.1f} %' for gap in gaps)} "
            f"| {100 * LIMITS[kind]:.0f} % | {time.perf_counter() - start:.0f} |",
            flush=True,
        )
    sys.exit(not good)


if __name__ == "__main__":
    main()
