"""Which answers are accepted, which are refused, and what a refusal looks like."""

import ast
import importlib.metadata
import keyword
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from copier.errors import CopierAnswersInterrupt, CopierError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from projects import REPOSITORY, Render, config, copy
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

COPIER = [sys.executable, "-m", "copier"]
QUESTIONS = {name: value for name, value in config().items() if not name.startswith("_")}


def answers_of(project: Path) -> dict[str, Any]:
    return yaml.safe_load((project / ".copier-answers.yml").read_text())


# ---- accepted -----------------------------------------------------------------------------------

NASTY = [
    "'single' \"double\" `back` \"\"\"triple\"\"\" '''quotes'''",
    r"back\slash \n \u0041 \\",
    "{{ braces }} {% raw %} {# note #} {{ 7 * 7 }}",
    "# not a comment",
    "🐍🚀 naïve Ünïcode 日本語 עברית \u202eright to left",
    "🚀" * 200,
    "yes",
    "null",
    "1e3",
    "2026-01-01",
    "- item",
    "key: value",
    "[1, 2]",
    "&anchor *alias !tag |",
    "<b>markup</b> | table | _emphasis_ [link](x) ${{ secret }} $(id) %s",
    " spaces at both ends ",
    "comma, semicolon; trailing backslash\\",
]


@pytest.mark.slow
@pytest.mark.parametrize("text", NASTY)
def test_any_line_of_text_comes_through_unchanged(
    template: Path, tmp_path: Path, text: str
) -> None:
    project = copy(template, tmp_path / "new", description=text, author=text)
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert metadata["description"] == text
    assert metadata["authors"] == [{"name": text}]
    answers = answers_of(project)
    assert (answers["description"], answers["author"]) == (text, text)
    assert f"Copyright (c) {text}\n" in (project / "LICENSE").read_text()
    for path in project.rglob("*.py"):
        ast.parse(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("project", "package", "env_class"),
    [
        ("my-env", "my_env", "MyEnv"),
        ("cartpole", "cartpole", "CartpoleEnv"),
        ("a1-2b", "a1_2b", "A12bEnv"),
        ("a" * 32, "a" * 32, "A" + "a" * 31 + "Env"),
        ("env", "env", "MyEnv"),  # Env itself is Brax's
        ("match", "match", "MatchEnv"),  # a soft keyword is a fine name
    ],
)
def test_names_follow_the_project(
    render: Render, project: str, package: str, env_class: str
) -> None:
    rendered = render(project_name=project)
    answers = answers_of(rendered)
    assert (answers["package_name"], answers["env_class"]) == (package, env_class)
    assert f"class {env_class}(" in (rendered / "src" / package / "env.py").read_text()


@pytest.mark.parametrize(
    "answers",
    [
        {"vector_size": 65536, "action_size": 1024, "episode_length": 1_000_000},
        {"vector_size": "1", "action_size": "1", "episode_length": "2"},
        {"observation": "hybrid", "image_shape": "256x1x16"},
        {"observation": "hybrid", "image_shape": "1x256x1"},
        {"package_name": "p_", "env_class": "E", "license": "none"},
    ],
)
def test_the_ends_of_each_range_are_accepted(render: Render, answers: dict[str, Any]) -> None:
    (package,) = (render(**answers) / "src").iterdir()
    code = (package / "env.py").read_text() + (package / "config.py").read_text()
    for name in ("vector_size", "action_size", "episode_length", "image_shape"):
        for number in str(answers.get(name, "")).split("x"):
            assert re.search(rf"\b{number}\b", code.replace("_", "")), name


# ---- refused ------------------------------------------------------------------------------------

CONTROLS = ["\n", "\r", "\x0b", "\x85", "\u2028", "\0", "\t", "\x7f", "\ud800"]
PATHS = ["../x", "a/b", "/etc", ".git", ".", "..", "~", "a\\b", "C:x"]
# fmt: off
WORDS = ["", " ", "my env", " x", "x ", "1st", "9", "-x", "_x", "naïve", "日本", "x!", "{{ x }}"]
NOT_SIZES: list[Any] = [
    "", " ", "0", "-1", "+1", "01", "1\n", "1_0", "1.5", "1.0", "1e3", "10" * 15, "nan", "true",
    "x", "٣", 0, -1, 1.5, 10**30, float("nan"), True, None, [1],
]
TAKEN = ["json", "turtle", "jax", "brax", "numpy", "pil", "pillow", "pytest", "tests", "conftest"]

REFUSED: dict[str, Sequence[Any]] = {
    "project_name": [
        *WORDS, *PATHS, *TAKEN, "class", "My-Env", "my_env", "my--env", "my-", "x" * 33, "x\n",
        "ml-dtypes", 3, True, None, ["x"],
    ],
    "package_name": [
        *WORDS, *PATHS, *TAKEN, "class", "My", "my-env", "x" * 33, "x\n", "x.y", "__init__", 3,
        None,
    ],
    "env_class": [
        *WORDS, *PATHS, "myEnv", "My_Env", "My-Env", "X" * 36, "MyEnv\n", "Éa", "None", "Env",
        "State", "Task", None,
    ],
    "vector_size": [*NOT_SIZES, 65537],
    "action_size": [*NOT_SIZES, 1025],
    "episode_length": [*NOT_SIZES, 1, 1_000_001],
    "image_shape": [
        "", "32", "32x32", "32x32x3x1", "x32x3", "32X32X3", "32*32*3", "32 x 32 x 3", "0x1x1",
        "1x0x1", "1x1x0", "257x1x1", "1x257x1", "1x1x17", "-1x1x1", "1x1x1\n", "01x1x1", "axbxc",
        "(32, 32, 3)", "9" * 30 + "x1x1", [32, 32, 3], None,
    ],
    "dynamics": ["", "brax", "MJX", "mjx ", None],
    "observation": ["", "image", "Vector", "vector\n", 1, None],
    "actions": ["", "box", "Discrete", "discrete ", "multi-discrete", None],
    "license": ["", "GPL-3.0", "mit", "None", None],
    "description": ["", " ", "\u3000", "x" * 201, None, ["x"], {"x": "y"}],
    "author": ["", " ", "x" * 201, None],
    "vector-size": [3],  # a typing error, which copier by itself would ignore
}
# fmt: on
for _name in ("project_name", "package_name", "env_class", "description", "author"):
    REFUSED[_name] = [*REFUSED[_name], *(f"A{c}b" for c in CONTROLS)]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_sentence_and_nothing_left(
    template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for number, value in enumerate(REFUSED[name]):
        target = tmp_path / "new" if number else tmp_path  # a new folder, or an empty one
        with pytest.raises(CopierError):
            copy(template, target, quiet=False, **{name: value})
        sentence = capsys.readouterr().err
        assert re.fullmatch(rf"{name} (must|is not a question)[^\n]+\.\n", sentence), value
        assert list(tmp_path.iterdir()) == [], f"{name}={value!r} left something behind"


@pytest.mark.parametrize("name", ["observation", "vector_size", "actions"])
def test_with_physics_the_model_says_the_sizes(
    template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    answer = {"observation": "hybrid", "vector_size": 3, "actions": "discrete"}[name]
    with pytest.raises(CopierError):
        copy(template, tmp_path / "new", quiet=False, dynamics="mjx", **{name: answer})
    assert capsys.readouterr().err == (
        f"{name} is not asked with dynamics=mjx: change it in model.xml and env.py later.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_asked_is_checked_as_well(template: Path, tmp_path: Path) -> None:
    with pytest.raises(CopierError):
        copy(template, tmp_path / "new", observation="vector", image_shape="../..")
    assert list(tmp_path.iterdir()) == []


SIZES = "vector_size must be a whole number from 1 to 65536."


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["--data", "vector_size=1.5"], [SIZES, "parameter 'valid_data' was not provided"]),
        (["--data-file", "FILE"], [SIZES, "parameter 'valid_data' was not provided"]),
        (["--quiet", "--data", "vector_size=1.5"], [f"'dict object' has no attribute '{SIZES}'"]),
    ],
    ids=["data", "file", "quiet"],
)
def test_a_refusal_on_the_command_line(
    template: Path, tmp_path: Path, options: list[str], lines: list[str]
) -> None:
    """The last line is the error that stops copier; with --quiet it is the only one printed."""
    data = tmp_path / "data.yml"
    data.write_text("vector_size: 1.5\n")
    options = [str(data) if option == "FILE" else option for option in options]
    result = subprocess.run(
        [*COPIER, "copy", "--defaults", *options, template, tmp_path / "new"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 1
    assert (result.stdout + result.stderr).splitlines() == lines
    assert not (tmp_path / "new").exists()


# ---- names that mean something else -------------------------------------------------------------

TAKEN_FILE = REPOSITORY / "questions/taken.txt"


@pytest.mark.slow
def test_no_name_hides_another_one(render: Render, pytestconfig: pytest.Config) -> None:
    """taken.txt has all names that mean something else where a project's names are used.

    It may have more: other versions of Python and of the packages have other modules.
    """
    package_names = python_names() | names_of_packages(render()) | {"src", "tests"}
    package_names |= {path.stem for path in render().glob("tests/*.py")}
    code = "\n".join(path.read_text() for path in render().rglob("*.py"))
    package_names |= set(re.findall(r"^ *(?:from|import) (\w+)", code, re.M)) - {"my_env"}
    names = {name for name in package_names if re.fullmatch("[a-z][a-z0-9_]*", name)}
    for actions in ("continuous", "discrete", "multi_discrete"):
        for observation in ("vector", "hybrid"):
            names |= class_names(render(observation=observation, actions=actions))
    names |= class_names(render(dynamics="mjx"))
    taken = set(TAKEN_FILE.read_text().split())
    if pytestconfig.getoption("rewrite"):
        lines = textwrap.wrap(" ".join(sorted(taken | names)), 100)
        TAKEN_FILE.write_text("\n".join(lines) + "\n")
    else:
        assert names <= taken, "Is this right? Then run it with --rewrite."


def python_names() -> set[str]:
    return {*sys.stdlib_module_names, *keyword.kwlist, "python", "pip", "uv"}


def names_of_packages(project: Path) -> set[str]:
    """Modules, commands and names of all packages that are installed with a project."""
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    wanted = pyproject["project"]["dependencies"] + pyproject["dependency-groups"]["dev"]
    found: set[str] = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        if name in found or not (requirement.marker is None or requirement.marker.evaluate()):
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # an optional one
            continue
        found.add(name)
        wanted += distribution.requires or []
    modules = {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if found & {canonicalize_name(owner) for owner in owners}
    }
    commands = {
        script.name
        for script in importlib.metadata.entry_points(group="console_scripts")
        if script.dist and canonicalize_name(script.dist.name) in found
    }
    return {name.replace("-", "_").lower() for name in found | modules | commands}


def class_names(project: Path) -> set[str]:
    """All capitalised names in the files that define or use the environment's class."""
    names = {"None", "True", "False"}
    for path in project.rglob("*.py"):
        if "MyEnv" in (code := path.read_text()):
            for node in ast.walk(ast.parse(code)):
                names |= {str(getattr(node, part, "")) for part in ("id", "name")}
    return {name for name in names if re.fullmatch("[A-Z][A-Za-z0-9]*", name)} - {"MyEnv"}


# ---- the questions as they are asked ------------------------------------------------------------

DOWN = "\x1b[B"
CLEAR = "\x05\x15"  # to the end of the line, then delete to its start


def answer(template: Path, target: Path, keys: str) -> Path:
    """Types the answers; an error if there are more questions."""
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys + "\x03")  # Ctrl-C
        copier.run_copy(str(template), target, quiet=True, settings=copier.Settings())
    return target


@pytest.mark.parametrize(
    ("keys", "asked"),
    [("\r" * 9, 9), ("\r" * 4 + DOWN + "\r" * 6, 10), ("\r" * 3 + DOWN + "\r" * 2, 5)],
    ids=["vector", "hybrid", "physics"],
)
def test_at_most_ten_questions(template: Path, tmp_path: Path, keys: str, asked: int) -> None:
    assert keys.count("\r") == asked <= 10
    project = answer(template, tmp_path / "new", keys)
    assert (project / "src/my_env/encoder.py").exists() == (asked == 10)
    assert (project / "src/my_env/model.xml").exists() == (asked == 5)
    with pytest.raises(CopierAnswersInterrupt):
        answer(template, tmp_path / "fewer", keys.removesuffix("\r"))


def test_each_question_has_help_a_rule_and_a_place_in_the_readme() -> None:
    rules = (REPOSITORY / "questions/rules.jinja").read_text()
    readme = (REPOSITORY / "README.md").read_text()
    for name, question in QUESTIONS.items():
        assert question["help"].endswith("?"), name
        assert question["help"].count("?") == 1, name
        assert "default" in question, name
        assert f'"{name}": [' in rules, name
        assert f"`{name}`" in readme, name


def test_typed_answers_are_validated(template: Path, tmp_path: Path) -> None:
    typed = [
        f"{CLEAR}json\r{CLEAR}cart-pole\r",  # refused, so it is asked again
        f"{CLEAR}class\r{CLEAR}../x\r{CLEAR}pole\r",
        "\r\r\r",
        f"{CLEAR}0\r{CLEAR}1.5\r{CLEAR}7\r",
        DOWN + "\r",
        f"{CLEAR}1025\r{CLEAR}3\r",
        f"{CLEAR}1\r{CLEAR}60\r",
    ]
    project = answer(template, tmp_path / "new", "".join(typed))
    answers = answers_of(project)
    assert answers["project_name"] == "cart-pole"
    assert (answers["package_name"], answers["env_class"]) == ("pole", "CartPoleEnv")
    same: dict[str, Any] = {"project_name": "cart-pole", "package_name": "pole"}
    same |= {"vector_size": 7, "actions": "discrete", "action_size": 3}
    expected = copy(template, tmp_path / "expected", episode_length=60, **same)
    for name in ("env.py", "config.py"):
        assert (project / "src/pole" / name).read_text() == (
            expected / "src/pole" / name
        ).read_text()


def test_unattended_with_the_next_commands(template: Path, tmp_path: Path) -> None:
    target = tmp_path / "a folder"
    data = ["--data", "project_name=cart-pole", "--data", "actions=discrete"]
    result = subprocess.run(
        [*COPIER, "copy", "--defaults", *data, template, target],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    lines = [shlex.split(line, comments=True) for line in result.stderr.strip().splitlines()]
    assert ["cd", str(target)] in lines
    assert ["uv", "run", "cart-pole", "train"] in lines
    without_uv = [".venv/bin/python", "-m", "cart_pole", "train"]
    assert any(line[-4:] == without_uv for line in lines)
    assert ["git", "init"] in [line[:2] for line in lines]
    assert answers_of(target)["env_class"] == "CartPoleEnv"


@pytest.mark.slow
def test_names_in_messages_are_only_shown(template: Path, tmp_path: Path) -> None:
    """A folder, or the name of an answer, may contain what a terminal would obey."""
    for data, code in (([], 0), (["--data", "x\x1b[2J=3"], 1)):
        result = subprocess.run(
            [*COPIER, "copy", "--defaults", *data, template, tmp_path / f"{code}\x1b[2J"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert result.returncode == code
        ours = "cd " if code == 0 else "is not a question"
        (line,) = [line for line in result.stderr.splitlines() if ours in line]
        assert line.isprintable()


def test_files_of_other_tools_are_not_copied(template: Path, tmp_path: Path) -> None:
    littered = tmp_path / "littered"
    shutil.copytree(template, littered)
    package = littered / "template/src/{{package_name}}"
    for litter in ("__pycache__/env.pyc", ".mypy_cache/x", "env.py~", ".env.py.swp", ".DS_Store"):
        (package / litter).parent.mkdir(exist_ok=True)
        (package / litter).write_text("litter")
    before = copy(template, tmp_path / "before")
    after = copy(littered, tmp_path / "after")
    assert {path.relative_to(after) for path in after.rglob("*")} == {
        path.relative_to(before) for path in before.rglob("*")
    }
