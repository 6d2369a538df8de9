"""The loop over a real LSTM in ONNX Runtime, against the same LSTM in numpy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from series_bundles import by_hand, make, series, shapes

from edgekit.bundle import manifest
from edgekit.core import Recipe
from edgekit.errors import InputError
from edgekit.runtimes.heads import values
from edgekit.runtimes.ingest import series as ingests
from edgekit.runtimes.loops.stream import SINGLE, gather, stream, whole
from edgekit.targets import cpu


class Opened:
    def __init__(self, folder: Path, **form: Any) -> None:
        bundle = manifest.read(make(folder, **form))
        (graph,) = bundle.variants[0].graphs
        told = {"inputs": list(graph.fed), "batched": graph.batched, **bundle.settings}
        self.session = cpu.open(folder, graph, Recipe(), threads=1)
        self.ingest = ingests.open(folder, told)
        self.settings = values.open(folder, bundle.settings)

    def numbers(self, way: Any, encodings: Any) -> list[Any]:
        found: list[Any] = way(self.session, self.ingest, values, self.settings, encodings)
        return found


FORMS = [
    {"per": per, "counted": counted, "batched": batched}
    for per in ("step", "end")
    for counted in (True, False)
    for batched in (True, False)
]


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: "-".join(map(str, form.values())))
def form(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Opened, bool]:
    return Opened(tmp_path_factory.mktemp("form") / "b.ek", **request.param), request.param["per"] == "step"


LENGTHS = [1, 2, 3, 4, 5, 21, 40, 21, 4, 9]


@pytest.mark.parametrize("way", [gather, whole])
def test_numbers_are_those_of_the_lstm(form: tuple[Opened, bool], way: Any) -> None:
    opened, steps = form
    encodings = opened.ingest.encode([series(n, n) for n in LENGTHS])
    for found, one in zip(opened.numbers(way, encodings), encodings, strict=True):
        wanted = by_hand(one.x, 3)
        assert found.shape == (len(one) if steps else 1, 3)
        np.testing.assert_allclose(found, wanted if steps else wanted[-1:], atol=1e-5)


def test_no_series_no_numbers(form: tuple[Opened, bool]) -> None:
    assert form[0].numbers(whole, []) == form[0].numbers(gather, []) == []


def test_a_sample_goes_in_chunks_and_then_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(tmp_path / "b.ek")
    seen = shapes(opened.session, monkeypatch)
    opened.numbers(gather, opened.ingest.encode([series(4 * 4 + 2 + SINGLE)]))
    assert [shape[1] for shape in seen] == [4, 4, 4, 4, 2, *[1] * SINGLE]
    seen.clear()
    opened.numbers(gather, opened.ingest.encode([series(5)]))
    assert [shape[1] for shape in seen] == [3, 1, 1]


def test_many_series_share_runs_and_leave_when_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, alike = Opened(tmp_path / "b.ek"), Opened(tmp_path / "c.ek", counted=False)
    seen = shapes(opened.session, monkeypatch)
    opened.numbers(whole, opened.ingest.encode([series(n) for n in (3, 9, 6)]))
    assert seen == [(3, 4, 2), (2, 4, 2), (1, 1, 2)]
    seen = shapes(alike.session, monkeypatch)
    alike.numbers(whole, alike.ingest.encode([series(n) for n in (3, 5, 3)]))
    assert seen == [(1, 4, 2), (1, 1, 2), (2, 3, 2)]


def test_a_batch_is_no_wider_than_the_engine_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(tmp_path / "b.ek")
    seen = shapes(opened.session, monkeypatch)
    monkeypatch.setattr(opened.session, "batch_tokens", 8)
    opened.numbers(whole, opened.ingest.encode([series(4)] * 5))
    assert [shape[0] for shape in seen] == [2, 2, 1]


def test_nothing_is_read_before_it_is_asked_for_nor_after_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, read = Opened(tmp_path / "b.ek"), 0
    seen = shapes(opened.session, monkeypatch)

    def feeds() -> Iterator[Any]:
        nonlocal read
        for one in opened.ingest.encode([series(1, seed) for seed in range(9)]):
            read += 1
            yield opened.ingest.batch([one.x]).feeds

    steps = stream(opened.session, feeds())
    assert read == 0
    for number in range(1, 4):
        outputs, state = next(steps)
        assert (read, len(seen)) == (number, number)
    steps.close()
    assert (read, outputs["y"].shape, state.batch) == (3, (1, 1, 3), 1)


def test_a_state_goes_on(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "b.ek")
    x = opened.ingest.encode([series(8)])[0].x
    ((_, state),) = stream(opened.session, [opened.ingest.batch([x[:5]]).feeds])
    ((outputs, _),) = stream(opened.session, [opened.ingest.batch([x[5:]]).feeds], state)
    np.testing.assert_allclose(outputs["y"][0], by_hand(x, 3)[5:], atol=1e-5)


def test_a_failure_comes_through(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "b.ek")
    with pytest.raises(InputError, match="input 'counts' is missing"):
        next(stream(opened.session, [{"x": np.zeros((1, 1, 2), np.float32)}]))
