"""Timestamps of the results of a run, and the rule for when warm-up is complete.

Between the results of a run there is nothing but the clock; between two runs, what makes the next one ready. Knows
nothing of models: a run is a generator, and what it yields is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Any, TypeVar

T = TypeVar("T")
Run = Callable[[Any], Iterator[object]]

NANO = 1e-9
LAST, NEAR = 5, 0.05  # so many of the latest runs, and how far they may be apart for a warm-up to be over
PATIENCE = 10.0  # seconds after which it is over anyway


def timed(item: Callable[[int], Any], run: Run, first: int, count: int, yields: int) -> list[int]:
    """Runs `first` to `first + count - 1`: for each when it began, then when each of its `yields` results came.

    Nanoseconds of the monotonic clock, `count * (yields + 1)` of them. `item(number)` is made before its run begins.
    A run that gives another number of results than `yields` is an AssertionError.
    """
    clock = perf_counter_ns
    stamps = [0] * (count * (yields + 1))
    at = 0
    for number in range(first, first + count):
        given = item(number)
        end = at + yields
        stamps[at] = clock()
        for _ in run(given):
            at += 1
            stamps[at] = clock()
        given = _ = None  # a state may hang on either, and the next item may need the room
        assert at == end, f"{at - end + yields} results of a run, and {yields} were expected"
        at += 1
    return stamps


def split(stamps: list[int], yields: int) -> Iterator[list[float]]:
    """For each run the seconds from its beginning to each of its results."""
    for at in range(0, len(stamps), yields + 1):
        begun = stamps[at]
        yield [(stamp - begun) * NANO for stamp in stamps[at + 1 : at + yields + 1]]


def warm_up(once: Callable[[int], float], patience: float = PATIENCE) -> tuple[list[float], bool]:
    """The seconds of each run (`once(number)`) until the last five are within 5 % of each other, or until `patience` is
    over; and whether they came to rest."""
    taken: list[float] = []
    begun = perf_counter_ns()
    while (perf_counter_ns() - begun) * NANO < patience or not taken:
        taken.append(once(len(taken)))
        if len(taken) >= LAST and varies(taken[-LAST:]) < NEAR:
            return taken, True
    return taken, False


def varies(values: list[float]) -> float:
    """The standard deviation as a share of the mean. (`statistics` would take 2 MB of what is being measured.)"""
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return spread / mean if mean > 0 else 0.0
