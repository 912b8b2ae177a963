"""The commands of a project, and the Python in its README, as its user runs them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import Render

# One process, since the tests share a trained run.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("commands")]


@pytest.fixture(scope="module")
def project(render: Render) -> Path:
    return render(observation="vector", actions="discrete")


@pytest.fixture(scope="module")
def env(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    compiled = str(tmp_path_factory.mktemp("compiled"))
    return os.environ | {"PYTHONPATH": str(project / "src"), "JAX_COMPILATION_CACHE_DIR": compiled}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def run(work: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=work, env=env, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def trained(work: Path, env: dict[str, str]) -> Path:
    result = run(work, env, "-m", "my_env", "train", "--num-timesteps", "30000", "--run-dir", "r")
    assert result.returncode == 0, result.stderr
    assert "32,768 steps (30,000 asked for), which is 8 updates of 4,096, into" in result.stdout
    assert not result.stderr
    return work / "r"


def test_check_finds_nothing(work: Path, env: dict[str, str]) -> None:
    result = run(work, env, "-m", "my_env", "check")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"\d+ rules kept, [\d.]+ s\n", result.stdout), result.stdout


def test_play_compares_with_a_random_policy_and_draws(
    trained: Path, work: Path, env: dict[str, str]
) -> None:
    result = run(work, env, "-m", "my_env", "play", "r", "--episodes", "32")
    assert (result.returncode, result.stderr) == (0, "")
    (row,) = re.findall(r"return .*", result.stdout)
    trained_return, _, random_return, _ = map(float, re.findall(r"-?\d+\.\d+", row))
    assert trained_return > random_return / 2
    assert "distance " in result.stdout
    with Image.open(trained / "play.gif") as gif:
        assert getattr(gif, "n_frames") > 10  # noqa: B009 - not every format has it


@pytest.mark.long
def test_bench_prints_speeds(work: Path, env: dict[str, str]) -> None:
    result = run(work, env, "-m", "my_env", "bench")
    assert result.returncode == 0, result.stderr
    found = re.findall(r"([\d,]+) environments +([\d,]+) steps/s", result.stdout)
    counts, speeds = (
        np.array([int(x.replace(",", "")) for x in row]) for row in zip(*found, strict=True)
    )
    np.testing.assert_array_equal(counts, 8 ** np.arange(len(counts)))
    gains = speeds[1:] / speeds[:-1]
    assert np.all(gains[:-1] > 1.09), result.stdout
    assert gains[-1] < 1.11 or "left out: over 500 MB" in result.stdout


def test_the_readme_s_python_runs(
    project: Path, trained: Path, work: Path, env: dict[str, str]
) -> None:
    (load,) = re.findall(r"```python\n(.*?)```", (project / "README.md").read_text(), re.S)
    assert '"runs/..."' in load
    result = run(work, env, "-c", load.replace("runs/...", "r") + "print(action)")
    assert result.stdout.strip() in {"0", "1", "2", "3"}, result.stderr


@pytest.mark.long
def test_a_killed_run_can_be_resumed(work: Path, env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "my_env", "train", "--run-dir", "killed"]
    command += ["--num-timesteps", "4000000", "--num-evals", "200"]
    process = subprocess.Popen(command, cwd=work, env=env, stdout=subprocess.DEVNULL)
    deadline = time.time() + 120
    while len(list(work.glob("killed/checkpoints/*.msgpack"))) < 3 and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = max(int(path.stem) for path in work.glob("killed/checkpoints/*.msgpack"))
    asked = steps + 4096
    result = run(
        work, env, "-m", "my_env", "train", "--resume", "killed", "--num-timesteps", str(asked)
    )
    assert result.returncode == 0, result.stderr
    assert (work / "killed" / "checkpoints" / f"{asked:012d}.msgpack").is_file()
    rows = (work / "killed" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == len({row.split(",")[0] for row in rows})  # each number of steps once


@pytest.mark.long
@pytest.mark.parametrize("kind", ["vector", "hybrid"])
def test_the_skeleton_trains_in_64_bits(
    kind: str, work: Path, env: dict[str, str], render: Render
) -> None:
    small = ["--num-timesteps", "64", "--num-evals", "2", "--num-envs", "2", "--unroll-length"]
    small += ["4", "--batch-size", "2", "--num-minibatches", "1", "--num-eval-envs", "2"]
    project = render(observation=kind, actions="multi_discrete")
    env = env | {"PYTHONPATH": str(project / "src"), "JAX_ENABLE_X64": "1"}
    result = run(work, env, "-m", "my_env", "train", *small, "--run-dir", f"x64-{kind}")
    assert (result.returncode, result.stderr) == (0, "")
