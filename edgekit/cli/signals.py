"""SIGINT, SIGTERM and SIGHUP as an exception, so that a command cleans up before it ends."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 2.0  # seconds after a signal until a process that is stuck in native code is ended
NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A signal, raised in the main thread."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def raised() -> Iterator[list[Interrupted]]:
    """Let SIGINT, SIGTERM and SIGHUP raise Interrupted, which is also put into the list.

    A second signal ends the process at once.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # An ignored signal stays ignored: `nohup` works that way.
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    raised_in_python = threading.Event()
    interrupts: list[Interrupted] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        for handled in before:
            signal.signal(handled, signal.SIG_DFL)
        raised_in_python.set()
        interrupts.append(Interrupted(number))
        raise interrupts[0]

    for number in before:
        signal.signal(number, interrupt)
    try:
        with _watched(raised_in_python):
            yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _watched(raised_in_python: threading.Event) -> Iterator[None]:
    """With a thread that sees the signals too; not on Windows, where none can wait for a pipe."""
    if sys.platform == "win32":
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    outer = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read, raised_in_python), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(outer)
        os.close(write)


def _watch(read: int, raised_in_python: threading.Event) -> None:
    """End the process if a signal arrives in native code, where Python cannot raise: after PATIENCE or a second signal.

    `read` yields the number of each signal, and ends with the command.
    """
    if number := os.read(read, 1):
        select.select([read], [], [], PATIENCE)
        if not raised_in_python.is_set():
            os._exit(128 + number[0])
    os.close(read)
