"""The gallery: each example, trained on five seeds by its own config.py.

    python benchmarks/gallery.py [NAMES ...] [--seeds 5] [--write]

Printed are the threshold (`THRESHOLD` in config.py), the mean return of 128 deterministic episodes
after training, by seed, how many of them reach the threshold, the environment steps of each seed
and the seconds from the start of `train` to its end, all seeds together: by the clock, and of CPU
time. With --write the learning curve and some episodes of the best seed are kept beside the
example, as curve.png and play.gif.
"""

import argparse
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/pyproject.toml"))
LARGEST_GIF = 200_000  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAMES", help=", ".join(NAMES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep curve.png and play.gif")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no example is called {', '.join(unknown)}")
    print("| example | threshold | returns, by seed | solved | steps | seconds | CPU seconds |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |", flush=True)
    for name in arguments.names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, Path(folder) / name, arguments.seeds, arguments.write), flush=True)


def row(name: str, run: Path, seeds: int, write: bool) -> str:
    source = EXAMPLES / name / "src"
    (package,) = (path.name for path in source.iterdir())
    start, cpu_start = time.perf_counter(), cpu_seconds()
    subprocess.run(
        [
            *(sys.executable, "-m", package, "train", "--run-dir", run),
            *("--num-seeds", str(seeds), "--num-eval-envs", "128", "--deterministic-eval"),
        ],
        env=os.environ | {"PYTHONPATH": str(source)},
        stdout=sys.stderr,
        check=True,
    )
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu_start
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = metrics[-1]["steps"]
    last = [metric for metric in metrics if metric["steps"] == steps]
    returns = [metric["eval/episode_reward"] for metric in last]

    sys.path.insert(0, str(source))
    config = importlib.import_module(f"{package}.config")
    if write:
        shutil.copy(run / "learning_curve.png", EXAMPLES / name / "curve.png")
        length = min(metric["eval/avg_episode_length"] for metric in last)
        draw(package, config.task, run, EXAMPLES / name / "play.gif", length)
    solved = sum(x >= config.THRESHOLD for x in returns)
    return (
        f"| {name} | {config.THRESHOLD:g} | {' '.join(f'{x:.1f}' for x in returns)} "
        f"| {solved} of {seeds} | {steps:,} | {seconds:.0f} | {cpu:.0f} |"
    )


def cpu_seconds() -> float:
    """Of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def draw(package: str, task, run: Path, path: Path, length: float) -> None:
    """Draws about 200 frames of the best seed; fewer where the file would be large."""
    load_policy = importlib.import_module(package).load_policy
    gif = importlib.import_module(f"{package}.kit.run.gif")
    for frames in (200, 100, 50):
        gif.write_gif(
            path,
            task,
            load_policy(run),
            num_episodes=max(1, int(frames / (length / task.settings.action_repeat + 10))),
            max_frames=frames,
        )
        if path.stat().st_size < LARGEST_GIF:
            return
    sys.exit(f"{path} is larger than {LARGEST_GIF} bytes: let render draw smaller images.")


if __name__ == "__main__":
    main()
