"""What ran out is read off an error's number, or the words that a native library uses."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from edgekit.errors import DeviceError, ResourceError
from edgekit.machine.shortage import (
    DISK,
    FILE_SIZE,
    FILES,
    HINTS,
    MEMORY,
    QUOTA,
    THREADS,
    import_error,
    resource_error,
    shortage,
)

WORDS = {
    "std::bad_alloc": MEMORY,
    "Failed to allocate memory for requested buffer of size 4096": MEMORY,
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes": MEMORY,
    "Exception from src/inference/src/dev/plugin.cpp:54:\ncan't alloc": MEMORY,
    "libopenvino.so: failed to map segment from shared object": MEMORY,
    "libtorch_cpu.so: cannot map zero-fill pages": MEMORY,
    "libx.so: cannot change memory protections": MEMORY,
    "CUBLAS_STATUS_ALLOC_FAILED": MEMORY,
    "pthread_create failed, error code: 12 error msg: Cannot allocate memory": THREADS,
    "Exception from src/inference/src/dev/plugin.cpp:54:\nResource temporarily unavailable": THREADS,
    "can't start new thread": THREADS,
    "open file model.onnx fail, errcode = 24 - Too many open files": FILES,
    "write failed: No space left on device": DISK,
    "5000 requested and 1000 written": FILE_SIZE,
}


@pytest.mark.parametrize(("text", "kind"), WORDS.items())
def test_words(text: str, kind: str) -> None:
    assert shortage(RuntimeError(text)) == kind
    assert shortage(text) == kind


@pytest.mark.parametrize(
    "text", ["axis must be in [-r, r-1]", "the node malloc_1 is not there", "relocation of allocator.weight", ""]
)
def test_other_words_say_nothing(text: str) -> None:
    assert shortage(text) is None
    assert resource_error(RuntimeError(text)) is None


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOMEM, MEMORY),
        (errno.EMFILE, FILES),
        (errno.ENFILE, FILES),
        (errno.ENOSPC, DISK),
        (errno.EDQUOT, QUOTA),
        (errno.EFBIG, FILE_SIZE),
        (errno.ENOENT, None),
        (errno.EAGAIN, None),
    ],
)
def test_numbers(number: int, kind: str | None) -> None:
    assert shortage(OSError(number, os.strerror(number))) == kind


def test_errors() -> None:
    found = resource_error(MemoryError("1 GB"), "opening")
    assert isinstance(found, ResourceError)
    assert (found.message, found.cause) == ("opening: out of memory", "1 GB")
    assert found.hint == HINTS[MEMORY]
    assert resource_error(MemoryError(), hint="use fewer rows").hint == "use fewer rows"  # type: ignore[union-attr]
    files = resource_error(OSError(errno.EMFILE, "x"), hint="use fewer rows")
    assert files is not None
    assert (files.message, files.hint) == (FILES, HINTS[FILES])


def test_an_engine_that_cannot_be_loaded() -> None:
    short = import_error("OpenVINO", ImportError("libtbb.so.12: failed to map segment from shared object"))
    assert isinstance(short, ResourceError)
    broken = import_error("OpenVINO", ImportError("libtbb.so.12: cannot open shared object file"))
    assert isinstance(broken, DeviceError)
    assert broken.message == "OpenVINO cannot be loaded"


@pytest.mark.parametrize(("megabytes", "kind"), [(400, "ResourceError"), (0, "None")])
def test_an_engine_that_fails_without_a_word_of_memory(megabytes: int, kind: str) -> None:
    """With nearly all of its address space used, and without a limit."""
    code = f"""
import resource
from edgekit.machine.shortage import engine_shortage
if {megabytes}:
    kept = bytearray(300 << 20)
    resource.setrlimit(resource.RLIMIT_AS, ({megabytes} << 20, {megabytes} << 20))
print(type(engine_shortage("an exception of no meaning", "it", "use less")).__name__.replace("NoneType", "None"))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout == f"{kind}\n", ended.stderr
