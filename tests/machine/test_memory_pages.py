"""Pages of mapped files: what is given back, and that nothing is lost by it."""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chat_bundles import HERE
from mapped import resident

import edgekit
from edgekit.machine import memory_pages
from edgekit.machine.memory_pages import give_back, giving_back

SIZE = 1 << 21

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are read from /proc")


def mapped(file: Path, access: int) -> mmap.mmap:
    """The file with all its pages resident."""
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"x" * SIZE)
    with file.open("r+b") as opened:
        found = mmap.mmap(opened.fileno(), 0, access=access)
    assert np.frombuffer(found, np.uint8).sum() == SIZE * ord("x")
    return found


@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_COPY, mmap.ACCESS_WRITE])
def test_pages_are_given_back_and_come_again(tmp_path: Path, access: int) -> None:
    memory = mapped(tmp_path / "weights", access)
    assert resident(tmp_path) == SIZE
    give_back(tmp_path)
    assert resident(tmp_path) == 0
    assert memory[:SIZE] == b"x" * SIZE


def test_pages_are_given_back_as_they_are_read(tmp_path: Path) -> None:
    memory, most = mapped(tmp_path / "weights", mmap.ACCESS_READ), time.monotonic() + 300
    with giving_back(tmp_path, every=0.01):
        while resident(tmp_path) and time.monotonic() < most:
            time.sleep(0.01)
        assert resident(tmp_path) == 0
    assert memory[:SIZE] == b"x" * SIZE
    assert resident(tmp_path) == SIZE, "nobody gives back any more"


def test_what_takes_memory_is_told() -> None:
    memory = mmap.mmap(-1, 4 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory[mmap.PAGESIZE] = 1
    first = np.frombuffer(memory, np.uint8).ctypes.data
    assert memory_pages.resident(first, first + len(memory)) == bytes([0, 1, 0, 0])
    assert memory_pages.resident(0, mmap.PAGESIZE) == b"", "nothing is mapped there"


def test_what_was_written_is_kept(tmp_path: Path) -> None:
    memory = mapped(tmp_path / "weights", mmap.ACCESS_COPY)
    memory[:5] = b"other"
    give_back(tmp_path)
    assert memory[:6] == b"otherx"


def test_files_of_other_folders_stay(tmp_path: Path) -> None:
    kept = mapped(tmp_path / "model.ek.old" / "weights", mmap.ACCESS_READ)
    given = mapped(tmp_path / "model.ek" / "weights", mmap.ACCESS_READ)
    give_back(tmp_path / "model.ek", tmp_path / "model.ek.old" / "none")
    assert (resident(tmp_path / "model.ek.old"), len(kept), len(given)) == (SIZE, SIZE, SIZE)


def test_nothing_happens_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = mapped(tmp_path / "weights", mmap.ACCESS_READ)
    monkeypatch.setattr(memory_pages, "SMAPS", tmp_path / "none")
    give_back(tmp_path)
    assert (resident(tmp_path), len(memory)) == (SIZE, SIZE)


@pytest.mark.slow
@pytest.mark.skipif("openvino" not in HERE, reason="openvino is not installed")
def test_openvino_keeps_packed_weights_only(
    exported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time that a model is opened, and after that."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = exported("zoo:speaker")
    for _ in range(2):
        with edgekit.load(folder, target="openvino", precision="fp32", prove="never") as model:
            assert resident(folder, tmp_path) < (folder / "weights.bin").stat().st_size / 4
            assert model.run(["8 = "], max_new_tokens=4)
