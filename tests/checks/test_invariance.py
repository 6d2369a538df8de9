"""How the change of outputs by the rest of a batch is measured, said and judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_bundles

import edgekit
from edgekit.bundle import manifest
from edgekit.checks import invariance
from edgekit.cli.verify import checks_text
from edgekit.core import Measure
from edgekit.verify import verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_bundles.make(tmp_path / "small.ek", goldens=True)


def spread(model: Any, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each item's outputs take up a share of the batch's mean, as one scale for a batch does."""
    own = type(model).outputs

    def outputs(self: Any, samples: Sequence[Any]) -> list[Any]:
        rows = own(self, samples)
        return [row + share * (np.mean(rows, axis=0) - row) for row in rows]

    monkeypatch.setattr(type(model), "outputs", outputs)


def test_outputs_that_stay_the_same_in_a_batch(folder: Path) -> None:
    with edgekit.load(folder) as model:
        found = invariance.measure(model, small_bundles.TEXTS)
    assert found.holds
    assert found.difference < 1e-6
    assert found.facts == {"batch_invariant": True, "batch_difference": found.difference}


def test_outputs_that_depend_on_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with edgekit.load(folder) as model:
        spread(model, 0.1, monkeypatch)
        found = invariance.measure(model, small_bundles.TEXTS)
    assert not found.holds
    assert found.difference > invariance.NEAR
    assert found.loss > invariance.SAME


def test_an_order_that_matters_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with edgekit.load(folder) as model:
        own = type(model).outputs

        def outputs(self: Any, samples: Sequence[Any]) -> list[Any]:
            return [row * (1 + 0.1 * (samples[0] != small_bundles.TEXTS[0])) for row in own(self, samples)]

        monkeypatch.setattr(type(model), "together", outputs)
        assert invariance.measure(model, small_bundles.TEXTS).difference == pytest.approx(0.1, rel=1e-3)


def test_the_tasks_own_measure_counts_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label that changes is a change, however near its scores were."""
    with edgekit.load(folder) as model:
        monkeypatch.setattr(type(model), "compare", lambda *_: Measure("labels", 0.9, 0.1))
        found = invariance.measure(model, small_bundles.TEXTS)
    assert found.difference < 1e-6
    assert not found.holds


def test_the_difference_is_that_of_the_worst_item() -> None:
    ones = np.ones(4, np.float32)
    assert invariance.largest_difference([ones, ones], [ones, ones * 1.5]) == pytest.approx(0.5)
    assert invariance.largest_difference([ones], [np.ones(5)]) == float("inf")
    assert invariance.largest_difference([ones], [ones * np.nan]) == float("inf")
    assert invariance.largest_difference([ones * 0], [ones * 0]) == 0


def test_verify_refuses_what_was_invariant_and_is_not_any_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = manifest.read(folder)
    (variant,) = bundle.variants
    told = replace(variant, measured={**variant.measured, "batch_invariant": True, "batch_difference": 1e-6})
    manifest.write(replace(bundle, folder=folder, variants=(told,)), folder, {})
    (good,) = verify(folder)
    assert good.ok
    assert good.batch_invariant
    with edgekit.load(folder) as model:
        spread(model, 0.1, monkeypatch)
        kind = type(model)
    monkeypatch.setattr(kind, "together", kind.outputs)
    (bad,) = verify(folder)
    assert bad.batch_invariant is False
    assert not bad.ok


def test_a_dependence_that_the_bundle_tells_of_is_allowed(folder: Path) -> None:
    assert invariance.allowed({}) == float("inf")  # nobody measured it
    assert invariance.allowed({"batch_difference": 0.0}) == invariance.NEAR
    assert invariance.allowed({"batch_difference": 0.1}) > 0.1


def test_verify_and_inspect_show_it(folder: Path) -> None:
    (check,) = verify(folder)
    assert "batch-invariant" in checks_text([check], 8)
    assert "yes" in checks_text([check], 8)
    moved = replace(check, batch_invariant=False, batch_difference=0.031)
    assert "differs by 0.031" in checks_text([moved], 8)
    assert invariance.words(None, None) == "-"
