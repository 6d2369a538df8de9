"""Products with weights in int4 or int8 blocks: found in a graph, and replaced by what a target computes them with.

    table (inputs, outputs) ─ DequantizeLinear ───────────── MatMul
    table (outputs, inputs) ─ DequantizeLinear ─ Transpose ─ MatMul        turned

A head that is the embedding table is turned. Knows no kernel: which blocks one takes is said by whoever asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.workbench import graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgekit.core import Array


@dataclass(frozen=True)
class Blocks:
    """The weights of one product, both initializers, with scales along the inputs only."""

    table: ir.Value
    scale: ir.Value
    size: int  # weights to a scale
    turned: bool

    @property
    def bits(self) -> int:
        return self.numbers.dtype.bitwidth

    @property
    def numbers(self) -> ir.TensorProtocol:
        assert self.table.const_value is not None
        return self.table.const_value

    @property
    def scales(self) -> Array:
        assert self.scale.const_value is not None
        return np.asarray(self.scale.const_value.numpy())

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs, outputs."""
        first, second = (int(axis) for axis in self.numbers.shape)
        return (second, first) if self.turned else (first, second)


def blocks_of(node: ir.Node) -> Blocks | None:
    """What a MatMul multiplies by, if these are blocks."""
    import onnx_ir as ir

    made = _producer(node, 1) if node.op_type == "MatMul" else None
    turned = made is not None and made.op_type == "Transpose"
    if made is not None and turned:
        made = _producer(made, 0)
    if made is None or made.op_type != "DequantizeLinear" or len(made.inputs) > 2:
        return None
    table, scale, size = *(graph.weight(value) for value in made.inputs), made.attributes.get("block_size")
    if table is None or scale is None or size is None or table.dtype not in (ir.DataType.INT4, ir.DataType.INT8):
        return None
    along = made.attributes["axis"].as_int() == int(turned) and size.as_int() > 0
    return Blocks(table, scale, size.as_int(), turned) if along else None


def stand_in(model: ir.Model, node: ir.Node, new: Sequence[ir.Node]) -> None:
    """Let the last of the new nodes, put before `node`, give what `node` gave, under its name."""
    import onnx_ir as ir

    model.graph.insert_before(node, new)
    old, made = node.outputs[0], new[-1].outputs[0]
    made.name, made.type, made.shape = old.name, old.type, old.shape
    old.name = f"{made.name}.dequantized"
    ir.convenience.replace_all_uses_with(old, made, replace_graph_outputs=True)


def _producer(node: ir.Node, place: int) -> ir.Node | None:
    value = node.inputs[place]
    return value.producer() if value is not None else None
