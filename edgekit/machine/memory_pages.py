"""Advise the kernel about memory pages (madvise(2)), and release pages of mapped files.

What is mapped is read once, when weights are packed or a large model is computed; the pages stay in resident memory,
beside what was made of them. Given back they are still in the kernel's page cache, and what is read again comes from
there. Linux only; elsewhere nothing happens. Knows nothing of engines.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekit.machine.system_calls import c_function

SMAPS = Path("/proc/self/smaps")
REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)")
OFTEN = 0.25  # seconds: two cores read some hundred MB in it

log = logging.getLogger("edgekit")


def advise(first: int, end: int, advice: int, what: str) -> None:
    """For the addresses from `first`, at a page's border, to `end`. A refusal is noted with `what` was asked for."""
    madvise = c_function("madvise")
    if madvise is None:
        return
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    if madvise(first, end - first, advice):
        log.debug("no %s for %d bytes: %s", what, end - first, os.strerror(ctypes.get_errno()))


def resident(first: int, end: int) -> bytes:
    """For each page from `first` to `end`, both at a page's border, 1 where it takes memory (mincore(2)); empty where
    some of it is not mapped."""
    mincore = c_function("mincore")
    if mincore is None:
        return b""
    mincore.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    found = ctypes.create_string_buffer((end - first) // mmap.PAGESIZE)
    return b"" if mincore(first, end - first, found) else found.raw


def trim() -> None:
    """Pages of what was allocated and freed: malloc(3) keeps them, unless it is glibc's and is told not to."""
    if (malloc_trim := c_function("malloc_trim")) is not None:
        malloc_trim(0)


@contextmanager
def giving_back(*folders: Path, every: float = OFTEN) -> Iterator[None]:
    """Again and again until the end of the block, `every` so many seconds: who reads a file larger than memory never
    holds much of it."""
    over = threading.Event()

    def again() -> None:
        while not over.wait(every):
            give_back(*folders)

    thread = threading.Thread(target=again, name="edgekit-pages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def give_back(*folders: Path) -> None:
    """Pages of the files in these folders, as far as this process has not written to them."""
    within = tuple(f"{folder.resolve()}/" for folder in folders)
    try:
        lines = SMAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system, or one that does not tell
        return
    for first, end in _unwritten(lines, within):
        advise(first, end, mmap.MADV_DONTNEED, "pages given back")


def _unwritten(lines: Sequence[str], within: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Where files of these folders are mapped and no page is a copy of this process's own."""
    place = None
    for line in lines:
        if found := REGION.fullmatch(line):
            place = (int(found[1], 16), int(found[2], 16)) if found[3].startswith(within) else None
        elif place and line.startswith("Anonymous:") and line.split()[1] == "0":
            yield place
