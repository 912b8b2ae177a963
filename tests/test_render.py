"""Projects of every kind and of many names: complete, well formed, clean for linter and mypy."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from projects import REPOSITORY, Render, yours
from versions import commit

OURS = "From the template: changes of yours are kept, `copier update` merges new versions in."
FILES = {  # besides kit/
    ".copier-answers.yml",
    ".gitattributes",
    ".github/workflows/ci.yml",
    ".github/workflows/update.yml",
    ".gitignore",
    "AGENTS.md",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "src/*/__init__.py",
    "src/*/__main__.py",
    "src/*/config.py",
    "src/*/env.py",
    "src/*/py.typed",
    "tests/conftest.py",
    "tests/test_contract.py",
    "tests/test_env.py",
    "tests/test_training.py",
}
# Each kind once, and among them the smallest and largest sizes, the longest names and all licences.
# No two packages have the same name, so that one run of mypy can check all.
SMALL = {"vector_size": 1, "action_size": 1, "image_shape": "1x1x1", "episode_length": 2}
LARGE = {"vector_size": 65536, "action_size": 1024, "image_shape": "256x255x16"}
MATRIX: list[dict[str, Any]] = [
    {"observation": "vector", "actions": "continuous", "project_name": "a1-2b", "env_class": "A1"},
    {"observation": "vector", "actions": "discrete", "project_name": "b" * 32, **SMALL},
    {
        "observation": "vector",
        "actions": "multi_discrete",
        "project_name": "c" * 32,
        "package_name": "j" + "a" * 31,
        "env_class": "F" * 35,
        "license": "BSD-3-Clause",
        **LARGE,
    },
    {"observation": "hybrid", "actions": "continuous", "license": "none", "project_name": "env"},
    {
        "observation": "hybrid",
        "actions": "discrete",
        "project_name": "config",
        "license": "Apache-2.0",
        **LARGE,
    },
    {
        "observation": "hybrid",
        "actions": "multi_discrete",
        "project_name": "d" * 32,
        "package_name": "d",
        "env_class": "D",
        **SMALL,
    },
    {"dynamics": "mjx", "project_name": "physics"},
]


@pytest.fixture(params=MATRIX, ids=lambda answers: "-".join([*answers.values()][:2]))
def answers(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def package_of(project: Path) -> Path:
    (package,) = (project / "src").iterdir()
    return package


def files_of(project: Path) -> list[Path]:
    return [p for p in project.rglob("*") if p.is_file() and "_cache" not in str(p)]


def test_the_files_are_the_expected_ones(
    render: Render, template: Path, answers: dict[str, Any]
) -> None:
    project = render(**answers)
    package = package_of(project).name
    kit = template / "template/src/{{package_name}}"
    expected = {name.replace("*", package) for name in FILES}
    expected |= {f"src/{package}/{p.relative_to(kit)}" for p in files_of(kit / "kit")}
    if answers.get("dynamics") == "mjx":
        expected.add(f"src/{package}/model.xml")
    if answers.get("observation") == "hybrid":
        expected.add(f"src/{package}/encoder.py")
    if answers.get("license") == "none":
        expected.remove("LICENSE")
    assert {path.relative_to(project).as_posix() for path in files_of(project)} == expected


def test_every_file_is_well_formed(render: Render, answers: dict[str, Any]) -> None:
    for path in files_of(render(**answers)):
        text = path.read_text()
        if "kit" not in path.parts:  # `{{` is Python there
            jinja = re.findall(r"(?<!\$)\{\{|\{%|\{#", text)
            assert not jinja, f"{path} has Jinja left"
        assert path.name == "py.typed" or text.endswith("\n"), f"{path} has no last line break"
        assert not text.endswith("\n\n"), f"{path} ends with an empty line"
        assert not re.search(r"\n\n\n\n|[ \t]\n", text), f"{path} has stray blanks"
        if path.suffix == ".py":
            ast.parse(text)


def test_the_metadata_says_what_was_answered(render: Render, answers: dict[str, Any]) -> None:
    project = render(**answers)
    config = tomllib.loads((project / "pyproject.toml").read_text())
    package, metadata = package_of(project).name, config["project"]
    assert metadata["name"] == answers["project_name"]
    assert package == answers.get("package_name", metadata["name"].replace("-", "_"))
    assert metadata["scripts"] == {metadata["name"]: f"{package}.__main__:main"}
    assert config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [f"src/{package}"]
    licence = answers.get("license", "MIT")
    assert metadata.get("license", "none") == licence
    assert ("Private :: Do Not Upload" in metadata.get("classifiers", [])) == (licence == "none")


def test_the_kit_is_copied_as_it_is(render: Render, template: Path) -> None:
    kit = template / "template/src/{{package_name}}/kit"
    copies = package_of(render(**MATRIX[-1])) / "kit"
    for path in kit.rglob("*"):
        assert path.suffix in ("", ".py") or path.name == "README.md", f"{path} is not plain Python"
        if path.is_file():
            assert (copies / path.relative_to(kit)).read_bytes() == path.read_bytes()


def test_sizes_and_kinds_are_in_the_user_s_files_only(render: Render) -> None:
    """An update does not know them, so nothing that it renders may depend on them."""
    plain = render()
    other = render(observation="hybrid", actions="multi_discrete", episode_length=17, **LARGE)
    names = {path.relative_to(plain).as_posix() for path in files_of(plain)}
    for name in names - yours():
        assert (plain / name).read_bytes() == (other / name).read_bytes(), name


def test_each_file_says_whose_it_is(render: Render) -> None:
    project = render(observation="hybrid")
    without_comments = {"README.md", "LICENSE", ".copier-answers.yml", "src/my_env/py.typed"}
    for path in files_of(project):
        name = path.relative_to(project).as_posix()
        head = " ".join(path.read_text().replace("#", " ").split()[:60])
        if name in without_comments or "/kit/" in name:
            continue  # kit/README.md says it for all
        elif name in yours():
            assert "Yours: `copier update` never touches this file." in head, name
        else:
            assert OURS in head, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "linked"),
    [
        ("https://github.com/someone/template.git", True),
        ("gh:someone/template", True),
        ("git+https://github.com/someone/template.git", True),
        ("https://someone:secret@github.com/someone/template.git", False),
        ("git@github.com:someone/template.git", False),
    ],
)
def test_the_readme_links_to_the_template_s_pages(
    template: Path, tmp_path: Path, source: str, linked: bool
) -> None:
    """Where the template has an https address; git takes a local copy for it."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    repository = shutil.copytree(template, tmp_path / "template.git")
    commit(repository)
    hosts = ["https://github.com/", "https://someone:secret@github.com/", "git@github.com:"]
    ends = ["someone/template.git", "someone/template"]
    lines = "".join(f"insteadOf = {host}{end}\n" for host in hosts for end in ends)
    (tmp_path / "config").write_text(f'[url "{repository}"]\n{lines}')
    run(
        *("copier", "copy", "--quiet", "--defaults", source, tmp_path / "new"),
        env=os.environ | {"GIT_CONFIG_GLOBAL": str(tmp_path / "config")},
    )
    readme = (tmp_path / "new" / "README.md").read_text()
    assert "secret" not in readme
    pages = {f"docs/{page.name}" for page in (REPOSITORY / "docs").glob("*.md")}
    pages |= {"examples/README.md"}
    links = re.findall(r"\]\(https://github.com/someone/template/blob/HEAD/(.*?)\)", readme)
    assert sorted(links) == (sorted(pages) if linked else [])
    assert all(page in readme for page in pages)


def test_contributing_lists_the_user_s_files() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    (sentence,) = re.findall(r"The user's files are (.*?)\.\s", text, re.S)
    assert {name.replace("*", "my_env") for name in re.findall("`(.*?)`", sentence)} == yours()


def run(*command: str | Path, **options: Any) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    if result.returncode:
        pytest.fail(result.stdout, pytrace=False)


def test_ruff_finds_nothing(render: Render) -> None:
    projects = [render(**answers) for answers in MATRIX]
    run("ruff", "check", "--no-cache", "--quiet", *projects)
    run("ruff", "format", "--no-cache", "--quiet", "--diff", *projects)


@pytest.mark.slow
def test_mypy_finds_nothing(render: Render, tmp_path: Path) -> None:
    """All projects in one run: mypy spends most of its time on JAX."""
    projects = [render(**answers) for answers in MATRIX]
    # Each src/ is a root of packages. Tests are named from the folder above, so that they differ.
    roots = [projects[0].parent.parent, *(project / "src" for project in projects)]
    run(
        "mypy",
        "--config-file",
        projects[0] / "pyproject.toml",
        "--cache-dir",
        tmp_path,
        "--explicit-package-bases",
        *(project / folder for project in projects for folder in ("src", "tests")),
        env=os.environ | {"MYPYPATH": os.pathsep.join(map(str, roots))},
    )
