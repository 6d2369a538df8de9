"""Large pages: which memory is new, and that it is asked for."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.targets._states import large_pages as pages


@pytest.mark.parametrize(
    ("regions", "old", "left"),
    [
        ([(10, 20)], [], [(10, 20)]),
        ([(10, 20)], [(10, 20)], []),
        ([(10, 30)], [(15, 20)], [(10, 15), (20, 30)]),
        ([(10, 30)], [(0, 12), (14, 16), (28, 40)], [(12, 14), (16, 28)]),
        ([(10, 20), (30, 40)], [(20, 30)], [(10, 20), (30, 40)]),
        ([(0, 5), (8, 9)], [(4, 20)], [(0, 4)]),
    ],
)
def test_what_is_beyond(regions: list[pages.Region], old: list[pages.Region], left: list[pages.Region]) -> None:
    assert pages.beyond(regions, old) == left


@pytest.fixture
def allowed() -> None:
    if not pages.wanted():
        pytest.skip("no Linux with transparent large pages")


def large_bytes(address: int) -> int:
    """How much of the mapping that holds this address lies in large pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if where := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(where[1], 16) <= address < int(where[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such mapping")


def taken() -> int:
    """Bytes that are resident."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE


def held() -> tuple[mmap.mmap, int]:
    """Eight large pages' worth of memory, written to."""
    memory = mmap.mmap(-1, 8 * pages.LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"x" * len(memory))
    return memory, np.frombuffer(memory, np.uint8).ctypes.data


@pytest.mark.usefixtures("allowed")
def test_what_is_allocated_inside_lies_in_large_pages() -> None:
    before, address_before = held()
    with pages.large_pages():
        inside, address = held()
    if not large_bytes(address):
        pytest.skip("this kernel cannot collapse pages (6.1 and newer do)")
    assert large_bytes(address) >= 6 * pages.LARGE
    assert inside[:10] == b"x" * 10
    assert len(before) == 8 * pages.LARGE
    del address_before


@pytest.mark.usefixtures("allowed")
def test_what_takes_no_memory_is_left_alone() -> None:
    memory, address = held()
    first = -(-address // pages.LARGE) * pages.LARGE
    begin = first - address
    small = mmap.PAGESIZE
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory.madvise(mmap.MADV_DONTNEED)
    memory[begin : begin + small] = b"x" * small  # a page of the first, three quarters of the third
    memory[begin + 2 * pages.LARGE : begin + 2 * pages.LARGE + pages.LARGE * 3 // 4] = b"x" * (pages.LARGE * 3 // 4)
    assert list(pages.in_use(first, first + 4 * pages.LARGE)) == [(first + 2 * pages.LARGE, first + 3 * pages.LARGE)]
    assert not list(pages.in_use(first, first))


@pytest.mark.usefixtures("allowed")
def test_what_was_freed_inside_is_given_back() -> None:
    with pages.large_pages():
        kept = [np.ones(100_000, np.uint8) for _ in range(400)]  # too small for a mapping of its own
        del kept[:-1]  # the last keeps the end of the heap
        before = taken()
    assert taken() < before - 30_000_000


@pytest.mark.usefixtures("allowed")
def test_the_heap_and_large_arrays_are_seen() -> None:
    array = np.ones(3 << 20, np.uint8)
    address = array.ctypes.data
    assert any(first <= address < end for first, end in pages.anonymous())


@pytest.mark.parametrize("setting", ["always madvise [never]\n", None])
def test_nothing_happens_where_nobody_wants_it(
    setting: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "enabled"
    if setting:
        file.write_text(setting)
    monkeypatch.setattr(pages, "SETTING", file)
    asked = list[Callable[..., None]]()
    monkeypatch.setattr(pages, "collapse", lambda *where: asked.append(where))
    with pages.large_pages():
        held()
    assert not asked


@pytest.mark.usefixtures("allowed")
def test_a_refusal_is_only_noted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="edgekit"):
        pages.collapse(pages.LARGE, 2 * pages.LARGE)  # nothing is mapped there
    assert "no large pages for 2097152 bytes" in caplog.text
