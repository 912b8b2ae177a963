"""Copies of the template, and projects made from it."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier

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
