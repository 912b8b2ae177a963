"""The scripts that an update runs when it reaches a version that needs one."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import versions
from copier.errors import UnsafeTemplateError
from versions import YOURS, Versions, changed, commit, files, git, replace, update

HOOKS = Path(__file__).parent.parent / "hooks"
SPARE, RENAMED = "src/my_env/kit/spare.py", "src/my_env/kit/renamed.py"
MIGRATION = """
_migrations:
  - version: v0.2.0
    command:
      - "{{ _copier_python }}"
      - "{{ _copier_conf.src_path }}/hooks/moved.py"
      - "{{ package_name }}"
      - kit/spare.py
      - kit/renamed.py
"""


def moved(root: Path) -> None:
    """The file has a new name, and its first number is written differently."""
    versions.kit_renamed(root)
    replace(root / versions.PACKAGE / "kit/renamed.py", "ONE = 1", "ONE = 1.0")
    with (root / "copier.yml").open("a") as copier_yml:
        copier_yml.write(MIGRATION)


def test_an_edit_goes_with_its_file(history: Versions, project: Path) -> None:
    replace(project / SPARE, "FOUR = 4", "FOUR = 44")
    commit(project)
    mine = files(project)
    update(project, to=history.with_changes(moved), trust=True)
    assert not (project / SPARE).exists()
    text = (project / RENAMED).read_text()
    assert text.endswith("ONE = 1.0\nTWO = 2\nTHREE = 3\nFOUR = 44\n")
    assert changed(project) == {SPARE, RENAMED, ".copier-answers.yml"}
    assert {name: mine.get(name) for name in YOURS} == {
        name: files(project).get(name) for name in YOURS
    }
    run_again(history, project)
    assert (project / RENAMED).read_text() == text


def test_without_an_edit_nothing_is_merged(history: Versions, project: Path) -> None:
    update(project, to=history.with_changes(moved), trust=True)
    assert (project / RENAMED).read_text().endswith("ONE = 1.0\nTWO = 2\nTHREE = 3\nFOUR = 4\n")
    run_again(history, project)
    assert (project / RENAMED).read_text().endswith("ONE = 1.0\nTWO = 2\nTHREE = 3\nFOUR = 4\n")


def test_a_conflict_is_marked(
    history: Versions, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    replace(project / SPARE, "ONE = 1", "ONE = 111")
    commit(project)
    update(project, to=history.with_changes(moved), trust=True)
    text = (project / RENAMED).read_text()
    assert "<<<<<<< after updating\nONE = 1.0\n" in text
    assert "ONE = 111\n>>>>>>> before updating\n" in text
    assert "conflict with kit/renamed.py" in capfd.readouterr().out


def test_a_deleted_file(history: Versions, project: Path) -> None:
    (project / SPARE).unlink()
    commit(project)
    update(project, to=history.with_changes(moved), trust=True)
    assert (project / RENAMED).is_file()


def test_a_file_that_the_template_never_had(
    history: Versions, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such as a file with Jinja in it: the template's history has no file of that name."""
    (project / "src/my_env/kit/mine.py").write_text("MINE = 1\n")
    commit(project)
    before = files(project)
    run_again(history, project, "mine", "spare")
    assert "git show HEAD:./src/my_env/kit/mine.py" in capfd.readouterr().out
    assert files(project) == before


@pytest.mark.slow
def test_trust_is_needed_for_that_version_only(history: Versions, project: Path) -> None:
    tag = history.with_changes(moved)
    with pytest.raises(UnsafeTemplateError):
        update(project, to=tag)
    assert git(project, "status", "--porcelain") == ""
    update(project, to=tag, trust=True)
    commit(project)
    update(project, to=tag)


@pytest.mark.parametrize("hook", sorted(HOOKS.glob("*.py")), ids=lambda hook: hook.name)
def test_only_the_standard_library(hook: Path) -> None:
    for node in ast.walk(ast.parse(hook.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] in sys.stdlib_module_names


@pytest.mark.parametrize("package", ["../..", "x; touch X", "x\x1b[2J", ""])
def test_a_strange_package_is_refused(package: str, project: Path) -> None:
    result = subprocess.run(
        [sys.executable, HOOKS / "moved.py", package, "kit/old.py", "kit/new.py"],
        cwd=project,
        env=os.environ | {"VERSION_FROM": "v0.1.0"},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.strip().isprintable()
    assert "Traceback" not in result.stderr


def run_again(history: Versions, project: Path, old: str = "spare", new: str = "renamed") -> None:
    command = [sys.executable, str(history.repository / "hooks/moved.py")]
    subprocess.run(
        [*command, "my_env", f"kit/{old}.py", f"kit/{new}.py"],
        cwd=project,
        env=os.environ | {"VERSION_FROM": "v0.1.0"},
        check=True,
    )
