"""A graph pass for the GPU: a product with weights in int4 or int8 blocks -> MatMulNBits.

    table (inputs, outputs) ─ DequantizeLinear ───────────── MatMul        blocks, scales ─ MatMulNBits
    table (outputs, inputs) ─ DequantizeLinear ─ Transpose ─ MatMul

MatMulNBits reads (outputs, blocks, bytes): for each output its inputs one after the other, two int4 to a byte, the
first in the low half, counted from zero at 8 (int8: at 128). Weights are laid out anew when they are written, one at a
time. ONNX Runtime would do some of it by itself when it opens a session, but says nothing where it does not, and would
then multiply out all weights for every token.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgekit import graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

DOMAIN = "com.microsoft"
SMALLEST = 16  # weights to a scale; the kernel takes powers of two from here


def block_products(model: ir.Model) -> None:
    """Rewrite every MatMul whose weights come in blocks that the kernel knows; in place."""
    for node in list(model.graph):
        found = _weights_of(node)
        if found is not None:
            _rewrite(model, node, *found)
    graph.drop_unused(model)


def _weights_of(node: ir.Node) -> tuple[ir.Node, bool] | None:
    """The DequantizeLinear that this MatMul multiplies by, in blocks along the inputs; whether it is transposed."""
    import onnx_ir as ir

    made = node.inputs[1].producer() if node.op_type == "MatMul" and node.inputs[1] is not None else None
    turned = made is not None and made.op_type == "Transpose"
    if made is not None and turned:
        made = made.inputs[0].producer() if made.inputs[0] is not None else None
    if (
        made is None
        or made.op_type != "DequantizeLinear"
        or len(made.inputs) > 2
        or "block_size" not in made.attributes
    ):
        return None
    table, scale = (graph.weight(value) for value in made.inputs)
    block, axis = made.attributes["block_size"].as_int(), made.attributes["axis"].as_int()
    known = table is not None and table.dtype in (ir.DataType.INT4, ir.DataType.INT8) and scale is not None
    fits = axis == int(turned) and block >= SMALLEST and block & (block - 1) == 0
    return (made, turned) if known and fits else None


def _rewrite(model: ir.Model, node: ir.Node, dequantize: ir.Node, turned: bool) -> None:
    import onnx_ir as ir

    table, scale = (graph.weight(value) for value in dequantize.inputs)
    assert table is not None
    assert table.const_value is not None
    assert scale is not None
    assert scale.const_value is not None
    bits, block = table.const_value.dtype.bitwidth, dequantize.attributes["block_size"].as_int()
    shape = [int(axis) for axis in table.const_value.shape]
    outputs, inputs = shape if turned else shape[::-1]
    packed = ir.Shape([outputs, inputs // block, block * bits // 8])
    lazy = ir.LazyTensor(partial(_packed, table.const_value, turned, packed), ir.DataType.UINT8, packed)
    scales: Array = scale.const_value.numpy()
    scales = scales if turned else np.ascontiguousarray(scales.T)
    product = ir.node(
        "MatMulNBits",
        [node.inputs[0], _added(model, f"{table.name}.blocks", lazy), _added(model, f"{table.name}.scales", scales)],
        {"K": inputs, "N": outputs, "bits": bits, "block_size": block},
        domain=DOMAIN,
        name=node.name,
    )
    model.graph.insert_before(node, product)
    old, new = node.outputs[0], product.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    old.name = f"{new.name}.dequantized"
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    model.graph.opset_imports[DOMAIN] = 1


def _added(model: ir.Model, name: str, content: ir.LazyTensor | Array) -> ir.Value:
    """An initializer of that name: two products of one table share it."""
    import onnx_ir as ir

    if isinstance(content, np.ndarray):
        return graph.initializer(model, name, content)
    if name not in model.graph.initializers:
        content.name = name
        value = ir.Value(name=name, type=ir.TensorType(content.dtype), shape=content.shape, const_value=content)
        model.graph.register_initializer(value)
    return model.graph.initializers[name]


def _packed(table: ir.TensorProtocol, turned: bool, shape: ir.Shape) -> ir.Tensor:
    """The table's numbers as MatMulNBits reads them."""
    import onnx_ir as ir

    bits = table.dtype.bitwidth
    whole: Array = table.numpy()
    signed: Array = np.ascontiguousarray(whole if turned else whole.T).astype(np.int8)
    # Counted from zero, a number has its sign bit the other way.
    rows: Array = signed.view(np.uint8) ^ np.uint8(8 if bits == 4 else 128)
    if bits == 4:
        rows = (rows[:, 0::2] & 15) | (rows[:, 1::2] & 15) << 4
    return ir.Tensor(rows.reshape(tuple(int(axis) for axis in shape)))
