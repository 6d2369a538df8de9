"""Exporter for ONNX files with named states: a stream of steps, with weights quantized on request.

What the rest of EdgeKit sees of it. Features are x0, x1, … and results output_0, output_1, …, in the numbers that the
file takes and gives. Knows no architecture.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.core import QUANTIZED, Graph, Recipe, Source, State

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Say

    from .graph import Settled

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

    def settings(self, source: Source, task: str, folder: Path) -> dict[str, Any]:
        """What the device must know of the model, read from the graph."""
        _, settled = _load(source)
        return {
            "features": [f"x{number}" for number in range(settled.features)],
            "outputs": [f"output_{number}" for number in range(settled.results)],
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
        """The portable graph, in model.onnx. Raises UnsupportedError, VerificationError."""
        import onnx_ir as ir

        from .._recurrent.quantize import quantize

        model, settled = _load(source)
        if recipe.weights in QUANTIZED:
            say("quantizing")
            quantize(model, recipe, say)
        ir.save(model, folder / FILE, external_data="model.bin")
        if (source.folder / PROOF).is_file():
            shutil.copyfile(source.folder / PROOF, folder / PROOF)
        states = tuple(State(into, out) for into, out in source.config["states"].items())
        return (Graph("model", FILE, settled.inputs, settled.outputs, states, kind="stream"),)

    def reference(self, source: Source, task: str, folder: Path, say: Say) -> tuple[Graph, ...]:
        """The float graph."""
        return self.graphs(source, task, Recipe(), folder, say)


EXPORTER = OnnxFile()


def _load(source: Source) -> tuple[ir.Model, Settled]:
    import onnx_ir as ir

    from .graph import settle

    model = ir.load(source.folder / source.config["file"])
    return model, settle(model, source.config["states"])
