"""Run a function in a process of its own with a memory limit, and return its result or raise its error.

Tracing, graph surgery and quantizing may eat all memory, crash in native code or print at will. None of that
may harm the caller: a worker has its own memory limit, session, environment without secrets and no network;
it talks in JSON lines over a private pipe, and dies with its parent. A worker that is killed becomes one error
that names the stage. Knows no stage's content: the caller names the function that does it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import edgekit
from edgekit.core import Progress
from edgekit.errors import CrashError, DeviceError, EdgeKitError, ResourceError, from_dict
from edgekit.machine.shortage import DISK, HINTS, MEMORY, shortage

SECRET = ("TOKEN", "SECRET", "PASSWORD", "API_KEY", "CREDENTIAL")
LOG = "worker.log"
NOTES = "edgekit.exporters"  # the logger whose records a worker passes on


def run(
    function: str,
    payload: dict[str, Any],
    folder: Path,
    *,
    stage: str,
    memory_limit: int | None = None,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> Any:
    """What `function` ("module:name", of ours) returns for `payload`, called in a fresh process in `folder`.

    It is also given a function to say what it is doing. Payload and result are JSON values; `memory_limit` bounds the
    process's own memory, in bytes, `time_limit` its life, in seconds. Raises the EdgeKitError that the function raised,
    ResourceError when memory or time ran out, CrashError when it died.
    """
    process, log = start(function, folder), folder / LOG
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with _deadline(process, time_limit) as expired:
            answer = _converse(process.stdin, process.stdout, order(payload, stage, memory_limit), stage, progress)
            status = process.wait()
    finally:
        end(process)
    if answer is None and expired.is_set():
        raise _out_of_time(stage, time_limit)
    if answer is None:
        raise post_mortem(status, stage, log)
    log.unlink(missing_ok=True)
    if "error" in answer:
        raise from_dict(answer["error"])
    return answer["result"]


@contextlib.contextmanager
def _deadline(process: subprocess.Popen[bytes], seconds: float | None) -> Iterator[threading.Event]:
    """Kill the worker and all that it started when the time is over, and set the event. None: it may take for ever."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(min(threading.TIMEOUT_MAX if seconds is None else seconds, threading.TIMEOUT_MAX), expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def check_system() -> None:
    """Raise DeviceError on a system without process groups (Windows)."""
    if not hasattr(os, "killpg"):
        hint = "use Linux or macOS for it; a bundle from there can be loaded, run and verified here"
        raise DeviceError("this needs worker processes, which this system cannot end with all they started", hint=hint)


def start(function: str, folder: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A process that waits for its `order`, a line on stdin; what it prints goes to LOG in `folder`.

    `env`: another environment than `environment()`. Whoever starts one calls `end`.
    Raises DeviceError as `check_system`.
    """
    check_system()
    with (folder / LOG).open("ab") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "edgekit.workbench.worker", function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=folder,
            env=environment() if env is None else dict(env),
            start_new_session=True,
        )


def order(payload: dict[str, Any], stage: str, memory_limit: int | None = None) -> str:
    """What a worker is told first, without a line's end."""
    return json.dumps({"stage": stage, "payload": payload, "memory_limit": memory_limit, "parent": os.getpid()})


def _converse(
    stdin: IO[bytes], stdout: IO[bytes], order: str, stage: str, progress: Progress | None
) -> dict[str, Any] | None:
    """Send the order, pass on what the worker says of its progress, return its last word (None: it had none)."""
    try:
        stdin.write(order.encode() + b"\n")
        stdin.close()
    except BrokenPipeError:
        return None
    answer = None
    for line in stdout:
        message = json.loads(line)
        if "progress" not in message:
            answer = message
        elif progress:
            progress(stage, message["progress"])
    return answer


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the worker and all that it started; harmless when it has ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # what it was told and had not read when it died
                pipe.close()


def post_mortem(status: int, stage: str, log: Path) -> EdgeKitError:
    tail = log.read_text(errors="replace")[-2000:].strip() if log.exists() else ""
    kind = shortage(tail)  # what C++ and OpenBLAS print as they end
    if status == -signal.SIGKILL or kind:
        killed = "was killed (signal 9), likely because memory ran out"
        return ResourceError(
            f"the worker of stage {stage!r} {killed if status == -signal.SIGKILL else f'ended: {kind}'}",
            hint="close other programs, or export on a machine with more memory",
            cause=tail,
        )
    how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
    return CrashError(
        f"the worker of stage {stage!r} died {how}",
        hint="this is a bug in EdgeKit or a native library; please report it with the text of `cause` from --json",
        cause=tail,
    )


def environment() -> dict[str, str]:
    """The caller's environment without its secrets, offline, and with this very edgekit importable."""
    kept = {name: value for name, value in os.environ.items() if not any(word in name.upper() for word in SECRET)}
    home = str(Path(edgekit.__file__).parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [home, kept.get("PYTHONPATH", "")]))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return kept | offline | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}


def _limit(order: dict[str, Any]) -> None:
    """Put the limits of this process in place: memory, no core file, death with the parent."""
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if order["memory_limit"]:
        # Private writable memory: address space would count every library and reservation that is never touched.
        resource.setrlimit(resource.RLIMIT_DATA, (order["memory_limit"], order["memory_limit"]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != order["parent"]:
            raise SystemExit(1)


def main(function: str) -> None:
    """The worker's own side: read the order, do it, say the result or the error as the last line."""
    told = json.loads(sys.stdin.readline())
    _limit(told)
    # Libraries print to standard output as they like: give them standard error, and keep the pipe to ourselves.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as pipe:
        os.dup2(2, 1)

        def say(**message: Any) -> None:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()

        notes = logging.getLogger(NOTES)
        notes.addHandler(_Notes(say))
        notes.setLevel(logging.INFO)
        module, name = function.split(":")
        try:
            result = getattr(import_module(module), name)(told["payload"], lambda said: say(progress=said))
        except EdgeKitError as error:
            say(error=error.as_dict())
        except (MemoryError, OSError, RuntimeError, ImportError) as error:  # the last two of torch, and of a library
            kind = DISK if _is_full(error) else shortage(error)
            if kind is None:
                raise
            say(error=_ran_out(told, kind, str(error)).as_dict())
        else:
            say(result=result)


class _Notes(logging.Handler):
    """Passes on, as progress, what exporters note about a model."""

    def __init__(self, say: Callable[..., None]) -> None:
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(progress=record.getMessage())


def _is_full(error: Exception) -> bool:
    """Whether the disk of the work folder took no more. numpy loses the number of the error, so look at the disk."""
    return isinstance(error, OSError) and error.errno is None and shutil.disk_usage(".").free < 1 << 16


def _out_of_time(stage: str, seconds: float | None) -> ResourceError:
    return ResourceError(
        f"stage {stage!r} did not end within {seconds:.0f} seconds",
        hint="if the model is only large, allow more: --time-limit 2h; a graph may also hold a loop without an end",
    )


def _ran_out(order: dict[str, Any], kind: str, cause: str) -> ResourceError:
    limit, stage = order["memory_limit"], order["stage"]
    if kind == MEMORY:
        bound = f" within {limit / 2**20:.0f} MiB" if limit else ""
        hint = "raise --memory-limit, or use a bigger machine"
        return ResourceError(f"out of memory in stage {stage!r}{bound}", hint=hint, cause=cause)
    return ResourceError(f"{kind} in stage {stage!r}", hint=HINTS[kind], cause=cause)


if __name__ == "__main__":
    main(sys.argv[1])
