"""Convert torch's recurrent weights to ONNX's layout: order of the gates, biases concatenated.

A matrix may be held in int8 or int4, behind a DequantizeLinear with a scale for each row of a gate or for each block of
a row. Knows nothing of the graph's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgekit.core import QUANTIZED, Recipe
from edgekit.quantize import blocks

from .._decoder.tensors import Weights
from .._decoder.weights_in_graph import packed
from .._onnx_writer import Draft
from .plan import GATES, Layer, Plan

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array, Floats

# Where ONNX's gates stand among torch's: i o f c of i f g o, z r h of r z n.
ORDER = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}
SMALLEST = 1024  # numbers: a smaller matrix costs more to quantize than it saves
CLOSED = 1e4  # far beyond where a sigmoid is 0 or 1, and a number in float16


class Tensors:
    """Reads each tensor once and writes it to the draft.

    A recipe's `skip` and `overrides` go by the names of the weights in their files. Where blocks do not divide a row,
    it has one scale, in int8, which is said.
    """

    def __init__(self, draft: Draft, plan: Plan, weights: Weights, recipe: Recipe, say: Callable[[str], None]) -> None:
        self.draft, self.plan, self.weights, self.recipe = draft, plan, weights, recipe
        self.say = say
        self._shapes = plan.shapes()

    def inputs(self, layer: Layer, *, guarded: bool) -> ir.Value:
        """What multiplies a layer's inputs, (1, gates x hidden, inputs). `guarded`: one more input, which is 1 where a
        step is padding; it closes the LSTM's input gate and opens its forget gate, so that the cell stays as it is.
        """
        name = f"rnn.weight_ih_{layer.suffix}"
        made = self._gates(name, self._read(name))
        if not guarded:
            return made
        column = np.zeros((1, 4, self.plan.hidden, 1), np.float32)
        column[:, 0], column[:, 2] = -CLOSED, CLOSED  # i and f of i o f c
        guard = self.draft.tensor("guard", column.reshape(1, -1, 1))
        return self.draft.op("Concat", [made, guard], {"axis": 2}, name=f"{name}.guarded")

    def states(self, layer: Layer) -> ir.Value:
        """What multiplies a layer's last state, (1, gates x hidden, hidden).

        ONNX's LSTM knows no projection: its state is what torch projects, so that both matrices become one here.
        """
        name = f"rnn.weight_hh_{layer.suffix}"
        found = self._read(name)
        if self.plan.projected:
            projection = self._read(f"rnn.weight_hr_{layer.suffix}").astype(np.float64)
            found = (found.astype(np.float64) @ projection).astype(np.float32)
        return self._gates(name, found)

    def biases(self, layer: Layer) -> ir.Value | None:
        """(1, 2 x gates x hidden): the inputs', then the states'."""
        if not self.plan.bias:
            return None
        names = [f"rnn.bias_{which}_{layer.suffix}" for which in ("ih", "hh")]
        both = np.concatenate([self._ordered(self._read(name)) for name in names])
        return self.draft.tensor(f"rnn.bias_{layer.suffix}", both[None])

    def projected(self, name: str, layer: Layer, value: ir.Value) -> ir.Value:
        """(…, hidden) -> (…, projected); the value itself where the model has no projection."""
        if not self.plan.projected:
            return value
        return self.draft.op("MatMul", [value, self._turned(f"rnn.weight_hr_{layer.suffix}")], name=f"{name}.projected")

    def head(self) -> tuple[ir.Value, ir.Value | None]:
        """(width, results), and the bias if there is one."""
        bias = self.draft.tensor("head.bias", self._read("head.bias")) if self.plan.head_bias else None
        return self._turned("head.weight"), bias

    def _read(self, name: str) -> Floats:
        return self.weights.rows(name, 0, self._shapes[name][0])

    def _ordered(self, found: Floats) -> Floats:
        gates = found.reshape(GATES[self.plan.cell], self.plan.hidden, *found.shape[1:])
        return gates[list(ORDER[self.plan.cell])].reshape(found.shape)

    def _gates(self, name: str, found: Floats) -> ir.Value:
        """(1, gates x hidden, inputs): what shares a scale runs along the last axis."""
        rows = self._ordered(found)
        precision, block = self._precision(name, rows, rows.shape[1])
        if precision not in QUANTIZED:
            return self.draft.tensor(name, rows[None])
        values, scale = blocks.quantize(rows, blocks.BITS[precision], block, 1)
        return self._dequantized(name, precision, values[None], scale[None], {"axis": 2, "block_size": block})

    def _turned(self, name: str) -> ir.Value:
        """(inputs, outputs), as a MatMul wants it: what shares a scale runs along the inputs."""
        columns = np.ascontiguousarray(self._read(name).T)
        precision, block = self._precision(name, columns, columns.shape[0])
        if precision not in QUANTIZED:
            return self.draft.tensor(name, columns)
        values, scale = blocks.quantize(columns, blocks.BITS[precision], block, 0)
        if block == len(columns):
            return self._dequantized(name, precision, values, scale[0], {"axis": 1})
        return self._dequantized(name, precision, values, scale, {"axis": 0, "block_size": block})

    def _dequantized(
        self, name: str, precision: str, values: Array, scale: Floats, attributes: dict[str, int]
    ) -> ir.Value:
        stored = self.draft.stream(name, precision, values.shape, packed(values, precision))
        scales = self.draft.tensor(f"{name}.scale", scale)
        return self.draft.op("DequantizeLinear", [stored, scales], attributes, name=f"{name}.dequantized")

    def _precision(self, name: str, found: Floats, inputs: int) -> tuple[str, int]:
        """int4, int8 or another that quantizes nothing, and how many numbers share a scale."""
        recipe = self.recipe
        if name in recipe.skip or found.size < SMALLEST:
            return "fp32", inputs
        said, block = recipe.overrides.get(name, recipe.weights), recipe.group_size or inputs
        if inputs % block == 0 and block % 2 == 0:
            return said, block
        if said == "int4":
            self.say(f"{name}: rows of {inputs} are not made of blocks of {block}, so they are held in int8")
        return ("int8" if said in QUANTIZED else said), inputs
