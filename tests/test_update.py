"""What an update leaves alone, what it brings, and what it says when it can do neither."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import versions
from copier.errors import CopierError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from versions import (
    CHANGES,
    CLASHES,
    GIT,
    PACKAGE,
    Versions,
    answers_of,
    commit,
    files,
    git,
    replace,
    update,
)

YOURS = {
    "LICENSE",
    "README.md",
    "src/my_env/config.py",
    "src/my_env/encoder.py",
    "src/my_env/env.py",
    "tests/test_env.py",
}


@pytest.fixture(scope="session", autouse=True)
def _git_without_settings() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in GIT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    if not shutil.which("git"):
        pytest.skip("needs git")
    return Versions(tmp_path_factory.mktemp("versions") / "copier-brax-env", template)


@pytest.fixture
def project(made: Versions, tmp_path: Path) -> Path:
    """A project of the first version, as someone would have committed it."""
    made.project(tmp_path / "my-env")
    commit(tmp_path / "my-env")
    return tmp_path / "my-env"


# ---- any update of any project ------------------------------------------------------------------

# What someone may have done to a project. An edit gets the folder, and does nothing where its file
# isn't there.


def append(name: str, text: str) -> Callable[[Path], None]:
    def edit(project: Path) -> None:
        if (project / name).exists():
            with (project / name).open("a") as file:
                file.write(text)

    return edit


def delete(name: str) -> Callable[[Path], None]:
    return lambda project: (project / name).unlink(missing_ok=True)


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def edit(project: Path) -> None:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(content)

    return edit


def substitute(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(project: Path) -> None:
        if (project / name).exists():
            (project / name).write_text((project / name).read_text().replace(old, new, 1))

    return edit


MINE = '    # Yours:\n    "scipy>=1.14",\n'
EDITS: dict[str, Callable[[Path], None]] = {
    **{f"edit {name}": append(name, "\n# mine\n") for name in YOURS},
    **{f"delete {name}": delete(name) for name in YOURS},
    **{f"replace {name}": write(name, b"mine\r\nno end of line") for name in YOURS},
    "edit kit": substitute("src/my_env/kit/ppo.py", '"""', '"""Mine. '),
    "edit kit where it changes": substitute("src/my_env/kit/spare.py", "TWO = 2", "TWO = 22"),
    "edit kit near to where it changes": append("src/my_env/kit/spare.py", "FIVE = 5\n"),
    "edit spec": append("src/my_env/spec.py", "\nMINE = 1\n"),
    "delete kit": delete("src/my_env/kit/spare.py"),
    "delete CI": delete(".github/workflows/ci.yml"),
    "add files": write("src/my_env/extra.py", b"EXTRA = 1\n"),
    "add a file to kit": write("src/my_env/kit/mine.py", b"MINE = 1\n"),
    "add a file that a newer version has": write("src/my_env/kit/added.py", b"MINE = 1\n"),
    "add what is no text": write("assets/pixels.bin", bytes(range(256))),
    "add strange names": write("notes/ö [1] {{ x }} 'q'.txt", b"x"),
    "add a dependency": substitute("pyproject.toml", "    # Yours:\n", MINE),
    "add a tool": append("pyproject.toml", "\n[tool.mine]\nx = 1\n"),
    "ignore more": append(".gitignore", "/data/\n"),
}
START = [
    {},
    {"observation": "hybrid"},
    {"actions": "discrete", "license": "none"},
    {"observation": "hybrid", "actions": "discrete", "author": "{{ Ü }} 'q' \"#"},
]
ANSWERS: list[dict[str, Any]] = [
    {},
    {},
    {"vector_size": 7},
    {"action_size": 3},
    {"image_shape": "5x9x2"},
    {"episode_length": 50},
    {"actions": "discrete"},
    {"actions": "continuous"},
    {"observation": "hybrid"},
    {"observation": "vector"},
    {"license": "Apache-2.0"},
    {"author": "Somebody: else"},
]
CHANGE_SETS = st.sets(st.sampled_from(sorted(CHANGES)), max_size=4).filter(
    lambda names: not any(clash <= names for clash in CLASHES)
)
EDIT_SETS = st.lists(st.sampled_from(sorted(EDITS)), max_size=6, unique=True)


def test_any_update_of_any_project(
    made: Versions,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The oracle knows nothing of copier: it merges each file by itself."""
    seen: set[tuple[Any, ...]] = set()
    conflicts = 0

    @settings(
        max_examples=pytestconfig.getoption("combinations"),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.sampled_from(START), st.sampled_from(ANSWERS), CHANGE_SETS, EDIT_SETS)
    def combination(
        start: dict[str, Any], data: dict[str, Any], changes: set[str], edits: list[str]
    ) -> None:
        nonlocal conflicts
        seen.add((str(start), str(data), frozenset(changes), tuple(edits)))
        tag = made.with_changes(*(change for name, change in CHANGES.items() if name in changes))
        older, newer = tmp_path / f"older-{START.index(start)}", tmp_path / "newer"
        project = tmp_path / "my-env"
        for folder in (newer, project):
            shutil.rmtree(folder, ignore_errors=True)
        if not older.exists():
            made.project(older, **start)
        shutil.copytree(older, project)
        for edit in edits:
            EDITS[edit](project)
        commit(project)
        mine = files(project)

        update(project, to=tag, **data)

        made.project(newer, tag, **{k: v for k, v in answers_of(project).items() if k[0] != "_"})
        expected, collided = merged(tmp_path, files(older), mine, files(newer))
        assert files(project) == expected
        unmerged = set(git(project, "diff", "--name-only", "--diff-filter=U").splitlines())
        assert unmerged == collided
        marked = {name for name, content in files(project).items() if b"\n>>>>>>> " in content}
        assert marked == collided
        conflicts += bool(collided)

        commit(project)
        update(project, to=tag)
        assert git(project, "status", "--porcelain") == ""

    combination()
    with capsys.disabled():
        print(f" {len(seen)} combinations, {conflicts} of them with a conflict", end=" ")
    assert len(seen) > 0.8 * pytestconfig.getoption("combinations")


def merged(
    tmp_path: Path, older: dict[str, bytes], mine: dict[str, bytes], newer: dict[str, bytes]
) -> tuple[dict[str, bytes], set[str]]:
    """What an update should make of `mine`, and where it can't but mark both sides."""
    expected, collided = dict(mine), set()
    expected[".copier-answers.yml"] = newer[".copier-answers.yml"]
    for name in (older.keys() | newer.keys()) - {".copier-answers.yml"}:
        if name in YOURS:
            # Given only where an answer asks for it that didn't before.
            given = name in ("src/my_env/encoder.py", "LICENSE") and name not in older
            if given and name not in mine and name in newer:
                expected[name] = newer[name]
        elif name not in mine and name in older:
            pass  # deleted against the rules; a deletion is respected
        elif name not in newer:
            del expected[name]
        elif mine.get(name) == older.get(name):
            expected[name] = newer[name]
        elif newer[name] != older.get(name):
            three = []
            for label, side in (("mine", mine), ("older", older), ("newer", newer)):
                three.append(tmp_path / f"merge-{label}")
                three[-1].write_bytes(side.get(name, b""))
            labels = ("before updating", "last update", "after updating")
            merge = subprocess.run(
                ["git", "merge-file", "-p", *sum((["-L", x] for x in labels), []), *three],
                capture_output=True,
            )
            expected[name] = merge.stdout
            if merge.returncode:
                collided.add(name)
    return expected, collided
