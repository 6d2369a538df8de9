"""Summarize many values as one Figure: median with confidence interval, supported percentiles, outliers.

Knows nothing of what was measured. Which percentile may be told is `edgekit.reporting.record.NEEDED`'s rule.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from edgekit.reporting.record import NEEDED, Figure

QUARTILES = 8  # values that two quartiles take
BOUNDED = 6  # of fewer not even the smallest and the largest hold the median with 95 %: 2 / 2^5 is more than 5 %
DRAWS = 2000  # of the bootstrap
FENCE = 3.0  # interquartile ranges from the quartiles to Tukey's outer fences
KEPT = 2000  # values that a Figure keeps


def figure(unit: str, values: Sequence[float], n: int | None = None) -> Figure:
    """The Figure of one or more finite values; `n`: how many were measured, where these are a part of them."""
    low, high = interval(values)
    return Figure(
        unit=unit,
        n=len(values) if n is None else n,
        median=statistics.median(values),
        low=low,
        high=high,
        mean=statistics.fmean(values),
        min=min(values),
        max=max(values),
        stdev=statistics.stdev(values) if len(values) > 1 else None,
        p90=percentile(values, 90),
        p95=percentile(values, 95),
        p99=percentile(values, 99),
        outliers=outliers(values),
        values=tuple(spread(values, KEPT)),
    )


def percentile(values: Sequence[float], rank: int) -> float | None:
    """The nearest-rank percentile; None where the sample is too small to carry it (`NEEDED`)."""
    return nearest(values, rank) if len(values) >= NEEDED[rank] else None


def nearest(values: Sequence[float], rank: int) -> float:
    """The smallest value that at least `rank` per cent of them do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * rank / 100) - 1)]


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """A 95 % percentile-bootstrap interval of the median; (None, None) of fewer than `BOUNDED` values.

    The median of n values drawn with replacement is one of them (the mean of two, for an even n): those in the places
    of the middle order statistics of n uniform numbers, which are beta-distributed (David & Nagaraja, Order Statistics,
    2.1). So each draw takes two numbers, whatever n is, and not n; the seed is fixed.
    """
    import numpy as np

    n = len(values)
    if n < BOUNDED:
        return None, None
    ranked, chance, middle = np.sort(values), np.random.default_rng(0), (n + 1) // 2
    lower = chance.beta(middle, n - middle + 1, DRAWS)
    upper = lower
    if n % 2 == 0:  # the next one: the smallest of the n - middle that lie between `lower` and 1
        upper = lower + (1 - lower) * chance.beta(1, n - middle, DRAWS)
    places = [np.minimum((n * at).astype(np.int64), n - 1) for at in (lower, upper)]
    medians = np.sort((ranked[places[0]] + ranked[places[1]]) / 2)
    return float(medians[int(0.025 * DRAWS)]), float(medians[int(0.975 * DRAWS) - 1])


def outliers(values: Sequence[float]) -> int:
    """How many lie beyond Tukey's outer fences; 0 where the sample carries no quartiles."""
    if len(values) < QUARTILES:
        return 0
    first, third = nearest(values, 25), nearest(values, 75)
    beyond = FENCE * (third - first)
    return sum(value < first - beyond or value > third + beyond for value in values)


def spread(values: Sequence[float], most: int) -> list[float]:
    """All of them, or `most`, as far apart as they lie."""
    if len(values) <= most:
        return list(values)
    return [values[at * len(values) // most] for at in range(most)]


def slope(values: Sequence[float], places: Sequence[float]) -> float:
    """Of the least-squares line through `values` at `places`, of which there are two different ones at least."""
    x, y = statistics.fmean(places), statistics.fmean(values)
    over = sum((place - x) ** 2 for place in places)
    return sum((place - x) * (value - y) for place, value in zip(places, values, strict=True)) / over
