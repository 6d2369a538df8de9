"""The clock and the warm-up, on runs that take no time or a stated one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from edgekit.measuring import timing


def test_every_result_has_its_time_and_items_are_made_before_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks, seen = count(0, 1_000_000_000), list[tuple[str, int]]()
    monkeypatch.setattr(timing, "perf_counter_ns", lambda: next(ticks))

    def item(number: int) -> int:
        seen.append(("item", number))
        return number

    def run(number: int) -> Iterator[None]:
        seen.append(("run", number))
        yield
        yield

    stamps = timing.timed(item, run, 5, 2, 2)
    assert seen == [("item", 5), ("run", 5), ("item", 6), ("run", 6)]
    assert list(timing.split(stamps, 2)) == [[1.0, 2.0], [1.0, 2.0]]


def test_a_run_that_gives_another_number_of_results_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="1 results of a run, and 2"):
        timing.timed(lambda number: number, lambda item: iter([item]), 0, 1, 2)


def test_what_a_run_leaves_is_let_go_before_the_next_item_is_made() -> None:
    alive: list[int] = []

    class Heavy:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    def item(number: int) -> Heavy:
        assert not alive, "the run before has left something"
        return Heavy()

    def run(given: Heavy) -> Iterator[Heavy]:
        yield given

    timing.timed(item, run, 0, 3, 1)


def test_warm_is_when_the_last_five_are_alike() -> None:
    taken = [9.0, 5.0, 2.0, 1.0, 1.01, 0.99, 1.0, 1.02, 7.0]
    found, settled = timing.warm_up(lambda number: taken[number])
    assert (found, settled) == (taken[:8], True)


def test_a_warm_up_ends_when_patience_does(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(0, 1_000_000_000)
    monkeypatch.setattr(timing, "perf_counter_ns", lambda: next(ticks))
    found, settled = timing.warm_up(float, 4.0)
    assert not settled
    assert found == [0.0, 1.0, 2.0]
    assert timing.warm_up(lambda number: 1.0, 0.0) == ([1.0], False), "one run at least"
