"""Recurrent models opened for tests of their streams, and what the LSTM in numpy says of the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from series_bundles import NORMALIZE, by_hand, make, series

from edgekit import bundle as bundles
from edgekit.core import Recipe
from edgekit.runtimes.heads import values
from edgekit.runtimes.ingest import series as ingests
from edgekit.runtimes.streaming import Recurrent
from edgekit.targets import cpu

FORMS = [(True, True), (False, True), (False, False)]  # counted, batched
NEAR = 1e-4


def opened(folder: Path, name: str = "cpu/fp32 of bundle 1", **form: Any) -> Recurrent:
    bundle = bundles.read(make(folder, **form))
    (graph,) = bundle.variants[0].graphs
    told = {"inputs": list(graph.fed), "batched": graph.batched, **bundle.settings}
    head = values.open(folder, bundle.settings)
    return Recurrent(cpu.open(folder, graph, Recipe(), threads=1), ingests.open(folder, told), values, head, name)


@pytest.fixture(scope="module", params=FORMS, ids=["counted", "uncounted", "one row"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recurrent:
    counted, batched = request.param
    return opened(tmp_path_factory.mktemp("model") / "b.ek", counted=counted, batched=batched)


@pytest.fixture
def fresh(tmp_path: Path) -> Recurrent:
    return opened(tmp_path / "b.ek")


def anew(rows: list[Any]) -> Any:
    """What the LSTM in numpy says of these samples, gaps held, in the user's units."""
    x, held = np.array(rows, np.float64), np.array(NORMALIZE["mean"])
    for row in x:
        row[:] = held = np.where(np.isnan(row), held, row)
    y = by_hand(((x - NORMALIZE["mean"]) / NORMALIZE["std"]).astype(np.float32), 3)
    return y * [2, 1, 3] + [1, 0, -1]


class Known:
    """A stream beside all that it was given."""

    def __init__(self, stream: Any, rows: list[Any]) -> None:
        self.stream, self.rows = stream, rows

    def check(self, found: Any, count: int) -> None:
        np.testing.assert_allclose(found, anew(self.rows)[-count:], atol=NEAR)


def sample(seed: int) -> Any:
    row = series(1, seed)[0]
    return np.where([seed % 5 == 0, seed % 7 == 0], np.nan, row)
