"""What recurrent models are refused for, and what the device is told of those that are not. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import built_decoders as engines
import numpy as np
import pytest
import torch_recurrent as tiny

from edgekit import registry
from edgekit.core import Source
from edgekit.errors import BundleError, EdgeKitError, UnsupportedError, VerificationError
from edgekit.exporters._decoder.tensors import MadeUp
from edgekit.exporters._recurrent.plan import read


def arrays_of(config: dict[str, Any]) -> dict[str, Any]:
    source = engines.as_source(Path(), config)
    shapes = read(config["model_type"].upper(), source).shapes()
    made = MadeUp(shapes, {name: 0.1 for name, shape in shapes.items() if len(shape) == 1}, 0.3)
    return {name: made.rows(name, 0, shape[0]) for name, shape in shapes.items()}


def settings(folder: Path, cell: str = "lstm", task: str = "", **changes: Any) -> dict[str, Any]:
    source = engines.as_source(folder, tiny.config_of(cell, **changes))
    exporter = registry.exporter(cell)
    found: dict[str, Any] = exporter.settings(source, task or exporter.task(source), folder)
    return found


def refused(source: Source, error: type[EdgeKitError], why: str) -> EdgeKitError:
    """Building fails with that error, which says what to do, and leaves no file behind."""
    with pytest.raises(error, match=why) as caught:
        tiny.build(source)
    assert caught.value.hint
    assert not (source.folder / "model.onnx").exists()
    assert not (source.folder / "model.bin").exists()
    return caught.value


# Weights


def spoiled(folder: Path, **arrays: Any) -> Source:
    """A good LSTM, of whose tensors these (dots as two underscores) are others, or missing where None."""
    config = tiny.config_of("lstm", num_layers=2)
    changes = {name.replace("__", "."): array for name, array in arrays.items()}
    found = {name: array for name, array in (arrays_of(config) | changes).items() if array is not None}
    return engines.folder_of(folder, config, found)


def test_a_head_whose_bias_is_lost(tmp_path: Path) -> None:
    """Whether a head has one is the config's to say: a tensor that a tool lost would be a wrong answer in silence."""
    assert "head_bias" in refused(spoiled(tmp_path, head__bias=None), BundleError, "no 'head.bias'").hint


def test_a_missing_tensor(tmp_path: Path) -> None:
    error = refused(spoiled(tmp_path, rnn__weight_hh_l1=None), BundleError, "no 'rnn.weight_hh_l1'")
    assert "rnn.weight_" in error.hint
    assert error.exit_code == 6


def test_weights_of_another_size(tmp_path: Path) -> None:
    wide = np.zeros((4 * tiny.HIDDEN, tiny.FEATURES + 1), np.float32)
    error = refused(
        spoiled(tmp_path, rnn__weight_ih_l0=wide), BundleError, r"weight_ih_l0' has shape \[24, 4\].*\[24, 3\]"
    )
    assert "different models" in error.hint


def test_a_tensor_that_would_be_left_out(tmp_path: Path) -> None:
    backwards = np.zeros((4 * tiny.HIDDEN, tiny.FEATURES), np.float32)
    source = spoiled(tmp_path, rnn__weight_ih_l0_reverse=backwards)
    assert refused(source, UnsupportedError, "weight_ih_l0_reverse', which config.json does not use").exit_code == 4


@pytest.mark.parametrize("name", ["rnn__weight_hh_l0", "rnn__bias_ih_l1", "head__bias", "head__weight"])
def test_not_a_number(tmp_path: Path, name: str) -> None:
    array = arrays_of(tiny.config_of("lstm", num_layers=2))[name.replace("__", ".")].copy()
    array[..., -1] = np.nan
    error = refused(spoiled(tmp_path, **{name: array}), VerificationError, "holds a NaN or an infinity")
    assert error.exit_code == 5


# config.json

WRONG: list[tuple[dict[str, Any], type[EdgeKitError], str]] = [
    ({"input_size": 0}, BundleError, "input_size is 0"),
    ({"hidden_size": None}, BundleError, "no 'hidden_size'"),
    ({"num_layers": 101}, BundleError, "num_layers is 101"),
    ({"bidirectional": "yes"}, BundleError, "bidirectional is 'yes'"),
    ({"proj_size": 6}, BundleError, "proj_size is 6"),
    ({"head": None}, BundleError, "no 'head'"),
    ({"head": "pose"}, UnsupportedError, "head is 'pose'"),
    ({"per": "hour"}, UnsupportedError, "per is 'hour'"),
    ({"missing": "guess"}, UnsupportedError, "missing is 'guess'"),
    ({"outputs": None}, BundleError, "no 'outputs'"),
    ({"outputs": ["a", "a"]}, BundleError, r"outputs is \['a', 'a'\]"),
    ({"outputs": []}, BundleError, r"outputs is \[\]"),
    ({"features": ["a", "b"]}, BundleError, r"features is .*not 3 different names"),
    ({"head": "classification"}, BundleError, "no 'labels'"),
    ({"head": "classification", "labels": "ab"}, BundleError, "labels is 'ab'"),
    ({"head": "forecast", "horizon": 0}, BundleError, "horizon is 0"),
    ({"head": "forecast", "quantiles": [0.5, 0.1]}, BundleError, "quantiles is"),
    ({"head": "forecast", "quantiles": [0.5, 1.0]}, BundleError, "quantiles is"),
    ({"head": "forecast", "quantiles": "all"}, BundleError, "quantiles is 'all', not a list of numbers"),
    ({"head": "anomaly", "bidirectional": True}, UnsupportedError, "has seen the step"),
    ({"head": "anomaly", "threshold": "high"}, BundleError, "threshold is 'high'"),
    ({"normalize": {"mean": [0, 0, 0]}}, BundleError, "normalize.std is None, not a list of numbers"),
    ({"normalize": {"mean": [0, 0], "std": [1, 1]}}, BundleError, "normalize has 2 means and 2 deviations, not 3"),
    ({"normalize": {"mean": [0, 0, 0], "std": [1, 1, 0]}}, BundleError, "a deviation of 0"),
    ({"normalize": [0, 1]}, BundleError, "normalize is .*not an object"),
    ({"denormalize": {"mean": [0, 0, 0], "std": [1, 1, 1]}}, BundleError, "denormalize has 3 means .*not 2"),
    ({"rate": -1}, BundleError, "rate is -1"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "why"), WRONG, ids=lambda value: str(value)[:40])
def test_a_config_that_makes_no_sense(
    tmp_path: Path, changes: dict[str, Any], error: type[EdgeKitError], why: str
) -> None:
    with pytest.raises(error, match=why) as caught:
        settings(tmp_path, **changes)
    assert caught.value.hint


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_only_an_lstm_has_a_projection(tmp_path: Path, cell: str) -> None:
    with pytest.raises(UnsupportedError, match="proj_size"):
        settings(tmp_path, cell, proj_size=2)
    assert settings(tmp_path, cell, proj_size=0)["per"] == "step"


def test_an_activation_that_torch_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="nonlinearity is 'gelu'"):
        settings(tmp_path, "rnn", nonlinearity="gelu")


def test_a_task_that_its_head_is_not_for(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="a head for time-series-regression, not for anomaly-detection"):
        settings(tmp_path, task="anomaly-detection")


# What the device is told


def test_settings_say_all_that_a_device_must_know(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        features=["load", "sun", "wind"],
        normalize={"mean": [1, 2, 3], "std": [1, 1, 2]},
        missing="mean",
        rate=0.5,
        per="end",
    )
    assert found == {
        "features": ["load", "sun", "wind"],
        "outputs": ["a", "b"],
        "normalize": {"mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 2.0]},
        "denormalize": None,
        "missing": "mean",
        "rate": 0.5,
        "per": "end",
        "chunk_steps": 64,
        "streamable": True,
        "why_not": "",
    }


def test_settings_have_names_for_what_has_none(tmp_path: Path) -> None:
    found = settings(tmp_path, outputs=None, head_size=2)
    assert (found["features"], found["outputs"]) == (["x0", "x1", "x2"], ["output_0", "output_1"])
    assert (found["normalize"], found["missing"], found["rate"], found["per"]) == (None, "hold", None, "step")


def test_settings_of_heads(tmp_path: Path) -> None:
    forecast = settings(
        tmp_path, head="forecast", horizon=2, quantiles=[0.1, 0.9], denormalize={"mean": [5, 7], "std": [1, 2]}
    )
    assert (forecast["horizon"], forecast["quantiles"]) == (2, [0.1, 0.9])
    # Horizon, then output, then quantile, as y has them.
    assert forecast["denormalize"] == {"mean": [5, 5, 7, 7, 5, 5, 7, 7], "std": [1, 1, 2, 2, 1, 1, 2, 2]}
    classes = settings(tmp_path, head="classification", labels=["ok", "worn"])
    assert (classes["labels"], classes["outputs"]) == (["ok", "worn"], ["ok", "worn"])
    anomaly = settings(tmp_path, head="anomaly", threshold=2)
    assert (anomaly["threshold"], anomaly["outputs"]) == (2.0, ["score"])
    assert settings(tmp_path, head="anomaly")["threshold"] is None


def test_both_directions_cannot_be_streamed(tmp_path: Path) -> None:
    found = settings(tmp_path, bidirectional=True)
    assert not found["streamable"]
    assert "both directions" in found["why_not"]


@pytest.mark.parametrize(
    ("head", "task"),
    [
        ("regression", "time-series-regression"),
        ("forecast", "time-series-forecasting"),
        ("anomaly", "anomaly-detection"),
    ],
)
def test_the_head_says_the_task(tmp_path: Path, head: str, task: str) -> None:
    exporter = registry.exporter("rnn")
    assert exporter.task(engines.as_source(tmp_path, tiny.config_of("rnn", head=head))) == task
    assert task in exporter.tasks
