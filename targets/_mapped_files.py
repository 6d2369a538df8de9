"""Pages of mapped files that an engine has read and packed, given back: they count as its own as long as it has them.

What an engine maps it reads once, when it packs the weights; the pages stay in its resident memory, beside what it made
of them. Given back they are still in the kernel's page cache, and what is read again comes from there. Linux only;
elsewhere nothing happens. Knows nothing of engines.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ._madvise import advise

SMAPS = Path("/proc/self/smaps")
REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)")


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
