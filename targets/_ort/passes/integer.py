"""A graph pass for ONNX Runtime: MatMul with int8 weights -> integer MatMul with activations quantized as they come.

    x ─ Abs ─ ReduceMax ───────────────────────────────── largest of each row ─────────────────────────┐
    x ─ Div by it ─ QuantizeLinear, one constant scale ─ MatMulIntegerToFloat(weights, scales) ─────── Mul ─ y

A row (a token, a patch of an image) has its own scale, so its result does not depend on the other rows of the batch, as
it would behind a DynamicQuantizeLinear, which takes one scale for the whole tensor; and a row of small values keeps
its precision beside one of large values. MatMuls that read the same tensor share the quantized rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.workbench import graph

from .blocks import stand_in

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"
STEP = 1 / 127  # of a row whose largest magnitude is 1
ZERO = 128  # the zero of quantized rows: the fast kernels take unsigned by signed

Rows = tuple["ir.Value", "ir.Value"]  # quantized rows, and the largest magnitude of each


def integer_matmuls(model: ir.Model) -> None:
    """Rewrite every MatMul whose weights are int8, behind a DequantizeLinear with one scale an output; in place."""
    quantized: dict[str, Rows] = {}
    read: set[str] = set()
    for node in list(model.graph):
        if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx"):
            continue
        dequantize = node.inputs[1].producer() if node.inputs[1] is not None else None
        if dequantize is not None and _takes(dequantize):
            _rewrite(model, node, dequantize, quantized, read)
    graph.drop_unused(model)
    model.graph.opset_imports[DOMAIN] = 1


def _takes(node: ir.Node) -> bool:
    """Whether it gives int8 weights with one scale for each output."""
    import onnx_ir as ir

    weight = node.inputs[0]
    whole = node.op_type == "DequantizeLinear" and "block_size" not in node.attributes
    return whole and weight is not None and weight.dtype == ir.DataType.INT8


def _rewrite(model: ir.Model, node: ir.Node, dequantize: ir.Node, quantized: dict[str, Rows], read: set[str]) -> None:
    """`quantized`: the rows that were quantized so far, by names; `read`: the names of weights that have a reader."""
    import onnx_ir as ir

    x, (weight, scale) = node.inputs[0], dequantize.inputs[:2]
    assert x is not None
    assert x.name is not None
    if x.name not in quantized:
        quantized[x.name] = _quantized(model, node, x)
    values, largest = quantized[x.name]
    assert weight is not None
    if weight.name in read:
        weight = _again(model, weight, f"{node.name}.weight")
    read.add(str(weight.name))
    product = ir.node(
        "MatMulIntegerToFloat",
        [values, weight, _step(model), scale, _zero(model)],
        domain=DOMAIN,
        name=f"{node.name}.integer",
    )
    stand_in(model, node, [product, ir.node("Mul", [product.outputs[0], largest], name=node.name)])


def _quantized(model: ir.Model, before: ir.Node, x: ir.Value) -> Rows:
    """uint8 of the shape of `x`, and float32 with 1 as its last axis.

    A row of zeros is divided by zero: whatever integers that gives, its product is multiplied by the row's largest
    magnitude, which is 0.
    """

    def op(kind: str, inputs: list[ir.Value | None], what: str, **attributes: int) -> ir.Value:
        return graph.op(before, kind, inputs, attributes, name=f"{x.name}.rows.{what}")[0]

    last = graph.initializer(model, "axis.last", np.array([-1], np.int64))
    largest = op("ReduceMax", [op("Abs", [x], "sizes"), last], "largest", keepdims=1)
    unit = op("Div", [x, largest], "unit")
    return op("QuantizeLinear", [unit, _step(model), _zero(model)], "int8"), largest


def _step(model: ir.Model) -> ir.Value:
    return graph.initializer(model, "row.step", np.array(STEP, np.float32))


def _zero(model: ir.Model) -> ir.Value:
    return graph.initializer(model, "row.zero", np.array(ZERO, np.uint8))


def _again(model: ir.Model, weight: ir.Value, name: str) -> ir.Value:
    """The same numbers under another name, which are stored once: where ONNX Runtime turns int8 into uint8 for a
    processor, it writes a new weight for each reader, and fails at the second of one name."""
    import onnx_ir as ir

    made = ir.Value(name=name, type=weight.type, shape=weight.shape, const_value=weight.const_value)
    model.graph.register_initializer(made)
    return made
