"""Consistency checks of rows: units, percentiles that the sample supports, statistics that fit their values.

They find files that were edited, merged or damaged. Whether a figure is good is not checked here.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise

from edgekit.reporting.record import NEEDED, PHASES, QUANTITIES, SCENARIOS, Accuracy, Figure, Memory, Row

SLACK = 1e-9  # relative tolerance: the order of a sum may change that much


def faults(row: Row) -> Iterator[str]:
    """The contradictions in one row, each in words."""
    if row.scenario not in SCENARIOS:
        yield f"unknown scenario {row.scenario[:80]!r}"
    if row.threads < 1:
        yield f"{row.threads} threads"
    if row.replicate < 0:
        yield f"replicate {row.replicate}"
    for name, figure in row.figures.items():
        if name not in QUANTITIES:
            yield f"unknown quantity {name[:80]!r}"
        elif figure.unit != QUANTITIES[name][0]:
            yield f"{name} is in {figure.unit[:80]!r}; its unit is {QUANTITIES[name][0]!r}"
        else:
            yield from (f"{name}: {fault}" for fault in _figure(figure))
    for number in (row.bytes, row.bytes_per_token):
        if number is not None and number < 0:
            yield f"a size of {number} bytes"
    if row.memory:
        yield from _memory(row.memory)
    if row.accuracy:
        yield from _accuracy(row.accuracy)
    if row.sustained and (row.sustained.seconds <= 0 or min(row.sustained.rates, default=0.0) < 0):
        yield "sustained: a window without duration, or a negative rate"
    if row.check and row.check.variant != row.variant:
        yield f"its check is for {row.check.variant[:80]!r}"
    if row.check and not row.check.ok and not row.invalid:
        yield "its outputs differ from the goldens, but it is not marked invalid"


def mixed(rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    """Rows that appear twice: (number, fault)."""
    first: dict[tuple[object, ...], int] = {}
    for number, row in enumerate(rows, start=1):
        key = (row.bundle, row.digest, row.variant, row.scenario, row.test, row.threads, row.replicate)
        if key in first:
            yield number, f"it is a duplicate: row {first[key]} has the same name and replicate"
        first.setdefault(key, number)


def _figure(figure: Figure) -> Iterator[str]:
    if figure.n < 1 or figure.outliers < 0 or len(figure.values) > figure.n or figure.outliers > figure.n:
        yield f"{figure.n} runs, {len(figure.values)} values, {figure.outliers} outliers"
    elif figure.min < 0:
        yield f"its minimum is {figure.min:g}; no quantity can be negative"
    elif (figure.stdev or 0) < 0 or (figure.low is None) != (figure.high is None):
        yield "a negative deviation, or an interval with one end"
    else:
        yield from _percentiles(figure)
        yield from _order(figure)
        yield from _values(figure)


def _percentiles(figure: Figure) -> Iterator[str]:
    for rank, value in ((90, figure.p90), (95, figure.p95), (99, figure.p99)):
        if value is not None and figure.n < NEEDED[rank]:
            yield f"p{rank} of {figure.n} runs; it needs {NEEDED[rank]}"


def _order(figure: Figure) -> Iterator[str]:
    """The statistics must be in ascending order, the ends of the interval within min and max."""
    rising = [
        ("min", "median", figure.min, figure.median),
        ("median", "max", figure.median, figure.max),
        ("min", "mean", figure.min, figure.mean),
        ("mean", "max", figure.mean, figure.max),
    ]
    ranked = [
        ("median", figure.median),
        ("p90", figure.p90),
        ("p95", figure.p95),
        ("p99", figure.p99),
        ("max", figure.max),
    ]
    interval = [("min", figure.min), ("low", figure.low), ("high", figure.high), ("max", figure.max)]
    for chain in (ranked, interval):
        measured = [(name, value) for name, value in chain if value is not None]
        rising += [(a, b, low, high) for (a, low), (b, high) in pairwise(measured)]
    for lesser, greater, low, high in rising:
        if low > high and not _same(low, high):
            yield f"its {lesser} {low:g} is above its {greater} {high:g}"
            return


def _values(figure: Figure) -> Iterator[str]:
    values = figure.values
    if not values:
        return
    if (min(values) < figure.min and not _same(min(values), figure.min)) or (
        max(values) > figure.max and not _same(max(values), figure.max)
    ):
        yield "values outside its min and max"
    elif len(values) == figure.n:
        low, high = statistics.median_low(values), statistics.median_high(values)
        inside = low <= figure.median <= high or _same(low, figure.median) or _same(high, figure.median)
        if not inside or not _same(min(values), figure.min) or not _same(max(values), figure.max):
            yield "its median, min or max does not fit its values"
        elif not _same(statistics.fmean(values), figure.mean):
            yield "its mean does not fit its values"


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= SLACK * max(abs(one), abs(other))


def _memory(memory: Memory) -> Iterator[str]:
    names = [phase.name for phase in memory.phases]
    if unknown := [name for name in names if name not in PHASES]:
        yield f"unknown memory phase {unknown[0][:80]!r}"
    elif len(set(names)) < len(names):
        yield "a duplicate memory phase"
    sizes = [size for p in memory.phases for size in (p.rss, p.pss, p.uss, p.anonymous)]
    sizes += [memory.peak_rss, memory.weights_on_disk, memory.weights_mapped, memory.libraries, memory.device]
    if any(size is not None and size < 0 for size in (*sizes, memory.states, memory.states_expected)):
        yield "a negative amount of memory"


def _accuracy(accuracy: Accuracy) -> Iterator[str]:
    for value in (accuracy.value, accuracy.trained):
        if value is not None and not 0 <= value <= 1:
            yield f"{accuracy.metric[:80]} is {value:g}; it must be between 0 and 1"
    if accuracy.items < 1:
        yield f"{accuracy.metric[:80]} of {accuracy.items} items"
