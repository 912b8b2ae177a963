"""What the tests share: a template that nobody edits meanwhile, and projects made from it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import pytest

REPOSITORY = Path(__file__).parent.parent

Render = Callable[..., Path]


def snapshot(target: Path) -> Path:
    """Copies the repository's files, those not committed yet included, without what is ignored."""
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
        ).stdout.decode()
        files = {REPOSITORY / name for name in listing.split("\0") if name}
    except (OSError, subprocess.CalledProcessError):  # no git, or an unpacked archive
        tools = {".git", ".venv", "__pycache__", "runs", "uv.lock"}
        files = {
            path
            for path in REPOSITORY.rglob("*")
            if path.is_file()
            and not any(
                part in tools or part.endswith("_cache")
                for part in path.relative_to(REPOSITORY).parts
            )
        }
    for path in files:
        if path.exists():  # git also lists what was deleted and not committed
            copy = target / path.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    return target


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template's repository, copied."""
    return snapshot(tmp_path_factory.mktemp("template") / "copier-brax-env")


def copy(template: Path, target: Path, **answers: Any) -> Path:
    """Makes a project as `copier copy --defaults --data ...` does, without trust."""
    copier.run_copy(
        str(template),
        target,
        data=answers,
        defaults=True,
        quiet=True,
        unsafe=False,
        settings=copier.Settings(),
    )
    return target


@pytest.fixture(scope="session")
def render(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """A function from answers to a project that has them; the same answers give the same folder."""
    projects: dict[str, Path] = {}

    def render(**answers: Any) -> Path:
        key = json.dumps(answers, sort_keys=True)
        if key not in projects:
            projects[key] = copy(template, tmp_path_factory.mktemp("project") / "it", **answers)
        return projects[key]

    return render
