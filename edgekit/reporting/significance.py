"""Whether two samples differ by more than chance: the Mann-Whitney U test, corrected for how often it is asked.

Ranks, not means: a few slow runs do not decide it, and nothing is assumed of the shape. Knows numbers only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

FEWEST = 5  # values on each side below which nothing can be told at the level of 5 %, once several rows are asked


def differ(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The two-sided p of "neither tends to be larger"; None for samples too small to tell.

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


def corrected(found: Sequence[float | None]) -> list[float | None]:
    """The same p, for having asked so often: Holm (1979). Who was not asked does not count."""
    asked = sorted((p, number) for number, p in enumerate(found) if p is not None)
    made: list[float | None] = [None] * len(found)
    highest = 0.0
    for rank, (p, number) in enumerate(asked):
        highest = max(highest, min(1.0, p * (len(asked) - rank)))
        made[number] = highest
    return made


def _ranks(values: Sequence[float]) -> tuple[list[float], list[int]]:
    """The rank of each value, from 1, equal ones sharing their mean; and how many share each value."""
    counts = Counter(values)
    rank, before = {}, 0
    for value in sorted(counts):
        rank[value] = before + (counts[value] + 1) / 2
        before += counts[value]
    return [rank[value] for value in values], list(counts.values())
