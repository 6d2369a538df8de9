"""Signals that ask a command to end, as an exception: whatever was begun is cleaned up on its way out.

Knows nothing of what a command does.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 2.0  # seconds from a signal to the end of a process that does not come back from native code
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal that asks the program to end, raised where the program was."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def raised() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise Interrupted; a second one ends the process at once, whatever it is doing."""
    # What is ignored stays so: that is how `nohup` works.
    found = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}
    told = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        for handled in before:
            signal.signal(handled, signal.SIG_DFL)
        told.set()
        raise Interrupted(number)

    read, write = os.pipe()
    os.set_blocking(write, False)
    for number in before:
        signal.signal(number, interrupt)
    outer = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read, told), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(outer)
        os.close(write)
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(read: int, told: threading.Event) -> None:
    """End the process if a signal finds it in native code, where Python cannot raise: after PATIENCE, or a second one.

    `read` gives the number of each signal as it arrives, and nothing more once the command has ended.
    """
    if number := os.read(read, 1):
        select.select([read], [], [], PATIENCE)
        if not told.is_set():
            os._exit(128 + number[0])
    os.close(read)
