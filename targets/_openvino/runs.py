"""The runs of one compiled decoder in OpenVINO, one after the other; the caller of a long one can be interrupted.

OpenVINO 2026.4 does not survive that a run of a model whose shapes vary is cancelled: operations keep for all requests
together what they last saw, and later runs are wrong, or end the process. So an interrupt lets the caller go, and the
run goes on by itself; the next one waits for it. It is cancelled only where no other comes after it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.core import Array

PATIENCE = 50  # milliseconds between two looks for an interrupt in a long run
LONG = 32  # tokens of a run that may be interrupted: for fewer, the looks would cost more than they save


class Runs:
    """Threads may share it: their runs take turns."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._left: list[Any] = []  # the request of a long run that has not ended
        self._started = False
        # At the latest when the process ends. A forked child has the request, but not the thread that runs it.
        self._end = weakref.finalize(self, _cancel, self._left, os.getpid())

    def infer(self, request: Any, feeds: Mapping[str, Array]) -> None:
        """Run, and let the caller go at once where a long run is interrupted: its request is then of no use.

        Raises RuntimeError, as OpenVINO does.
        """
        with self._turn:
            self._wait_for_left()
            if feeds["input_ids"].size < LONG:
                request.infer(feeds, share_inputs=True)
                return
            self._started = False
            self._left.append(request)
            request.start_async(feeds, share_inputs=True)
            self._started = True
            try:
                _wait(request)
            except RuntimeError:
                self._left.clear()
                raise
            self._left.clear()

    def close(self) -> None:
        """No run comes any more: end the one that an interrupt left."""
        with self._turn:
            self._end()

    def _wait_for_left(self) -> None:
        for request in self._left:
            with suppress(RuntimeError):  # nobody wants to know any more how it ended
                if self._started:
                    _wait(request)
                request.wait()  # returns at once where it was interrupted before it began
        self._left.clear()


def _wait(request: Any) -> None:
    while not request.wait_for(PATIENCE):  # in between Python hears signals
        pass


def _cancel(left: list[Any], process: int) -> None:
    for request in left if os.getpid() == process else ():
        request.cancel()
        with suppress(RuntimeError):  # it says that it was cancelled
            request.wait()
    left.clear()
