"""Any set of answers: rendered into what parses and lints, or refused and nothing left."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier.errors import CopierError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from projects import copy

LINE = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=200
).filter(str.strip)
CODE = st.text("{}%#\"'\\$`<>[]()|&*!@~:;,.-+=/?^_ \u202en0 é日🚀", min_size=1, max_size=40).filter(
    str.strip
)


def sizes(smallest: int, largest: int) -> st.SearchStrategy[Any]:
    numbers = st.integers(smallest, largest)
    return numbers | numbers.map(str)


# What has to be accepted. No name here can be one that is taken.
SOUND: dict[str, st.SearchStrategy[Any]] = {
    "project_name": st.from_regex(r"\Aqz[a-z0-9]{0,12}(-[a-z0-9]{1,12}){0,2}\Z"),
    "package_name": st.from_regex(r"\Aqz[a-z0-9_]{0,38}\Z"),
    "env_class": st.from_regex(r"\AQz[A-Za-z0-9]{0,38}\Z"),
    "description": LINE | CODE,
    "author": LINE | CODE,
    "license": st.sampled_from(["MIT", "Apache-2.0", "BSD-3-Clause", "none"]),
    "observation": st.sampled_from(["vector", "hybrid"]),
    "vector_size": sizes(1, 65536),
    "image_shape": st.builds(
        "{}x{}x{}".format, st.integers(1, 256), st.integers(1, 256), st.integers(1, 16)
    ),
    "actions": st.sampled_from(["continuous", "discrete"]),
    "action_size": sizes(1, 1024),
    "episode_length": sizes(2, 1_000_000),
}
# What may be accepted or not.
ANY = (
    st.text(max_size=60)
    | CODE
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from(["my\nenv", "os", "../x", "a/b", ".git", "Class", "1e3", "1x1", "0", "-1"])
)
ONE_ODD = st.sampled_from([*SOUND, "vector-size", "before", "colour"]).flatmap(
    lambda name: st.fixed_dictionaries({name: ANY | SOUND.get(name, ANY)})
)


def test_any_set_of_answers(
    template: Path,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    accepted: list[Path] = []
    refused = 0

    @settings(
        max_examples=pytestconfig.getoption("examples"),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.fixed_dictionaries({}, optional=SOUND), st.just({}) | ONE_ODD)
    def check(sound: dict[str, Any], odd: dict[str, Any]) -> None:
        nonlocal refused
        answers, empty = sound | odd, tmp_path / "empty"
        empty.mkdir(exist_ok=True)
        target = empty / "it"
        if sentence := refusal(template, target, answers):
            (name,) = odd  # whatever else there is has to be accepted
            assert re.search(rf"'{re.escape(name)} has to be [^\n]+\.'\Z", sentence)
            assert list(empty.iterdir()) == []
            refused += 1
        else:
            assert not odd.keys() - SOUND.keys()
            well_formed(target, answers)
            for plain in target.glob("src/*/kit/*.py"):
                plain.write_text("")  # the same in all
            accepted.append(target.rename(tmp_path / f"project-{len(accepted)}"))
        empty.rmdir()

    check()
    lint = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet", tmp_path],
        capture_output=True,
        text=True,
    )
    assert lint.returncode == 0, lint.stdout
    with capsys.disabled():
        print(f" {len(accepted)} accepted, {refused} refused", end=" ")
    assert len(accepted) > refused > pytestconfig.getoption("examples") / 10


def refusal(template: Path, target: Path, answers: dict[str, Any]) -> str:
    try:
        copy(template, target, **answers)
    except CopierError as error:
        return str(error)
    return ""


def well_formed(project: Path, answers: dict[str, Any]) -> None:
    """Everything parses, and what was answered is what stands there."""
    stored = yaml.safe_load((project / ".copier-answers.yml").read_text())
    for name, value in answers.items():
        if name != "image_shape" or stored["observation"] == "hybrid":
            assert str(stored[name]) == str(value), name
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert metadata["description"] == stored["description"]
    assert metadata["authors"] == [{"name": stored["author"]}]
    for path in python_files(project, stored["package_name"]):
        ast.parse(path.read_text(), path.name)
    spec: dict[str, Any] = {}
    exec((project / "src" / stored["package_name"] / "spec.py").read_text(), spec)
    assert spec["VECTOR_SIZE"] == int(stored["vector_size"])
    assert spec["ACTION_SIZE"] == int(stored["action_size"])


def python_files(project: Path, package: str) -> Iterator[Path]:
    yield from (project / "src" / package).glob("*.py")
    yield from (project / "tests").glob("*.py")
