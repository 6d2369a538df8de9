from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_bundles

import edgekit
from edgekit.bundle import manifest
from edgekit.checks.goldens import largest_difference, read_arrays, write_arrays
from edgekit.errors import BundleError, DeviceError, UsageError
from edgekit.verify import verify, work


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_bundles.make(tmp_path / "small.ek", goldens=True)


def test_a_bundle_repeats_itself(folder: Path) -> None:
    (check,) = verify(folder)
    assert check.ok
    assert check.variant == "cpu/fp32"
    assert check.difference <= check.tolerance
    assert check.agreement.metric == "cosine"
    assert not check.why
    assert work({"folder": str(folder), "targets": []}, print)[0]["ok"] is True


def test_other_outputs_are_told_with_both_numbers(folder: Path) -> None:
    small_bundles.spoil(folder)
    (check,) = verify(folder)
    assert not check.ok
    assert check.difference > check.tolerance
    assert "outputs moved by" in check.why


def test_another_tokenizer_is_the_first_suspect(folder: Path) -> None:
    bundle, file = manifest.read(folder), folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
    file.write_text(json.dumps(tokenizer))
    manifest.write(bundle, folder, {})
    (check,) = verify(folder)
    assert not check.ok
    assert "golden 0 is read in another way" in check.why


def test_agreement_with_the_reference_counts_too(folder: Path) -> None:
    """Outputs as they were, but the reference says otherwise."""
    bundle = manifest.read(folder)
    assert bundle.goldens is not None
    arrays: dict[str, Any] = read_arrays(
        folder / bundle.goldens.file, ["reference", "encoded", "cpu/fp32"], len(bundle.goldens.inputs)
    )
    arrays["reference"] = [-array for array in arrays["reference"]]
    write_arrays(folder / bundle.goldens.file, arrays)
    manifest.write(replace(bundle, folder=folder), folder, {})
    (check,) = verify(folder)
    assert not check.ok
    assert "cosine is -1.0000" in check.why


def test_a_bundle_without_goldens(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no goldens"):
        verify(small_bundles.make(tmp_path / "bare.ek"))


def test_goldens_that_cannot_be_read(folder: Path) -> None:
    bundle = manifest.read(folder)
    (folder / "goldens.npz").write_bytes(b"not an archive")
    manifest.write(bundle, folder, {})
    with pytest.raises(BundleError, match="is not a file of arrays"):
        verify(folder)


@pytest.mark.parametrize(
    "array",
    [np.zeros(0, np.float32), np.zeros((2, 6), np.float32), np.ones(6, np.int64), np.full(6, np.nan), np.ones(6, bool)],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
@pytest.mark.parametrize("name", ["reference", "cpu/fp32", "encoded"])
def test_goldens_of_another_kind_are_no_crash(folder: Path, name: str, array: Any) -> None:
    bundle = manifest.read(folder)
    assert bundle.goldens is not None
    file, count = folder / bundle.goldens.file, len(bundle.goldens.inputs)
    arrays: dict[str, Any] = read_arrays(file, ["reference", "encoded", "cpu/fp32"], count)
    write_arrays(file, arrays | {name: [array] * count})
    manifest.write(bundle, folder, {})
    (check,) = verify(folder)
    assert not check.ok


def test_targets_that_were_asked_for(folder: Path) -> None:
    assert [check.variant for check in verify(folder, targets=["cpu"])] == ["cpu/fp32"]
    with pytest.raises(UsageError, match="no variant 'openvino'"):
        verify(folder, targets=["openvino"])


def test_a_target_that_is_not_here(folder: Path) -> None:
    bundle = manifest.read(folder)
    (variant,) = bundle.variants
    goldens = bundle.goldens
    assert goldens is not None
    moved = replace(
        bundle,
        variants=(replace(variant, target="cuda"),),
        goldens=replace(goldens, tolerances={"cuda/fp32": 1.0}, losses={"cuda/fp32": 1.0}),
    )
    manifest.write(moved, folder, {})
    if edgekit.variants.probe("cuda") is None:
        pytest.skip("this machine has CUDA")
    for targets in ([], ["cuda"]):
        with pytest.raises(DeviceError, match="no cuda on this machine"):
            verify(folder, targets=targets)


def test_worst_difference() -> None:
    a = [np.zeros(3), np.zeros((2, 2))]
    assert largest_difference(a, [np.zeros(3), np.full((2, 2), 0.5)]) == 0.5
    assert largest_difference(a, [np.zeros(4), np.zeros((2, 2))]) == float("inf")
    assert largest_difference(a, [np.full(3, np.nan), np.zeros((2, 2))]) == float("inf")
    assert largest_difference([], []) == 0


def test_arrays_come_back_and_repeat_themselves(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"cpu/int8": [np.arange(3), np.eye(2)], "reference": [np.ones(1), np.ones(2)]}
    write_arrays(tmp_path / "a.npz", arrays)
    write_arrays(tmp_path / "b.npz", arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = read_arrays(tmp_path / "a.npz", ["cpu/int8", "reference"], 2)
    np.testing.assert_array_equal(found["cpu/int8"][1], np.eye(2))
