"""The gallery: each example is a project of this template in which only the user's files differ.

kit/ is a link to the template's. After a change to the template

    pytest tests/test_examples.py --rewrite

brings the other files of all examples up to date.
"""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from projects import QUICK_COMPILE, REPOSITORY, Render, yours

EXAMPLES = sorted(path.parent for path in REPOSITORY.glob("examples/*/pyproject.toml"))
KIT = Path("../../../../template/src/{{package_name}}/kit")
# Files that no project starts with: benchmarks/gallery.py makes them.
RESULTS = {"curve.png", "play.gif"}
# Lines that a user added where a comment says so, to pyproject.toml for example.
ADDED = re.compile(r"(# Yours:\n)(.*?)(?=^\]|\Z)", re.M | re.S)

QUICK = {"acrobot", "cartpole-positions"}

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)


def package_of(example: Path) -> str:
    (package,) = (example / "src").iterdir()
    return package.name


def files_of(project: Path) -> set[str]:
    """All files but the kit's, by name."""
    names = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    return {name for name in names if not re.match("src/[^/]*/kit/", name)}


def with_added_lines(text: str, old: str) -> str:
    """`text` with what a user had added to `old`."""
    added = iter(lines for _, lines in ADDED.findall(old))
    return ADDED.sub(lambda match: match[1] + next(added, ""), text)


@pytest.mark.slow
@each_example
def test_only_the_user_s_files_differ(
    example: Path, render: Render, template: Path, pytestconfig: pytest.Config
) -> None:
    kit = example / "src" / package_of(example) / "kit"
    assert kit.is_symlink()
    assert kit.readlink() == KIT

    answers = yaml.safe_load((example / ".copier-answers.yml").read_text())
    assert answers.pop("_src_path") == "../.."
    assert answers.pop("project_exists")
    project = render(**answers)
    made = {
        name: (project / name).read_text()
        for name in files_of(project) - yours(package_of(example))
    }
    source = re.compile("^_src_path: .*", re.M)  # the template's folder is another one each time
    made[".copier-answers.yml"] = source.sub("_src_path: ../..", made[".copier-answers.yml"])
    if pytestconfig.getoption("rewrite"):
        for name, text in made.items():
            path = example / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(with_added_lines(text, path.read_text() if path.exists() else ""))
    for name, text in made.items():
        kept = (example / name).read_text()
        assert ADDED.sub(r"\1", kept) == text, f"{name} differs. To bring it up to date: --rewrite"
    # The copy of the template has no ignored files.
    files = files_of(template / example.relative_to(REPOSITORY))
    assert files - yours(package_of(example)) - RESULTS == made.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "example",
    [
        pytest.param(x, marks=[] if x.name in QUICK else [pytest.mark.long], id=x.name)
        for x in EXAMPLES
    ],
)
def test_check_finds_nothing(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(example / "src"))
    package = package_of(example)
    kit, config = (importlib.import_module(f"{package}.{name}") for name in ("kit", "config"))
    for name, value in kit.tasks_in(config).items():
        report = kit.examine(value, time_limit=500)
        # Random actions, which are all that `check` tries, may reach no goal: whether those of
        # acrobot do is a matter of rounding.
        found = [str(v) for v in report.violations if v.rule != "episode-ends"]
        assert not found, f"{name}: {'; '.join(found)}"
        assert not report.unchecked, f"{name}: {report.unchecked}"


@pytest.mark.long
def test_their_own_tests_pass() -> None:
    """Of the environments, in one process: its start takes longer than the tests."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--import-mode=importlib", "-p", "no:cacheprovider"),
            *("-c", EXAMPLES[0] / "pyproject.toml", "--rootdir", REPOSITORY),
            *(example / "tests" / "test_env.py" for example in EXAMPLES),
        ],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(str(example / "src") for example in EXAMPLES),
            "XLA_FLAGS": QUICK_COMPILE,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        pytest.fail(result.stdout, pytrace=False)
