"""Projects of every kind, size and name: complete, clean and well-formed before anything runs."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from projects import Render

FILES = [
    ".copier-answers.yml",
    ".gitattributes",
    ".github/workflows/ci.yml",
    ".gitignore",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "src/*/__init__.py",
    "src/*/__main__.py",
    "src/*/config.py",
    "src/*/env.py",
    "src/*/kit/__init__.py",
    "src/*/kit/check.py",
    "src/*/kit/checking/__init__.py",
    "src/*/kit/checking/jaxprs.py",
    "src/*/kit/checking/rules.py",
    "src/*/kit/checking/running.py",
    "src/*/kit/checking/seen.py",
    "src/*/kit/checking/tracing.py",
    "src/*/kit/networks.py",
    "src/*/kit/ppo.py",
    "src/*/kit/rollout.py",
    "src/*/kit/runs.py",
    "src/*/kit/train.py",
    "src/*/kit/wrappers.py",
    "src/*/spec.py",
    "tests/conftest.py",
    "tests/test_contract.py",
    "tests/test_env.py",
    "tests/test_kit.py",
]

SIZES: list[dict[str, Any]] = [
    {},
    {"vector_size": 1, "action_size": 1, "image_shape": "1x1x1", "episode_length": 2},
    {"vector_size": 3, "action_size": 7, "image_shape": "5x9x2", "episode_length": 17},
    {"vector_size": 65536, "action_size": 1024, "image_shape": "256x255x16"},
]
NAMES: list[dict[str, Any]] = [
    {"project_name": "x"},
    {"project_name": "b" * 40},
    {"project_name": "a1-2b", "env_class": "A1"},
    {"project_name": "match", "package_name": "zz_top__", "env_class": "E" * 40},
    {"project_name": "c" * 40, "package_name": "j" + "a" * 39, "env_class": "F" * 40},
    {"project_name": "env"},
    {"project_name": "k-9", "license": "none"},
    {"project_name": "spec", "license": "Apache-2.0"},
    {"project_name": "config", "license": "BSD-3-Clause"},
    {"project_name": "d" * 40, "package_name": "d", "env_class": "D" * 40},
    {"project_name": "g", "package_name": "g" * 40, "env_class": "G"},
]
MATRIX: dict[str, dict[str, Any]] = {}
for _observation, _actions in product(("vector", "hybrid"), ("continuous", "discrete")):
    for _number, _sizes in enumerate(SIZES):
        _answers = {"observation": _observation, "actions": _actions, **_sizes}
        # The names in turn; no two packages have the same, so that one run of mypy can see all.
        _names = dict(enumerate(NAMES)).get(len(MATRIX), {"project_name": f"my-env-{len(MATRIX)}"})
        MATRIX[f"{_observation}-{_actions}-{_number}"] = _answers | _names


@pytest.fixture(params=MATRIX)
def answers(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MATRIX[request.param]


def package_of(project: Path) -> Path:
    (package,) = (project / "src").iterdir()
    return package


def test_the_files_are_the_expected_ones(render: Render, answers: dict[str, Any]) -> None:
    project = render(**answers)
    package = package_of(project).name
    expected = {name.replace("*", package) for name in FILES}
    if answers["observation"] == "hybrid":
        expected.add(f"src/{package}/encoder.py")
    if answers.get("license") == "none":
        expected.remove("LICENSE")
    found = {str(p.relative_to(project)) for p in project.rglob("*") if p.is_file()}
    assert {name for name in found if "_cache" not in name} == expected


def test_every_file_is_well_formed(render: Render, answers: dict[str, Any]) -> None:
    project = render(**answers)
    for path in project.rglob("*"):
        if not path.is_file() or "_cache" in str(path):
            continue
        text = path.read_text()
        jinja = re.findall(r"(?<!\$)\{\{|\{%|\{#", text)
        assert not jinja, f"{path} has Jinja left"
        assert text.endswith("\n"), f"{path} doesn't end with a line break"
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
    assert {"cuda12", "cuda13", "wandb"} == metadata["optional-dependencies"].keys()


def test_the_spec_says_what_was_answered(render: Render, answers: dict[str, Any]) -> None:
    spec: dict[str, Any] = {}
    exec((package_of(render(**answers)) / "spec.py").read_text(), spec)
    hybrid, discrete = answers["observation"] == "hybrid", answers["actions"] == "discrete"
    assert spec["ACTIONS"] == answers["actions"]
    assert spec["ACTION_SIZE"] == answers.get("action_size", 4 if discrete else 2)
    assert spec["VECTOR_SIZE"] == answers.get("vector_size", 16 if hybrid else 2)
    assert spec["EPISODE_LENGTH"] == answers.get("episode_length", 100)
    assert ("IMAGE_SHAPE" in spec) == hybrid
    size = spec["VECTOR_SIZE"]
    if hybrid:
        height, width, channels = spec["IMAGE_SHAPE"]
        assert f"{height}x{width}x{channels}" == answers.get("image_shape", "32x32x3")
        size += height * width * channels
    assert spec["OBSERVATION_SIZE"] == size


def test_what_needs_no_answer_is_copied_as_it_stands(
    render: Render, template: Path, answers: dict[str, Any]
) -> None:
    project, plain = render(**answers), 0
    for path in (template / "template").rglob("*"):
        name = str(path.relative_to(template / "template"))
        if path.is_file() and path.suffix != ".jinja" and "{%" not in name:
            copy = project / name.replace("{{package_name}}", package_of(project).name)
            assert copy.read_bytes() == path.read_bytes(), name
            plain += 1
    assert plain >= 8


def test_whoever_owns_a_file_is_said_at_its_head(render: Render) -> None:
    project = render(observation="hybrid")
    yours = {"env.py", "encoder.py", "config.py", "test_env.py"}
    for path in [*project.rglob("*.py"), *project.glob("*.toml"), *project.rglob("*.yml")]:
        head = " ".join(path.read_text().split()[:60])
        owner = (
            "Yours: `copier update` never" if path.name in yours else "(The template's|Written by)"
        )
        assert re.search(owner, head), path.name


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


def test_the_linter_has_nothing_to_say(render: Render) -> None:
    projects = [render(**answers) for answers in MATRIX.values()]
    run("ruff", "check", "--no-cache", "--quiet", *projects)


def test_the_formatter_has_nothing_to_change(render: Render) -> None:
    projects = [render(**answers) for answers in MATRIX.values()]
    run("ruff", "format", "--no-cache", "--quiet", "--diff", *projects)


def test_the_type_checker_has_nothing_to_say(render: Render, tmp_path: Path) -> None:
    """All projects in one run, since mypy spends most of its time on JAX, whatever it checks."""
    projects = [render(**answers) for answers in MATRIX.values()]
    # Each src/ is a root of packages; tests are named from the folder above, where they differ.
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
