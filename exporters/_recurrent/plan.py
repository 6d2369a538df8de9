"""Read the plan of a recurrent model from its config.json: every tensor's shape, and the device's settings.

Raises BundleError for a config that makes no sense, UnsupportedError for one that asks for what EdgeKit does not know.
Opens no file; what the keys mean is told in `_recurrent`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.core import Source
from edgekit.errors import BundleError, UnsupportedError

from .._decoder.config import AGAIN, Config

# What a config calls a head -> the task that it is for.
HEADS = {
    "regression": "time-series-regression",
    "forecast": "time-series-forecasting",
    "classification": "time-series-classification",
    "anomaly": "anomaly-detection",
}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEEPEST, LONGEST = 100, 100_000  # layers, and results of a step: more is a mistake, and a graph without bound
DEFAULTS = {
    "num_layers": 1,
    "bias": True,
    "head_bias": True,
    "nonlinearity": "tanh",
    "per": "step",
    "horizon": 1,
    "missing": "hold",
}
DEFAULTS |= {"score": "prediction"}


@dataclass(frozen=True)
class Layer:
    """One layer in one direction: names of torch's tensors end in `suffix`."""

    suffix: str  # "l0", "l0_reverse"
    inputs: int


@dataclass(frozen=True)
class Plan:
    """Everything that graph and settings are made of. `layers[n]` holds one direction, or two."""

    cell: str
    layers: tuple[tuple[Layer, ...], ...]
    inputs: int
    hidden: int
    projected: int  # 0: no projection
    bias: bool
    head_bias: bool
    relu: bool
    head: str
    score: str
    per: str
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    horizon: int
    quantiles: tuple[float, ...]
    threshold: float | None
    normalize: dict[str, list[float]] | None
    denormalize: dict[str, list[float]] | None
    missing: str
    rate: float | None

    @property
    def task(self) -> str:
        return HEADS[self.head]

    @property
    def streamable(self) -> bool:
        return len(self.layers[0]) == 1

    @property
    def width(self) -> int:
        """What the head reads of a step."""
        return (self.projected or self.hidden) * len(self.layers[0])

    @property
    def results(self) -> int:
        """Numbers in a result."""
        return len(self.outputs) * self.horizon * max(1, len(self.quantiles))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the weights must hold."""
        rows, found = GATES[self.cell] * self.hidden, dict[str, tuple[int, ...]]()
        for layer in (layer for both in self.layers for layer in both):
            found[f"rnn.weight_ih_{layer.suffix}"] = rows, layer.inputs
            found[f"rnn.weight_hh_{layer.suffix}"] = rows, self.projected or self.hidden
            if self.bias:
                found[f"rnn.bias_ih_{layer.suffix}"] = found[f"rnn.bias_hh_{layer.suffix}"] = (rows,)
            if self.projected:
                found[f"rnn.weight_hr_{layer.suffix}"] = self.projected, self.hidden
        given = self.inputs if self.head == "anomaly" else self.results
        head = {"head.weight": (given, self.width)} | ({"head.bias": (given,)} if self.head_bias else {})
        return found | head


def read(cell: str, source: Source) -> Plan:
    config = Config(source.config, DEFAULTS)
    inputs, hidden = config.size("input_size"), config.size("hidden_size")
    both, projected = config.flag("bidirectional"), _projection(config, cell, hidden)
    head, per = _one_of(config, "head", HEADS), _one_of(config, "per", ("step", "end"))
    score = _one_of(config, "score", ("prediction", "reconstruction"))
    if head == "anomaly" and score == "prediction" and both:
        raise UnsupportedError(
            "a model that reads both directions has seen the step that it is to predict",
            hint='its score can only be "reconstruction"',
        )
    outputs = _outputs(config, head)
    quantiles = _quantiles(config) if head == "forecast" else ()
    horizon = config.size("horizon", LONGEST) if head == "forecast" else 1
    suffixes = ("", "_reverse") if both else ("",)
    width = (projected or hidden) * len(suffixes)
    return Plan(
        cell=cell,
        layers=tuple(
            tuple(Layer(f"l{number}{suffix}", width if number else inputs) for suffix in suffixes)
            for number in range(config.size("num_layers", DEEPEST))
        ),
        inputs=inputs,
        hidden=hidden,
        projected=projected,
        bias=config.flag("bias"),
        head_bias=config.flag("head_bias"),
        relu=cell == "RNN" and _one_of(config, "nonlinearity", ("tanh", "relu")) == "relu",
        head=head,
        score=score,
        per=per,
        features=tuple(_names(config, "features", inputs) or (f"x{number}" for number in range(inputs))),
        outputs=outputs,
        horizon=horizon,
        quantiles=quantiles,
        threshold=config.number_or_none("threshold"),
        normalize=_scaling(config, "normalize", inputs),
        denormalize=_denormalize(config, len(outputs), horizon, max(1, len(quantiles))),
        missing=_one_of(config, "missing", ("hold", "zero", "mean", "refuse")),
        rate=None if config.get("rate") is None else config.above_zero("rate"),
    )


def _projection(config: Config, cell: str, hidden: int) -> int:
    if not config.get("proj_size"):  # torch writes 0 for none
        return 0
    if cell != "LSTM":
        raise UnsupportedError(f"config.json sets proj_size, which a {cell} does not have", hint="only an LSTM has one")
    return config.size("proj_size", hidden - 1)


def _one_of(config: Config, key: str, known: Sequence[str] | dict[str, str]) -> str:
    said = config.text(key)
    if said not in known:
        raise UnsupportedError(f"config.json: {key} is {said!r:.60}", hint=f"known: {', '.join(known)}", key=key)
    return said


def _outputs(config: Config, head: str) -> tuple[str, ...]:
    if head == "anomaly":
        return ("score",)
    key = "labels" if head == "classification" else "outputs"
    named = _names(config, key, None)
    if named:
        return tuple(named)
    if key == "labels" or config.get("head_size") is None:
        raise BundleError(f"config.json has no {key!r}", hint=f'name the head\'s {key}: ["a", "b"]', key=key)
    return tuple(f"output_{number}" for number in range(config.size("head_size", LONGEST)))


def _names(config: Config, key: str, count: int | None) -> list[str]:
    """A list of different texts, `count` of them if that is known; empty where it is missing."""
    value = config.get(key)
    if value is None:
        return []
    wanted = f"{count} different names" if count else "a list of different names"
    texts = isinstance(value, list) and value and all(isinstance(item, str) and item for item in value)
    if not texts or len(set(value)) != len(value) or len(value) != (count or len(value)) or len(value) > LONGEST:
        raise BundleError(f"config.json: {key} is {value!r:.60}, not {wanted}", hint=AGAIN, key=key)
    return list(value)


def _quantiles(config: Config) -> tuple[float, ...]:
    value = config.get("quantiles")
    if value is None:
        return ()
    found = _numbers(config, "quantiles", value)
    if not found or sorted(set(found)) != found or not 0 < found[0] <= found[-1] < 1:
        raise BundleError(
            f"config.json: quantiles is {value!r:.60}",
            hint="they rise between 0 and 1: [0.1, 0.5, 0.9]",
            key="quantiles",
        )
    return tuple(found)


def _numbers(config: Config, key: str, value: Any) -> list[float]:
    numbers = isinstance(value, list) and all(
        isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item) for item in value
    )
    if not numbers:
        raise BundleError(f"config.json: {key} is {value!r:.60}, not a list of numbers", hint=AGAIN, key=key)
    return [float(item) for item in value]


def _scaling(config: Config, key: str, *counts: int) -> dict[str, list[float]] | None:
    """{"mean", "std"} of as many numbers each as one of `counts`; standard deviations are above 0."""
    said = config.object(key)
    if not said:
        return None
    mean, std = (_numbers(config, f"{key}.{part}", said.get(part)) for part in ("mean", "std"))
    if len(mean) not in counts or len(mean) != len(std):
        wanted = " or ".join(str(count) for count in dict.fromkeys(counts))
        raise BundleError(
            f"config.json: {key} has {len(mean)} means and {len(std)} deviations, not {wanted}", hint=AGAIN
        )
    if min(std) <= 0:
        raise BundleError(f"config.json: {key} has a deviation of {min(std)}", hint="it must be above 0", key=key)
    return {"mean": mean, "std": std}


def _denormalize(config: Config, outputs: int, horizon: int, quantiles: int) -> dict[str, list[float]] | None:
    """One number for each number of a result; a config may say them once for each output."""
    said = _scaling(config, "denormalize", outputs, outputs * horizon * quantiles)
    if said is None or len(said["mean"]) != outputs:
        return said
    return {part: [value for value in values for _ in range(quantiles)] * horizon for part, values in said.items()}
