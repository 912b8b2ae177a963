"""How long `check` takes on the skeletons.

    python benchmarks/check.py [--repeats 3]

Each run is a process of its own without anything compiled before. Prints medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import project


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(worker(Path(arguments.worker))))
        return
    columns = ("from process start", "check", "compiling", "compilations")
    print(f"| seconds | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for observation in ("vector", "hybrid"):
        for actions in ("continuous", "discrete"):
            with project.rendered(observation, actions) as src:
                runs = [run(src) for _ in range(arguments.repeats)]
            medians = [statistics.median(found[name] for found in runs) for name in columns]
            cells = [f"{x:.1f}" for x in medians[:-1]] + [f"{medians[-1]:.0f}"]
            print(f"| {observation} {actions} | {' | '.join(cells)} |", flush=True)


def run(src: Path) -> dict[str, float]:
    started = time.time()
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, __file__, "--worker", str(src)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True)
    if output.returncode:
        raise SystemExit(output.stderr)
    return {**json.loads(output.stdout), "from process start": time.time() - started}


def worker(src: Path) -> dict[str, float]:
    project.import_project(src)
    from my_env.config import task
    from my_env.kit.check import examine

    compiled = project.watch_compilations()
    report = examine(task)
    assert report.ok, report
    return {
        "check": report.seconds,
        "compiling": sum(compiled),
        "compilations": len(compiled),
    }


if __name__ == "__main__":
    main()
