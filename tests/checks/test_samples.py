"""Samples whose arrays travel apart from them, whole again; and what a hostile manifest says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.checks import samples
from edgekit.errors import BundleError


def test_samples_come_back_as_they_were(tmp_path: Path) -> None:
    wide = np.arange(8.0).reshape(2, 4)
    given = [
        "text",
        ["a", "pair"],
        wide,
        b"\x89PNG",
        [{"role": "user", "content": [{"image": b"file"}, wide[:1]]}],
        None,
    ]
    stated = samples.write(tmp_path / "s.npz", given)
    assert json.loads(json.dumps(stated)) == stated
    assert stated[2:4] == [{"array": 0}, {"bytes": 1}]
    found = samples.read(tmp_path / "s.npz", stated)
    assert [found[0], found[1], found[3], found[5]] == ["text", ["a", "pair"], b"\x89PNG", None]
    np.testing.assert_array_equal(found[2], wide)
    part, last = found[4][0]["content"]
    assert part == {"image": b"file"}
    np.testing.assert_array_equal(last, wide[:1])


def test_samples_without_arrays_need_no_file(tmp_path: Path) -> None:
    assert samples.write(tmp_path / "s.npz", ["a", ["b", "c"]]) == ["a", ["b", "c"]]
    assert samples.read(tmp_path / "s.npz", ("a",)) == ["a"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [-1, 1.0, True, "0", None, 1 << 40])
def test_a_place_that_is_not_one(tmp_path: Path, place: Any) -> None:
    with pytest.raises(BundleError, match="a sample names the array"):
        samples.read(tmp_path / "s.npz", [{"array": place}])


def test_an_array_that_is_not_there(tmp_path: Path) -> None:
    samples.write(tmp_path / "s.npz", [np.ones(2)])
    with pytest.raises(BundleError, match="has no array 'input:1'"):
        samples.read(tmp_path / "s.npz", [{"bytes": 1}])
