"""The emitted loop beside Brax's own `ppo.train`: same skeleton, settings, wrapper and networks.

    python benchmarks/speed.py [--repeats 5] [--times 1]

Each measurement is a process of its own. The two loops take turns, first with an empty compilation
cache (cold), then with what that run left (warm). Printed are medians, and the ratio of Brax's
figure to the loop's. The environment alone is measured by wrappers.py. For a GPU, --times K trains
with K times as many environments, rollouts in a minibatch, and steps.
"""

import argparse
import dataclasses
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
    parser.add_argument("--times", type=int, default=1, metavar="K")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        what, src, threshold = arguments.worker
        print(json.dumps(WORKERS[what](Path(src), float(threshold), arguments.times)))
        return
    with project.rendered() as src:
        times = arguments.times
        yardstick = run("yardstick", src, 0.0, times)
        print_machine(yardstick)
        found: dict[str, list[dict]] = {}
        for _ in range(arguments.repeats):
            for loop in ("emitted", "brax"):
                with tempfile.TemporaryDirectory() as cache:
                    for state in ("cold", "warm"):
                        result = run(loop, src, yardstick["solved"], times, cache)
                        found.setdefault(f"{loop} {state}", []).append(result)
        print_training(found)


def run(what: str, src: Path, threshold: float, times: int, cache: str | None = None) -> dict:
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    if cache:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    environment["STARTED"] = str(time.time())
    command = [sys.executable, __file__, "--worker", what, str(src), str(threshold)]
    command += ["--times", str(times)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True)
    if output.returncode:
        raise SystemExit(output.stderr)
    return json.loads(output.stdout.splitlines()[-1])


# What runs in a process of its own.


def yardstick(src: Path, _: float, times: int) -> dict:
    my_env = project.import_project(src)
    import jax
    from my_env.config import task

    best, random = project.best_and_random_return(my_env, task)
    return {
        "best": best,
        "random": random,
        "solved": best - SOLVED * (best - random),
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


def enlarged(task, times: int):
    settings = task.settings
    names = ("num_envs", "batch_size", "num_timesteps")
    more = {name: times * getattr(settings, name) for name in names}
    return dataclasses.replace(task, settings=dataclasses.replace(settings, **more))


def emitted(src: Path, threshold: float, times: int) -> dict:
    project.import_project(src)
    from my_env.config import task
    from my_env.kit import train
    from rich.console import Console

    compiled, solved, speeds = project.watch_compilations(), [], []

    def report(row) -> None:
        if row["eval/episode_reward"] >= threshold:
            solved.append(time.time())
        if "training/sps" in row:
            speeds.append(row["training/sps"])

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        task = enlarged(task, times)
        train(task, run_dir=Path(folder) / "run", report=report, console=Console(file=nowhere))
        return result(compiled, solved[0] if solved else None, statistics.median(speeds))


def brax(src: Path, threshold: float, times: int) -> dict:
    project.import_project(src)
    from brax.training.agents.ppo import train as ppo
    from my_env.config import task
    from my_env.kit import enable_brax_trainers, wrap_for_training

    enable_brax_trainers()
    compiled, solved, speeds = project.watch_compilations(), [], []

    def progress(_, metrics) -> None:
        if metrics["eval/episode_reward"] >= threshold:
            solved.append(time.time())
        if "training/sps" in metrics:
            speeds.append(metrics["training/sps"])

    ppo.train(
        task.environment(),
        wrap_env_fn=wrap_for_training,
        network_factory=task.network_factory,
        progress_fn=progress,
        **project.settings_for_brax(enlarged(task, times).settings),
    )
    # The first epochs compile (the second too, on some versions of JAX).
    return result(compiled, solved[0] if solved else None, statistics.median(speeds[2:]))


WORKERS = {"yardstick": yardstick, "emitted": emitted, "brax": brax}


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


if __name__ == "__main__":
    main()
