"""Values to figures: against definitions and brute force, and nothing told that the sample does not carry."""

from __future__ import annotations

import random
import statistics
from itertools import product

import pytest

from edgekit.measuring import summaries
from edgekit.reporting.record import NEEDED


def test_a_figure_is_what_its_names_say() -> None:
    values = [float(value) for value in range(1, 701)]
    random.Random(0).shuffle(values)
    found = summaries.figure("s", values)
    assert (found.n, found.unit, found.min, found.max) == (700, "s", 1.0, 700.0)
    assert (found.median, found.mean) == (350.5, 350.5)
    assert found.stdev == pytest.approx(statistics.stdev(values))
    assert (found.p90, found.p95, found.p99) == (630.0, 665.0, 693.0), (
        "the nearest rank: the smallest with so many below"
    )
    assert found.low is not None
    assert found.high is not None
    assert 320 < found.low < 350.5 < found.high < 381
    assert found.values == tuple(values), "in their order"


@pytest.mark.parametrize("rank", NEEDED)
def test_a_percentile_needs_its_sample(rank: int) -> None:
    few = [1.0] * (NEEDED[rank] - 1)
    assert summaries.percentile(few, rank) is None
    assert summaries.percentile([*few, 1.0], rank) == 1.0


def test_little_is_said_of_few() -> None:
    one = summaries.figure("s", [2.0])
    assert (one.n, one.median, one.low, one.high, one.stdev, one.p90, one.outliers) == (
        1,
        2.0,
        None,
        None,
        None,
        None,
        0,
    )
    assert summaries.interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (None, None)
    assert summaries.interval([1.0] * 6) == (1.0, 1.0)


@pytest.mark.parametrize("count", [6, 7])
def test_the_interval_is_that_of_all_possible_samples(count: int) -> None:
    values = [float(2**number) for number in range(count)]
    medians = sorted(statistics.median(drawn) for drawn in product(values, repeat=count))
    low, high = summaries.interval(values)
    share = [sum(median < bound for median in medians) / len(medians) for bound in (low, high) if bound is not None]
    above = sum(median > (high or 0) for median in medians) / len(medians)
    assert share[0] <= 0.04
    assert above <= 0.04
    assert share[1] - share[0] >= 0.8, "it is an interval of about 95 %, of a coarse distribution"
    assert (low, high) == summaries.interval(values), "the same values, the same interval"


def test_outliers_are_beyond_the_outer_fences() -> None:
    values = [10.0, 11.0, 12.0, 13.0] * 5
    assert summaries.outliers(values) == 0
    assert summaries.outliers([*values, 13.0 + 3 * 2, 100.0, -90.0]) == 2, "one on the fence is none"
    assert summaries.outliers([1.0, 1.0, 1.0, 50.0]) == 0, "four values have no quartiles"


def test_many_values_are_thinned_out_evenly() -> None:
    found = summaries.figure("s", [float(value) for value in range(10_000)])
    assert found.n == 10_000
    assert len(found.values) == summaries.KEPT
    assert found.values[:3] == (0.0, 5.0, 10.0)
    assert found.max == 9999.0, "of all of them"


def test_a_slope_is_the_line_s() -> None:
    assert summaries.slope([10.0, 30.0, 50.0], [0.0, 10.0, 20.0]) == pytest.approx(2.0)
    assert summaries.slope([1.0, 2.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]) == pytest.approx(0.2)
