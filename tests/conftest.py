"""What the tests share: a template that nobody edits meanwhile, and projects made from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from projects import Render, copy, snapshot


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("copier-brax-env")
    group.addoption("--combinations", type=int, default=60, help="of updates and edits, 500 or so")
    group.addoption("--examples", type=int, default=150, help="of sets of answers, 2000 or so")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template's repository, copied."""
    return snapshot(tmp_path_factory.mktemp("template") / "copier-brax-env")


@pytest.fixture(scope="session")
def render(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """A function from answers to a project that has them; the same answers give the same folder."""
    projects: dict[str, Path] = {}

    def render(**answers: Any) -> Path:
        key = json.dumps(answers, sort_keys=True)
        if key not in projects:
            projects[key] = copy(template, tmp_path_factory.mktemp("project") / "it", **answers)
        return projects[key]

    return render
