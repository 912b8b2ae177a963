"""Copies of the template, and projects created from it."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import yaml

REPOSITORY = Path(__file__).parent.parent

QUICK_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"

Render = Callable[..., Path]


def config() -> dict[str, Any]:
    """copier.yml: the questions, and the settings that start with an underscore."""
    merged: dict[str, Any] = {}
    for document in yaml.safe_load_all((REPOSITORY / "copier.yml").read_text()):
        merged |= document
    return merged


def yours(package: str = "my_env") -> set[str]:
    """The user's files, as `_skip_if_exists` in copier.yml lists them."""
    lines = (re.sub("{{.*?}}/", "", line) for line in config()["_skip_if_exists"])
    return {line.replace("*", package) for line in lines}


def snapshot(target: Path) -> Path:
    """Copies the repository's files, including those not committed yet, without ignored ones."""
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
            if (path.is_file() or path.is_symlink())
            and not any(
                part in tools or part.endswith("_cache")
                for part in path.relative_to(REPOSITORY).parts
            )
        }
    for path in files:
        if path.exists():  # git also lists deleted files until the deletion is committed
            copy = target / path.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy, follow_symlinks=False)  # examples link to kit/
    return target


def copy(template: Path, target: Path, *, quiet: bool = True, **answers: Any) -> Path:
    """Creates a project as `copier copy --defaults --data ...` does, without `--trust`."""
    copier.run_copy(
        str(template),
        target,
        data=answers,
        defaults=True,
        quiet=quiet,
        unsafe=False,
        settings=copier.Settings(),
    )
    return target
