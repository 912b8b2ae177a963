"""What messages tell the user to type: it starts the same program, however this one was started."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from kit.errors import UsageError
from kit.run import commands


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a virtual environment, which is not on the PATH; `uv run` started nothing."""
    folder = tmp_path / "my env" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "my-env", "uv"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(sys, "orig_argv", ["my env/bin/python", "-m", "my_env", "train"])
    monkeypatch.setattr(sys, "argv", ["src/my_env/__main__.py", "train"])
    monkeypatch.setattr(commands, "__package__", "my_env.kit.run")
    return folder


def on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_uv_run(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV", str(bin_folder / "uv"))
    on_path(bin_folder, monkeypatch)
    assert commands.again("my-env") == "uv run my-env"
    assert commands.install("tune") == "uv sync --extra tune"


def test_uv_that_is_not_on_the_path(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = f"'{bin_folder}/uv'"
    monkeypatch.setenv("UV", str(bin_folder / "uv"))
    assert commands.again("my-env") == f"{uv} run my-env"
    assert commands.install("tune") == f"{uv} sync --extra tune"


def test_uv_run_in_another_folder_than_the_shell_s(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path(bin_folder, monkeypatch)
    monkeypatch.setenv("UV", "uv")
    monkeypatch.chdir(bin_folder)
    assert commands.again("my-env") == f"uv run --directory '{bin_folder}' my-env"
    assert commands.install("tune") == f"uv sync --directory '{bin_folder}' --extra tune"


def test_python(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commands.again("my-env") == "'my env/bin/python' -m my_env"
    assert commands.install("tune") == "'my env/bin/python' -m pip install -e '.[tune]'"
    on_path(bin_folder, monkeypatch)
    assert commands.again("my-env") == "python -m my_env"
    assert commands.install("tune") == "python -m pip install -e '.[tune]'"


def test_the_script(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["my env/bin/my-env", "train"])
    assert commands.again("my-env") == "'my env/bin/my-env'"
    on_path(bin_folder, monkeypatch)
    assert commands.again("my-env") == "my-env"


@pytest.mark.parametrize(
    ("argv", "before", "yes"),
    [
        (["my env/bin/my-env", "train"], ["python"], True),
        (["C:/my-env.exe"], ["python"], True),
        (["-m", "train"], ["python", "-m", "my_env"], True),  # while it imports my_env
        (["-m"], ["python", "-mmy_env"], True),
        (["-m", "my_env"], ["python", "-m", "pytest"], False),
        (["my-env.py"], ["python"], False),
        (["-c"], ["python", "-c"], False),
        ([""], ["python"], False),
    ],
)
def test_what_is_the_command_line_of_the_project(
    argv: list[str], before: list[str], yes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", [*before, *argv[1:]])
    assert commands.is_command_line("my-env", "my_env") is yes


def test_without_pip_and_uv_run_it_is_uv_s_environment(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert commands.install("tune") == "uv sync --extra tune"


@pytest.mark.parametrize("name", ["x; touch X", "\x1b[2J", "$(touch X)", "-rf"])
def test_no_name_does_anything_else(
    name: str, bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV", "uv")
    on_path(bin_folder, monkeypatch)
    (bin_folder / "uv").write_text('#!/bin/sh\nprintf "%s" "$2"\n')
    line = commands.again(name)
    assert line.isprintable()
    got = subprocess.run(["bash", "-c", line], env=os.environ, capture_output=True, check=True)
    assert got.stdout.decode().removeprefix("./") == name
    assert not Path("X").exists()
    for script in (name, f"./{name}"):
        monkeypatch.delenv("UV", raising=False)
        monkeypatch.setattr(sys, "argv", [script])
        line = commands.again(name)
        assert line.isprintable()
        assert line.startswith("$'") or len(shlex.split(line)) == 1


def test_a_package_that_is_there_is_no_error() -> None:
    commands.require("jax", "this", "none")
    with pytest.raises(UsageError, match="this needs the package nowhere: install the extra"):
        commands.require("nowhere", "this", "none")
