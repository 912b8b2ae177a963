"""A project of each kind passes its own tests, in reasonable time and without noise."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from projects import Render


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the projects share what JAX compiled, apart from what other runs left."""
    return tmp_path_factory.mktemp("compiled")


@pytest.mark.slow
@pytest.mark.parametrize("actions", ["continuous", "discrete"])
@pytest.mark.parametrize("observation", ["vector", "hybrid"])
def test_its_own_tests_pass(render: Render, compiled: Path, observation: str, actions: str) -> None:
    project = render(observation=observation, actions=actions)
    started, worked = time.perf_counter(), cpu_seconds()
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=project,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(compiled)},
        capture_output=True,
        text=True,
    )
    # What a busy machine makes of it doesn't count.
    seconds = min(time.perf_counter() - started, cpu_seconds() - worked)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert re.search(r"\d+ passed", output), output
    assert not re.search(r"\d+ (warning|error|xfail|xpass)|Failed to import", output), output
    assert seconds < 120, f"took {seconds:.0f} s\n{output}"


def cpu_seconds() -> float:
    """What finished child processes have used."""
    usage = os.times()
    return usage.children_user + usage.children_system


def test_importing_it_prints_nothing(render: Render) -> None:
    """Brax by itself would complain of packages that nobody asked for."""
    project = render(observation="hybrid")
    code = "import my_env, my_env.__main__; import brax.envs; brax.envs.get_environment('my_env')"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(project / "src")},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
