"""A file of JSON lines that only grows and that shows any damage.

Each line starts with the CRC-32 of the file's name and of all lines so far, so a change, a removal,
a move and another name are noticed. A last line without its end, which a crash or a full disk
leaves, is dropped.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...run import files

MAX_BYTES = 2**28  # a line of `tune` has about 3 kB, so this is 90,000


class Journal:
    """Reads a journal; `begin` and then `append` write it, in the only process that does.

    Args:
      path: of the file; it need not be there.
      replay: called with what each line holds, in order; raises ValueError for what the journal
        never gets.

    Attributes:
      path: of the file.
      count: how many lines are read or written.
      torn: whether a last line without its end was dropped.

    Raises:
      UsageError: the file is damaged, too large or can't be read; it stays as it is.
    """

    def __init__(self, path: Path, replay: Callable[[Any], None]) -> None:
        self.path, self.count = path, 0
        self._sum = zlib.crc32(path.name.encode())
        data = files.read(path, MAX_BYTES) if path.exists() else b""
        *lines, rest = data.split(b"\n")
        self.torn = bool(rest)
        self._whole = data[: len(data) - len(rest)]
        for line in lines:
            self.count += 1
            try:
                if self._line(line[9:]) != line + b"\n":
                    raise ValueError("another sum")
                replay(json.loads(line[9:]))
            except (ValueError, TypeError, LookupError):
                raise UsageError(
                    f"{path} is damaged in line {self.count:,}: restore it from a backup, or "
                    "move it away to start again."
                ) from None

    def begin(self) -> None:
        """Makes the file one that can be appended to; raises FileError."""
        files.write(self.path, self._whole)

    def append(self, record: Any) -> None:
        """Adds a line, or nothing if the disk is full; raises FileError."""
        files.append(self.path, self._line(json.dumps(record).encode()))
        self.count += 1

    def _line(self, text: bytes) -> bytes:
        """The next line, which the sums of later ones depend on."""
        self._sum = zlib.crc32(text, self._sum)
        return b"%08x %s\n" % (self._sum, text)
