"""The commands of README.md, run by someone who has only Python, pip and git."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import readme
from projects import Render, snapshot

pytestmark = pytest.mark.slow
one_clone = pytest.mark.xdist_group("newcomer")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as git would clone it."""
    repository = snapshot(tmp_path_factory.mktemp("newcomer") / "copier-brax-env")
    if shutil.which("git"):
        identity = ["-c", "user.name=n", "-c", "user.email=n@example.com"]
        for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "All"]):
            subprocess.run(["git", *command], cwd=repository, check=True)
    return repository


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables with which only Python and the system's commands are found."""
    folder = tmp_path_factory.mktemp("bin")
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    # Not a link: Python would look for its library beside it.
    (folder / "python3").write_text(f'#!/bin/sh\nexec "{base}" "$@"\n')
    (folder / "python3").chmod(0o755)
    # Messages name commands of uv where uv has set UV.
    kept = {
        k: v
        for k, v in os.environ.items()
        if k != "UV" and not k.startswith(("PYTHON", "PYTEST", "VIRTUAL_"))
    }
    compiled = str(tmp_path_factory.mktemp("compiled"))
    path = f"{folder}:/usr/bin:/bin"
    return kept | {
        "PATH": path,
        "JAX_COMPILATION_CACHE_DIR": compiled,
        "UV_PYTHON_DOWNLOADS": "never",
    }


def shell(command: str, cwd: Path, env: dict[str, str]) -> str:
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    assert "Traceback" not in result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def printed(clone: Path, bare: dict[str, str]) -> str:
    """What the README's first command prints."""
    return shell(readme.command("scaffold"), clone, bare)


@pytest.fixture(scope="module")
def project(clone: Path, printed: str) -> Path:
    return clone.parent / "my-env"


@one_clone
def test_the_readme_s_first_command_creates_a_project_and_trains_it(
    project: Path, printed: str, clone: Path, bare: dict[str, str]
) -> None:
    (run,) = (project / "runs").iterdir()
    assert (run / "config.json").is_file()
    assert (run / "learning_curve.png").is_file()
    # Pasted where the first command was, without uv on the PATH.
    (command,) = re.findall("See what it learned: (.*)", printed)
    shell(f"{command} --episodes 2 --max-frames 2", clone, bare)
    assert (run / "play.gif").is_file()


@pytest.mark.long
@one_clone
def test_what_copier_prints_works_without_uv(
    clone: Path, tmp_path: Path, bare: dict[str, str], project: Path
) -> None:
    """Up to an update, which needs the commit, and to an extra."""
    new = tmp_path / "new one"
    copier = f"{clone}/.venv/bin/copier"
    message = shell(f"{copier} copy --defaults {clone} '{new}' 2>&1", tmp_path, bare)
    lines = [line.strip() for line in message.splitlines() if line.startswith("  ")]
    change_folder, commit, without_uv, with_uv = lines[-4:]
    assert with_uv == "uv run my-env train"
    start, _ = without_uv.split(" train")
    commands = [change_folder, commit, f"{start} tune || test $? = 2"]
    said = shell("\n".join(commands), tmp_path, bare)
    (install,) = re.findall("install the extra with `(.*)`", said)
    assert " -m pip install " in install
    again = shell(f"{install} && .venv/bin/my-env tune --minutes 0 || test $? = 2", new, bare)
    assert "Nothing was found" in again
    shell(f"{copier} update --defaults", new, bare)


@pytest.mark.long
@one_clone
def test_the_project_s_readme_installs_what_tune_needs(
    project: Path, clone: Path, bare: dict[str, str]
) -> None:
    (command,) = re.findall(r"^(uv run .* tune) ", (project / "README.md").read_text(), re.M)
    output = shell(f"{clone}/.venv/bin/{command} --minutes 0 || test $? = 2", project, bare)
    assert "Nothing was found" in output


@pytest.mark.long
@one_clone
def test_what_the_project_s_ci_would_run_passes(
    project: Path, clone: Path, bare: dict[str, str]
) -> None:
    """Except for its tests, which run elsewhere and are only collected here."""
    workflow = (project / ".github" / "workflows" / "ci.yml").read_text()
    commands = re.findall(r"run: (uv .*)", workflow)
    assert len(commands) == 4
    for command in commands:
        shell(
            f"{clone}/.venv/bin/{command}",
            project,
            bare | {"PYTEST_ADDOPTS": "--collect-only --quiet"},
        )


@pytest.mark.long
@one_clone
def test_the_readme_s_second_command_finds_the_tests(clone: Path, bare: dict[str, str]) -> None:
    """The command runs this test too, so here it only collects."""
    output = shell(
        readme.command("tests"), clone, bare | {"PYTEST_ADDOPTS": "--collect-only --quiet"}
    )
    assert "tests/test_house.py::" in output
    assert "tests/test_render.py::" in output


@pytest.mark.long
@pytest.mark.parametrize(
    "resolution", ["lowest-direct", pytest.param("highest", marks=pytest.mark.long)]
)
def test_its_tests_pass_with_what_it_says_it_needs(
    render: Render, tmp_path: Path, bare: dict[str, str], resolution: str
) -> None:
    """With the oldest versions that pyproject.toml allows, then with the newest."""
    lowest = resolution == "lowest-direct"
    project = render(observation="hybrid", actions="discrete" if lowest else "continuous")
    tests = tomllib.loads((project / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    (pytest_needed,) = [line for line in tests if line.startswith("pytest")]
    environment, uv = tmp_path / "environment", f"{sys.executable} -m uv"
    shell(f"{uv} venv --quiet --python {sys.executable} {environment}", tmp_path, bare)
    shell(
        f"{uv} pip install --quiet --python {environment} --resolution {resolution} "
        f". '{pytest_needed}'",
        project,
        bare,
    )
    # The installed package, not the one in src/.
    output = shell(
        f"{environment}/bin/python -m pytest -p no:cacheprovider -o pythonpath=", project, bare
    )
    assert " passed" in output


@pytest.mark.long
@one_clone
def test_the_checker_needs_no_project(clone: Path, tmp_path: Path, bare: dict[str, str]) -> None:
    (command,) = re.findall(
        r"^uvx (--from TEMPLATE .*)", (clone / "docs/check.md").read_text(), re.M
    )
    command = command.replace("TEMPLATE", str(clone))
    assert "rules kept" in shell(f"{sys.executable} -m uv tool run {command}", tmp_path, bare)
