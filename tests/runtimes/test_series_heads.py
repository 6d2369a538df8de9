"""Results of recurrent models to answers: units, shapes, ranges, labels, scores; and how near two models are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.errors import BundleError, InputError, VerificationError
from edgekit.runtimes.heads import anomaly, forecast, labels, values

HEADS = [values, forecast, labels, anomaly]
SETTINGS: dict[Any, dict[str, Any]] = {
    values: {"outputs": ["a", "b"], "denormalize": {"mean": [1.0, 0.0], "std": [2.0, 10.0]}},
    forecast: {"outputs": ["a", "b"], "horizon": 3, "quantiles": [0.1, 0.5, 0.9]},
    labels: {"labels": ["good", "worn"]},
    anomaly: {"outputs": ["score"], "threshold": 0.5},
}


def opened(head: Any, **settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = head.open(Path(), {"per": "step", **SETTINGS[head], **settings})
    return found


def floats(*rows: Any) -> Any:
    return np.array(rows, np.float32)


def test_rows_end_where_they_end() -> None:
    y = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    found = values.numbers({"y": y}, SimpleNamespace(lengths=np.array([3, 2])), opened(values))
    assert [row.tolist() for row in found] == [y[0].tolist(), y[1, :2].tolist()]
    (one,) = values.numbers({"y": y[:1, 0]}, SimpleNamespace(lengths=np.array([3])), opened(values, per="end"))
    assert one.tolist() == [[0, 1]]


@pytest.mark.parametrize("shape", [(1, 2), (1, 3, 3)])
def test_results_that_the_bundle_does_not_speak_of(shape: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match="states 2 per step"):
        values.numbers({"y": np.zeros(shape)}, SimpleNamespace(lengths=[3]), opened(values))
    with pytest.raises(BundleError, match="states 2 per series"):
        values.numbers({"y": np.zeros((1, 5))}, SimpleNamespace(lengths=[3]), opened(values, per="end"))


def test_values_come_in_the_users_units() -> None:
    found = values.results(floats([1, 2], [0, 0]), opened(values))
    assert found.dtype == np.float32
    assert found.tolist() == [[3, 20], [1, 0]]
    y = floats([1, 2])
    assert values.results(y, opened(values, denormalize=None)) is y
    assert values.answers([y], (), opened(values, per="end"))[0].tolist() == [3, 20]
    assert values.answers([y], (), opened(values))[0].tolist() == [[3, 20]]


def test_a_forecast_has_its_range() -> None:
    y = np.arange(36, dtype=np.float32).reshape(2, 18)
    first, second = forecast.results(y, opened(forecast))
    assert first.low.tolist() == [[0, 3], [6, 9], [12, 15]]
    assert first.values.tolist() == [[1, 4], [7, 10], [13, 16]]
    assert first.high.tolist() == [[2, 5], [8, 11], [14, 17]]
    assert list(first.quantiles) == [0.1, 0.5, 0.9]
    (answer,) = forecast.answers([y], (), opened(forecast))
    assert answer.values.tolist() == second.values.tolist()
    plain = forecast.results(y[:1, :2], opened(forecast, horizon=1, quantiles=None))[0]
    assert (plain.values.tolist(), plain.low, plain.high, plain.quantiles) == ([[0, 1]], None, None, {})
    single = forecast.results(y[:1, :2], opened(forecast, horizon=1, quantiles=[0.5]))[0]
    assert (single.low, single.quantiles[0.5].tolist()) == (None, [[0, 1]])


def test_a_forecast_is_denormalized_by_output_or_by_number() -> None:
    y = np.ones((1, 18), np.float32)
    by_output = opened(forecast, denormalize={"mean": [100.0, 0.0], "std": [1.0, 5.0]})
    assert forecast.results(y, by_output)[0].values.tolist() == [[101, 5]] * 3
    each = {"mean": list(range(18)), "std": [1.0] * 18}
    assert forecast.results(y, opened(forecast, denormalize=each))[0].low.tolist() == [[1, 4], [7, 10], [13, 16]]


def test_labels_are_scored_best_first() -> None:
    found = labels.results(floats([0, 2], [5, 0]), opened(labels))
    assert [[label.label for label in row] for row in found] == [["worn", "good"], ["good", "worn"]]
    assert found[0][0].score == pytest.approx(1 / (1 + np.exp(-2)))
    assert [len(row) for row in labels.results(floats([0, 2], [5, 0]), opened(labels), top_k=1)] == [1, 1]
    assert labels.answers([floats([0, 2])], (), opened(labels, per="end"))[0][0].label == "worn"
    with pytest.raises(InputError, match="top_k is 0"):
        labels.results(floats([0, 2]), opened(labels), top_k=0)


def test_a_score_above_the_threshold_is_flagged() -> None:
    y = floats([0.25], [0.5], [0.75])
    assert [(one.score, one.flagged) for one in anomaly.results(y, opened(anomaly))] == [
        (0.25, False),
        (0.5, False),
        (0.75, True),
    ]
    assert [one.flagged for one in anomaly.results(y, opened(anomaly), threshold=0)] == [True] * 3
    assert [one.flagged for one in anomaly.results(y, opened(anomaly, threshold=None))] == [False] * 3
    assert anomaly.answers([y[2:]], (), opened(anomaly, per="end"), threshold=1)[0].flagged is False
    with pytest.raises(InputError, match="threshold is nan"):
        anomaly.results(y, opened(anomaly), threshold=float("nan"))


@pytest.mark.parametrize("head", HEADS)
def test_a_number_that_is_not_finite_is_no_answer(head: Any) -> None:
    settings = opened(head)
    y = np.zeros((2, settings["results"]), np.float32)
    y[1, 0] = np.nan
    with pytest.raises(VerificationError, match="not finite"):
        head.results(y, settings)


@pytest.mark.parametrize("head", [values, forecast, anomaly])
def test_a_difference_counts_by_the_size_of_the_numbers(head: Any) -> None:
    a = [floats([1, -3]), floats([2, 2])]
    near = head.compare(a, [row * np.float32(1.01) for row in a])
    assert near.loss == pytest.approx(0.01, rel=1e-3)
    assert head.compare(a, a).loss == 0
    assert head.compare(a, [a[0], a[1] * np.float32("nan")]).loss == float("inf")


def test_labels_are_compared_by_the_best() -> None:
    a = [floats([1, 0], [0, 1]), floats([3, 0], [0, 9])]
    same = [floats([5, 0], [0, 2]), floats([1, 0.5], [9, 0])]
    assert labels.compare(a, same, opened(labels)).loss == 0.25


@pytest.mark.parametrize(
    ("head", "settings", "said"),
    [
        (values, {"per": "sample"}, "per is 'sample'"),
        (values, {"outputs": []}, "name no outputs"),
        (values, {"outputs": [1]}, "name no outputs"),
        (values, {"denormalize": {"mean": [1.0]}}, "denormalize does not give mean and std"),
        (values, {"denormalize": {"mean": [1.0], "std": [1.0]}}, "denormalize needs 2 means"),
        (values, {"denormalize": {"mean": [1.0, 1.0], "std": [1.0, 0.0]}}, "above 0"),
        (forecast, {"horizon": 0}, "horizon is 0"),
        (forecast, {"quantiles": [0.9, 0.1]}, "quantiles are"),
        (forecast, {"quantiles": [0.0, 0.1]}, "quantiles are"),
        (forecast, {"quantiles": 0.5}, "quantiles are 0.5"),
        (forecast, {"denormalize": 5}, "denormalize does not give"),
        (forecast, {"denormalize": {"mean": [1.0] * 3, "std": [1.0] * 3}}, "denormalize needs 18 means"),
        (labels, {"labels": []}, "name no labels"),
        (labels, {"problem": "guess"}, "problem is 'guess'"),
        (anomaly, {"outputs": ["a", "b"]}, "2 anomaly scores"),
        (anomaly, {"threshold": "high"}, "threshold is 'high'"),
        (anomaly, {"threshold": float("inf")}, "threshold is inf"),
    ],
)
def test_settings_that_make_no_sense(head: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        opened(head, **settings)
