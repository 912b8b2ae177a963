"""Random answers: either everything in the project is well formed, or nothing is left behind."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
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


# Must be accepted. No name that starts with "qz" is taken.
VALID: dict[str, st.SearchStrategy[Any]] = {
    "project_name": st.from_regex(r"\Aqz[a-z0-9]{0,9}(-[a-z0-9]{1,9}){0,2}\Z"),
    "package_name": st.from_regex(r"\Aqz[a-z0-9_]{0,30}\Z"),
    "env_class": st.from_regex(r"\AQz[A-Za-z0-9]{0,33}\Z"),
    "description": LINE | CODE,
    "author": LINE | CODE,
    "license": st.sampled_from(["MIT", "Apache-2.0", "BSD-3-Clause", "none"]),
    "observation": st.sampled_from(["vector", "hybrid"]),
    "vector_size": sizes(1, 65536),
    "image_shape": st.builds(
        "{}x{}x{}".format, st.integers(1, 256), st.integers(1, 256), st.integers(1, 16)
    ),
    "actions": st.sampled_from(["continuous", "discrete", "multi_discrete"]),
    "action_size": sizes(1, 1024),
    "episode_length": sizes(2, 1_000_000),
}
# May be accepted or refused.
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
ONE_ODD = st.sampled_from([*VALID, "vector-size", "colour"]).flatmap(
    lambda name: st.fixed_dictionaries({name: ANY | VALID.get(name, ANY)})
)


@pytest.mark.slow
def test_any_set_of_answers(
    template: Path,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    light = shutil.copytree(template, tmp_path / "light")
    for path in light.glob("template/src/*/kit/**/*.py"):
        path.write_text("")  # the same in all projects
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
    @given(st.fixed_dictionaries({}, optional=VALID), st.just({}) | ONE_ODD)
    def check(valid: dict[str, Any], odd: dict[str, Any]) -> None:
        nonlocal refused
        answers, empty = valid | odd, tmp_path / "empty"
        shutil.rmtree(empty, ignore_errors=True)
        empty.mkdir()
        capsys.readouterr()
        try:
            project = copy(light, empty / "it", quiet=False, **answers)
        except CopierError:
            (name,) = odd  # everything else must be accepted
            sentence = rf"{re.escape(name)} (must|is not a question)[^\n]+\.\n"
            assert re.fullmatch(sentence, capsys.readouterr().err)
            assert list(empty.iterdir()) == []
            refused += 1
        else:
            assert not odd.keys() - VALID.keys()
            well_formed(project, answers)
            accepted.append(project.rename(tmp_path / f"project-{len(accepted)}"))

    check()
    lint = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet", *accepted],
        capture_output=True,
        text=True,
    )
    assert lint.returncode == 0, lint.stdout
    with capsys.disabled():
        print(f" {len(accepted)} accepted, {refused} refused", end=" ")
    assert len(accepted) > refused > pytestconfig.getoption("examples") / 10


def well_formed(project: Path, answers: dict[str, Any]) -> None:
    """Everything parses and says what was answered."""
    stored = yaml.safe_load((project / ".copier-answers.yml").read_text())
    for name in answers.keys() & stored.keys():
        assert str(stored[name]) == str(answers[name]), name
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert metadata["description"] == stored["description"]
    assert metadata["authors"] == [{"name": stored["author"]}]
    package = project / "src" / stored["package_name"]
    for path in [*package.glob("*.py"), *project.glob("tests/*.py")]:
        ast.parse(path.read_text(), path.name)
    env, config = (
        (package / name).read_text().replace("_", "") for name in ("env.py", "config.py")
    )
    for name, code in (("vector_size", env), ("action_size", env), ("episode_length", config)):
        assert re.search(rf"\b{answers.get(name, '')}\b", code), name
