"""Reading and writing in a folder that may come from a stranger or stand on a full disk.

Links are not followed, and what is no regular file is refused: neither lands a write outside of
the folder, nor does a read wait for a pipe or fill the memory from a device.
"""

import contextlib
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# O_NONBLOCK: opening a pipe would wait for its other end. Windows has neither of the first two.
SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class FileError(OSError):
    """A file that this project reads or writes can't be used: `strerror` says why."""


def printable(value: object) -> str:
    """`str(value)` as one line; what a terminal would obey or can't show is escaped.

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


def refuse_no_folder(path: Path) -> None:
    """Raises UsageError if there is something at `path` that is no folder, or a link to one."""
    if path.is_symlink():
        raise UsageError(
            f"{path} is a link, and links are not followed: put what it leads to in its place, or "
            "remove it."
        )
    if os.path.lexists(path) and not path.is_dir():
        raise UsageError(f"{path} is no folder, but a run has a folder there: remove it.")


def folder(place: Path, *names: str, own_links: bool = False) -> Path:
    """Makes PLACE/NAME/NAME/... for a library that writes there, and that would follow links.

    Args:
      place: a folder.
      names: of the folders in it, one in another; made where they are missing.
      own_links: whether the library keeps links of its own in the last one.

    Raises:
      UsageError: one of them is a link or no folder, or the last one holds a link.
      FileError: one can't be made.
    """
    path = place
    for name in names:
        path = path / name
        with naming(path):
            refuse_no_folder(path)
            path.mkdir(exist_ok=True)
    for entry in () if own_links else path.iterdir():
        if entry.is_symlink():
            refuse_no_folder(entry)
    return path


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes an OSError a FileError that says which file it is about."""
    try:
        yield
    except OSError as error:
        raise FileError(error.errno, reason(error), str(path)) from None


@contextlib.contextmanager
def reading(path: Path, limit: int) -> Iterator[BinaryIO]:
    """Opens a regular file of at most `limit` bytes.

    Raises:
      UsageError: it is something else, is larger, or can't be read.
    """
    try:
        with _open(path, os.O_RDONLY) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise UsageError(
                    f"{path} has {size:,} bytes, but at most {limit:,} are expected there: restore "
                    "it from a backup, or delete it."
                )
            yield file
    except OSError as error:
        raise UsageError(f"{path} can't be read ({reason(error)}).") from None


def read(path: Path, limit: int) -> bytes:
    """All of a regular file of at most `limit` bytes; raises UsageError as `reading` does."""
    with reading(path, limit) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def write(path: Path, *data: bytes) -> None:
    """Writes a file whole or not at all; what has its name is replaced, a link included.

    Raises:
      FileError: the disk is full or can't be written to; `filename` is `path`.
    """
    part = path.with_name(path.name + ".part")
    with naming(path):
        part.unlink(missing_ok=True)  # what a killed process left
        try:
            with _open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                for chunk in data:
                    file.write(chunk)
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
      UsageError: `path` is no regular file.
    """
    with naming(path), _open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            data = b"\n" * (file.read(1) != b"\n") + data
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Locks a file, which is made if need be; gives False if another process holds it.

    The kernel releases the lock when the process ends, however it ends. On systems without `fcntl`
    (Windows) and on file systems without locks nothing is locked.
    """
    with naming(path):
        file = _open(path, os.O_RDWR | os.O_CREAT)
    with file:
        free = True
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
            except OSError:
                pass  # some network file systems have no locks
        yield free


def _open(path: Path, flags: int, buffering: int = -1) -> BinaryIO:
    """Opens a regular file; raises UsageError if `path` is something else."""
    refusal = UsageError(
        f"{path} is a link, a folder or a device, where a run has a plain file: "
        "replace it by one, or remove it."
    )
    try:
        descriptor = os.open(path, flags | SAFELY, 0o666)
    except OSError:
        if path.is_symlink():
            raise refusal from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refusal
    mode = {os.O_RDONLY: "rb", os.O_WRONLY: "wb"}.get(flags & (os.O_WRONLY | os.O_RDWR), "r+b")
    return cast(BinaryIO, open(descriptor, mode, buffering))
