"""A graph pass for ONNX Runtime: recurrent nodes whose weights are quantized.

Its RNN, GRU and LSTM take float weights, which are multiplied out once, when the session opens: ONNX Runtime folds a
Cast and a Mul of constants, but never a DequantizeLinear, which it would compute anew for every step.

    int8 ─ DequantizeLinear ─ LSTM       ->       int8 ─ Cast ─ Mul by scales ─ LSTM

Its DynamicQuantizeLSTM is not used: it takes one scale for all rows and steps of its input, so that a stream's results
would depend on the streams beside it, and on how many samples come at a time. It is faster for 128 units and more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.workbench import graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

CELLS = ("RNN", "GRU", "LSTM")
FLOAT = 1  # of ONNX's data types


@dataclass(frozen=True)
class Rows:
    """Quantized weights of a recurrent node, (1, rows, columns)."""

    node: ir.Node

    @property
    def numbers(self) -> ir.Value:
        found = graph.weight(self.node.inputs[0])
        assert found is not None
        return found

    @property
    def scales(self) -> Array:
        """(1, rows, blocks)"""
        found = graph.weight(self.node.inputs[1])
        assert found is not None
        assert found.const_value is not None
        return np.asarray(found.const_value.numpy())

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.numbers.const_value is not None
        return tuple(map(int, self.numbers.const_value.shape))


def quantized_cells(model: ir.Model) -> None:
    """Rewrite what reads quantized weights; in place."""
    for node in [node for node in model.graph if node.op_type in CELLS]:
        for rows in (_rows(node.inputs[place]) for place in (1, 2)):
            if rows is not None:
                _multiply_out(model, rows)
    graph.drop_unused(model)


def _rows(value: ir.Value | None) -> Rows | None:
    made = value.producer() if value is not None else None
    if made is not None and made.op_type == "Concat":  # behind it, a column for padding
        first = made.inputs[0]
        made = first.producer() if first is not None else None
    return Rows(made) if made is not None and made.op_type == "DequantizeLinear" else None


def _multiply_out(model: ir.Model, rows: Rows) -> None:
    """DequantizeLinear -> Cast and Mul, block by block."""
    draft, name, blocks = _Draft(model, rows.node), rows.numbers.name, rows.scales[..., None]
    apart = graph.initializer(model, f"{name}.blocks", np.array([*blocks.shape[:3], -1], np.int64))
    whole = graph.initializer(model, f"{name}.whole", np.array(rows.shape, np.int64))
    numbers = draft.add("Reshape", draft.add("Cast", rows.numbers, to=FLOAT), apart)
    found = draft.add("Mul", numbers, graph.initializer(model, f"{name}.scale.blocks", blocks))
    draft.replace(rows.node.outputs[0], draft.add("Reshape", found, whole))


class _Draft:
    """New nodes, each in its place before the one that they stand for."""

    def __init__(self, model: ir.Model, before: ir.Node) -> None:
        self._model, self._before, self._count = model, before, 0

    def add(self, kind: str, *inputs: ir.Value | None, **attributes: int) -> ir.Value:
        import onnx_ir as ir

        name = f"{self._before.name}.{self._count}"
        self._count += 1
        node = ir.node(kind, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}.0"
        self._model.graph.insert_before(self._before, node)
        return node.outputs[0]

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new` be what `old` was, under its name."""
        import onnx_ir as ir

        new.type, new.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name, old.name = old.name, f"{old.name}.before"
