"""Files of arrays that are torn, hostile or no files at all: each is refused before memory is taken."""

from __future__ import annotations

import io
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import limits
from edgekit.bundle import array_file
from edgekit.errors import BundleError

ARRAYS = {
    "a/b:0": np.arange(6, dtype=np.int64).reshape(2, 3),
    "half": np.ones((3, 0, 2), np.float16),
    "one": np.float32(2.5),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "yes": np.array([True, False]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "x.npz", **ARRAYS)  # type: ignore[arg-type]
    return tmp_path / "x.npz"


def npy(array: Any = None, **header: Any) -> bytes:
    """An .npy file whose header says what it likes of 8 bytes."""
    buffer = io.BytesIO()
    told = {"descr": "<f4", "fortran_order": False, "shape": (2,), **header}
    np.lib.format.write_array_header_1_0(buffer, told)
    return buffer.getvalue() + bytes(8)


def archive(path: Path, *entries: tuple[str, bytes], kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as opened:
        for name, data in entries:
            opened.writestr(name, data)


def test_what_numpy_wrote_is_read(file: Path) -> None:
    found = array_file.read_npz(file)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert array_file.read_npz(file, ["one"]).keys() == {"one"}
    np.save(file.with_suffix(".npy"), ARRAYS["turned"])
    np.testing.assert_array_equal(array_file.read_npy(file.with_suffix(".npy")), ARRAYS["turned"])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no array 'none'": lambda path: None,
    "cut, or something follows": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "cut, or": lambda path: os.truncate(path, path.stat().st_size - 30),
    "damaged: Bad magic": lambda path: (
        archive(path, ("none.npy", npy())),
        path.write_bytes(path.read_bytes().replace(b"PK\x03\x04", b"PK\x03\x05")),
    ),
    "is a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "is a folder": lambda path: (path.unlink(), path.mkdir()),
    "is compressed": lambda path: archive(path, ("none.npy", npy()), kind=zipfile.ZIP_DEFLATED),
    "two of its entries": lambda path: archive(path, ("none.npy", npy()), ("none", npy())),
    "has version": lambda path: archive(path, ("none.npy", npy().replace(b"NUMPY\1", b"NUMPY\2"))),
    "of object": lambda path: archive(path, ("none.npy", npy(descr="|O"))),
    "<U4": lambda path: archive(path, ("none.npy", npy(descr="<U4"))),
    "does not exist": lambda path: archive(path, ("none.npy", npy(shape=(-2,)))),
    "an array of 8000000000000 bytes": lambda path: archive(path, ("none.npy", npy(shape=(2 * 10**12,)))),
    "shorter or longer": lambda path: archive(path, ("none.npy", npy() + b"x")),
    "damaged: the magic": lambda path: archive(path, ("none.npy", b"text and no array")),
}


@pytest.mark.parametrize("why", DAMAGES)
def test_a_bad_file_is_refused(file: Path, why: str) -> None:
    DAMAGES[why](file)
    with pytest.raises(BundleError, match=why) as caught:
        array_file.read_npz(file, ["none"])
    assert caught.value.exit_code == 6


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    archive(path, ("none.npy", bytes(1 << 24)), kind=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(BundleError, match="its entries are larger than the file"):
        array_file.read_npz(path)
    for name, limit in (("ARRAYS", 0), ("ARRAYS_BYTES", 100)):
        with monkeypatch.context() as patch:
            patch.setattr(limits, name, limit)
            with pytest.raises(BundleError, match=f"{limit} are allowed"):
                array_file.read_npz(path)


def test_a_bad_layer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for data, why in (
        (b"", "damaged"),
        (npy() + b"x", "shorter or longer"),
        (npy()[:-1], "shorter or longer"),
        (npy(shape=(99999,)), "stands in"),
    ):
        path.write_bytes(data)
        with pytest.raises(BundleError, match=why):
            array_file.read_npy(path)


def test_any_damage_is_an_error_of_ours_or_harmless(file: Path) -> None:
    good, chance = file.read_bytes(), random.Random(0)
    for _ in range(2000):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        file.write_bytes(bad[: chance.randrange(len(bad))] if chance.random() < 0.1 else bad)
        try:
            assert sum(array.nbytes for array in array_file.read_npz(file).values()) <= len(good)
        except BundleError as error:
            assert error.hint  # noqa: PT017
