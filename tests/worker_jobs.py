"""Things that a worker process may do, good and bad, for test_worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.errors import VerificationError

Say = Callable[[str], None]


def echo(payload: dict[str, Any], say: Say) -> Any:
    say("working")
    return payload


def noisy(payload: dict[str, Any], say: Say) -> str:
    print("a library prints to standard output")
    os.write(1, b"and native code too\n")
    return "done"


def fail(payload: dict[str, Any], say: Say) -> None:
    raise VerificationError("two differs from three", hint="count again", tensor="x")


def bug(payload: dict[str, Any], say: Say) -> None:
    raise KeyError("our own mistake")


def abort(payload: dict[str, Any], say: Say) -> None:
    os.abort()


def killed(payload: dict[str, Any], say: Say) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def eat(payload: dict[str, Any], say: Say) -> int:
    return len(bytearray(payload["bytes"]))


def torch_out_of_memory(payload: dict[str, Any], say: Say) -> None:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")


def environment(payload: dict[str, Any], say: Say) -> dict[str, str]:
    return dict(os.environ)


def children(payload: dict[str, Any], say: Say) -> None:
    """Starts a grandchild that would outlive us, and waits for ever."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(payload["pids"]).write_text(f"{os.getpid()} {child.pid}")
    say("started")
    time.sleep(600)
