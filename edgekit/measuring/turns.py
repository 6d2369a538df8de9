"""Run the variants of a bundle in turns, as many at a time as fit into memory.

What a machine does besides changes from second to second. Who takes turns in blocks of runs, in every round in the
other order, is disturbed alike. Only one computes at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from edgekit.machine import device
from edgekit.measuring.row import Weighing
from edgekit.reporting.record import Row

ROOM = 1.25  # times what the next one is expected to take must be free
TOGETHER = 8  # open at a time, at most


def measure(weighings: Sequence[Weighing]) -> Iterator[list[Row]]:
    """The rows of those that took turns, as soon as they are finished; each in its own process.

    An interrupt leaves no process behind.
    """
    waiting = list(weighings)
    while waiting:
        with ExitStack() as held:
            company: list[Weighing] = []
            while waiting and (not company or (len(company) < TOGETHER and has_room(company, waiting[0]))):
                company.append(waiting.pop(0))
                held.callback(company[-1].close)
                company[-1].open()
            take_turns(company)
            rows = [each.row() for each in company]
        yield rows  # when their processes have ended


def take_turns(company: Sequence[Weighing]) -> None:
    """All runs of all of them; then, one after the other, what is long or comes once."""
    way = company[0].way
    for number in range(way.rounds):
        for each in company if number % 2 == 0 else reversed(company):
            each.block(share(each.runs, number, way.rounds))
    for each in company:
        if way.sustain is not None:
            each.sustain(way.sustain)
        each.finish()


def share(runs: int, number: int, rounds: int) -> int:
    """How many of so many runs belong to round `number`: as many as to any other, or one more."""
    return (number + 1) * runs // rounds - number * runs // rounds


def has_room(company: Sequence[Weighing], coming: Weighing) -> bool:
    """Whether one more can be open beside these: it is expected to take what was forecast, or what the largest of them
    took."""
    free = device.available_memory()
    forecast = coming.forecast.total if coming.forecast else 0
    return free is None or free > ROOM * max(forecast, *(each.peak for each in company))
