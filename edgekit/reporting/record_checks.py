"""Whether a row can be true: units, percentiles that the sample carries, summaries that fit their values.

For files that somebody edited, mixed or tore. What a row means, and whether it is good, is for others.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise

from edgekit.reporting.record import NEEDED, PHASES, QUANTITIES, SCENARIOS, Accuracy, Figure, Memory, Row

SLACK = 1e-9  # relative: what another order of adding may change


def faults(row: Row) -> Iterator[str]:
    """What cannot be true of one row, each in words."""
    if row.scenario not in SCENARIOS:
        yield f"there is no scenario {row.scenario[:80]!r}"
    if row.threads < 1:
        yield f"it says {row.threads} threads"
    if row.replicate < 0:
        yield f"it says replicate {row.replicate}"
    for name, figure in row.figures.items():
        if name not in QUANTITIES:
            yield f"there is no quantity {name[:80]!r}"
        elif figure.unit != QUANTITIES[name][0]:
            yield f"{name} is in {figure.unit[:80]!r}, and it is measured in {QUANTITIES[name][0]!r}"
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
        yield "sustained: a window of no time, or a negative rate"
    if row.check and row.check.variant != row.variant:
        yield f"its check is of {row.check.variant[:80]!r}"
    if row.check and not row.check.ok and not row.invalid:
        yield "its known answers did not come out, and it is not marked invalid"


def mixed(rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    """Rows that cannot stand together: (number, fault)."""
    first: dict[tuple[object, ...], int] = {}
    for number, row in enumerate(rows, start=1):
        key = (row.bundle, row.digest, row.variant, row.scenario, row.test, row.threads, row.replicate)
        if key in first:
            yield number, f"it is there twice: row {first[key]} has the same name and replicate"
        first.setdefault(key, number)


def _figure(found: Figure) -> Iterator[str]:
    if found.n < 1 or found.outliers < 0 or len(found.values) > found.n or found.outliers > found.n:
        yield f"{found.n} runs, {len(found.values)} values, {found.outliers} outliers"
    elif found.min < 0:
        yield f"its least is {found.min:g}: none of these quantities is negative"
    elif (found.stdev or 0) < 0 or (found.low is None) != (found.high is None):
        yield "a negative spread, or half an interval"
    else:
        yield from _percentiles(found)
        yield from _order(found)
        yield from _values(found)


def _percentiles(found: Figure) -> Iterator[str]:
    for rank, value in ((90, found.p90), (95, found.p95), (99, found.p99)):
        if value is not None and found.n < NEEDED[rank]:
            yield f"p{rank} of {found.n} runs, and it takes {NEEDED[rank]}"


def _order(found: Figure) -> Iterator[str]:
    """From least to greatest, as the names say; a bootstrapped median lies among the values, too."""
    rising = [
        ("min", "median", found.min, found.median),
        ("median", "max", found.median, found.max),
        ("min", "mean", found.min, found.mean),
        ("mean", "max", found.mean, found.max),
    ]
    ranked = [("median", found.median), ("p90", found.p90), ("p95", found.p95), ("p99", found.p99), ("max", found.max)]
    interval = [("min", found.min), ("low", found.low), ("high", found.high), ("max", found.max)]
    for chain in (ranked, interval):
        known = [(name, value) for name, value in chain if value is not None]
        rising += [(a, b, low, high) for (a, low), (b, high) in pairwise(known)]
    for lesser, greater, low, high in rising:
        if low > high and not _same(low, high):
            yield f"its {lesser} {low:g} is above its {greater} {high:g}"
            return


def _values(found: Figure) -> Iterator[str]:
    values = found.values
    if not values:
        return
    if (min(values) < found.min and not _same(min(values), found.min)) or (
        max(values) > found.max and not _same(max(values), found.max)
    ):
        yield "values beyond its own min and max"
    elif len(values) == found.n:
        low, high = statistics.median_low(values), statistics.median_high(values)
        inside = low <= found.median <= high or _same(low, found.median) or _same(high, found.median)
        if not inside or not _same(min(values), found.min) or not _same(max(values), found.max):
            yield "its median, min or max is not that of its values"
        elif not _same(statistics.fmean(values), found.mean):
            yield "its mean is not that of its values"


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= SLACK * max(abs(one), abs(other))


def _memory(found: Memory) -> Iterator[str]:
    names = [phase.name for phase in found.phases]
    if unknown := [name for name in names if name not in PHASES]:
        yield f"there is no memory phase {unknown[0][:80]!r}"
    elif len(set(names)) < len(names):
        yield "a memory phase is there twice"
    sizes = [size for p in found.phases for size in (p.rss, p.pss, p.uss, p.anonymous)]
    sizes += [found.peak_rss, found.weights_on_disk, found.weights_mapped, found.libraries, found.device]
    if any(size is not None and size < 0 for size in (*sizes, found.states, found.states_expected)):
        yield "a negative amount of memory"


def _accuracy(found: Accuracy) -> Iterator[str]:
    for value in (found.value, found.trained):
        if value is not None and not 0 <= value <= 1:
            yield f"{found.metric[:80]} is {value:g}, and it lies between 0 and 1"
    if found.items < 1:
        yield f"{found.metric[:80]} of {found.items} items"
