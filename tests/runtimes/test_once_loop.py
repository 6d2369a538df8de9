from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.errors import ResourceError
from edgekit.runtimes.loops.once import once


class Batch:
    def __init__(self, number: int) -> None:
        self.feeds = {"x": np.array([number])}
        self.rows = (number,)


class Doubling:
    """A session that doubles, and counts how often it was run."""

    placement = "none"

    def __init__(self) -> None:
        self.runs = 0

    def run(self, feeds: Any, states: Any = None) -> tuple[dict[str, Any], Any]:
        self.runs += 1
        if feeds["x"][0] == 7:
            raise ResourceError("out of memory")
        return {"y": feeds["x"] * 2}, None

    def close(self) -> None:
        pass


def test_yields_one_result_per_batch_in_order() -> None:
    found = [(batch.rows, int(outputs["y"][0])) for batch, outputs in once(Doubling(), map(Batch, range(4)))]
    assert found == [((0,), 0), ((1,), 2), ((2,), 4), ((3,), 6)]


def test_nothing_runs_before_it_is_asked_for_nor_after_closing() -> None:
    session, made = Doubling(), []

    def batches() -> Any:
        for number in range(10):
            made.append(number)
            yield Batch(number)

    results = once(session, batches())
    assert session.runs == 0
    next(results)
    next(results)
    results.close()
    assert session.runs == 2
    assert made == [0, 1]
    assert list(results) == []


def test_no_batches_no_runs() -> None:
    session = Doubling()
    assert list(once(session, [])) == []
    assert session.runs == 0


def test_what_the_session_raises_comes_through() -> None:
    with pytest.raises(ResourceError, match="out of memory"):
        list(once(Doubling(), [Batch(7)]))
