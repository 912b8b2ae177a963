"""Made-up newer versions of the template, for projects to be updated to."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import projects
import yaml

PACKAGE = "template/src/{{package_name}}"
YOURS = projects.yours()  # in a project called my-env

# Whoever runs the tests may have no name, a signing key or hooks in the settings of git.
GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TEMPLATE_DIR": "",
    **{f"GIT_{who}_NAME": "n" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "n@example.com" for who in ("AUTHOR", "COMMITTER")},
}


def git(folder: Path, *command: str) -> str:
    return subprocess.run(
        ["git", *command], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def commit(folder: Path, message: str = "Work") -> None:
    if not (folder / ".git").exists():
        git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} no longer contains {old!r}, which the tests replace"
    path.write_text(text.replace(old, new, 1))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def files(folder: Path) -> dict[str, bytes]:
    """All files of a project by name, except git's own."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


def answers_of(project: Path) -> dict[str, Any]:
    return yaml.safe_load((project / ".copier-answers.yml").read_text())


def changed(project: Path) -> set[str]:
    """The files that differ from the last commit."""
    return {line[3:] for line in git(project, "status", "--porcelain", "-uall").splitlines()}


def update(project: Path, *, to: str | None = None, trust: bool = False, **answers: Any) -> None:
    """As `copier update --defaults --data ...` does."""
    copier.run_update(
        project,
        data=answers,
        vcs_ref=to,
        defaults=True,
        overwrite=True,
        quiet=True,
        unsafe=trust,
        settings=copier.Settings(),
    )


# ---- what a newer version may change ------------------------------------------------------------


def first(root: Path) -> None:
    """The first version: the template, plus a file and a question that later versions can drop."""
    (root / PACKAGE / "kit/spare.py").write_text(
        '"""Spare. From the template."""\n\nONE = 1\nTWO = 2\nTHREE = 3\nFOUR = 4\n'
    )
    (root / PACKAGE / "made_with.py.jinja").write_text('COLOUR = "{{ colour }}"\n')
    append(root / "copier.yml", "\ncolour:\n  type: str\n  default: red\n  ask: false\n")
    rules = root / "questions/rules.jinja"
    replace(rules, "choices = {", 'choices = {"colour": ["red", "green"],')


def kit_changed(root: Path) -> None:
    replace(root / PACKAGE / "kit/spare.py", "TWO = 2", "TWO = 2.0")
    append(root / PACKAGE / "kit/env/wrappers.py", "\n\nNEWER = True\n")


def kit_added(root: Path) -> None:
    (root / PACKAGE / "kit/added.py").write_text('"""New. From the template."""\n')


def kit_removed(root: Path) -> None:
    (root / PACKAGE / "kit/spare.py").unlink()


def kit_renamed(root: Path) -> None:
    """Without a migration: the user's changes in the old file are lost."""
    (root / PACKAGE / "kit/spare.py").rename(root / PACKAGE / "kit/renamed.py")


def question_added(root: Path) -> None:
    append(root / "copier.yml", "\ngravity:\n  type: int\n  default: 9\n  ask: false\n")
    replace(root / "questions/rules.jinja", "ranges = {", 'ranges = {"gravity": [1, 100], ')
    append(root / PACKAGE / "made_with.py.jinja", "GRAVITY = {{ gravity }}\n")


def question_removed(root: Path) -> None:
    text = (root / "copier.yml").read_text()
    (root / "copier.yml").write_text(re.sub(r"\ncolour:\n(  .*\n)+", "", text))
    replace(root / "questions/rules.jinja", '"colour": ["red", "green"],', "")
    replace(root / PACKAGE / "made_with.py.jinja", 'COLOUR = "{{ colour }}"\n', "")


def question_renamed(root: Path) -> None:
    text = (root / "copier.yml").read_text().replace("colour", "hue")
    text = text.replace("default: red", "default: \"{{ colour if colour is defined else 'red' }}\"")
    (root / "copier.yml").write_text(text)
    replace(root / "questions/rules.jinja", '"colour": ', '"hue": ')
    replace(root / PACKAGE / "made_with.py.jinja", "{{ colour }}", "{{ hue }}")


def default_changed(root: Path) -> None:
    replace(root / "copier.yml", "default: red", "default: green")
    replace(root / "copier.yml", "  default: 100\n", "  default: 250\n")


def dependency_moved(root: Path) -> None:
    pyproject = root / "template/pyproject.toml.jinja"
    replace(
        pyproject, '    "tyro>=1.0.0",\n', '    "tyro>=1.0.1",\n    "typing-extensions>=4.12",\n'
    )
    replace(pyproject, '    "ruff>=0.14",\n', '    "ruff>=0.14.1",\n')


def surroundings_changed(root: Path) -> None:
    workflow = root / "template/.github/workflows/ci.yml"
    replace(workflow, "timeout-minutes: 15", "timeout-minutes: 20")
    replace(root / "template/.gitignore", ".*_cache/\n", ".*_cache/\n/newer/\n")


def yours_changed(root: Path) -> None:
    """What only new projects get."""
    for path in (root / PACKAGE).glob("*.py*.jinja"):
        if "env.py" in path.name or "config.py" in path.name:
            append(path, "\n# newer\n")
    append(root / "template/README.md.jinja", "\n## Newer\n")
    replace(root / "template/LICENSE.jinja", "MIT License", "The MIT License")
    for path in (root / "template/tests").glob("*test_env.py*"):
        path.unlink()


CHANGES: dict[str, Callable[[Path], None]] = {
    change.__name__: change
    for change in (
        kit_changed,
        kit_added,
        kit_removed,
        kit_renamed,
        question_added,
        question_removed,
        question_renamed,
        default_changed,
        dependency_moved,
        surroundings_changed,
        yours_changed,
    )
}
# Pairs that exclude each other.
CLASHES = [
    {"kit_changed", "kit_removed"},
    {"kit_removed", "kit_renamed"},
    {"question_removed", "question_renamed"},
    {"question_removed", "default_changed"},
    {"question_renamed", "default_changed"},
]


class Versions:
    """A git repository in which each version follows v0.1.0 directly."""

    def __init__(self, repository: Path, template: Path, *, whole: bool = False) -> None:
        """Unless `whole`, kit/ has only the files that tests change, which makes updates faster."""
        self.repository = repository
        for name in ("hooks", "questions", "template"):
            shutil.copytree(template / name, repository / name)
        shutil.copy(template / "copier.yml", repository)
        if not whole:
            kit = repository / PACKAGE / "kit"
            kept = {kit / "__init__.py", kit / "ppo/state.py", kit / "env/wrappers.py"}
            for path in kit.rglob("*.*"):
                if path not in kept:
                    path.unlink()
        first(repository)
        commit(repository)
        git(repository, "tag", "v0.1.0")
        self.tags: dict[str, str] = {}

    def with_changes(self, *changes: Callable[[Path], None]) -> str:
        """The tag of the version that has all of `changes`."""
        key = " ".join(sorted(change.__name__ for change in changes))
        if key not in self.tags:
            git(self.repository, "checkout", "-q", "--detach", "v0.1.0")
            for change in changes:
                change(self.repository)
            commit(self.repository, key or "nothing")
            git(self.repository, "tag", tag := f"v0.{len(self.tags) + 2}.0")
            self.tags[key] = tag
        return self.tags[key]

    def project(self, target: Path, tag: str = "v0.1.0", **answers: Any) -> Path:
        """A project as that version creates it."""
        copier.run_copy(
            str(self.repository),
            target,
            data=answers,
            vcs_ref=tag,
            defaults=True,
            quiet=True,
            settings=copier.Settings(),
        )
        return target
