"""Pages of mapped files that an engine has read and packed, given back: they count as its own as long as it has them.

What an engine maps it reads once, when it packs the weights; the pages stay in its resident memory, beside what it made
of them. Given back they are still in the kernel's page cache, and what is read again comes from there. Linux only;
elsewhere nothing happens. Knows nothing of engines.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

SMAPS = Path("/proc/self/smaps")
REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)\n")


def give_back(*folders: Path) -> None:
    """Pages of the files in these folders, as far as this process has not written to them."""
    if not SMAPS.exists():
        return
    within = tuple(f"{folder.resolve()}/" for folder in folders)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for first, end in list(_unwritten(within)):
        libc.madvise(first, end - first, mmap.MADV_DONTNEED)


def _unwritten(within: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Where files of these folders are mapped and no page is a copy of this process's own."""
    place = None
    with SMAPS.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if found := REGION.fullmatch(line):
                place = (int(found[1], 16), int(found[2], 16)) if found[3].startswith(within) else None
            elif place and line.startswith("Anonymous:") and line.split()[1] == "0":
                yield place
