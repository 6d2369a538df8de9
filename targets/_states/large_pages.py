"""Large pages for the weights that an engine has allocated: what reads all of them for every token misses the TLB less.

Linux gives malloc's memory pages of 4 KiB unless it is asked for more (Documentation/admin-guide/mm/transhuge.rst).
An engine does not ask, so what it has taken is asked for here, once it has it. What it has freed in between is given
back before: a large page takes its whole size, however little of it is in use. Elsewhere, on kernels before 6.1, and
where the administrator wants no large pages, nothing happens. Knows nothing of engines.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekit.machine.memory_pages import advise, resident, trim

COLLAPSE = 25  # MADV_COLLAPSE, asm-generic/mman-common.h
LARGE = 2 << 20  # bytes of a large page on x86-64 and ARM64 with pages of 4 KiB
MAPS, SETTING = Path("/proc/self/maps"), Path("/sys/kernel/mm/transparent_hugepage/enabled")

Region = tuple[int, int]  # addresses: from, to


@contextmanager
def large_pages() -> Iterator[None]:
    """What is allocated inside, and still is at the end, lies in large pages as far as it is large."""
    if not wanted():
        yield
        return
    before = anonymous()
    yield
    trim()
    for first, end in beyond(anonymous(), before):
        for used in in_use(-(-first // LARGE) * LARGE, end // LARGE * LARGE):
            collapse(*used)


def wanted() -> bool:
    """Whether this is a Linux whose administrator allows it."""
    try:
        return "[never]" not in SETTING.read_text(encoding="ascii") and MAPS.exists()
    except OSError:
        return False


def anonymous() -> list[Region]:
    """Private memory of this process that belongs to no file, in order."""
    found = []
    for line in MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        where, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and (not name or name[0] == "[heap]"):
            first, _, end = where.partition("-")
            found.append((int(first, 16), int(end, 16)))
    return found


def beyond(regions: Sequence[Region], old: Sequence[Region]) -> list[Region]:
    """What of `regions` does not lie in `old`; both in order, no region of a list meeting another of it."""
    found = []
    for first, end in regions:
        for begin, last in old:
            if begin < end and last > first:
                if first < begin:
                    found.append((first, begin))
                first = min(last, end)
        if first < end:
            found.append((first, end))
    return found


def in_use(first: int, end: int) -> Iterator[Region]:
    """The large pages from `first` to `end` of which most takes memory already."""
    pages, each = resident(first, end) if end > first else b"", LARGE // mmap.PAGESIZE
    for number in range(len(pages) // each):
        if pages.count(1, number * each, (number + 1) * each) > each // 2:
            yield first + number * LARGE, first + (number + 1) * LARGE


def collapse(first: int, end: int) -> None:
    """Both at a large page's border."""
    advise(first, end, COLLAPSE, "large pages")
