"""A project that trains the tasks of tasks.py, and processes that are timed from outside."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import project

HERE = Path(__file__).parent


@contextlib.contextmanager
def rendered() -> Iterator[Path]:
    """As `project.rendered`, with the tasks `pendulum` and `cartpole`."""
    with project.rendered() as src:
        shutil.copy(HERE / "tasks.py", src / "my_env" / "config.py")
        yield src


def train(task: str, run: Path, settings: Mapping[str, object]) -> list[str]:
    """The command that trains; `settings` are flags of `train`."""
    command = [sys.executable, "-m", "my_env", "train", task, "--run-dir", str(run)]
    return command + flags(settings)


def flags(settings: Mapping[str, object]) -> list[str]:
    """Settings as arguments of `train`."""
    found: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found += [f"--{flag}", str(value)]
    return found


def variables(src: Path, cache: str) -> dict[str, str]:
    """Environment variables for a process: where `my_env` is, and what is compiled already."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(src), str(project.ROOT / "tests" / "check")]),
        **cached(cache),
    }


def cached(folder: str) -> dict[str, str]:
    """Environment variables that keep all compiled programs in a folder."""
    return {
        "JAX_COMPILATION_CACHE_DIR": folder,
        # The emitted project sets these two by itself.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def timed(command: Sequence[str], env: Mapping[str, str]) -> tuple[float, str]:
    """Wall seconds of a process, imports included, and its stdout."""
    start = time.perf_counter()
    output = subprocess.run(command, env=env, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if output.returncode:
        raise SystemExit(f"{' '.join(command)}\n{output.stderr}")
    return seconds, output.stdout


def rows(run: Path) -> list[dict[str, float]]:
    """What metrics.jsonl has so far; a line that is still being written is left out.

    So is what Brax's imports print where a peer's stdout is metrics.jsonl.
    """
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
