"""The emitted loop beside Brax's own `ppo.train`: the same skeleton, settings, wrapper, networks.

    python benchmarks/speed.py [--repeats 5]

Each measurement is a process of its own, the two loops in turn, first with an empty compilation
cache (cold), then with what that left (warm). Printed are medians, and what
Brax's figure is as a multiple of the loop's.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import project

SOLVED = 0.05  # of the way from the best possible return to a random policy's


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        what, src, threshold = arguments.worker
        print(json.dumps(WORKERS[what](Path(src), float(threshold))))
        return
    with project.rendered() as src:
        yardstick = run("yardstick", src, 0.0)
        print_machine(yardstick)
        found: dict[str, list[dict]] = {}
        for _ in range(arguments.repeats):
            for loop in ("emitted", "brax"):
                with tempfile.TemporaryDirectory() as cache:
                    for state in ("cold", "warm"):
                        result = run(loop, src, yardstick["solved"], cache)
                        found.setdefault(f"{loop} {state}", []).append(result)
        print_training(found)
        print_environment([run("environment", src, 0.0) for _ in range(arguments.repeats)])


def run(what: str, src: Path, threshold: float, cache: str | None = None) -> dict:
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    if cache:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    environment["STARTED"] = str(time.time())
    command = [sys.executable, __file__, "--worker", what, str(src), str(threshold)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True)
    if output.returncode:
        raise SystemExit(output.stderr)
    return json.loads(output.stdout.splitlines()[-1])


# What runs in a process of its own.


def yardstick(src: Path, _: float) -> dict:
    import jax

    my_env = project.import_project(src)
    from my_env import spec
    from my_env.kit.rollout import evaluate, random_policy

    env, n = my_env.MyEnv(), 1024
    chance = random_policy(spec.ACTIONS, env.action_size)
    returns = evaluate(env, chance, episode_length=spec.EPISODE_LENGTH, num_episodes=n).returns
    starts = jax.vmap(env.reset)(jax.random.split(jax.random.PRNGKey(1), n))
    best = jax.vmap(lambda start: env.best_return(start, spec.EPISODE_LENGTH))(starts).mean()
    return {
        "best": float(best),
        "random": float(returns.mean()),
        "solved": float(best - SOLVED * (best - returns.mean())),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def result(compiled: list[float], solved_at: float | None, sps: float) -> dict:
    return {
        "wall": time.time() - float(os.environ["STARTED"]),
        "compilations": len(compiled),
        "compile seconds": sum(compiled),
        "solved after": solved_at and solved_at - float(os.environ["STARTED"]),
        "sps": sps,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def emitted(src: Path, threshold: float) -> dict:
    my_env = project.import_project(src)
    from my_env.config import Config, network_factory
    from my_env.kit.train import train

    compiled, solved = project.watch_compilations(), []

    def report(row) -> None:
        if row["eval/episode_reward"] >= threshold:
            solved.append(time.time())

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        from rich.console import Console

        run_dir = Path(folder) / "run"
        config = Config()
        train(my_env.MyEnv(), config, network_factory, run_dir=run_dir, report=report,
              console=Console(file=nowhere))  # fmt: skip
        found = result(compiled, solved[0] if solved else None, 0.0)
    found["sps"] = speed_of_updates(my_env, config, network_factory)
    return found


def speed_of_updates(my_env, config, network_factory) -> float:
    """Steps/s of updates alone, evaluation taken off."""
    import jax
    import numpy as np
    from my_env.kit.ppo import make_ppo

    ppo = make_ppo(my_env.MyEnv(), config, network_factory)
    state, epoch = jax.jit(ppo.init)(np.uint32(0)), jax.jit(ppo.epoch)
    seconds = {}
    for updates in (0, 0, 30):
        start = time.perf_counter()
        jax.block_until_ready(epoch(state, np.int32(updates)))
        seconds[updates] = time.perf_counter() - start
    return 30 * config.steps_per_update / (seconds[30] - seconds[0])


def brax(src: Path, threshold: float) -> dict:
    project.give_back_device_put_replicated()
    my_env = project.import_project(src)
    from brax.training.agents.ppo import train as ppo
    from my_env.config import Config, network_factory
    from my_env.kit.wrappers import wrap_for_training

    compiled, solved, speeds = project.watch_compilations(), [], []

    def progress(_, metrics) -> None:
        if metrics["eval/episode_reward"] >= threshold:
            solved.append(time.time())
        if "training/sps" in metrics:
            speeds.append(metrics["training/sps"])

    config = Config()
    ppo.train(
        my_env.MyEnv(),
        wrap_env_fn=wrap_for_training,
        network_factory=network_factory,
        progress_fn=progress,
        **{name: getattr(config, name) for name in project.BRAX_TAKES},
    )
    # The first epochs compile (the second too, on some versions of JAX).
    return result(compiled, solved[0] if solved else None, statistics.median(speeds[2:]))


def environment(src: Path, _: float) -> dict:
    my_env = project.import_project(src)
    from my_env import spec
    from my_env.kit.rollout import measure_speed

    return {
        str(num_envs): {
            name: measure_speed(
                my_env.MyEnv(),
                spec.ACTIONS,
                num_envs,
                episode_length=spec.EPISODE_LENGTH,
                resets="cached" if name == "brax" else "fresh",
            )
            for name in ("emitted", "brax")
        }
        for num_envs in (1, 8, 64, 512, 1024, 4096, 8192)
    }


WORKERS = {"yardstick": yardstick, "emitted": emitted, "brax": brax, "environment": environment}


# What is printed.


def print_machine(yardstick: dict) -> None:
    print(
        f"{yardstick['device']}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"JAX {yardstick['jax']}\n"
        f"best possible return {yardstick['best']:.2f}, random {yardstick['random']:.2f}, "
        f"solved from {yardstick['solved']:.2f}\n",
        flush=True,
    )


def print_training(found: dict[str, list[dict]]) -> None:
    print("| training, medians | emitted | `ppo.train` | ratio |\n| --- | ---: | ---: | ---: |")
    for state in ("cold", "warm"):
        for name in ("wall", "solved after", "compilations", "compile seconds", "sps", "peak MB"):
            values = [
                [row[name] for row in found[f"{loop} {state}"]] for loop in ("emitted", "brax")
            ]
            if any(value is None for row in values for value in row):
                print(f"| {state}: {name} | not reached in every run | | |")
                continue
            ours, theirs = map(statistics.median, values)
            print(f"| {state}: {name} | {ours:,.1f} | {theirs:,.1f} | {theirs / ours:.2f} |")
    print(flush=True)


def print_environment(found: list[dict]) -> None:
    print("| environment, steps/s | fresh resets | Brax's wrapper | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for num_envs in found[0]:
        ours, theirs = (
            statistics.median(row[num_envs][name] for row in found) for name in ("emitted", "brax")
        )
        print(f"| {int(num_envs):,} | {ours:,.0f} | {theirs:,.0f} | {theirs / ours:.2f} |")


if __name__ == "__main__":
    main()
