"""What `train` costs on top of kit/ppo.py, and what several devices do to its speed.

    python benchmarks/overhead.py [--seconds 60] [--repeats 5] [--devices 1 2 4]

The command `train` on Pendulum, which writes, shows and watches, beside ten lines that call `init`,
`epoch` and `evaluate` and do nothing else. Both make the same updates and evaluations, as many as
take about so many seconds, with a warm compilation cache. Steps/s leave compilation and evaluation
out; wall counts from the start of the process to its end. The two take turns; printed are medians
of the ratios of each turn.

After that, for information, steps/s of `train` on forced host devices. They share the cores, so
nothing gets faster where there are no more cores than devices.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import classic

GOALS = {"steps/s": 0.98, "wall": 1.05}  # `train` / the bare lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--devices", type=int, nargs="*", default=[1, 2, 4], metavar="N")
    parser.add_argument("--worker", type=int, metavar="STEPS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(bare(arguments.worker)))
        return
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}\n")
    with classic.rendered() as src, tempfile.TemporaryDirectory() as folder:
        measure_overhead(src, Path(folder), arguments.seconds, arguments.repeats)
        if arguments.devices:
            measure_devices(src, Path(folder), arguments.devices)


def measure_overhead(src: Path, folder: Path, seconds: float, repeats: int) -> None:
    env = classic.variables(src, f"{folder}/cache")

    def run_bare(steps: int) -> dict[str, float]:
        wall, output = classic.timed([sys.executable, __file__, "--worker", str(steps)], env)
        return json.loads(output.splitlines()[-1]) | {"wall": wall}

    def run_train(name: str, steps: int) -> dict[str, float]:
        command = classic.train("pendulum", folder / name, {"num_timesteps": steps})
        wall, _ = classic.timed(command, env)
        return result(folder / name) | {"wall": wall}

    # They fill the cache too.
    run_train("first", 100_000)
    run_bare(100_000)
    steps = int(seconds * run_bare(400_000)["steps/s"])
    print("| steps | `train`, steps/s | bare | `train`, wall s | bare |")
    print("| ---: | ---: | ---: | ---: | ---: |", flush=True)
    ratios: dict[str, list[float]] = {name: [] for name in GOALS}
    for repeat in range(repeats):
        # The order alternates, because a machine can get slower or faster in between.
        if repeat % 2:
            alone = run_bare(steps)
            ours = run_train(f"run{repeat}", steps)
        else:
            ours = run_train(f"run{repeat}", steps)
            alone = run_bare(steps)
        assert ours["steps"] == alone["steps"], (ours, alone)
        print(
            f"| {ours['steps']:,.0f} | {ours['steps/s']:,.0f} | {alone['steps/s']:,.0f} | "
            f"{ours['wall']:.1f} | {alone['wall']:.1f} |",
            flush=True,
        )
        for name in ratios:
            ratios[name].append(ours[name] / alone[name])
    for name, found in ratios.items():
        goal = f"{'at least' if name == 'steps/s' else 'at most'} {GOALS[name]}"
        print(f"\n{name}, `train` / bare: median {statistics.median(found):.3f} (goal {goal})")


def measure_devices(src: Path, folder: Path, counts: list[int]) -> None:
    print("\n| devices | one seed, steps/s | four seeds, steps/s |\n| ---: | ---: | ---: |")
    for count in counts:
        env = classic.variables(src, f"{folder}/cache")
        flags = os.environ.get("XLA_FLAGS", "")
        env["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}"
        cells = []
        for seeds in (1, 4):
            run = folder / f"devices{count}seeds{seeds}"
            settings = {"num_timesteps": 409_600, "num_devices": count, "num_seeds": seeds}
            classic.timed(classic.train("pendulum", run, settings), env)
            cells.append(f"{result(run)['steps/s']:,.0f}")
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


def result(run: Path) -> dict[str, float]:
    """Steps of a run of `train`, and steps/s of all seeds in all its updates but the first ones."""
    rows = classic.rows(run)
    rows = [row for row in rows if row["seed"] == rows[0]["seed"]]
    pairs = list(itertools.pairwise(rows[1:]))
    steps = [after["steps"] - before["steps"] for before, after in pairs]
    seconds = [n / after["training/sps"] for n, (_, after) in zip(steps, pairs, strict=True)]
    return {"steps": rows[-1]["steps"], "steps/s": sum(steps) / sum(seconds)}


def bare(steps: int) -> dict[str, float]:
    import my_env  # noqa: F401  before JAX, as in the command

    # isort: split
    import dataclasses

    import jax
    import numpy as np
    from my_env.config import pendulum

    config = dataclasses.replace(pendulum.settings, num_timesteps=steps)
    marks = np.linspace(0, config.num_updates, config.num_evals).round().astype(int)
    spans: list[tuple[int, float]] = []

    # The ten lines.
    ppo = dataclasses.replace(pendulum, settings=config).make_ppo()
    state = jax.jit(ppo.init)(np.uint32(0))
    epoch = jax.jit(ppo.epoch, donate_argnums=0).lower(state, np.int32(1)).compile()
    evaluate = jax.jit(ppo.evaluate).lower(state).compile()
    jax.block_until_ready(evaluate(state))
    for updates in np.diff(marks):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(epoch(state, np.int32(updates)))
        spans.append((updates * config.steps_per_update, time.perf_counter() - start))
        jax.block_until_ready(evaluate(state))

    counted = spans[1:]  # as `result` counts
    return {
        "steps": int(marks[-1]) * config.steps_per_update,
        "steps/s": float(sum(n for n, _ in counted) / sum(seconds for _, seconds in counted)),
    }


if __name__ == "__main__":
    main()
