"""Where an operation of a program stands in the source."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax._src import source_info_util

from ..errors import LIBRARIES
from . import jaxprs


class Frame(NamedTuple):
    """A line of code on the stack of an operation."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


def frames(eqn: Any, tracer: str) -> list[Frame]:
    """Where an operation stands, innermost first, out to the code at path `tracer` (a prefix)."""
    found = []
    for frame in source_info_util.user_frames(eqn.source_info.traceback):
        if frame.file_name.startswith(tracer):
            break
        found.append(Frame(frame.file_name, frame.start_line, frame.function_name))
    return found


def users_first(stack: Sequence[Frame]) -> Frame | None:
    """The innermost line of the user's own code; of a library if there is none."""
    own = [x for x in stack if not x.file.startswith((*LIBRARIES, jaxprs.KIT))]
    return next(iter(own or stack), None)
