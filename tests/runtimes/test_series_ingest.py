"""Series to what a recurrent graph takes: values, gaps, times, batches."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgekit import limits
from edgekit.errors import BundleError, InputError
from edgekit.runtimes.ingest import series
from edgekit.runtimes.ingest.resample import NEAR, Resampler, resampled, seconds

NORMALIZE = {"mean": [2.0, -1.0], "std": [0.5, 4.0]}
NAN = float("nan")


def opened(**settings: Any) -> series.Series:
    return series.open(Path(), {"features": ["a", "b"], "normalize": NORMALIZE, **settings})


def test_samples_are_normalized() -> None:
    (found,) = opened().encode([[[2.5, 3.0], [2.0, -1.0]]])
    assert found.x.dtype == np.float32
    assert found.x.tolist() == [[1, 1], [0, 0]]
    assert opened(normalize=None).encode([[[2.5, 3.0]]])[0].x.tolist() == [[2.5, 3.0]]


def test_a_large_offset_loses_nothing() -> None:
    (found,) = opened(normalize={"mean": [1e9, 0], "std": [1, 1]}).encode([[[1e9 + 0.25, 0]]])
    assert found.x.tolist() == [[0.25, 0]]


GAPS = [[NAN, 1.0], [4.0, NAN], [NAN, NAN], [5.0, 2.0]]


@pytest.mark.parametrize(
    ("missing", "filled"),
    [
        ("hold", [[2, 1], [4, 1], [4, 1], [5, 2]]),  # the mean before any
        ("mean", [[2, 1], [4, -1], [2, -1], [5, 2]]),
        ("zero", [[0, 1], [4, 0], [0, 0], [5, 2]]),
    ],
)
def test_what_is_missing_goes_by_the_rule(missing: str, filled: list[list[float]]) -> None:
    ingest = opened(missing=missing)
    wanted = ((np.array(filled) - NORMALIZE["mean"]) / NORMALIZE["std"]).astype(np.float32)
    assert ingest.encode([GAPS])[0].x.tolist() == wanted.tolist()
    assert ingest.encode([[[None if x != x else x for x in row] for row in GAPS]])[0].x.tolist() == wanted.tolist()
    held, rows = ingest.mean[None], []
    for row in GAPS:
        x, held = ingest.samples([row], held)
        rows += x.tolist()
    assert rows == wanted.tolist()
    first, last = ingest.chunk(GAPS[:2], ingest.mean)
    second, _ = ingest.chunk(GAPS[2:], last)
    assert [*first.tolist(), *second.tolist()] == wanted.tolist()


def test_a_model_may_refuse_gaps() -> None:
    with pytest.raises(InputError, match=r"series\[1\], row 1: b is missing"):
        opened(missing="refuse").encode([[[1, 2]], GAPS[3:] + GAPS[1:2]])
    with pytest.raises(InputError, match="the sample of stream 7: a is missing"):
        opened(missing="refuse").samples([[1, 2], [NAN, 1]], np.zeros((2, 2)), [3, 7])
    assert len(opened(missing="refuse").encode([GAPS[3:]])[0]) == 1


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e300])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"series\[0\], row 1: b is"):
        opened().encode([[[1, 2], [1, value]]])
    with pytest.raises(InputError, match="the sample: a is"):
        opened().samples([[value, NAN]], np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([1, 2, 3], r"has the shape \[3\]"),
        ([[1, 2, 3]], r"has the shape \[1, 3\]"),
        (np.zeros((0, 2)), r"has the shape \[0, 2\]"),
        ([["a", "b"]], "holds text, not numbers"),
        ([[True, False]], "holds booleans, not numbers"),
        ([[1, 2], [3]], "not made of numbers"),
        ([[{}, None]], "not made of numbers"),
        (np.zeros((1, 2), complex), "holds complex numbers"),
        (7.0, r"has the shape \[\]"),
    ],
)
def test_what_is_no_series_is_refused(wrong: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        opened().encode([wrong])


def test_one_feature_needs_no_second_axis() -> None:
    ingest = opened(features=["a"], normalize=None)
    assert ingest.encode([[1, 2, 3]])[0].x.shape == (3, 1)
    assert ingest.samples([4.0], np.zeros((1, 1)))[0].tolist() == [[4.0]]
    with pytest.raises(InputError, match=r"the sample has the shape \[2\]"):
        ingest.samples([[1, 2]], np.zeros((1, 1)))


def test_too_long_a_series_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SERIES_STEPS", 3)
    with pytest.raises(InputError, match="has 4 samples, and 3 are allowed"):
        opened().encode([np.zeros((4, 2))])


@pytest.mark.parametrize(
    ("given", "alone"),
    [
        (np.zeros((4, 2)), True),
        (np.zeros(4), True),
        (np.zeros((3, 4, 2)), False),
        ([1.0, 2.0], True),
        ([None, 2.0], True),
        ([None, None], True),
        ([[1, 2], [3, 4]], True),
        ([np.zeros((4, 2))], False),
        ([np.zeros(4), np.zeros(5)], False),
        ([[[1, 2]], [[3, 4]]], False),
        ([[np.zeros(2)]], False),
        ([np.float64(1)], True),
        ([], False),
        (3, True),
    ],
)
def test_one_series_or_several(given: Any, alone: bool) -> None:
    assert opened().alone(given) is alone


def test_the_bits_tell_how_a_series_is_read() -> None:
    first, second = opened().encode([[[1, 2]], [[1, 2 + 1e-5]]])
    assert first.ids.dtype == np.int64
    assert first.ids.tolist() != second.ids.tolist()
    assert first.ids.tolist() == opened().encode([np.array([[1.0, 2.0]])])[0].ids.tolist()


def test_batches_hold_what_fits_side_by_side() -> None:
    lengths = [3, 5, 3, 1, 5]
    for inputs, wanted in ((["x"], [(1, 4), (0, 2), (3,)]), (["x", "counts"], [(1, 4), (0, 2), (3,)])):
        ingest = opened(inputs=inputs)
        made = list(ingest.batches(ingest.encode([np.zeros((n, 2)) for n in lengths]), max_tokens=10))
        assert [batch.rows for batch in made] == wanted
    counted = opened(inputs=["x", "counts"])
    (batch,) = counted.batches(counted.encode([np.full((n, 2), 3.0) for n in lengths]), multiple=4)
    assert batch.feeds["x"].shape == (5, 8, 2)
    assert batch.lengths.tolist() == batch.feeds["counts"].tolist() == [5, 5, 3, 3, 1]
    assert not batch.feeds["x"][4, 1:].any()
    alone = opened(batched=False)
    assert [batch.rows for batch in alone.batches(alone.encode([np.zeros((2, 2))] * 3))] == [(0,), (1,), (2,)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"features": []}, "name no features"),
        ({"features": ["a", 1]}, "name no features"),
        ({"features": ["a", "a"]}, "two features have one name"),
        ({"inputs": ["x", "mask"]}, "the graph takes 'mask'"),
        ({"inputs": ["counts"]}, "does not take 'x'"),
        ({"missing": "guess"}, "missing is 'guess'"),
        ({"rate": 0}, "rate is 0"),
        ({"rate": True}, "rate is True"),
        ({"chunk_steps": 0}, "chunk_steps is 0"),
        ({"normalize": {"mean": [1, 2]}}, "does not give mean and std"),
        ({"normalize": {"mean": ["x", 2], "std": [1, 1]}}, "does not give mean and std"),
        ({"normalize": {"mean": [1], "std": [1]}}, "needs 2 means"),
        ({"normalize": {"mean": [1, 2], "std": [1, 0]}}, "above 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        opened(**settings)


# Times


def test_samples_come_to_the_models_rate() -> None:
    ingest = opened(normalize=None, rate=2)
    x = np.array([[0.0, 0], [1, 10], [4, 40]])
    (found,) = ingest.encode([x], timestamps=[[5, 6, 9]])
    assert found.x[:, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert found.x[:, 1].tolist() == (found.x[:, 0] * 10).tolist()
    clock = np.datetime64("2026-01-31T12:00:00.000") + np.array([0, 1000, 4000]).astype("timedelta64[ms]")
    assert ingest.encode([x], timestamps=[clock])[0].x.tolist() == found.x.tolist()
    assert ingest.encode([x[:1]], timestamps=[[3]])[0].x.tolist() == [[0, 0]]


def test_gaps_are_filled_before_times_are_looked_at() -> None:
    (found,) = opened(normalize=None, rate=1).encode([[[1, 0], [NAN, 0], [3, 0]]], timestamps=[[0, 1, 3]])
    assert found.x[:, 0].tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([0, 1, 1], "row 2: the timestamp 1 is not after 1"),
        ([0, 2, 1], "row 2: the timestamp 1 is not after 2"),
        ([0, NAN, 1], "row 1: the timestamp nan is not a time"),
        ([0, 1], r"has 3 samples, and timestamps int64 \[2\]"),
        (["a", "b", "c"], "timestamps str"),
        (np.array(["2026-01-01", "NaT", "2026-01-02"], "M8[s]"), "row 1: the timestamp nan"),
        ([0, 1, 1e12], "gap"),
    ],
)
def test_times_that_make_no_sense(times: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        opened(rate=50).encode([np.zeros((3, 2))], timestamps=[times])


def test_times_need_a_rate_and_a_series_each() -> None:
    with pytest.raises(InputError, match="has no rate"):
        opened().encode([np.zeros((3, 2))], timestamps=[[0, 1, 2]])
    with pytest.raises(InputError, match="timestamps for 1 series, and there are 2"):
        opened(rate=1).encode([np.zeros((3, 2))] * 2, timestamps=[[0, 1, 2]])


def streamed(times: Any, x: Any, rate: float) -> list[Any]:
    stream = Resampler(rate)
    return [made for time, row in zip(times, x) for made in stream.push(float(time), row)]


@given(
    steps=st.lists(st.floats(0.001, 3.0), min_size=0, max_size=30),
    begun=st.sampled_from([0.0, -5.5, 1.7e9]),
    rate=st.sampled_from([0.5, 1.0, 3.0, 50.0]),
)
def test_a_stream_is_resampled_as_the_whole_is(steps: list[float], begun: float, rate: float) -> None:
    times = begun + np.cumsum([0.0, *steps])
    x = np.random.default_rng(len(steps)).standard_normal((len(times), 2))
    whole = resampled(x, seconds(times, len(x), "x"), rate, "x")
    assert np.array_equal(whole, streamed(times, x, rate))
    inside = np.arange(len(whole)) / rate
    for column in range(2):
        np.testing.assert_allclose(whole[:, column], np.interp(inside, times - begun, x[:, column]), atol=1e-2 * rate)


@example(begun=-5.5, gaps=[(50, -1.0), (50, -1.0)], rate=50.0)
@example(begun=1.7e9, gaps=[(1, 1.0)], rate=3.0)
@example(begun=-1e16, gaps=[(40, 0.0), (1, 0.0), (1, 0.0)], rate=10.0)
@given(
    begun=st.sampled_from([0.0, -5.5, 1e-9, 1.7e9]) | st.floats(-1e6, 1e6),
    gaps=st.lists(st.tuples(st.integers(1, 60), st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(-2, 2)), max_size=20),
    rate=st.sampled_from([0.1, 3.0, 50.0, 44.1]) | st.floats(0.01, 1000.0),
)
def test_times_a_rounding_away_from_the_grid(begun: float, gaps: list[tuple[int, float]], rate: float) -> None:
    """Times lie near places of the grid: on it, or off it by about as much as counts as on it. Exact fractions say
    what is right."""
    places = np.cumsum([0, *(steps for steps, _ in gaps)])
    times = begun + (places + np.array([0.0, *(off for _, off in gaps)]) * NEAR) / rate
    times = np.unique(np.maximum.accumulate(times))
    x = np.random.default_rng(len(times)).standard_normal((len(times), 1))
    whole = resampled(x, seconds(times, len(x), "x"), rate, "x")
    assert np.array_equal(whole, streamed(times, x, rate))

    since = [Fraction(float(time)) - Fraction(float(times[0])) for time in times]
    steps = since[-1] * Fraction(rate)
    assert abs(len(whole) - 1 - steps) <= 1 + 2 * Fraction(NEAR)
    slack = 2 * NEAR * np.ptp(x) + 1e-6
    for place, row in enumerate(whole):
        exact = min(Fraction(place) / Fraction(rate), since[-1])
        after = max(1, next(number for number, time in enumerate(since) if time >= exact)) if exact else 0
        before = max(0, after - 1)
        share = float((exact - since[before]) / (since[after] - since[before])) if after else 0.0
        assert abs(row[0] - (x[before, 0] + (x[after, 0] - x[before, 0]) * share)) <= slack


def test_a_regular_stream_at_the_models_rate_stays_as_it_is() -> None:
    x = np.random.default_rng(0).standard_normal((1000, 1))
    times = 1.7e9 + np.arange(1000) * 0.02
    found = resampled(x, times, 50.0, "x")
    assert found.shape == x.shape
    np.testing.assert_allclose(found, x, atol=1e-4)


def test_a_resampler_refuses_what_makes_no_sense() -> None:
    stream = Resampler(10.0)
    assert len(list(stream.push(1.0, np.zeros(1)))) == 1
    with pytest.raises(InputError, match="row 1: the timestamp 1 is not after 1"):
        stream.push(1.0, np.zeros(1))
    with pytest.raises(InputError, match="the timestamp inf is not a time"):
        stream.push(float("inf"), np.zeros(1))
    with pytest.raises(InputError, match="gap"):
        stream.push(1e15, np.zeros(1))


def test_a_gap_is_filled_as_it_is_asked_for() -> None:
    stream = Resampler(1000.0)
    list(stream.push(0.0, np.zeros(1)))
    rows = stream.push(10_000.0, np.ones(1))
    assert float(next(rows)[0]) == pytest.approx(1e-7)


def test_a_reader_brings_a_stated_rate_to_the_models() -> None:
    ingest = opened(normalize=None, rate=4)
    reader = ingest.reader(2)
    rows = [row.tolist() for sample in ([0, 0], [1, NAN], [2, 8]) for row in reader.push(sample)]
    assert rows == [[0, 0], [0.5, 0], [1, 0], [1.5, 4], [2, 8]]
    untouched = object()
    assert list(ingest.reader(4).push(untouched)) == [untouched]
    assert list(ingest.reader().push(untouched)) == [untouched]


def test_a_reader_refuses_what_makes_no_sense() -> None:
    with pytest.raises(InputError, match="rate is 0"):
        opened(rate=1).reader(0)
    with pytest.raises(InputError, match="has no rate"):
        opened().reader(timed=True)
    for item in (5, "ab", [1, 2, 3]):
        with pytest.raises(InputError, match="sample 0 is not a pair"):
            opened(rate=1).reader(timed=True).push(item)
