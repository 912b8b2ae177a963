"""Errors whose message is for people: what is wrong and what would be right, in a sentence."""

import functools
import inspect
import re
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where files lie that are not the user's; `uv run --with` has several folders of packages.
LIBRARIES = (
    *(path for path in sys.path if path.endswith("-packages")),
    sysconfig.get_paths()["stdlib"],
    "<",
)


class UsageError(ValueError):
    """Settings, networks, arguments or a run folder that can't be used. Exit code 2."""


class TrainingDivergedError(Exception):
    """A loss, an observation or a reward is not a finite number any more. Exit code 1."""


class TrainingStopped(KeyboardInterrupt):
    """A signal ended the run, after all of it was saved. Exit code 128 + `signal`."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class OutOfMemoryError(Exception):
    """The device has too little memory for these settings. Exit code 1."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether XLA raised this because a device has too little memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)


# ---- where the user's own code failed -----------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """An exception that the user's code raised.

    Attributes:
      error: the exception.
      where: the user's own line, such as `env.py:41`, or a name where there is none.
      message: the exception's type and the first line of its message.
      frames: the user's own lines, the outermost first.
    """

    error: BaseException
    where: str
    message: str
    frames: tuple[traceback.FrameSummary, ...]

    def __str__(self) -> str:
        return f"{self.where} raises {self.message}"


def text_of(error: BaseException) -> str:
    """The message of an exception, even of one whose `__str__` raises."""
    try:
        return str(error)
    except BaseException:
        return ""


def failure(error: BaseException, owner: Any) -> Failure:
    """Finds the user's own lines in the traceback of `error`.

    Args:
      error: what was raised.
      owner: an environment, or what makes one; its file is the user's own if no other is.
    """
    frames = list(traceback.extract_tb(error.__traceback__))
    text = text_of(error)
    lines = text.strip().splitlines() or [""]
    inside = re.findall(r'File "(.+)", line (\d+)', text)
    if inside:  # an error in a callback, whose traceback is part of the message
        frames += [traceback.FrameSummary(file, int(line), "") for file, line in inside]
        lines = [line for line in lines if re.match(r"\w+(Error|Exception)\b", line)][-1:] or lines
    if isinstance(error, SyntaxError) and error.filename:
        frames.append(traceback.FrameSummary(error.filename, error.lineno, "", line=error.text))
        lines = [error.msg]
    if isinstance(owner, functools.partial):
        owner = owner.func
    kind = owner if inspect.isroutine(owner) or isinstance(owner, type) else type(owner)
    try:
        source = inspect.getsourcefile(kind)
    except Exception:
        source = None
    libraries = (*LIBRARIES, str(Path(__file__).parent))
    own = [f for f in frames if f.filename == source]
    # Compiled modules name files that are not there.
    own = [
        f for f in frames if not (f.filename.startswith(libraries) or f.filename.endswith(".pyx"))
    ] or own
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else kind.__name__
    says = " ".join(line.strip() for line in lines[: 4 if lines[0].endswith(":") else 1])
    name = type(error).__name__
    says = says.rstrip(".")[:400]
    return Failure(error, where, f"{name}: {says}" if says else name, tuple(own))
