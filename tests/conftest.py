"""Shared by all tests: a copy of the template that stays the same, and projects created from it."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from projects import QUICK_COMPILE, Render, copy, snapshot
from versions import GIT, Versions, commit

collect_ignore = ["golden"]  # projects, whose tests run elsewhere
# Messages name commands as the program was started: the same whether `uv run` started the tests.
os.environ.pop("UV", None)

# Hundreds of small programs are compiled here and run for moments: don't work hard on them. Without
# the fusion emitters they compile in half the time, and run at two thirds of the speed. XLA reads
# its flags once; the projects that other tests run are to be compiled as always.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = QUICK_COMPILE
    jax.jit(lambda: 0)()
    del os.environ["XLA_FLAGS"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("copier-brax-env")
    group.addoption("--combinations", type=int, default=8, help="number of updates to try")
    group.addoption("--examples", type=int, default=10, help="number of sets of answers to try")
    group.addoption("--rewrite", action="store_true", help="rewrite what is generated")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template's repository."""
    return snapshot(tmp_path_factory.mktemp("template") / "copier-brax-env")


@pytest.fixture(scope="session")
def render(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """A function from answers to a project; the same answers give the same folder."""
    projects: dict[str, Path] = {}

    def render(**answers: Any) -> Path:
        key = json.dumps(answers, sort_keys=True)
        if key not in projects:
            projects[key] = copy(template, tmp_path_factory.mktemp("project") / "it", **answers)
        return projects[key]

    return render


@pytest.fixture(scope="session", autouse=True)
def _git_without_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in GIT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def history(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    if not shutil.which("git"):
        pytest.skip("needs git")
    return Versions(tmp_path_factory.mktemp("versions") / "copier-brax-env", template)


@pytest.fixture
def project(history: Versions, tmp_path: Path) -> Path:
    """A committed project of the first version."""
    history.project(tmp_path / "my-env")
    commit(tmp_path / "my-env")
    return tmp_path / "my-env"
