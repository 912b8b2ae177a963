"""The commands of a project, and the Python in its README, as its user runs them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax
import pytest
from PIL import Image
from projects import Render

pytestmark = pytest.mark.slow

GIVE_BACK = """
import jax, jax.numpy as jnp, numpy as np

def put(tree, devices):
    sharding = jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(devices), ("i",)), jax.sharding.PartitionSpec("i")
    )
    return jax.tree.map(
        lambda x: jax.device_put(jnp.stack([jnp.asarray(x)] * len(devices)), sharding), tree
    )

if not hasattr(jax, "device_put_replicated"):  # gone since JAX 0.10, called by Brax 0.14.2
    jax.device_put_replicated = put
"""


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
    assert "32,768 steps (8 updates of 4,096; 30,000 asked for)" in result.stdout
    assert not result.stderr
    return work / "r"


def test_play_compares_with_a_random_policy_and_draws(
    trained: Path, work: Path, env: dict[str, str]
) -> None:
    result = run(work, env, "-m", "my_env", "play", "r", "--episodes", "32")
    assert (result.returncode, result.stderr) == (0, "")
    returns = dict(re.findall(r"(trained|random)\D*?(-?\d+\.\d+)", result.stdout))
    assert float(returns["trained"]) > float(returns["random"]) / 2
    with Image.open(trained / "play.gif") as gif:
        assert getattr(gif, "n_frames") > 10  # noqa: B009 - not every format has it


def test_a_dear_reset_is_made_once_and_drawn_from(work: Path, env: dict[str, str]) -> None:
    train = ["-m", "my_env", "train", "--num-timesteps", "4096", "--num-evals", "2"]
    result = run(work, env, *train, "--resets", "pool", "--num-starts", "40", "--run-dir", "pool")
    assert (result.returncode, result.stderr) == (0, "")
    # The starts are among what a run goes on from: 3 for each of 16 environments.
    (newest,) = (work / "pool" / "checkpoints").glob("*4096.msgpack")
    kept = flax.serialization.msgpack_restore(newest.read_bytes())
    assert kept[".env_state.info['reset_pool'][0]"].shape == (16, 3, 2)


def test_bench_prints_speeds(work: Path, env: dict[str, str]) -> None:
    result = run(work, env, "-m", "my_env", "bench")
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"[\d,]+ environments +[\d,]+ steps/s", result.stdout)) == 7


def test_the_readme_s_python_runs(
    project: Path, trained: Path, work: Path, env: dict[str, str]
) -> None:
    load, brax = re.findall(r"```python\n(.*?)```", (project / "README.md").read_text(), re.S)
    assert '"runs/..."' in load
    result = run(work, env, "-c", load.replace("runs/...", "r") + "print(action)")
    assert result.stdout.strip() in {"0", "1", "2", "3"}, result.stderr
    assert "100_000" in brax
    code = GIVE_BACK + brax.replace("100_000", "5_000") + "print(metrics['eval/episode_reward'])"
    result = run(work, env, "-c", code)
    assert float(result.stdout) < 0, result.stderr


def test_a_run_that_is_killed_goes_on(trained: Path, work: Path, env: dict[str, str]) -> None:
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


def test_check_says_what_no_longer_fits_a_changed_answer(
    work: Path, env: dict[str, str], render: Render, tmp_path: Path
) -> None:
    changed = shutil.copytree(render(observation="vector", vector_size=7), tmp_path / "changed")
    user_file = changed / "src" / "my_env" / "env.py"
    user_file.write_text(user_file.read_text().replace("spec.OBSERVATION_SIZE", "2"))
    env = env | {"PYTHONPATH": str(changed / "src")}
    result = run(work, env, "-m", "my_env", "check", "--json")
    assert result.returncode == 1
    (found, *_) = json.loads(result.stdout)["violations"]
    assert found["rule"] == "as-answered"
    assert found["actual"] == "observation_size is 2"


def test_what_changed_since_the_run_is_said(
    trained: Path, work: Path, env: dict[str, str], render: Render
) -> None:
    wider = render(observation="vector", actions="discrete", vector_size=3)
    result = run(work, env | {"PYTHONPATH": str(wider / "src")}, "-m", "my_env", "play", "r")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "[2]" in result.stderr
    assert "[3]" in result.stderr
