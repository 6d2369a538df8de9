"""What a process holds: this process's own numbers, and a mapped file's; nothing where the kernel says nothing."""

from __future__ import annotations

import mmap
from pathlib import Path

from edgekit.measuring import process_memory

MIB = 1 << 20


def test_what_is_allocated_shows_in_every_count() -> None:
    """Of pages of its own: how many others are shared, and so PSS and USS, changes as other processes come and go."""
    with mmap.mmap(-1, 32 * MIB, flags=mmap.MAP_PRIVATE) as held:
        before = process_memory.phase("before")
        for page in range(0, 32 * MIB, mmap.PAGESIZE):
            held[page] = 1
        after = process_memory.phase("after")
        now = process_memory.resident()
    for name in ("rss", "anonymous"):
        assert 31 * MIB < getattr(after, name) - getattr(before, name) < 40 * MIB, name
    assert after.name == "after"
    assert after.uss is not None
    assert after.pss is not None
    assert after.rss is not None
    assert after.uss <= after.pss <= after.rss
    assert after.uss > 32 * MIB
    peak = process_memory.highest()
    assert peak.rss is not None
    assert now is not None
    assert peak.rss >= after.rss - MIB
    assert (peak.name, peak.pss) == ("peak", None)
    assert abs(now - after.rss) < 8 * MIB


def test_a_mapped_file_counts_as_far_as_it_was_read(tmp_path: Path) -> None:
    inside = tmp_path / "weights"
    inside.mkdir()
    (inside / "w.bin").write_bytes(b"w" * (4 * MIB))
    (tmp_path / "weights-of-another").write_bytes(b"w" * MIB)
    assert process_memory.mapped(inside) == 0
    with (inside / "w.bin").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert sum(view[::4096]) > 0
        assert process_memory.mapped(inside) == 4 * MIB
        with (tmp_path / "weights-of-another").open("rb") as other, mmap.mmap(other.fileno(), 0, prot=1) as beside:
            assert sum(beside[::4096]) > 0
            assert process_memory.mapped(inside) == 4 * MIB, "a folder whose name begins alike is another"
    assert process_memory.mapped(inside) == 0


def test_shared_libraries_are_counted_by_their_names(tmp_path: Path) -> None:
    before = process_memory.libraries()
    assert before is not None
    assert before > MIB, "the C library's at least"
    for name, size in {"libnew.so.12.3": 4, "ext.cpython-311.so": 2, "names.sorted": 8}.items():
        file = tmp_path / name
        file.write_bytes(b"l" * (size * MIB))
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as view:
            assert sum(view[::4096]) > 0
            after = process_memory.libraries()
        assert after is not None
        grown = after - before
        assert abs(grown - (0 if name == "names.sorted" else size * MIB)) < MIB, name


def test_what_the_kernel_does_not_tell_is_none(tmp_path: Path) -> None:
    found = process_memory.phase("x", tmp_path)
    assert (found.rss, found.pss, found.uss, found.anonymous) == (None, None, None, None)
    assert process_memory.peak(tmp_path) is None
    assert process_memory.mapped(tmp_path, tmp_path) is None
    assert process_memory.libraries(tmp_path) is None
