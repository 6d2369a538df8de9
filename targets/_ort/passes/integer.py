"""A graph pass for ONNX Runtime: MatMul with int8 weights -> integer MatMul with activations quantized as they come.

    x --> DynamicQuantizeLinear --> MatMulIntegerToFloat(weights, scales, bias) --> y

One DynamicQuantizeLinear serves all MatMuls that read the same tensor, and an Add of a constant vector behind a MatMul
becomes its bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.workbench import graph

from .blocks import stand_in

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"


def integer_matmuls(model: ir.Model) -> None:
    """Rewrite every MatMul whose weights are int8, behind a DequantizeLinear with one scale an output; in place."""
    quantized: dict[str, tuple[ir.Value, ...]] = {}
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


def _rewrite(
    model: ir.Model,
    node: ir.Node,
    dequantize: ir.Node,
    quantized: dict[str, tuple[ir.Value, ...]],
    read: set[str],
) -> None:
    """`quantized`: what was made of inputs so far, by their names; `read`: the names of weights that have a reader."""
    import onnx_ir as ir

    x, (weight, scale) = node.inputs[0], dequantize.inputs[:2]
    assert x is not None
    assert x.name is not None
    if x.name not in quantized:
        quantize = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, name=f"{node.name}.quantize")
        for output, what in zip(quantize.outputs, ("int8", "scale", "zero")):
            output.name = f"{x.name}.{what}"
        model.graph.insert_before(node, quantize)
        quantized[x.name] = tuple(quantize.outputs)
    values, x_scale, x_zero = quantized[x.name]
    assert weight is not None
    if weight.name in read:
        weight = _again(model, weight, f"{node.name}.weight")
    read.add(str(weight.name))
    last, bias = _bias(node)
    product = ir.node(
        "MatMulIntegerToFloat",
        [values, weight, x_scale, scale, x_zero, None, bias],
        domain=DOMAIN,
        name=f"{node.name}.integer",
    )
    stand_in(model, last, [product])


def _again(model: ir.Model, weight: ir.Value, name: str) -> ir.Value:
    """The same numbers under another name, which are stored once: where ONNX Runtime turns int8 into uint8 for a
    processor, it writes a new weight for each reader, and fails at the second of one name."""
    import onnx_ir as ir

    made = ir.Value(name=name, type=weight.type, shape=weight.shape, const_value=weight.const_value)
    model.graph.register_initializer(made)
    return made


def _bias(node: ir.Node) -> tuple[ir.Node, ir.Value | None]:
    """The node whose output the integer MatMul takes over, and its bias if an Add of a constant vector follows."""
    follower = next(iter(node.outputs[0].uses()), None)
    if follower is None or len(node.outputs[0].uses()) != 1 or node.outputs[0].is_graph_output():
        return node, None
    add = follower.node
    if add.op_type != "Add":
        return node, None
    other = graph.weight(add.inputs[1 - follower.idx])
    if other is None or other.const_value is None or len(other.const_value.shape) != 1:
        return node, None
    return add, other
