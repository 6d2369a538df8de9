"""The first load on a device proves the bundle there: once, again after a new engine, and never a wrong answer."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_bundles

import edgekit
from edgekit import registry
from edgekit.bundle import manifest
from edgekit.cache import verdicts
from edgekit.checks import first_load
from edgekit.core import Availability
from edgekit.errors import UsageError, VerificationError
from edgekit.machine import device
from edgekit.runtimes.tasks.feature_extraction import FeatureExtraction


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgekit" / "proven"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_bundles.make(tmp_path / "x.ek", goldens=True)


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The variants that were proven, in order."""
    variants: list[str] = []
    original = first_load._difference

    def counted(model: edgekit.Model) -> tuple[str, int]:
        variants.append(model.variant.name)
        return original(model)

    monkeypatch.setattr(first_load, "_difference", counted)
    return variants


def test_the_first_load_proves_and_the_next_does_not(folder: Path, cache: Path, proofs: list[str]) -> None:
    for _ in range(2):
        edgekit.load(folder, target="cpu").close()
    assert proofs == ["cpu/fp32"]
    assert len(list(cache.iterdir())) == 1
    edgekit.load(folder, target="cpu", prove="always").close()
    assert proofs == ["cpu/fp32"] * 2


def test_never(folder: Path, proofs: list[str]) -> None:
    small_bundles.spoil(folder)
    with edgekit.load(folder, target="cpu", prove="never") as model:
        assert model.embed("a").shape == (1, 6)
    assert proofs == []


def test_a_bundle_without_goldens_proves_nothing(tmp_path: Path, proofs: list[str]) -> None:
    edgekit.load(small_bundles.make(tmp_path / "bare.ek"), target="cpu").close()
    assert proofs == []


def test_a_wrong_variant_is_refused_each_time_and_opened_once(folder: Path, proofs: list[str]) -> None:
    small_bundles.spoil(folder)
    for _ in range(2):
        with pytest.raises(VerificationError, match=r"cpu/fp32 is wrong on this device: golden .: outputs") as error:
            edgekit.load(folder, target="cpu")
        assert "edgekit verify" in error.value.hint
    assert proofs == ["cpu/fp32"]


@pytest.mark.parametrize("change", ["engine", "processor", "bundle"])
def test_another_engine_processor_or_bundle_proves_again(
    folder: Path, proofs: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    edgekit.load(folder, target="cpu").close()
    if change == "engine":
        newer = Availability("cpu", True, "ONNX Runtime", "99.0")
        monkeypatch.setattr(registry.find("targets", "cpu"), "probe", lambda: newer)
    elif change == "processor":
        monkeypatch.setattr(device, "cpu_features", lambda root=None: frozenset({"asimd"}))
    else:
        bundle = manifest.read(folder)
        assert bundle.goldens is not None
        losses = {name: loss + 1 for name, loss in bundle.goldens.losses.items()}
        manifest.write(replace(bundle, goldens=replace(bundle.goldens, losses=losses)), folder, {})
    edgekit.load(folder, target="cpu").close()
    assert len(proofs) == 2


def test_auto_takes_another_variant(tmp_path: Path, caplog: pytest.LogCaptureFixture, proofs: list[str]) -> None:
    folder = two_variants(tmp_path)
    with caplog.at_level(logging.WARNING, logger="edgekit"), edgekit.load(folder) as model:
        assert model.variant.name == "openvino/fp32"
    assert "cpu/fp32 is wrong on this device" in caplog.text
    assert "another variant is taken" in caplog.text
    edgekit.load(folder).close()
    assert proofs == ["cpu/fp32", "openvino/fp32"]
    with pytest.raises(VerificationError, match="cpu/fp32 is wrong") as error:
        edgekit.load(folder, target="cpu")
    assert "another variant may be right: openvino/fp32" in error.value.hint


def test_auto_with_nothing_right(folder: Path) -> None:
    small_bundles.spoil(folder)
    with pytest.raises(VerificationError, match="cpu/fp32 is wrong"):
        edgekit.load(folder)


def two_variants(home: Path) -> Path:
    """A bundle for cpu and openvino whose goldens are wrong for cpu, which was the faster one."""
    folder = small_bundles.make(home / "two.ek", goldens=True)
    small_bundles.spoil(folder)
    bundle = manifest.read(folder)
    assert bundle.goldens is not None
    (cpu,) = bundle.variants
    cpu = replace(cpu, measured={**cpu.measured, "milliseconds": 1.0})
    other = replace(cpu, target="openvino", measured={**cpu.measured, "milliseconds": 2.0})
    right = {"cpu/fp32": bundle.goldens.tolerances["cpu/fp32"], "openvino/fp32": 10.0}
    goldens = replace(bundle.goldens, tolerances=right, losses=right)
    arrays = first_load.read_arrays(folder / goldens.file, ("encoded", "reference", "cpu/fp32"), len(goldens.inputs))
    small_bundles.write_arrays(folder / goldens.file, {**arrays, "openvino/fp32": arrays["cpu/fp32"]})
    manifest.write(replace(bundle, variants=(cpu, other), goldens=goldens), folder, {})
    return folder


def test_another_reading_of_the_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = FeatureExtraction.encode
    monkeypatch.setattr(FeatureExtraction, "encode", lambda self, texts: [ids + 1 for ids in original(self, texts)])
    with pytest.raises(VerificationError, match=r"golden . is read in another way"):
        edgekit.load(folder, target="cpu")


def test_a_limit_of_memory_may_cut_goldens(folder: Path, monkeypatch: pytest.MonkeyPatch, proofs: list[str]) -> None:
    original = FeatureExtraction.encode
    monkeypatch.setattr(FeatureExtraction, "encode", lambda self, texts: [ids[:1] for ids in original(self, texts)])
    edgekit.load(folder, target="cpu", memory_limit=4 << 30).close()
    assert proofs == ["cpu/fp32"]


def test_a_limit_that_cuts_all_goldens_proves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureExtraction, "encode", lambda self, texts: [np.zeros(0, np.int64) for _ in texts])
    edgekit.load(folder, target="cpu", memory_limit=4 << 30).close()
    bundle = manifest.read(folder)
    assert verdicts.recall(bundle, bundle.variants[0]) is None


def test_the_time_is_bounded_and_the_shortest_golden_runs_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    original = FeatureExtraction.outputs
    monkeypatch.setattr(FeatureExtraction, "outputs", lambda self, some: texts.extend(some) or original(self, some))
    with edgekit.load(folder, target="cpu", prove="never") as model:
        assert first_load._difference(model) == ("", len(small_bundles.TEXTS))
        assert texts == sorted(small_bundles.TEXTS, key=len)
        monkeypatch.setattr(first_load, "SECONDS", -1.0)
        assert first_load._difference(model) == ("", 1)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"bundle": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_verdict_proves_again(folder: Path, cache: Path, proofs: list[str], damage: bytes) -> None:
    edgekit.load(folder, target="cpu").close()
    (file,) = cache.iterdir()
    file.write_bytes(damage)
    edgekit.load(folder, target="cpu").close()
    assert len(proofs) == 2


def test_a_cache_that_cannot_be_written(
    folder: Path, tmp_path: Path, proofs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "occupied").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    for _ in range(2):
        edgekit.load(folder, target="cpu").close()
    assert len(proofs) == 2


def test_no_home_for_a_cache(folder: Path, monkeypatch: pytest.MonkeyPatch, proofs: list[str]) -> None:
    monkeypatch.setattr("edgekit.cache.digests.cache_folder", lambda: None)
    edgekit.load(folder, target="cpu").close()
    bundle = manifest.read(folder)
    assert verdicts.recall(bundle, bundle.variants[0]) is None
    assert proofs == ["cpu/fp32"]


def test_prove_is_one_of_three(folder: Path) -> None:
    with pytest.raises(UsageError, match="prove is 'maybe'"):
        edgekit.load(folder, prove="maybe")  # type: ignore[arg-type]
