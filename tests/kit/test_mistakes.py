"""Mistakes in env.py and config.py: a sentence and not a traceback, which names `check` first."""

import dataclasses
import functools
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import gymnasium
import gymnax
import pytest
from kit import cli
from kit.check import Report, examine
from kit.env.actions import Continuous, Discrete, MultiDiscrete, action_space_of, known_space
from kit.errors import UsageError
from kit.ppo.networks import make_network_factory
from toys import Toy, toy_task

PACKAGE = Path(__file__).parents[2] / "template" / "src" / "{{package_name}}"


class Unmade(Toy):
    """An environment that lacks a file."""

    def __init__(self) -> None:
        super().__init__()
        (Path(__file__).parent / "levels.txt").read_text()


class Impatient(Toy):
    """Branches on a traced value."""

    def step(self, state: Any, action: Any) -> Any:
        x = state.obs[0]
        return state.replace(reward=1.0 if x > 0 else 0.0)


class Forgetful(Toy):
    """Fails in a wrapper, where no line of its own is at fault."""

    def step(self, state: Any, action: Any) -> Any:
        return super().step(state, action).replace(info={})


def config(**environments: Any) -> types.ModuleType:
    module = types.ModuleType("config")
    module.__file__ = __file__
    for name, environment in environments.items():
        setattr(module, name, dataclasses.replace(toy_task(), environment=environment))
    return module


def command(
    capsys: pytest.CaptureFixture[str], tasks: types.ModuleType | str, *args: str
) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        cli.main("toy", tasks, args)
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


@pytest.mark.parametrize("args", [["train", "--run-dir", "r"], ["bench"], ["tune"], ["diagnose"]])
def test_an_environment_that_can_t_be_made(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command(capsys, config(task=Unmade), *args)
    assert code == 2
    first, second, *_ = err.splitlines()
    assert first.startswith("test_mistakes.py:")
    assert "raises FileNotFoundError: " in first
    assert "Fix: put the file there" in first
    assert re.match("First run .*-m toy check task, ", second)
    assert "Traceback" not in err
    assert not list(tmp_path.glob("*/checkpoints"))


def test_check_says_that_an_environment_can_t_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, config(task=Unmade), "check", "--json")
    assert (code, err) == (1, "")
    ((violation,), unchecked) = (
        json.loads(out)["tasks"]["task"][key] for key in ("violations", "unchecked")
    )
    assert violation["rule"] == "is-made"
    assert "levels.txt" in violation["actual"]
    assert unchecked == {}
    code, out, _ = command(capsys, config(task=Unmade), "check")
    assert code == 1
    assert "✗  is-made" in out


@pytest.mark.parametrize("args", [["train", "--run-dir", "r"], ["bench"]])
def test_a_mistake_in_step_is_told_by_its_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command(capsys, config(task=Impatient), *args)
    assert code == 2
    first, second, *_ = err.splitlines()
    assert "raises TracerBoolConversionError: " in first
    assert "Fix: jnp.where(x > 0, 1.0, 0.0)" in first
    assert re.match("First run .*-m toy check task, ", second)
    assert "return state.replace(reward=1.0 if x > 0 else 0.0)" in err
    assert "site-packages" not in err
    monkeypatch.setenv("JAX_TRACEBACK_FILTERING", "off")
    with pytest.raises(Exception, match="traced array"):
        cli.main("toy", config(task=Impatient), args)


def test_an_error_without_a_line_of_the_user_s_is_explained_by_check(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = command(capsys, config(task=Toy, other=Forgetful), "bench", "other")
    assert code == 2
    first, second = err.splitlines()
    assert "The environment is at fault: wrapper-keys: step drops " in first
    assert re.match("First run .*-m toy check other, ", second)


def test_a_mistake_that_is_not_the_environment_s_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clean = Report([], {}, [], {}, 0.0)
    monkeypatch.setattr("kit.check.examine", lambda *_, **__: clean)
    monkeypatch.setattr("kit.tools.bench.measure_speed", functools.partial(int, "x", base=7))
    with pytest.raises(TypeError, match="at most 2 arguments"):
        cli.main("toy", config(task=Toy), ["bench"])


# CONFIG.PY AND ENV.PY


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("task = (", ":1 raises SyntaxError: '(' was never closed."),
        ("x = 1\ntask = undefined", ":2 raises NameError: name 'undefined' is not defined. Fix: "),
        ("import nothing_here", ":1 raises ModuleNotFoundError: No module named 'nothing_here'. "),
        (
            "from mujoco_playground import registry",
            ":1 raises ModuleNotFoundError: No module named 'mujoco_playground'. Fix: install the "
            "extra playground: uv sync --extra playground, or pip install -e '.[playground]'",
        ),
        (
            "from toys import Toy\nspace = Toy.action_space",
            ":2 raises AttributeError: type object 'Toy' has no attribute 'action_space'. Fix: "
            "write action_space = ... in the body of the class Toy, and not in its __init__",
        ),
        (
            "class Point:\n    @property\n    def action_space(self):\n        return 2\n"
            "from kit import make_network_factory as f\nf(Point.action_space)",
            "The action space is a property: write action_space = ... in the body of the class",
        ),
    ],
)
def test_a_config_that_can_t_be_imported(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    says: str,
) -> None:
    name = f"config_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    result, out, err = command(capsys, name, "check", "--json")
    assert (result, out) == (2, "")
    assert err.startswith(f"{name}.py{says}" if says[0] == ":" else says)
    assert len(err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("class Point(:\n", "env.py:1 raises SyntaxError: invalid syntax."),
        pytest.param(
            "x = 1\ny = undefined\n",
            "env.py:2 raises NameError: name 'undefined' is not defined.",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "class Other:\n    pass\n",
            "Fix: rename it in __init__.py and config.py too",
            marks=pytest.mark.long,
        ),
    ],
)
def test_an_env_py_that_can_t_be_imported(tmp_path: Path, code: str, says: str) -> None:
    package = tmp_path / "points"
    package.mkdir()
    for name in ("__init__", "__main__"):
        text = (PACKAGE / f"{name}.py.jinja").read_text()
        text = text.replace("{{ env_class }}", "Point").replace("{{ package_name }}", "points")
        (package / f"{name}.py").write_text(text.replace("{{ project_name }}", "points"))
    (package / "kit").symlink_to(PACKAGE / "kit")
    (package / "env.py").write_text(code)
    (package / "config.py").write_text("from .env import Point\n")
    run = functools.partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True)
    result = run([sys.executable, "-m", "points", "check"])
    assert (result.returncode, result.stdout) == (2, "")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    if "SyntaxError" in says:
        result = run([sys.executable, "-c", "from points import Point"])  # not the command line
        assert result.returncode == 1
        assert "Traceback" in result.stderr


# SPACES OF OTHER PACKAGES


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (gymnasium.spaces.Discrete(4), r"use Discrete\(4\)\.$"),
        (gymnasium.spaces.Discrete(4, start=1), r"use Discrete\(4\), whose choices start at 0"),
        (gymnasium.spaces.Box(-2, 2, (2, 3)), r"use Continuous\(6\), numbers in \[-1, 1\]"),
        (gymnasium.spaces.MultiDiscrete([3, 2]), r"use MultiDiscrete\(\(3, 2\)\)"),
        (gymnasium.spaces.MultiBinary(3), r"use MultiDiscrete\(\(2,\) \* 3\)"),
        (gymnax.environments.spaces.Discrete(4), r"use Discrete\(4\)\.$"),
        (gymnax.environments.spaces.Box(-1, 1, (2,)), r"use Continuous\(2\)"),
        ((Discrete(3), Continuous(2)), "several actions at once are not supported"),
        (gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2)]), "several actions at once"),
        ({"agent_0": Discrete(3)}, "a dict is not supported, nor are several agents"),
        (gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(2)), "a dict is not supported"),
        (
            gymnax.make("CartPole-v1")[0].action_space,
            "body of the class, no property and no method",
        ),
        (4, r"use Continuous\(n\), Discrete\(n\) or MultiDiscrete\(\(n, m\)\)"),
        (Discrete, r"it has to be one of Continuous\(n\)"),
    ],
)
def test_what_to_use_instead_of_another_package_s_space(space: Any, says: str) -> None:
    class Foreign(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = space

    for use in (known_space, make_network_factory):
        with pytest.raises(UsageError, match=says):
            use(space)
    with pytest.raises(UsageError, match=says):
        action_space_of(Foreign())


def test_the_spaces_of_this_package_are_taken() -> None:
    for space in (Continuous(2), Discrete(3), MultiDiscrete((3, 2))):
        assert known_space(space) is space


def test_check_names_the_space_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    class Foreign(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.action_space: Any = gymnasium.spaces.Box(-1, 1, (2,))

        action_size = 2  # type: ignore[assignment]

    report = examine(Foreign)
    (violation,) = [v for v in report.violations if v.severity == "error"]
    assert violation.rule == "action-size"
    assert violation.fix.startswith("use Continuous(2)")
    code, _, err = command(capsys, config(task=Foreign), "bench")
    assert code == 2
    assert err.startswith("The action space is a gymnasium.spaces.box.Box: use Continuous(2)")


# SEVERAL TASKS


def test_check_prints_what_is_wrong_and_with_all_every_rule(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Bare(Toy):
        backend: Any = 3  # an error, so that no episodes are run

    code, out, _ = command(capsys, config(task=Bare), "check")
    assert code == 1
    assert "backend is 3, a int" in out
    assert "reset-runs" not in out
    code, out, _ = command(capsys, config(task=Bare), "check", "--all")
    assert code == 1
    assert "reset-runs" in out


def test_a_rule_to_ignore_that_does_not_exist_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = config(task=Toy)
    vars(tasks)["task"] = dataclasses.replace(vars(tasks)["task"], ignore_rules=("finit",))
    code, _, err = command(capsys, tasks, "check")
    assert code == 2
    assert err == "ignore_rules names 'finit', which is no rule: did you mean finite?\n"


def test_all_tasks_are_checked_and_those_that_are_alike_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[int] = []

    class Counted(Toy):
        backend: Any = 3  # an error, so that no episodes are run

        def __init__(self) -> None:
            super().__init__()
            made.append(1)

    tasks = config(task=Counted, again=Counted, broken=Unmade)
    code, out, err = command(capsys, tasks, "check", "--json")
    assert (code, err, made) == (1, "", [1])
    told = json.loads(out)
    assert told["ok"] is False
    assert {k: [v["rule"] for v in x["violations"]] for k, x in told["tasks"].items()} == {
        "task": ["backend"],
        "again": ["backend"],
        "broken": ["is-made"],
    }
    code, out, _ = command(capsys, tasks, "check", "broken")
    assert code == 1
    assert made == [1]
    code, out, _ = command(capsys, config(task=Unmade, other=functools.partial(Unmade)), "check")
    assert code == 1
    assert out.startswith("task:\n")
    assert "\nother:\n" in out
