"""What an update leaves alone, what it brings, and what it says when it can do neither."""

import contextlib
import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import pytest
import versions
import yaml
from copier.errors import CopierError
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from projects import REPOSITORY, copy
from versions import (
    CHANGES,
    CLASHES,
    YOURS,
    Versions,
    answers_of,
    changed,
    commit,
    files,
    git,
    replace,
    update,
)

COPIER = [sys.executable, "-m", "copier"]


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
CHANGE_SETS = st.sets(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=6).filter(
    lambda names: not any(clash <= names for clash in CLASHES)
)
EDIT_SETS = st.lists(st.sampled_from(sorted(EDITS)), min_size=2, max_size=9, unique=True)


def test_any_update_of_any_project(
    made: Versions,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The oracle knows nothing of copier: it merges each file by itself.

    Of a hundred updated projects one also runs its own tests.
    """
    seen: set[tuple[Any, ...]] = set()
    conflicts, wanted = 0, pytestconfig.getoption("combinations") // 100
    sample: list[Path] = []

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
        drawn = (str(start), str(data), frozenset(changes), tuple(edits))
        assume(drawn not in seen)
        seen.add(drawn)
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

        broken = any(re.match(r"(delete|replace) |edit kit where", edit) for edit in edits)
        kind_kept = not data.keys() & {"observation", "actions"}
        if len(sample) < wanted and not broken and not collided and kind_kept:
            sample.append(project.rename(tmp_path / f"sample-{len(sample)}"))

    combination()
    for updated in sample:
        passes_its_tests(updated)
    with capsys.disabled():
        print(
            f" {len(seen)} combinations, {conflicts} of them with a conflict,"
            f" {len(sample)} with their own tests run",
            end=" ",
        )
    assert len(seen) == pytestconfig.getoption("combinations")


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
            labels = ["-Lbefore updating", "-Llast update", "-Lafter updating"]
            merge = subprocess.run(
                ["git", "merge-file", "-p", *labels, *three],
                capture_output=True,
            )
            expected[name] = merge.stdout
            if merge.returncode:
                collided.add(name)
    return expected, collided


# ---- an answer changed --------------------------------------------------------------------------


def copier_update(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COPIER, "update", "--defaults", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    "answers",
    [
        {"vector_size": 7},
        {"action_size": 3},
        {"episode_length": 50},
        {"actions": "discrete", "action_size": 4},
    ],
    ids=str,
)
def test_a_changed_answer_rewrites_the_spec_alone(
    project: Path, made: Versions, answers: dict[str, Any]
) -> None:
    update(project, to="v0.1.0", **answers)
    template_s = {"tests/test_kit.py", "tests/test_contract.py"}  # may depend on the kind
    names = changed(project)
    assert {".copier-answers.yml", "src/my_env/spec.py"} <= names
    assert names - template_s == {".copier-answers.yml", "src/my_env/spec.py"}
    spec: dict[str, Any] = {}
    exec((project / "src/my_env/spec.py").read_text(), spec)
    assert {name: spec[name.upper()] for name in answers} == answers


def test_hybrid_brings_the_encoder_and_vector_leaves_it(project: Path) -> None:
    encoder = project / "src/my_env/encoder.py"
    there = copier_update(project, "--vcs-ref=v0.1.0", "--data", "observation=hybrid")
    assert "Yours is src/my_env/encoder.py, new unless it was there." in there.stderr
    assert changed(project) >= {"src/my_env/encoder.py", "src/my_env/spec.py"}
    assert not changed(project) & (YOURS - {"src/my_env/encoder.py"})
    encoder.write_text(encoder.read_text() + "\n# mine\n")
    commit(project)

    back = copier_update(project, "--vcs-ref=v0.1.0", "--data", "observation=vector")
    assert "src/my_env/encoder.py is yours and stays" in back.stderr
    assert not changed(project) & YOURS
    commit(project)

    again = copier_update(project, "--vcs-ref=v0.1.0", "--data", "observation=hybrid")
    assert again.returncode == 0
    assert encoder.read_text().endswith("# mine\n")
    commit(project)

    encoder.unlink()
    commit(project)
    assert "encoder" not in copier_update(project, "--vcs-ref=v0.1.0").stderr
    assert not encoder.exists()


@pytest.mark.parametrize("name", ["project_name", "package_name", "env_class"])
def test_names_stay(project: Path, name: str) -> None:
    other = {"project_name": "other-env", "package_name": "other_env", "env_class": "OtherEnv"}[
        name
    ]
    result = copier_update(project, "--vcs-ref=v0.1.0", "--data", f"{name}={other}")
    assert result.returncode == 1
    assert result.stderr.count(f"{name} has to stay ") == 1
    assert "to rename, replace it" in result.stderr
    assert "Traceback" not in result.stderr
    assert changed(project) == set()
    # Naming what it is called anyway is no change.
    update(project, to="v0.1.0", **{name: answers_of(project)[name]})
    assert changed(project) == set()


def test_renamed_as_the_refusal_says(made: Versions, project: Path, tmp_path: Path) -> None:
    shutil.move(project / "src/my_env", project / "src/pole")
    for path in (project / name for name in files(project)):
        lines = path.read_text().splitlines(keepends=True)
        for number, line in enumerate(lines):
            if not line.startswith("_src_path"):  # where the template lies is no name of ours
                lines[number] = re.sub("my[_-]env", "pole", line).replace("MyEnv", "Pole")
        path.write_text("".join(lines))
    commit(project)
    tag = made.with_changes(*CHANGES_OF_ALL)
    mine = files(project)
    update(project, to=tag)
    newer = files(made.project(tmp_path / "newer", tag, project_name="pole", env_class="Pole"))
    now = files(project)
    assert not (project / "src/my_env").exists()
    for name in now:
        mine_too = name.replace("pole", "my_env") in YOURS
        assert now[name] == (mine if mine_too else newer)[name] or name == ".copier-answers.yml"


CHANGES_OF_ALL = [
    CHANGES[name]
    for name in ("kit_changed", "kit_added", "question_added", "dependency_moved", "yours_changed")
]


def test_a_stored_answer_that_is_refused_now_is_not_swapped_for_the_default(
    made: Versions, project: Path
) -> None:
    update(project, to="v0.1.0", vector_size=900)
    commit(project)
    tag = made.with_changes(versions.validator_tightened)
    with pytest.raises(CopierError, match="vector_size has to be a whole number from 1 to 512"):
        update(project, to=tag)
    assert changed(project) == set()
    update(project, to=tag, vector_size=512)
    assert answers_of(project)["vector_size"] == 512


def test_an_answer_that_is_missing_takes_the_default(made: Versions, project: Path) -> None:
    path = project / ".copier-answers.yml"
    kept = [line for line in path.read_text().splitlines() if not line.startswith(("obs", "lic"))]
    path.write_text("\n".join(kept))
    commit(project)
    result = copier_update(project, f"--vcs-ref={made.with_changes(versions.kit_changed)}")
    assert result.returncode == 0, result.stderr
    assert answers_of(project)["observation"] == "vector"


def test_an_answer_that_changes_nothing_is_told(project: Path) -> None:
    result = copier_update(project, "--vcs-ref=v0.1.0", "--data", "image_shape=9x9x2")
    assert "There is no image for image_shape" in result.stderr
    assert changed(project) == set()


def test_line_ends_are_no_conflict(made: Versions, project: Path) -> None:
    """As with git on Windows, which has them changed on the way to the disk."""
    EDITS["add a dependency"](project)
    commit(project)
    git(project, "config", "core.autocrlf", "true")
    git(project, "rm", "-rq", "--cached", ".")
    git(project, "reset", "-q", "--hard")
    update(project, to=made.with_changes(versions.dependency_moved))
    text = (project / "pyproject.toml").read_bytes()
    assert b"scipy" in text
    assert b"typing-extensions" in text
    assert b"<<<<" not in text
    assert b"\r" not in text


# ---- where the template lies --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clone", "beside it", "file URL", "bare"])
def test_wherever_the_template_lies(made: Versions, tmp_path: Path, kind: str) -> None:
    clone, bare = tmp_path / "a [clone]", tmp_path / "bare.git"
    newest = made.with_changes(versions.kit_changed)
    git(tmp_path, "clone", "-q", "-b", newest, str(made.repository), str(clone))
    git(clone, "tag", "--delete", *set(git(clone, "tag").split()) - {"v0.1.0"})
    git(clone, "switch", "-q", "-c", "main")
    git(tmp_path, "clone", "-q", "--bare", str(clone), str(bare))
    where, source, target = {
        "clone": (clone, ".", "../my-env"),
        "beside it": (tmp_path, "./a [clone]", "my-env"),
        "file URL": (tmp_path, f"git+file://{bare}", "my-env"),
        "bare": (tmp_path, "bare.git", "my-env"),
    }[kind]
    subprocess.run(
        [*COPIER, "copy", "--quiet", "--defaults", "--vcs-ref=v0.1.0", source, target],
        cwd=where,
        check=True,
        capture_output=True,
    )
    project = tmp_path / "my-env"
    commit(project)
    git(clone, "tag", "v0.2.0")
    git(clone, "push", "-q", str(bare), "main", "v0.2.0")
    check = subprocess.run([*COPIER, "check-update", "--quiet"], cwd=project, capture_output=True)
    assert check.returncode == 2
    result = copier_update(project)
    assert result.returncode == 0, result.stderr
    assert "my-env is at v0.2.0" in result.stderr
    assert "src/my_env/kit/wrappers.py" in changed(project)
    assert not changed(project) & YOURS


def test_without_any_tag(template: Path, tmp_path: Path) -> None:
    repository = tmp_path / "copier-brax-env"
    shutil.copytree(template, repository)
    versions.first(repository)
    commit(repository)
    copy(repository, tmp_path / "my-env")
    commit(tmp_path / "my-env")
    versions.kit_changed(repository)
    commit(repository)
    update(tmp_path / "my-env")
    assert "src/my_env/kit/wrappers.py" in changed(tmp_path / "my-env")
    assert not changed(tmp_path / "my-env") & YOURS


@pytest.mark.slow
def test_from_every_version_there_is(template: Path, tmp_path: Path) -> None:
    """From each tag to what stands here. Without tags there is nothing to show."""
    tags = []
    if (REPOSITORY / ".git").exists():
        tags = git(REPOSITORY, "tag", "--list", "v*").split()
    for tag in tags:
        repository, project = tmp_path / f"template-{tag}", tmp_path / f"project-{tag}"
        git(tmp_path, "clone", "-q", str(REPOSITORY), str(repository))
        copier.run_copy(
            str(repository),
            project,
            vcs_ref=tag,
            data={"observation": "hybrid"},
            defaults=True,
            quiet=True,
            settings=copier.Settings(),
        )
        commit(project)
        mine = files(project)
        git(repository, "rm", "-rq", ".")
        shutil.copytree(template, repository, dirs_exist_ok=True)
        commit(repository)
        git(repository, "tag", "v9999.0.0")
        update(project, trust=True)
        newer = files(copy(repository, tmp_path / f"newer-{tag}", observation="hybrid"))
        assert files(project) == newer | {name: mine[name] for name in YOURS & mine.keys()}
        commit(project)
        update(project, trust=True)
        assert changed(project) == set(), tag


# ---- an update that fails -----------------------------------------------------------------------


def break_answers(content: str | None) -> Callable[[Path], None]:
    def edit(project: Path) -> None:
        path = project / ".copier-answers.yml"
        path.unlink() if content is None else path.write_text(content)
        commit(project)

    return edit


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(lambda project: shutil.rmtree(project / ".git"), id="no git"),
        pytest.param(append("src/my_env/env.py", "# not committed\n"), id="dirty"),
        pytest.param(write("new.py", b"# not committed\n"), id="dirty with a new file"),
        pytest.param(break_answers(None), id="no answers"),
        pytest.param(break_answers(""), id="empty answers"),
        pytest.param(break_answers('{"x'), id="broken answers"),
        pytest.param(break_answers("- x\n"), id="answers of another kind"),
        pytest.param(break_answers("_src_path: /nowhere\n_commit: v0.1.0\n"), id="no template"),
        pytest.param(
            lambda project: break_answers(
                (project / ".copier-answers.yml").read_text().replace("v0.1.0", "v99.0.0")
            )(project),
            id="newer than the template",
        ),
        pytest.param(
            lambda project: break_answers(
                (project / ".copier-answers.yml").read_text().replace("size: 2", "size: many")
            )(project),
            id="an answer that is none",
        ),
    ],
)
def test_what_can_not_be_updated_stays_as_it_is(
    made: Versions, project: Path, trouble: Callable[[Path], None]
) -> None:
    made.with_changes(versions.kit_changed)
    trouble(project)
    before = files(project)
    result = copier_update(project)
    assert result.returncode != 0
    assert files(project) == before


UNDO = "git checkout -q HEAD .gitignore; git add -A . && git stash -- ."


@pytest.mark.parametrize("moment", range(8))
def test_killed_at_any_moment(made: Versions, project: Path, moment: int) -> None:
    """Nothing of the user's is lost, and the line that the update begins with undoes the rest."""
    tag = made.with_changes(*CHANGES_OF_ALL, versions.kit_removed)
    replace(project / "src/my_env/kit/ppo.py", '"""', '"""Mine. ')
    append("src/my_env/env.py", "# mine\n")(project)
    append(".gitignore", "/.env\n")(project)
    write(".env", b"SECRET=1\n")(project)  # no stash may take it along
    commit(project)
    before = files(project)
    started = time.perf_counter()
    shutil.copytree(project, project.with_name("rehearsal"))
    update(project.with_name("rehearsal"), to=tag)
    seconds = time.perf_counter() - started

    child = os.fork()
    if not child:  # a group of its own, so that git dies with it
        os.setsid()
        try:
            update(project, to=tag)
        finally:
            os._exit(0)
    time.sleep(seconds * (moment + 0.5) / 8)
    with contextlib.suppress(ProcessLookupError):  # it may be done
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)

    now = files(project)
    assert {name: now.get(name) for name in YOURS} == {name: before.get(name) for name in YOURS}
    (project / ".git/index.lock").unlink(missing_ok=True)  # git itself says so where one is left
    subprocess.run(UNDO, shell=True, cwd=project, check=True, capture_output=True)
    assert files(project) == before
    update(project, to=tag)
    assert files(project) == files(project.with_name("rehearsal"))


@pytest.mark.parametrize("writes", [0, 1, 4])
def test_a_full_disk(
    made: Versions, project: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = made.with_changes(*CHANGES_OF_ALL)
    before = files(project)
    written: list[Path] = []
    write_bytes = Path.write_bytes

    def fails(path: Path, data: bytes) -> int:
        if path.is_relative_to(project):
            if len(written) == writes:
                path.open("wb").close()  # that much works on a full disk
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(path)
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(OSError, match="No space left"):
        update(project, to=tag)
    monkeypatch.undo()
    now = files(project)
    assert {name: now.get(name) for name in YOURS} == {name: before.get(name) for name in YOURS}
    subprocess.run(UNDO, shell=True, cwd=project, check=True, capture_output=True)
    assert files(project) == before


def test_undoing_leaves_alone_what_lies_around_the_project(made: Versions, tmp_path: Path) -> None:
    project = made.project(tmp_path / "all/project")
    write("notes.txt", b"1")(tmp_path / "all")
    commit(tmp_path / "all")
    write("notes.txt", b"2")(tmp_path / "all")
    before = files(tmp_path / "all")
    update(project, to=made.with_changes(versions.kit_changed))
    subprocess.run(UNDO, shell=True, cwd=project, check=True, capture_output=True)
    assert files(tmp_path / "all") == before


def test_the_message_names_the_line_that_undoes(made: Versions, project: Path) -> None:
    assert f"\n  {UNDO}\n" in copier_update(project, "--vcs-ref=v0.1.0").stderr


# ---- what the project's CI does about it --------------------------------------------------------


def step(project: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Runs a step of the project's workflow, with `copier` where it would be fetched."""
    workflow = yaml.safe_load((project / ".github/workflows/ci.yml").read_text())
    (script,) = (
        step["run"]
        for step in workflow["jobs"]["template"]["steps"]
        if name in step.get("name", "")
    )
    script = f'uvx() {{ shift; {shlex.join(COPIER)} "$@"; }}\n{script}'
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], cwd=project, capture_output=True, text=True
    )


def test_ci_refuses_what_collided(made: Versions, project: Path) -> None:
    assert step(project, "collided").returncode == 0
    replace(project / "src/my_env/kit/spare.py", "TWO = 2", "TWO = 22")
    commit(project)
    copier_update(project, f"--vcs-ref={made.with_changes(versions.kit_changed)}")
    assert "<<<<<<< before updating" in (project / "src/my_env/kit/spare.py").read_text()
    commit(project)
    refused = step(project, "collided")
    assert refused.returncode == 1
    assert "src/my_env/kit/spare.py:" in refused.stdout


def test_ci_refuses_what_was_not_applied(made: Versions, project: Path) -> None:
    replace(project / "src/my_env/kit/spare.py", "TWO = 2", "TWO = 22")
    commit(project)
    tag = made.with_changes(versions.kit_changed)
    assert copier_update(project, f"--vcs-ref={tag}", "--conflict=rej").returncode == 0
    commit(project)
    refused = step(project, "collided")
    assert refused.returncode == 1
    assert "src/my_env/kit/spare.py.rej" in refused.stdout


def test_ci_says_when_there_is_a_newer_version(made: Versions, project: Path) -> None:
    made.with_changes(versions.kit_changed)
    assert "::warning::The template has a newer version" in step(project, "newer").stdout
    update(project)
    assert step(project, "newer").stdout == "This is the newest version of the template.\n"
    replace(project / ".copier-answers.yml", "_src_path: ", "_src_path: /nowhere")
    nowhere = step(project, "newer")
    assert nowhere.stdout.startswith("::notice::From here nobody can tell")
    assert nowhere.returncode == 0


# ---- and what it is for -------------------------------------------------------------------------


@pytest.mark.slow
def test_an_updated_project_passes_its_tests(made: Versions, tmp_path: Path) -> None:
    project = made.project(tmp_path / "my-env", observation="hybrid")
    append("src/my_env/env.py", "\n# mine\n")(project)
    EDITS["add a dependency"](project)
    commit(project)
    update(project, to=made.with_changes(*CHANGES_OF_ALL, versions.kit_removed))
    passes_its_tests(project)


def passes_its_tests(project: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
