"""Signals that end a process, or ask a run to stop."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

STOPPING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
]


def leave(code: int, text: str = "") -> NoReturn:
    """Ends the process at once: while XLA compiles in a thread, an ordinary exit would crash."""
    if text:
        print(text, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


@contextlib.contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Lets a signal end the process at once, with a sentence and the usual code.

    KeyboardInterrupt would be lost where it is raised in a callback of JAX.
    """

    def end(number: int, frame: object) -> None:
        text = "Interrupted" if number == signal.SIGINT else signal.Signals(number).name
        leave(128 + number, f"{text}.")

    with _handling(end):
        yield


class StopRequest:
    """The number of the signal that asks a run to stop; 0 if none has come."""

    signal = 0


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Notes a signal instead of obeying it; a second one ends the process."""
    request = StopRequest()

    def note(number: int, frame: object) -> None:
        if request.signal:
            os._exit(128 + number)
        request.signal = number

    with _handling(note):
        yield request


@contextlib.contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handles the signals that ask a process to end, but for those that are ignored (nohup)."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # others can't handle signals
        before = {number: signal.getsignal(number) for number in STOPPING}
        # None: what is not Python's can't be put back.
        before = {n: h for n, h in before.items() if h not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)
