"""A graph pass for ONNX Runtime: a decoder that only reads, many tokens at a time, in integers.

MatMulNBits is made for one token: a prompt goes through it four times slower than through the 8-bit kernels for
whole matrices. So there is a second form of the same decoder, which fills the caches and says nothing:

    x ─ DequantizeLinear(int4) ─ MatMul        x ─ QuantizeLinear, a scale a token ─ MatMulIntegerToFloat ─ Mul

Its weights are inputs, int8 with one scale an output, which `_prompt_weights` makes of the blocks on the device: the
bundle holds them once. The error of the second rounding is a tenth of the first's and less. Knows no architecture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.workbench import graph

from .blocks import Blocks, blocks_of, stand_in
from .decoder_graph import COUNTS, PAST

if TYPE_CHECKING:
    import onnx_ir as ir

VALUES, SCALES = ".int8", ".int8_scales"  # behind the names of blocks and their scales: the inputs that replace them
DOMAIN = "com.microsoft"
ZERO = 128  # the zero of quantized tokens: the fast kernels take unsigned by signed
PRESENT = "present"  # how the names of states begin, of both kinds
FLOOR = 1e-12  # a scale for tokens of zeros


def reading(model: ir.Model) -> ir.Model | None:
    """A copy of a decoder that `group_queries` made, for prompts; None for all else, or without weights in blocks.

    Its outputs are the states, caches in float32; its inputs those that these depend on, and the weights.
    """
    attends = any(node.op_type == "GroupQueryAttention" for node in model.graph)
    if not attends and not any(value.name == COUNTS for value in model.graph.inputs):
        return None
    found = model.clone()
    for value in [value for value in found.graph.outputs if not str(value.name).startswith(PRESENT)]:
        found.graph.outputs.remove(value)
    graph.drop_unused(found)
    for value in [value for value in found.graph.inputs if not value.uses()]:
        if not str(value.name).startswith(PAST):
            found.graph.inputs.remove(value)
    tokens: dict[str, tuple[ir.Value, ir.Value]] = {}
    for node in list(found.graph):
        blocks = _blocks_to_read(node)
        if blocks is not None:
            _rewrite(found, node, blocks, tokens)
    if not tokens:
        return None
    graph.drop_unused(found)
    found.graph.opset_imports[DOMAIN] = 1
    return found


def _blocks_to_read(node: ir.Node) -> Blocks | None:
    """The blocks of a product with (batch, sequence, width), by whose rows tokens are quantized, if a device finds
    them: what is small lies in the graph's own file, where it does not look."""
    blocks = blocks_of(node)
    if blocks is None or blocks.turned or min(blocks.numbers.nbytes, blocks.scales.nbytes) <= graph.INLINE:
        return None
    source = node.inputs[0]
    flat = source is not None and source.shape is not None and len(source.shape) != 3
    return None if flat else blocks


def _rewrite(model: ir.Model, node: ir.Node, blocks: Blocks, tokens: dict[str, tuple[ir.Value, ir.Value]]) -> None:
    import onnx_ir as ir

    (inputs, outputs), source = blocks.shape, node.inputs[0]
    assert source is not None
    if source.name not in tokens:
        tokens[str(source.name)] = _quantized(model, node, source)
    values, sizes = tokens[str(source.name)]
    weight = _input(model, f"{blocks.table.name}{VALUES}", ir.DataType.INT8, (inputs, outputs))
    scales = _input(model, f"{blocks.scale.name}{SCALES}", ir.DataType.FLOAT, (outputs,))
    one = graph.initializer(model, "one", np.array(1, np.float32))
    zero = graph.initializer(model, "zero", np.array(ZERO, np.uint8))
    read = [values, weight, one, scales, zero]
    product = ir.node("MatMulIntegerToFloat", read, domain=DOMAIN, name=f"{node.name}.integer")
    stand_in(model, node, [product, ir.node("Mul", [product.outputs[0], sizes], name=node.name)])


def _quantized(model: ir.Model, before: ir.Node, source: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(1, sequence, width) as uint8, and what one step of each token is worth, (sequence, 1)."""

    def op(kind: str, inputs: list[ir.Value], what: str, **attributes: int) -> ir.Value:
        return graph.op(before, kind, inputs, attributes, name=f"{source.name}.tokens.{what}")[0]

    def constant(name: str, value: object, dtype: type) -> ir.Value:
        return graph.initializer(model, name, np.array(value, dtype))

    largest = op("ReduceMax", [op("Abs", [source], "sizes"), constant("axis.last", [-1], np.int64)], "largest",
                 keepdims=0)  # fmt: skip
    steps = op("Mul", [largest, constant("step", 1 / 127, np.float32)], "steps")
    steps = op("Max", [op("Reshape", [steps, constant("shape.flat", [-1], np.int64)], "flat"),
                       constant("floor", FLOOR, np.float32)], "scales")  # fmt: skip
    zeros = op("Expand", [constant("zero", ZERO, np.uint8), op("Shape", [steps], "tokens")], "zeros")
    values = op("QuantizeLinear", [source, steps, zeros], "quantized", axis=1)
    column = op("Unsqueeze", [steps, constant("axis.last", [-1], np.int64)], "column")
    return values, column


def _input(model: ir.Model, name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    import onnx_ir as ir

    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
    model.graph.inputs.append(value)
    return value
