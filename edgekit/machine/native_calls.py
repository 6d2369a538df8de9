"""How a process ends that has an engine open: in a forked child, and while a thread is inside the engine.

A fork copies an engine's objects but not the threads that they wait for when they are freed: a child that frees one
never exits. So a child keeps them for ever.

Python ends a daemon thread where the thread comes back from native code after the interpreter has begun to shut down,
by unwinding its stack. The C++ frames of an engine do not allow that: the process aborts with exit code 134. So from
the moment that the process exits no other thread enters an engine, and the threads inside are waited for.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
import time
from typing import Any
from weakref import WeakSet

from edgekit.machine.system_calls import after_fork_in_child

PATIENCE = 60.0  # seconds to wait for one call; those of a target are parts of a prompt or of a batch
POLL = 0.001  # seconds

# One entry a call. Appending, removing and looking at the length need no lock, which costs twice as much.
_inside: list[None] = []
_owners_of_threads: WeakSet[Any] = WeakSet()
_exiting: int | None = None  # the thread in which the process exits; others wait for ever from then on


def enter() -> None:
    """Begin a call into an engine that lets other Python threads run. `leave` follows, whatever happens."""
    _inside.append(None)
    if _exiting is not None and threading.get_ident() != _exiting:
        _inside.pop()
        threading.Event().wait()  # until the interpreter ends this thread, here without harm


def leave() -> None:
    _inside.pop()


def _wait() -> None:
    global _exiting
    _exiting = threading.get_ident()
    end = time.monotonic() + PATIENCE
    while _inside and time.monotonic() < end:
        time.sleep(POLL)


def keep_in_children(thing: Any) -> None:
    """Never free this object of an engine in a process that is forked while it lives."""
    _owners_of_threads.add(thing)


def _forked() -> None:
    _inside.clear()  # the threads that made these calls are not here
    for thing in _owners_of_threads:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))  # so that not even the interpreter's end frees it


atexit.register(_wait)
after_fork_in_child(_forked)
