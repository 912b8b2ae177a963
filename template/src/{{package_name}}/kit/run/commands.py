"""Commands for the user to type next: they fit how this program was started."""

import contextlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from ..errors import UsageError
from .files import quoted


def is_command_line(program: str, package: str) -> bool:
    """Whether this process was started as the script PROGRAM or as `python -m PACKAGE`."""
    # While `python -m PACKAGE` imports the package, argv[0] is "-m".
    if sys.argv[:1] == ["-m"]:
        return sys.orig_argv[-len(sys.argv)] in (package, f"-m{package}")
    script = Path(*sys.argv[:1])
    return script.stem == program and script.suffix in ("", ".exe")


def again(program: str) -> str:
    """Starts this program once more; its arguments can be appended.

    `uv run PROGRAM` if `uv run` started it, else the script or `python -m PACKAGE`.
    """
    if "UV" in os.environ:  # uv sets it for what it runs
        return f"{_uv('run')} {quoted(Path(program))}"
    script = Path(sys.argv[0])
    if script.stem == program:
        return quoted(Path(program) if _is_on_path(program, script) else script)
    package, _, _ = __package__.rpartition(".kit")
    return f"{_python()} -m {package or program}"


def install(extra: str) -> str:
    """Installs an extra of pyproject.toml, from the project's folder."""
    if "UV" in os.environ or importlib.util.find_spec("pip") is None:
        return f"{_uv('sync')} --extra {extra}"
    return f"{_python()} -m pip install -e '.[{extra}]'"


def require(package: str, what: str, extra: str) -> None:
    """Imports nothing.

    Raises:
      UsageError: `what` needs `package`, which is missing; it says how to install `extra`.
    """
    # A folder of that name, such as wandb leaves, has no origin.
    if getattr(importlib.util.find_spec(package), "origin", None) is None:
        raise UsageError(
            f"{what} needs the package {package}: install the extra with `{install(extra)}`."
        )


def _uv(command: str) -> str:
    """`uv run` or `uv sync`, with the path of uv and the folder if they are needed."""
    text = "uv" if shutil.which("uv") else quoted(Path(os.environ.get("UV", "uv")))
    text += f" {command}"
    with contextlib.suppress(KeyError, OSError):
        # After `uv run --directory` the shell is still elsewhere.
        if not os.path.samefile(os.environ["PWD"], Path.cwd()):
            text += f" --directory {quoted(Path.cwd())}"
    return text


def _python() -> str:
    """The running Python: by name if it is on the PATH, else as it was typed."""
    if _is_on_path("python", Path(sys.executable)):
        return "python"
    return quoted(Path(sys.orig_argv[0] if sys.orig_argv else sys.executable))


def _is_on_path(name: str, file: Path) -> bool:
    """Whether `name` means `file`, or what lies beside it: a venv has several names for Python."""
    found = shutil.which(name)
    return found is not None and Path(found).absolute().parent == file.absolute().parent
