"""Significance of the difference between two samples: the Mann-Whitney U test with Holm's correction.

The test uses ranks: a few slow runs do not decide it, and it assumes no shape of the distribution.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

FEWEST = 5  # values in each sample: with fewer, no difference is significant at 5 % after the correction


def differ(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The two-sided p value of "neither sample tends to be larger"; None for samples below FEWEST.

    Mann and Whitney (1947), by the normal approximation, with the corrections for ties and continuity.
    """
    if min(len(one), len(other)) < FEWEST:
        return None
    n, m = len(one), len(other)
    ranks, ties = _ranks([*one, *other])
    u = sum(ranks[:n]) - n * (n + 1) / 2
    total = n + m
    variance = n * m / 12 * (total + 1 - sum(t**3 - t for t in ties) / (total * (total - 1)))
    if variance <= 0:
        return 1.0  # every value is the same
    z = max(abs(u - n * m / 2) - 0.5, 0.0) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


def differ_at(rank: int, one: Sequence[float], other: Sequence[float]) -> float | None:
    """The two-sided p value of "both have the same percentile `rank`"; None for samples below FEWEST.

    A quantile test (Mood 1950, for the median): of each sample, how many values are above the percentile of both
    together? The two shares are compared by the normal approximation with the correction for continuity.
    """
    n, m = len(one), len(other)
    if min(n, m) < FEWEST:
        return None
    ordered = sorted([*one, *other])
    limit = ordered[math.ceil(rank / 100 * (n + m)) - 1]
    above, beyond = (sum(value > limit for value in sample) for sample in (one, other))
    share = (above + beyond) / (n + m)
    if not 0 < share < 1:
        return 1.0
    apart = abs(above / n - beyond / m) - (1 / n + 1 / m) / 2
    return math.erfc(max(apart, 0.0) / math.sqrt(2 * share * (1 - share) * (1 / n + 1 / m)))


def corrected(p_values: Sequence[float | None]) -> list[float | None]:
    """The p values corrected for multiple tests, after Holm (1979). None is no test."""
    tests = sorted((p, number) for number, p in enumerate(p_values) if p is not None)
    result: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, number) in enumerate(tests):
        highest = max(highest, min(1.0, p * (len(tests) - rank)))
        result[number] = highest
    return result


def _ranks(values: Sequence[float]) -> tuple[list[float], list[int]]:
    """The rank of each value from 1, equal values with their mean rank; and the count of each distinct value."""
    counts = Counter(values)
    rank, before = {}, 0
    for value in sorted(counts):
        rank[value] = before + (counts[value] + 1) / 2
        before += counts[value]
    return [rank[value] for value in values], list(counts.values())
