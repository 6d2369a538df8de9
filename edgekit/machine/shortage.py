"""What ran out: memory, threads, open files or disk, whoever says so: the system, Python or a native library."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from edgekit.errors import DeviceError, EdgeKitError, ResourceError

MEMORY, FILES, DISK, THREADS = "out of memory", "too many open files", "the disk is full", "no more threads"
QUOTA, FILE_SIZE = "the disk quota is used up", "a file became larger than this process may write"
HINTS = {
    MEMORY: "close other programs, or use a smaller model, precision or batch",
    FILES: "close some, or raise the limit: ulimit -n",
    DISK: "free some space, or choose an output on another disk",
    QUOTA: "free some space, or choose an output on another disk",
    FILE_SIZE: "raise the limit: ulimit -f",
    THREADS: "use fewer threads (-t), or raise the limits: ulimit -u, ulimit -v",
}
NEARLY = 0.75  # of the address space: a library asks for many megabytes at once
NUMBERS = {
    errno.ENOMEM: MEMORY,
    errno.EMFILE: FILES,
    errno.ENFILE: FILES,
    errno.ENOSPC: DISK,
    errno.EDQUOT: QUOTA,
    errno.EFBIG: FILE_SIZE,
}
# How native libraries write it. Of several the first counts: a thread that cannot start has no memory for its stack.
TEXTS = {
    THREADS: r"pthread_create failed|can't start new thread|resource temporarily unavailable",
    FILES: r"too many open files",
    DISK: r"no space left on device",
    FILE_SIZE: r"file too large|\d+ requested and \d+ written",  # numpy's, which loses the error's number
    # The second alternative is Xbyak's, the assembler in OpenVINO.
    MEMORY: r"bad_alloc|\bcan't alloc\b|alloc_failed|memory allocation|\ballocat(e|ion|ing)\b|out of memory"
    # The rest is the dynamic loader's.
    r"|failed to map segment|cannot map zero-fill pages|cannot change memory protections"
    r"|cannot create shared object descriptor",
}


def shortage(error: BaseException | str) -> str | None:
    """What ran out, a key of `HINTS`; None where the error says nothing of the kind."""
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        return NUMBERS.get(error.errno)
    text = str(error)
    return next((kind for kind, words in TEXTS.items() if re.search(words, text, re.IGNORECASE)), None)


def resource_error(error: BaseException | str, what: str = "", hint: str = "") -> ResourceError | None:
    """`what` failed because something ran out; None where that is not the reason. `hint`: for want of memory."""
    kind = shortage(error)
    if kind is None:
        return None
    advice = hint if hint and kind == MEMORY else HINTS[kind]
    return ResourceError(f"{what}: {kind}" if what else kind, hint=advice, cause=str(error))


def engine_shortage(error: BaseException | str, what: str, hint: str) -> ResourceError | None:
    """`resource_error` for a native engine, which may fail of memory without a word of it: then the address space of a
    process that has a limit is nearly used up.
    """
    named = resource_error(error, what, hint)
    if named is None and _address_space() > NEARLY:
        return ResourceError(f"{what}: {MEMORY}", hint=hint, cause=str(error))
    return named


def _address_space() -> float:
    """The largest share of its limit (`ulimit -v`) that this process has used; 0 without a limit, or without /proc."""
    try:
        limits = Path("/proc/self/limits").read_text(encoding="utf-8")
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    limit = re.search(r"^Max address space +(\d+)", limits, re.MULTILINE)
    peak = re.search(r"^VmPeak:\s+(\d+) kB", status, re.MULTILINE)
    return int(peak[1]) * 1024 / int(limit[1]) if limit and peak and int(limit[1]) else 0.0


def import_error(engine: str, error: ImportError) -> EdgeKitError:
    """Why the package of an engine, which is installed, cannot be imported."""
    what = f"{engine} cannot be loaded"
    return resource_error(error, what) or DeviceError(what, hint="see `edgekit doctor`", cause=str(error))
