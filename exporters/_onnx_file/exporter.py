"""Exporter for ONNX files with named states: a stream of steps, with weights quantized on request.

What the rest of EdgeKit sees of it. Features are x0, x1, … and results output_0, output_1, …, in the numbers that the
file takes and gives; where there are several ports, they are named after these. Knows no architecture.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.core import QUANTIZED, Graph, Recipe, Source, State

from .graph import settle
from .original import prove
from .prepare import prepared

if TYPE_CHECKING:
    from edgekit.core import Say

TASK, CHUNK = "time-series-regression", 64
FILE, PROOF = "model.onnx", "proof-model.npz"  # beside a traced module's file: calls in order, and what the module gave


@dataclass(frozen=True)
class OnnxFile:
    """The exporter of all such files."""

    tasks: ClassVar[tuple[str, ...]] = (TASK,)
    needs_torch: ClassVar[bool] = False
    quantizes: ClassVar[bool] = True
    as_stored: ClassVar[bool] = False
    kind: ClassVar[str] = "stream"
    precision: ClassVar[str] = "int8"
    group_sizes: ClassVar[Mapping[str, int | None]] = {"int8": None, "int4": 32}

    def task(self, source: Source) -> str:
        return TASK

    def why_float(self, source: Source) -> str:
        """Why the weights of this file cannot be quantized; the empty string if they can be."""
        return str(source.config.get("why_float", ""))

    def settings(self, source: Source, task: str, folder: Path) -> dict[str, Any]:
        """What the device must know of the model, read from the graph."""
        settled = settle(prepared(source, _silent), source.config["states"])
        return {
            "features": list(settled.features),
            "outputs": list(settled.results),
            "normalize": None,
            "denormalize": None,
            "missing": "hold",
            "rate": None,
            "per": settled.per,
            "chunk_steps": 1 if settled.single else CHUNK,
            "streamable": True,
            "why_not": "",
        }

    def graphs(self, source: Source, task: str, recipe: Recipe, folder: Path, say: Say) -> tuple[Graph, ...]:
        """The portable graph, in model.onnx, and a proof. Raises UnsupportedError, VerificationError, BundleError."""
        import onnx_ir as ir

        from .._recurrent.quantize import quantize

        model = prepared(source, say)
        settled = settle(model, source.config["states"])
        if recipe.weights in QUANTIZED:
            say("quantizing")
            floats = len(model.graph)
            quantize(model, recipe, say)
            if len(model.graph) == floats:
                say(
                    f"no weight is large enough to be quantized: the variant computes in float, {recipe.weights} or not"
                )
        ir.save(model, folder / FILE, external_data="model.bin")
        states = tuple(State(into, out) for into, out in source.config["states"].items())
        graph = Graph("model", FILE, settled.inputs, settled.outputs, states, kind="stream")
        if (source.folder / PROOF).is_file():
            shutil.copyfile(source.folder / PROOF, folder / PROOF)
        elif recipe.weights not in QUANTIZED:
            say("running the file as it is")
            prove(source, settled.layout, graph, folder / PROOF)
        return (graph,)

    def reference(self, source: Source, task: str, folder: Path, say: Say) -> tuple[Graph, ...]:
        """The float graph."""
        return self.graphs(source, task, Recipe(), folder, say)


def _silent(what: str) -> None:
    """Says nothing."""


EXPORTER = OnnxFile()
