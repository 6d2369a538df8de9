"""Exporter for recurrent models (RNN, GRU, LSTM), built without torch: a step and a state in, a result and a state out.

A folder with two files, as torch's own modules name things (`nn.RNN`, `nn.GRU`, `nn.LSTM` under the name `rnn`, and an
`nn.Linear` named `head`). config.json:

    model_type      "rnn", "gru" or "lstm"
    input_size      features of a step                      hidden_size     width of the state
    num_layers      [1]                                     bidirectional   [false]
    proj_size       LSTM's projection of its output [0]     bias            [true]
    nonlinearity    of an RNN: "tanh" or "relu" ["tanh"]    head_bias       [true]
    head            "regression", "forecast", "classification" or "anomaly"
    per             "step": a result for each step; "end": one for all that was fed ["step"]
    outputs         names of the results; or head_size, how many [output_0, output_1, …]
    horizon         forecast: how many steps ahead [1]      quantiles       forecast: [0.1, 0.5, 0.9], none by default
    labels          classification: their names             threshold       anomaly: the score that is one, if known
    score           anomaly: "prediction" (the step before told this step) or "reconstruction" (the step itself did)
    features        names of the inputs [x0, x1, …]         rate            samples a second, if it matters
    normalize       {"mean": [a feature each], "std": […]}: what was done to the inputs, null for nothing
    denormalize     {"mean": [a result each], "std": […]}: what brings the results to their units, null for nothing
    missing         a sample that is missing: "hold" the last, "zero", "mean" or "refuse" ["hold"]

model.safetensors: `rnn.weight_ih_l0`, `rnn.weight_hh_l0`, `rnn.bias_ih_l0`, `rnn.bias_hh_l0`, `rnn.weight_hr_l0` with a
projection, the same with `_l1` and so on, and with `_reverse` at the end where both directions are read; `head.weight`
(results, width) and, unless `head_bias` is false, `head.bias`. A result at the end is made of the top layer's last
states, both directions side by side, as in torch's `h_n`. An anomaly's head gives the features back: (input_size,
width).

This file is what the rest of EdgeKit sees; `_recurrent_plan` reads the config, `_recurrent_graph` writes the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.core import Recipe, Source
from edgekit.errors import UnsupportedError

from .plan import HEADS, Plan, read

if TYPE_CHECKING:
    from edgekit.core import Graph, Say

CHUNK = 64  # steps that are best fed at once


@dataclass(frozen=True)
class Recurrent:
    """One architecture; `cell` is ONNX's operator: "RNN", "GRU" or "LSTM"."""

    cell: str

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(HEADS.values())

    needs_torch: ClassVar[bool] = False
    quantizes: ClassVar[bool] = True
    as_stored: ClassVar[bool] = False
    kind: ClassVar[str] = "stream"
    precision: ClassVar[str] = "int8"
    # int8 has one scale for each row, as integer kernels take it.
    group_sizes: ClassVar[Mapping[str, int | None]] = {"int8": None, "int4": 32}

    def task(self, source: Source) -> str:
        return read(self.cell, source).task

    def settings(self, source: Source, task: str, folder: Path) -> dict[str, Any]:
        """What the device must know of the model, as JSON. Raises UnsupportedError for a task that is not its head's.

        `outputs`: names of the results; of a forecast, y holds `horizon` x outputs x quantiles, the last fastest.
        """
        plan = read(self.cell, source)
        if task != plan.task:
            raise UnsupportedError(
                f"this model has a head for {plan.task}, not for {task}", hint=f"leave --task out, or say {plan.task}"
            )
        return {
            "features": list(plan.features),
            "outputs": list(plan.outputs),
            "normalize": plan.normalize,
            "denormalize": plan.denormalize,
            "missing": plan.missing,
            "rate": plan.rate,
            "per": plan.per,
            "chunk_steps": CHUNK,
            "streamable": plan.streamable,
            "why_not": "" if plan.streamable else WHY_NOT,
            **_of_head(plan),
        }

    def build(self, source: Source, recipe: Recipe, path: Path, say: Say) -> Graph:
        """The portable graph in the file `path`, weights beside it; see `graph.build`."""
        from .graph import build

        return build(source, read(self.cell, source), recipe, path, say)

    def graphs(self, source: Source, task: str, recipe: Recipe, folder: Path, say: Say) -> tuple[Graph, ...]:
        """The portable graph, in model.onnx. Raises BundleError, UnsupportedError, VerificationError (a NaN)."""
        return (self.build(source, recipe, folder / "model.onnx", say),)

    def reference(self, source: Source, task: str, folder: Path, say: Say) -> tuple[Graph, ...]:
        """The float graph."""
        return self.graphs(source, task, Recipe(), folder, say)


WHY_NOT = "the model reads each series in both directions, so it must have all of it before it answers"


def _of_head(plan: Plan) -> dict[str, Any]:
    """The settings that only its head reads."""
    if plan.head == "forecast":
        return {"horizon": plan.horizon, "quantiles": list(plan.quantiles) or None}
    if plan.head == "classification":
        return {"labels": list(plan.outputs)}
    return {"threshold": plan.threshold} if plan.head == "anomaly" else {}
