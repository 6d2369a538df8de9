"""What a process holds: this process's own numbers, and a mapped file's; nothing where the kernel says nothing."""

from __future__ import annotations

import mmap
from pathlib import Path

from edgekit.measuring import process_memory

MIB = 1 << 20


def test_what_is_allocated_shows_in_every_count() -> None:
    before = process_memory.phase("before")
    held = bytearray(b"x" * (32 * MIB))
    after = process_memory.phase("after")
    for name in ("rss", "pss", "uss", "anonymous"):
        grown = getattr(after, name) - getattr(before, name)
        assert 31 * MIB < grown < 40 * MIB, name
    assert after.name == "after"
    assert after.uss is not None
    assert after.pss is not None
    assert after.rss is not None
    assert after.uss <= after.pss <= after.rss
    peak, now = process_memory.highest(), process_memory.resident()
    assert peak.rss is not None
    assert now is not None
    assert peak.rss >= after.rss - MIB
    assert (peak.name, peak.pss) == ("peak", None)
    assert abs(now - after.rss) < 8 * MIB
    del held


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


def test_what_the_kernel_does_not_tell_is_none(tmp_path: Path) -> None:
    found = process_memory.phase("x", tmp_path)
    assert (found.rss, found.pss, found.uss, found.anonymous) == (None, None, None, None)
    assert process_memory.peak(tmp_path) is None
    assert process_memory.mapped(tmp_path, tmp_path) is None
