"""What an update keeps, what it brings, and what it says when it can do neither."""

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
import projects
import pytest
import versions
import yaml
from copier.errors import CopierError
from hypothesis import HealthCheck, Phase, example, given, settings
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

# What a user may do to a project. An edit does nothing if its file does not exist.


def append(name: str, text: str) -> Callable[[Path], None]:
    def edit(project: Path) -> None:
        if (project / name).exists():
            versions.append(project / name, text)

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
    "edit kit": substitute("src/my_env/kit/ppo/state.py", '"""', '"""Mine. '),
    "edit kit where it changes": substitute("src/my_env/kit/spare.py", "TWO = 2", "TWO = 22"),
    "edit kit near to where it changes": append("src/my_env/kit/spare.py", "FIVE = 5\n"),
    "edit a file with answers": append("src/my_env/made_with.py", "\n\n\nMINE = 1\n"),
    "delete kit": delete("src/my_env/kit/spare.py"),
    "delete CI": delete(".github/workflows/ci.yml"),
    "add files": write("src/my_env/extra.py", b"EXTRA = 1\n"),
    "add a file to kit": write("src/my_env/kit/mine.py", b"MINE = 1\n"),
    "add a file that a newer version has": write("src/my_env/kit/added.py", b"MINE = 1\n"),
    "add a binary file": write("assets/pixels.bin", bytes(range(256))),
    "add strange names": write("notes/ö [1] {{ x }} 'q'.txt", b"x"),
    "add a dependency": substitute("pyproject.toml", "    # Yours:\n", MINE),
    "add a tool": append("pyproject.toml", "\n[tool.mine]\nx = 1\n"),
    "ignore more": append(".gitignore", "/data/\n"),
}
START = [
    {},
    {"observation": "hybrid", "vector_size": 7},
    {"actions": "discrete", "license": "none"},
    {"observation": "hybrid", "actions": "multi_discrete", "author": "{{ Ü }} 'q' \"#"},
]
CHANGE_SETS = st.sets(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=6).filter(
    lambda names: not any(clash <= names for clash in CLASHES)
)
EDIT_SETS = st.lists(st.sampled_from(sorted(EDITS)), min_size=2, max_size=9, unique=True)


@pytest.mark.slow
def test_any_update_of_any_project(
    history: Versions,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The expected result is computed without copier, by merging each file on its own."""
    tried = conflicts = 0

    @settings(
        max_examples=pytestconfig.getoption("combinations"),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(st.sampled_from(START), st.booleans(), CHANGE_SETS, EDIT_SETS)
    @example({}, False, {"kit_changed"}, ["edit kit where it changes"])  # a conflict
    def combination(
        start: dict[str, Any], recolour: bool, changes: set[str], edits: list[str]
    ) -> None:
        nonlocal tried, conflicts
        tried += 1
        tag = history.with_changes(*(change for name, change in CHANGES.items() if name in changes))
        older, newer = tmp_path / f"older-{START.index(start)}", tmp_path / "newer"
        project = tmp_path / "my-env"
        for folder in (newer, project):
            shutil.rmtree(folder, ignore_errors=True)
        if not older.exists():
            history.project(older, **start)
        shutil.copytree(older, project)
        for edit in edits:
            EDITS[edit](project)
        commit(project)
        mine = files(project)

        has_colour = not changes & {"question_removed", "question_renamed"}
        data: dict[str, Any] = {"colour": "green"} if recolour and has_colour else {}
        update(project, to=tag, **data)

        stored = {k: v for k, v in answers_of(project).items() if k[0] != "_"}
        history.project(newer, tag, **stored)
        expected, collided = merged(tmp_path, files(older), mine, files(newer))
        assert files(project) == expected
        unmerged = set(git(project, "diff", "--name-only", "--diff-filter=U").splitlines())
        assert unmerged == collided
        marked = {name for name, content in files(project).items() if b"\n>>>>>>> " in content}
        assert marked == collided
        conflicts += bool(collided)

        if tried % 10 == 0:  # a second update changes nothing
            commit(project)
            update(project, to=tag)
            assert git(project, "status", "--porcelain") == ""

    combination()
    with capsys.disabled():
        print(f" {tried} updates, {conflicts} of them with a conflict", end=" ")
    assert tried > conflicts > 0


def merged(
    tmp_path: Path, older: dict[str, bytes], mine: dict[str, bytes], newer: dict[str, bytes]
) -> tuple[dict[str, bytes], set[str]]:
    """What an update should make of `mine`, and the files in which it should mark a conflict."""
    expected, collided = dict(mine), set()
    expected[".copier-answers.yml"] = newer[".copier-answers.yml"]
    for name in (older.keys() | newer.keys()) - YOURS - {".copier-answers.yml"}:
        if name not in mine and name in older:
            pass  # a deletion of the user's is respected
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


# ---- answers ------------------------------------------------------------------------------------


def copier_update(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`copier update` as a script runs it, without anybody to ask."""
    return subprocess.run(
        [*COPIER, "update", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


QUESTIONS = [name for name in projects.config() if not name.startswith("_")]


@pytest.mark.long
def test_no_answer_is_changed_by_an_update(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentences = {}
    for name in QUESTIONS:
        with pytest.raises(CopierError):
            copier.run_update(
                project,
                data={name: "7"},
                vcs_ref="v0.1.0",
                defaults=True,
                overwrite=True,
                settings=copier.Settings(),
            )
        sentences[name] = capsys.readouterr().err.splitlines()[0]
    assert changed(project) == set()
    for name, sentence in sentences.items():
        assert sentence.startswith(f"{name} is only asked when a project is created: change it in ")
    for name in ("observation", "vector_size", "image_shape", "actions", "action_size"):
        assert sentences[name].endswith(" in env.py.")
    assert sentences["episode_length"].endswith(" in config.py.")


def test_a_refused_answer_on_the_command_line(project: Path) -> None:
    result = copier_update(project, "--vcs-ref=v0.1.0", "--defaults", "--data", "vector_size=7")
    assert result.returncode == 1
    assert result.stderr.splitlines()[0].endswith("change it in env.py.")
    assert "Traceback" not in result.stderr
    assert changed(project) == set()


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["m [a]", "m*", "[!m]?", "ö {x}"])
def test_a_copy_over_a_project_is_refused_in_any_folder(
    history: Versions, tmp_path: Path, folder: str
) -> None:
    """Some of these names are patterns of files."""
    project = history.project(tmp_path / folder)
    result = subprocess.run(
        [*COPIER, "copy", "--data", "project_name=x", history.repository, project],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("project_name is only asked when a project is created: ")


STRANGE = "x\x1b[2J\x1b]0;title\x07; touch X $(touch Y)\u202e"


def test_what_a_stranger_called_the_project_does_nothing_in_messages(
    history: Versions, project: Path
) -> None:
    """The names come from the project's files and may be anything."""
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text())
    answers["project_name"] = STRANGE
    (project / ".copier-answers.yml").write_text(yaml.safe_dump(answers))
    commit(project)
    result = copier_update(project, "--defaults", "--vcs-ref=v0.1.0", "--conflict=rej")
    assert result.returncode == 0, result.stderr
    _, message = result.stderr.split("Updated ")
    assert message.replace("\n", "").isprintable()
    commands = [shlex.split(line, comments=True) for line in message.splitlines()[2:] if line]
    assert commands[0][0] == "git"
    assert commands[1] == [".venv/bin/python", "-m", "my_env", "check"]
    _, with_uv = message.split("with uv: ")
    assert shlex.split(with_uv) == ["uv", "run", "x?[2J?]0;title?; touch X $(touch Y)?", "check"]


def test_nothing_is_asked_or_repeated(history: Versions, tmp_path: Path) -> None:
    project = history.project(tmp_path / "my-env", observation="hybrid", vector_size=7)
    commit(project)
    stored = answers_of(project).keys()
    assert stored.isdisjoint(
        [
            *("dynamics", "observation", "vector_size", "image_shape"),
            *("actions", "action_size", "episode_length"),
        ]
    )
    result = copier_update(project, f"--vcs-ref={history.with_changes(versions.kit_changed)}")
    assert result.returncode == 0, result.stderr
    assert answers_of(project).keys() == stored
    assert not changed(project) & YOURS


def test_a_new_question_can_be_answered(history: Versions, project: Path) -> None:
    tag = history.with_changes(versions.question_added)
    with pytest.raises(CopierError):
        update(project, to=tag, gravity=0)
    assert changed(project) == set()
    update(project, to=tag, gravity=3)
    assert "GRAVITY = 3" in (project / "src/my_env/made_with.py").read_text()


def test_renamed_as_the_refusal_says(history: Versions, project: Path, tmp_path: Path) -> None:
    shutil.move(project / "src/my_env", project / "src/pole")
    for path in (project / name for name in files(project)):
        lines = path.read_text().splitlines(keepends=True)
        for number, line in enumerate(lines):
            if not line.startswith("_src_path"):  # the template's folder keeps its name
                lines[number] = re.sub("my[_-]env", "pole", line).replace("MyEnv", "Pole")
        path.write_text("".join(lines))
    commit(project)
    tag = history.with_changes(*CHANGES_OF_ALL)
    mine = files(project)
    update(project, to=tag)
    newer = files(history.project(tmp_path / "newer", tag, project_name="pole", env_class="Pole"))
    now = files(project)
    assert not (project / "src/my_env").exists()
    for name in now:
        mine_too = name.replace("pole", "my_env") in YOURS
        assert now[name] == (mine if mine_too else newer)[name] or name == ".copier-answers.yml"


CHANGES_OF_ALL = [
    CHANGES[name]
    for name in ("kit_changed", "kit_added", "question_added", "dependency_moved", "yours_changed")
]


def names_taken(root: Path) -> None:
    """As when a newer Python has a module of that name."""
    versions.append(root / "questions/taken.txt", "my_env\n")


def test_what_was_accepted_once_stays_accepted(history: Versions, project: Path) -> None:
    """Copier by itself would replace the name with the default, and create a second package."""
    mine = answers_of(project)
    update(project, to=history.with_changes(names_taken))
    assert changed(project) == {".copier-answers.yml"}
    assert answers_of(project) | {"_commit": mine["_commit"]} == mine


def test_line_ends_are_no_conflict(history: Versions, project: Path) -> None:
    """git on Windows changes them on the way to the disk."""
    EDITS["add a dependency"](project)
    commit(project)
    git(project, "config", "core.autocrlf", "true")
    git(project, "rm", "-rq", "--cached", ".")
    git(project, "reset", "-q", "--hard")
    update(project, to=history.with_changes(versions.dependency_moved))
    text = (project / "pyproject.toml").read_bytes()
    assert b"scipy" in text
    assert b"typing-extensions" in text
    assert b"<<<<" not in text
    assert b"\r" not in text


# ---- where the template lies --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "clone",
        "bare",
        pytest.param("beside it", marks=pytest.mark.long),
        pytest.param("file URL", marks=pytest.mark.long),
    ],
)
def test_wherever_the_template_lies(history: Versions, tmp_path: Path, kind: str) -> None:
    clone, bare = tmp_path / "a [clone]", tmp_path / "bare.git"
    newest = history.with_changes(versions.kit_changed)
    git(tmp_path, "clone", "-q", "-b", newest, str(history.repository), str(clone))
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
    assert "Updated my-env to v0.2.0" in result.stderr
    assert "src/my_env/kit/env/wrappers.py" in changed(project)
    assert not changed(project) & YOURS


@pytest.mark.slow
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
    assert "src/my_env/kit/env/wrappers.py" in changed(tmp_path / "my-env")
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


@pytest.mark.slow
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
    ],
)
def test_what_can_not_be_updated_stays_as_it_is(
    history: Versions, project: Path, trouble: Callable[[Path], None]
) -> None:
    history.with_changes(versions.kit_changed)
    trouble(project)
    before = files(project)
    result = copier_update(project)
    assert result.returncode != 0
    assert files(project) == before


UNDO = "git checkout -q HEAD .gitignore; git add -A . && git stash -- ."


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", [0.4, 0.9, *(pytest.param(x, marks=pytest.mark.long) for x in (0.1, 0.7))]
)
def test_killed_at_any_moment(history: Versions, project: Path, moment: float) -> None:
    """The user's files stay, and the command that the update prints first undoes the rest."""
    tag = history.with_changes(*CHANGES_OF_ALL, versions.kit_removed)
    replace(project / "src/my_env/kit/ppo/state.py", '"""', '"""Mine. ')
    append("src/my_env/env.py", "# mine\n")(project)
    append(".gitignore", "/.env\n")(project)
    write(".env", b"SECRET=1\n")(project)  # ignored, so `git stash` must leave it
    commit(project)
    before = files(project)
    started = time.perf_counter()
    shutil.copytree(project, project.with_name("rehearsal"))
    update(project.with_name("rehearsal"), to=tag)
    seconds = time.perf_counter() - started

    child = os.fork()
    if not child:  # in a process group of its own, so that git is killed too
        os.setsid()
        try:
            update(project, to=tag)
        finally:
            os._exit(0)
    time.sleep(seconds * moment)
    with contextlib.suppress(ProcessLookupError):  # it may have ended
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)

    now = files(project)
    assert {name: now.get(name) for name in YOURS} == {name: before.get(name) for name in YOURS}
    (project / ".git/index.lock").unlink(missing_ok=True)  # git says so itself
    subprocess.run(UNDO, shell=True, cwd=project, check=True, capture_output=True)
    assert files(project) == before
    update(project, to=tag)
    assert files(project) == files(project.with_name("rehearsal"))


@pytest.mark.parametrize("writes", [0, 4])
def test_a_full_disk(
    history: Versions, project: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = history.with_changes(*CHANGES_OF_ALL)
    before = files(project)
    written: list[Path] = []
    write_bytes = Path.write_bytes

    def fails(path: Path, data: bytes) -> int:
        if path.is_relative_to(project):
            if len(written) == writes:
                path.open("wb").close()  # an empty file still fits
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


def test_undoing_leaves_files_around_the_project_alone(history: Versions, tmp_path: Path) -> None:
    project = history.project(tmp_path / "all/project")
    write("notes.txt", b"1")(tmp_path / "all")
    commit(tmp_path / "all")
    write("notes.txt", b"2")(tmp_path / "all")
    before = files(tmp_path / "all")
    update(project, to=history.with_changes(versions.kit_changed))
    subprocess.run(UNDO, shell=True, cwd=project, check=True, capture_output=True)
    assert files(tmp_path / "all") == before


def test_the_message_shows_how_to_undo(project: Path) -> None:
    assert f"\n  {UNDO}\n" in copier_update(project, "--vcs-ref=v0.1.0").stderr


# ---- what the project's CI says -----------------------------------------------------------------


def step(project: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Runs a step of the project's workflow, with the `copier` that is installed here."""
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


@pytest.mark.slow
def test_ci_refuses_conflicts(history: Versions, project: Path) -> None:
    assert step(project, "No conflict").returncode == 0
    replace(project / "src/my_env/kit/spare.py", "TWO = 2", "TWO = 22")
    commit(project)
    copier_update(project, f"--vcs-ref={history.with_changes(versions.kit_changed)}")
    assert "<<<<<<< before updating" in (project / "src/my_env/kit/spare.py").read_text()
    commit(project)
    refused = step(project, "No conflict")
    assert refused.returncode == 1
    assert "src/my_env/kit/spare.py:" in refused.stdout


@pytest.mark.slow
def test_ci_refuses_changes_that_were_not_applied(history: Versions, project: Path) -> None:
    replace(project / "src/my_env/kit/spare.py", "TWO = 2", "TWO = 22")
    commit(project)
    tag = history.with_changes(versions.kit_changed)
    assert copier_update(project, f"--vcs-ref={tag}", "--conflict=rej").returncode == 0
    commit(project)
    refused = step(project, "No conflict")
    assert refused.returncode == 1
    assert "src/my_env/kit/spare.py.rej" in refused.stdout


@pytest.mark.slow
def test_ci_says_when_there_is_a_newer_version(history: Versions, project: Path) -> None:
    history.with_changes(versions.kit_changed)
    assert "::warning::The template has a newer version" in step(project, "newer").stdout
    update(project)
    assert step(project, "newer").stdout == "This is the newest version of the template.\n"
    replace(project / ".copier-answers.yml", "_src_path: ", "_src_path: /nowhere")
    nowhere = step(project, "newer")
    assert nowhere.stdout.startswith("::notice::The template could not be reached")
    assert nowhere.returncode == 0


def update_workflow(project: Path) -> subprocess.CompletedProcess[str]:
    """Runs the commands of update.yml, with `gh` and `git push` written down in calls.txt."""
    workflow = yaml.safe_load((project / ".github/workflows/update.yml").read_text())
    scripts = [step["run"] for step in workflow["jobs"]["update"]["steps"] if "run" in step]
    calls = shlex.quote(str(project.parent / "calls.txt"))
    script = f"""
        uvx() {{ shift; {shlex.join(COPIER)} "$@"; }}
        gh() {{ echo "gh $1 $2" >> {calls}; }}
        git() {{ if [ "$1" = push ]; then echo "$@" >> {calls}; else command git "$@"; fi; }}
    """
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join([script, *scripts])],
        cwd=project,
        capture_output=True,
        text=True,
    )


def project_behind(template: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """A project of the version before the newest one, which has this change."""
    history = Versions(folder / "copier-brax-env", template)
    project = history.project(folder / "my-env")
    commit(project)
    history.with_changes(change)
    return project


@pytest.mark.slow
def test_the_update_workflow_opens_a_pull_request(template: Path, tmp_path: Path) -> None:
    project = project_behind(template, tmp_path, versions.kit_changed)
    result = update_workflow(project)
    assert result.returncode == 0, result.stderr
    calls = (tmp_path / "calls.txt").read_text()
    assert calls == "gh auth setup-git\npush --force origin copier-update\ngh pr create\n"
    assert "+TWO = 2.0" in git(project, "show")
    assert not changed(project)

    result = update_workflow(project)  # once it is merged
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("This is the newest version of the template.\n")
    assert (tmp_path / "calls.txt").read_text() == calls


@pytest.mark.slow
def test_the_update_workflow_leaves_changes_of_workflows_to_people(
    template: Path, tmp_path: Path
) -> None:
    """GitHub lets no workflow push them."""
    project = project_behind(template, tmp_path, versions.surroundings_changed)
    result = update_workflow(project)
    assert result.returncode == 1
    assert "::error::This version changes .github/workflows" in result.stdout
    assert not (tmp_path / "calls.txt").exists()


# ---- an updated project works -------------------------------------------------------------------


@pytest.mark.long
def test_an_updated_project_passes_its_tests(template: Path, tmp_path: Path) -> None:
    history = Versions(tmp_path / "copier-brax-env", template, whole=True)
    project = history.project(tmp_path / "my-env", observation="hybrid")
    append("src/my_env/env.py", "\n# mine\n")(project)
    EDITS["add a dependency"](project)
    commit(project)
    update(project, to=history.with_changes(*CHANGES_OF_ALL, versions.kit_removed))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
