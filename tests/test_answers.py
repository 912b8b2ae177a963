"""What may be answered, what may not, and what a refusal looks like."""

import ast
import builtins
import keyword
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from copier.errors import CopierAnswersInterrupt, CopierError
from projects import Render, copy
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

COPIER = [sys.executable, "-m", "copier"]


def answers_of(project: Path) -> dict[str, Any]:
    return yaml.safe_load((project / ".copier-answers.yml").read_text())


# ---- accepted -----------------------------------------------------------------------------------

NASTY = [
    "'single' \"double\" `back`",
    r"back\slash \n \u0041 \\",
    "{{ braces }} {% raw %} {# note #} {{ 7 * 7 }}",
    "# not a comment",
    "\"\"\"triple\"\"\" '''quotes'''",
    "🐍🚀 naïve Ünïcode 日本語 עברית \u202eright to left",
    "x" * 200,
    "🚀" * 200,
    "yes",
    "null",
    "~",
    "1e3",
    "0x10",
    "2026-01-01",
    "- item",
    "key: value",
    "[1, 2]",
    "&anchor *alias !tag |",
    "<b>markup</b> | table | _emphasis_ [link](x) ${{ secret }} $(id) %s",
    "Smith, Jane <jane@example.com>",
    " spaces at both ends ",
    "comma, semicolon; trailing backslash\\",
]


@pytest.mark.parametrize("text", NASTY)
def test_any_line_of_text_comes_through_unchanged(render: Render, text: str) -> None:
    project = render(description=text, author=text)
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert metadata["description"] == text
    assert metadata["authors"] == [{"name": text}]
    answers = answers_of(project)
    assert (answers["description"], answers["author"]) == (text, text)
    assert f"Copyright (c) {text}\n" in (project / "LICENSE").read_text()
    for path in project.rglob("*.py"):
        ast.parse(path.read_text())
    lint = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet", project],
        capture_output=True,
        text=True,
    )
    assert lint.returncode == 0, lint.stdout


@pytest.mark.parametrize(
    ("project", "package", "env_class"),
    [
        ("my-env", "my_env", "MyEnv"),
        ("cartpole", "cartpole", "CartpoleEnv"),
        ("x", "x", "XEnv"),
        ("a1-2b", "a1_2b", "A12bEnv"),
        ("a" * 40, "a" * 40, "A" + "a" * 36 + "Env"),
        ("env", "env", "MyEnv"),  # Env itself is Brax's
        ("pipeline-env", "pipeline_env", "MyPipelineEnv"),
        ("match", "match", "MatchEnv"),  # a soft keyword is a fine name
    ],
)
def test_names_follow_the_project(
    render: Render, project: str, package: str, env_class: str
) -> None:
    rendered = render(project_name=project)
    answers = answers_of(rendered)
    assert (answers["package_name"], answers["env_class"]) == (package, env_class)
    assert (rendered / "src" / package / "env.py").is_file()


@pytest.mark.parametrize(
    "answers",
    [
        {"vector_size": 65536, "action_size": 1024, "episode_length": 1_000_000},
        {"vector_size": "1", "action_size": "1", "episode_length": "2"},
        {"observation": "hybrid", "image_shape": "256x1x16"},
        {"observation": "hybrid", "image_shape": "1x256x1"},
        {"license": "none"},
        {"package_name": "p_", "env_class": "E"},
    ],
)
def test_the_ends_of_each_range_are_in_it(render: Render, answers: dict[str, Any]) -> None:
    stored = answers_of(render(**answers))
    assert {name: str(stored[name]) for name in answers} == {
        name: str(value) for name, value in answers.items()
    }


@pytest.mark.parametrize(
    ("observation", "actions", "sizes"),
    [
        ("vector", "continuous", (2, 2)),
        ("vector", "discrete", (2, 4)),
        ("hybrid", "continuous", (16, 2)),
        ("hybrid", "discrete", (16, 4)),
    ],
)
def test_default_sizes_suit_the_kind(
    render: Render, observation: str, actions: str, sizes: tuple[int, int]
) -> None:
    answers = answers_of(render(observation=observation, actions=actions))
    assert (answers["vector_size"], answers["action_size"]) == sizes
    assert ("image_shape" in answers) == (observation == "hybrid")


# ---- refused ------------------------------------------------------------------------------------

LINE_BREAKS = ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]
CONTROLS = ["\0", "\t", "\x1b", "\x7f", "\x9f", "\ud800"]
PATHS = ["../x", "a/b", "/etc", ".git", ".", "..", "~", "a\\b", "C:x"]
# fmt: off
WORDS = ["", " ", "my env", " x", "x ", "1st", "9", "-x", "_x", "naïve", "日本", "x!", "{{ x }}"]
NOT_SIZES: list[Any] = [
    "", " ", "0", "-1", "+1", "01", " 1", "1\n", "1_0", "1.5", "1.0", "1e3", "0x1", "10" * 15,
    "nan", "inf", "true", "None", "x", "٣", "½", 0, -1, 1.5, 10**30, float("nan"), True, None, [1],
]
STANDARD = ["json", "os", "random", "typing", "site", "test", "types"]
IMPORTED = [
    "jax", "jaxlib", "brax", "flax", "optax", "numpy", "tyro", "rich", "matplotlib", "pil",
    "pillow", "mujoco", "scipy", "orbax", "pytest", "wandb", "copier",
]
FOLDERS = ["tests", "src", "kit", "runs", "build", "dist"]

REFUSED: dict[str, Sequence[Any]] = {
    "project_name": [
        *WORDS, *PATHS, *STANDARD, *IMPORTED, *FOLDERS, "class", "My-Env", "my_env", "my--env",
        "my-", "x" * 41, "x\n", "ml-collections", 3, True, None, ["x"],
    ],
    "package_name": [
        *WORDS, *PATHS, *STANDARD, *IMPORTED, *FOLDERS, *keyword.kwlist, "My", "my-env", "x" * 41,
        "x\n", "x.y", "__init__", 3, None,
    ],
    "env_class": [
        *WORDS, *PATHS, "myEnv", "My_Env", "My-Env", "X" * 41, "MyEnv\n", "Éa", "None", "True",
        "Env", "State", "Any", "Config", "PointState", "Exception", "ValueError", None,
    ],
    "vector_size": [*NOT_SIZES, 65537],
    "action_size": [*NOT_SIZES, 1025],
    "episode_length": [*NOT_SIZES, 1, 1_000_001],
    "image_shape": [
        "", "32", "32x32", "32x32x3x1", "x32x3", "32X32X3", "32*32*3", "32 x 32 x 3", "0x1x1",
        "1x0x1", "1x1x0", "257x1x1", "1x257x1", "1x1x17", "-1x1x1", "1.5x1x1", "1x1x1\n", "01x1x1",
        "nanx1x1", "axbxc", "(32, 32, 3)", "9" * 30 + "x1x1", [32, 32, 3], None,
    ],
    "observation": ["", "image", "Vector", "vector\n", "vector,hybrid", 1, None],
    "actions": ["", "box", "Discrete", "discrete ", None],
    "license": ["", "GPL-3.0", "mit", "None", None],
    "description": ["", " ", "\u3000", "x" * 201, None, ["x"], {"x": "y"}],
    "author": ["", " ", "x" * 201, None],
    "vector-size": [3],  # a slip of the pen, which copier by itself would overlook
}
# fmt: on
for _name in ("project_name", "package_name", "env_class", "description", "author"):
    REFUSED[_name] = [*REFUSED[_name], *(f"A{c}b" for c in LINE_BREAKS + CONTROLS)]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_sentence_and_nothing_left(
    template: Path, tmp_path: Path, name: str
) -> None:
    for number, value in enumerate(REFUSED[name]):
        target = tmp_path / "new" if number else tmp_path  # there may be an empty folder, or none
        with pytest.raises(CopierError) as refusal:
            copy(template, target, **{name: value})
        assert re.search(rf"'{name} has to be [^\n]+\.'$", str(refusal.value)), value
        assert list(tmp_path.iterdir()) == [], f"{name}={value!r} left something behind"


def test_what_is_not_asked_is_checked_as_well(template: Path, tmp_path: Path) -> None:
    """copier takes answers that it wouldn't have asked for, and derives paths from them."""
    with pytest.raises(CopierError, match="image_shape has to be"):
        copy(template, tmp_path / "new", observation="vector", image_shape="../..")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    ["action_size=0", "package_name=class", "vector_size=1.5", "author=a\nb", "observation=image"],
)
def test_a_refusal_on_the_command_line(template: Path, tmp_path: Path, data: str) -> None:
    result = subprocess.run(
        [*COPIER, "copy", "--defaults", "--data", data, template, tmp_path / "new"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 1
    (line,) = (result.stdout + result.stderr).strip().splitlines()
    assert f"{data.split('=')[0]} has to be " in line
    assert list(tmp_path.iterdir()) == []


# ---- names that mean something else -------------------------------------------------------------


def test_no_package_may_hide_what_a_project_imports(render: Render) -> None:
    project = render(observation="hybrid", actions="discrete")
    lines = "\n".join(path.read_text() for path in project.rglob("*.py"))
    imported = set(re.findall(r"^\s*(?:from|import) (\w+)", lines, re.M)) - {"my_env", "__future__"}
    assert {"jax", "brax", "dataclasses"} <= imported
    assert {name.lower() for name in imported} <= taken("taken")


def test_no_package_may_hide_a_dependency(render: Render) -> None:
    config = tomllib.loads((render() / "pyproject.toml").read_text())
    required = config["project"]["dependencies"] + config["dependency-groups"]["dev"]
    required += config["build-system"]["requires"]
    names = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in required}
    assert names <= taken("taken")


def test_no_package_may_hide_the_standard_library() -> None:
    modules = {name for name in sys.stdlib_module_names if re.fullmatch("[a-z][a-z0-9_]*", name)}
    assert modules | {word for word in keyword.kwlist if word.islower()} <= taken("taken")


def test_no_class_may_hide_what_stands_beside_it(render: Render) -> None:
    names = {name for name in dir(builtins) if name not in ("EnvironmentError", "IOError")}
    for observation in ("vector", "hybrid"):
        for path in render(observation=observation, actions="discrete").rglob("*.py"):
            if "MyEnv" in (code := path.read_text()):
                for node in ast.walk(ast.parse(code)):
                    names |= {str(getattr(node, part, "")) for part in ("id", "name")}
    names = {name for name in names if re.fullmatch("[A-Z][A-Za-z0-9]*", name)}
    assert names - {"MyEnv"} <= taken("taken_classes")


def taken(variable: str) -> set[str]:
    """The words of a list in answers.jinja."""
    source = (Path(__file__).parent.parent / "answers.jinja").read_text()
    found = re.search(rf'set {variable} = """(.*?)"""', source, re.S)
    assert found
    return set(found[1].split())


# ---- the questions as they are asked ------------------------------------------------------------

DOWN = "\x1b[B"


def answer(template: Path, target: Path, keys: str) -> dict[str, Any]:
    """Answers the questions by typing; an error when there is one more than was answered."""
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys + "\x03")  # Ctrl-C: whoever asks for more is stopped
        copier.run_copy(str(template), target, quiet=True, settings=copier.Settings())
    return answers_of(target)


@pytest.mark.parametrize(
    ("keys", "asked"), [("\r" * 9, 9), ("\r" * 5 + DOWN + "\r" * 5, 10)], ids=["vector", "hybrid"]
)
def test_at_most_ten_questions(template: Path, tmp_path: Path, keys: str, asked: int) -> None:
    assert asked <= 10
    answers = answer(template, tmp_path / "new", keys)
    assert answers["observation"] == ("hybrid" if DOWN in keys else "vector")
    with pytest.raises(CopierAnswersInterrupt):
        answer(template, tmp_path / "fewer", keys.removesuffix("\r"))


def test_each_question_has_one_sentence_of_help() -> None:
    copier_yml = yaml.safe_load((Path(__file__).parent.parent / "copier.yml").read_text())
    questions = {k: v for k, v in copier_yml.items() if not k.startswith("_")}
    assert questions.pop("before")["when"] is False  # computed, never asked
    assert len(questions) == 12
    for name, question in questions.items():
        assert question["help"].endswith("?"), name
        assert question["help"].count("?") == 1, name
        assert "default" in question, name


def test_validated_as_typed(template: Path, tmp_path: Path) -> None:
    clear = "\x05\x15"  # to the end of the line, delete to its start
    typed = [
        f"{clear}json\r{clear}cart-pole\r",  # refused, so it stands there until it is mended
        f"{clear}class\r{clear}../x\r{clear}pole\r",
        f"{clear}Env\r{clear}Pole\r",
        f'{clear}A "quoted" {{{{ name }}}}\r',
        "\r\r",
        f"{clear}0\r{clear}1.5\r{clear}7\r",
        DOWN + "\r",
        f"{clear}1025\r{clear}3\r",
    ]
    answers = answer(template, tmp_path / "new", "".join(typed))
    assert answers["project_name"] == "cart-pole"
    assert answers["package_name"] == "pole"
    assert answers["env_class"] == "Pole"
    assert answers["author"] == 'A "quoted" {{ name }}'
    assert (answers["vector_size"], answers["actions"], answers["action_size"]) == (
        7,
        "discrete",
        3,
    )


def test_unattended_with_the_next_two_commands(template: Path, tmp_path: Path) -> None:
    target = tmp_path / "a folder"
    data = ["--data", "project_name=cart-pole", "--data", "actions=discrete"]
    result = subprocess.run(
        [*COPIER, "copy", "--defaults", *data, template, target],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    assert f"  cd '{target}'\n  uv run cart-pole train\n" in result.stderr
    assert answers_of(target)["env_class"] == "CartPoleEnv"


def test_litter_in_the_template_is_not_copied(template: Path, tmp_path: Path) -> None:
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
