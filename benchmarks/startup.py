"""Pendulum to a mean return of -200: wall seconds, beside Stable-Baselines3.

    python benchmarks/startup.py --sb3 PYTHON [--repeats 5]

PYTHON is the interpreter of an environment of its own, made with
`uv venv /tmp/sb3 && uv pip install --python /tmp/sb3 stable-baselines3==2.9.2 torch==2.13.0`
(of PyTorch the CPU build, where there is one: it imports faster).

Wall counts from the start of the process, imports included, to the first evaluation that reaches
-200 on average over the same number of episodes. Ours is the command `train`, seen from outside
through its metrics.jsonl, with an empty compilation cache (cold) and with what such a run left
(warm). Stable-Baselines3 has no compilation. It runs PyTorch in one thread with the settings that
rl-baselines3-zoo tuned for Pendulum. Both are evaluated after every few thousand steps: ours after
two updates of 4,096, the other after each of its updates of 4,096. The loops take turns.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import classic

THRESHOLD, EPISODES, STEPS = -200.0, 16, 409_600
GOALS = {"cold": 0.7, "warm": 0.38}  # ours / Stable-Baselines3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sb3", metavar="PYTHON")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.sb3 is None:
        print("Stable-Baselines3 is not measured: give --sb3 PYTHON.")
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| seed | loop | seconds to -200 | steps | return |", flush=True)
    print("| ---: | --- | ---: | ---: | ---: |")
    seconds: dict[str, list[float]] = {"cold": [], "warm": [], "sb3": []}
    with classic.rendered() as src:
        for seed in range(arguments.repeats):
            with tempfile.TemporaryDirectory() as folder:
                for state in ("cold", "warm"):
                    solved = ours(src, Path(folder) / state, f"{folder}/cache", seed)
                    seconds[state].append(report(seed, f"`train`, {state}", *solved))
            if arguments.sb3:
                seconds["sb3"].append(report(seed, "Stable-Baselines3", *sb3(arguments.sb3, seed)))
    print()
    medians = {name: statistics.median(found) for name, found in seconds.items() if found}
    for state, goal in GOALS.items():
        line = f"{state}: median {medians[state]:.1f} s"
        if "sb3" in medians:
            ratio = medians[state] / medians["sb3"]
            line += f", {ratio:.2f} of Stable-Baselines3's {medians['sb3']:.1f} s (goal {goal})"
        print(line)


def report(seed: int, name: str, seconds: float, steps: float, value: float) -> float:
    print(f"| {seed} | {name} | {seconds:.2f} | {steps:,.0f} | {value:.0f} |", flush=True)
    return seconds


def ours(src: Path, run: Path, cache: str, seed: int) -> tuple[float, float, float]:
    """Seconds, steps and the return at the evaluation that solved it."""
    settings = {
        "seed": seed,
        "num_timesteps": STEPS,
        "num_evals": 1 + STEPS // (2 * 4096),
        "num_eval_envs": EPISODES,
    }
    start = time.perf_counter()
    with subprocess.Popen(
        classic.train("pendulum", run, settings),
        env=classic.variables(src, cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while True:
            ended = process.poll() is not None
            for row in classic.rows(run):
                if row["eval/episode_reward"] >= THRESHOLD:
                    seconds = time.perf_counter() - start
                    process.kill()  # all programs are in the cache as soon as they are compiled
                    return seconds, row["steps"], row["eval/episode_reward"]
            if ended:
                raise SystemExit(f"Not solved.\n{process.stderr and process.stderr.read()}")
            time.sleep(0.01)


def sb3(python: str, seed: int) -> tuple[float, float, float]:
    given = {
        "seed": seed,
        "num_timesteps": STEPS,
        "threshold": THRESHOLD,
        "episodes": EPISODES,
    }
    script = classic.HERE / "peers" / "run_sb3.py"
    seconds, output = classic.timed([python, str(script), json.dumps(given)], os.environ)
    last = json.loads(output.splitlines()[-1])
    if last["return"] < THRESHOLD:
        raise SystemExit(f"Not solved: {last}")
    return seconds, last["steps"], last["return"]


if __name__ == "__main__":
    main()
