"""Files that are written whole or not at all, read up to a limit, and never through a link."""

import contextlib
import os
import shlex
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from ..errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # Windows lacks the first


class FileError(OSError):
    """A file that this project reads or writes can't be used: `strerror` says why."""


def printable(value: object) -> str:
    """`str(value)` as one line; characters that a terminal would obey or can't show are escaped.

    Errors hold texts and paths as they are: what prints them escapes them.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)
    )


def quoted(path: Path) -> str:
    """A path as one word of a shell line, which names `path` and does nothing else."""
    text = f"./{path}" if str(path).startswith("-") else str(path)
    if text.isprintable():
        return shlex.quote(text)
    plain = (
        chr(b) if 32 <= b < 127 and b not in b"\\'" else f"\\{b:03o}" for b in os.fsencode(text)
    )
    return f"$'{''.join(plain)}'"


def reason(error: OSError) -> str:
    """Why the system refused, in its words."""
    return error.strerror or str(error) or type(error).__name__


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes an OSError a FileError that says which file it is about."""
    try:
        yield
    except OSError as error:
        raise FileError(error.errno, reason(error), str(path)) from None


def refuse_link(path: Path) -> None:
    """Raises UsageError if `path` is a link."""
    if path.is_symlink():
        raise UsageError(
            f"{path} is a link, and links are not followed: put what it leads to in its place, or "
            "remove it."
        )


def refuse_no_folder(path: Path) -> None:
    """Raises UsageError if there is something at `path` that is no folder, or a link to one."""
    refuse_link(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is no folder, but a run has a folder there: remove it.")


def folder(place: Path, *names: str) -> Path:
    """Makes the folders PLACE/NAME/NAME/... where they are missing.

    Raises:
      UsageError: one of them is a link or no folder.
      FileError: one can't be made.
    """
    for name in names:
        place = place / name
        with naming(place):
            refuse_no_folder(place)
            place.mkdir(exist_ok=True)
    return place


def read(path: Path, limit: int) -> bytes:
    """All of a file of at most `limit` bytes.

    Raises:
      UsageError: it is larger, or can't be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(limit + 1) if size <= limit else b""
    except OSError as error:
        raise UsageError(f"{path} can't be read ({reason(error)}).") from None
    if max(size, len(data)) > limit:
        raise UsageError(
            f"{path} has more than the {limit:,} bytes that are expected there: restore it from a "
            "backup, or delete it."
        )
    return data


def write(path: Path, *data: bytes) -> None:
    """Writes a file whole or not at all; what has its name is replaced, a link included.

    Raises:
      FileError: the disk is full or can't be written to; `filename` is `path`.
    """
    part = path.with_name(path.name + ".part")
    with naming(path):
        part.unlink(missing_ok=True)  # what a killed process left
        try:
            with part.open("xb") as file:
                file.writelines(data)
                file.flush()
                os.fsync(file.fileno())  # or a power cut might leave an empty file of that name
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def append(path: Path, data: bytes) -> None:
    """Adds lines to a file: all of them or, on a full disk, none.

    A last line that was cut short is ended first.

    Raises:
      FileError: the disk is full or can't be written to; `filename` is `path`.
      UsageError: `path` is a link.
    """
    with naming(path), _open(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            data = data if file.read(1) == b"\n" else b"\n" + data
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


@contextlib.contextmanager
def lock(folder: Path, busy: str) -> Iterator[None]:
    """Keeps other processes out of a folder that lock it too.

    The kernel releases the lock when the process ends, however it ends. On systems without `fcntl`
    (Windows) and on file systems without locks nothing is locked.

    Raises:
      UsageError: another process holds the lock, with the text `busy`; or the folder can't be
        written to.
    """
    try:
        file = _open(folder / ".lock")
    except OSError as error:
        raise UsageError(
            f"{folder} can't be written to ({reason(error)}): name another folder."
        ) from None
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(busy) from None
        except OSError:
            pass  # some network file systems have no locks
        yield


def _open(path: Path) -> FileIO:
    """Opens a file to read and write; it is made if need be. Raises UsageError if it is a link."""
    refuse_link(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINKS, 0o666)
    return open(descriptor, "r+b", buffering=0)
