"""An ONNX file whose states the user named: taken over as a stream of steps, its weights quantized if that is asked.

What the rest of EdgeKit sees of it. Features are x0, x1, … and results output_0, output_1, …, in the numbers that the
file takes and gives. Knows no architecture.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core import QUANTIZED, Graph, Recipe, Source, State

if TYPE_CHECKING:
    import onnx_ir as ir

    from .graph import Settled

TASK, CHUNK = "time-series-regression", 64
PROOF = "proof.npz"  # beside a traced module's file: calls in order, and what the module gave


@dataclass(frozen=True)
class Given:
    """The exporter of all such files."""

    tasks: tuple[str, ...] = (TASK,)
    look: str = "edgekit.exporters._onnx_file.exporter:look"  # settings are read from the graph, in a worker

    @property
    def group_sizes(self) -> Mapping[str, int | None]:
        return {"int8": None, "int4": 32}

    def task(self, source: Source) -> str:
        return TASK

    def build(self, source: Source, recipe: Recipe, path: Path, say: Callable[[str], None]) -> Graph:
        """The portable graph in the file `path`, weights beside it. Raises UnsupportedError, VerificationError."""
        import onnx_ir as ir

        from .._recurrent.quantize import quantize

        model, settled = _load(source)
        if recipe.weights in QUANTIZED:
            say("quantizing")
            quantize(model, recipe, say)
        ir.save(model, path, external_data=path.with_suffix(".bin").name)
        if (source.folder / PROOF).is_file():
            shutil.copyfile(source.folder / PROOF, path.with_name(PROOF))
        states = tuple(State(into, out) for into, out in source.config["states"].items())
        return Graph("model", path.name, settled.inputs, settled.outputs, states, kind="stream")


EXPORTER = Given()


def look(payload: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The worker's job: what the device must know of the model."""
    source = Source(**payload["source"] | {"folder": Path(payload["source"]["folder"])})
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


def _load(source: Source) -> tuple[ir.Model, Settled]:
    import onnx_ir as ir

    from .graph import settle

    model = ir.load(source.folder / source.config["file"])
    return model, settle(model, source.config["states"])
