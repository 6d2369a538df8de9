"""Exporter for ONNX files without states: a network that is run once, from arrays to arrays.

Ports keep the names and dtypes of the file. Knows no architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.core import Graph, Recipe, Source

from .original import Original, open_file
from .prepare import described, load, prepared

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Say

TASK, FILE = "raw", "model.onnx"


@dataclass(frozen=True)
class OnnxNetwork:
    """The exporter of all such files."""

    tasks: ClassVar[tuple[str, ...]] = (TASK,)
    needs_torch: ClassVar[bool] = False
    quantizes: ClassVar[bool] = False
    as_stored: ClassVar[bool] = False
    kind: ClassVar[str] = "plain"
    precision: ClassVar[str] = "int8"
    group_sizes: ClassVar[Mapping[str, int | None]] = {}

    def task(self, source: Source) -> str:
        return TASK

    def why_float(self, source: Source) -> str:
        """Why the weights of this file cannot be quantized; the empty string if they can be."""
        return str(source.config.get("why_float", ""))

    def settings(self, source: Source, task: str, folder: Path) -> dict[str, Any]:
        """The ports of the graph."""
        model = _settled(source, _silent)
        graph = described(model, FILE)
        return {
            name: [{"name": port.name, "dtype": port.dtype, "shape": list(port.shape)} for port in ports]
            for name, ports in (("inputs", graph.inputs), ("outputs", graph.outputs))
        }

    def graphs(self, source: Source, task: str, recipe: Recipe, folder: Path, say: Say) -> tuple[Graph, ...]:
        """The float graph, in model.onnx. Raises UnsupportedError, BundleError."""
        import onnx_ir as ir

        model = _settled(source, say)
        graph = described(model, FILE)
        ir.save(model, folder / FILE, external_data="model.bin")
        return (graph,)

    def reference(self, source: Source, task: str, folder: Path, say: Say) -> dict[str, Original]:
        """The file as it is."""
        say("opening the file as it is")
        return {"model": open_file(source, folder, rounded=True)}


EXPORTER = OnnxNetwork()


def _silent(what: str) -> None:
    """Says nothing."""


def _settled(source: Source, say: Say) -> ir.Model:
    """The prepared graph, its half floats at the ports only. Raises UnsupportedError for ports of unknown rank."""
    import onnx_ir as ir

    dtypes = {value.name: value.dtype for graph in (load(source).graph,) for value in (*graph.inputs, *graph.outputs)}
    model = prepared(source, say)
    described(model, FILE)  # so that all ports are known to be tensors
    for value in list(model.graph.inputs):
        if dtypes[value.name] == ir.DataType.FLOAT16:
            _cast_input(model, value)
    for place, value in enumerate(list(model.graph.outputs)):
        if dtypes[value.name] == ir.DataType.FLOAT16:
            _cast_output(model, place, value)
    return model


def _cast_input(model: ir.Model, value: ir.Value) -> None:
    """The input takes float16, as in the file, and becomes float32 behind it."""
    import onnx_ir as ir

    node = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{value.name}.widened")
    node.outputs[0].name, node.outputs[0].shape = f"{value.name}.float32", value.shape
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    ir.convenience.replace_all_uses_with(value, node.outputs[0])
    node.replace_input_with(0, value)
    value.dtype = ir.DataType.FLOAT16
    model.graph.insert_before(model.graph[0], node)


def _cast_output(model: ir.Model, place: int, value: ir.Value) -> None:
    """The output gives float16, as in the file, and is computed in float32."""
    import onnx_ir as ir

    name = value.name
    value.name = f"{name}.float32"
    node = ir.node("Cast", [value], {"to": ir.DataType.FLOAT16}, name=f"{name}.narrowed")
    made = node.outputs[0]
    made.name, made.shape, made.type = name, value.shape, ir.TensorType(ir.DataType.FLOAT16)
    model.graph.append(node)
    model.graph.outputs[place] = made
