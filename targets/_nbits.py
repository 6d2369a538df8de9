"""A graph pass for ONNX Runtime: a product with a transposed table of int4 or int8 blocks -> MatMulNBits.

    table (outputs, inputs) ─ DequantizeLinear ─ Transpose ─ MatMul        table ─ BitwiseXor ─ MatMulNBits

An output head that is the embedding table lies so. ONNX Runtime fuses DequantizeLinear and MatMul by itself where
weights lie as (inputs, outputs), but not here: it would multiply out the whole table for every token. MatMulNBits
counts from zero where ONNX has a sign, which is one bit flipped; that is done when a session opens, so that the bundle
holds the table once for all who read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit import graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

DOMAIN = "com.microsoft"
BLOCKS = (256, 128, 64, 32, 16)  # weights to a scale that its kernels know
ACCURACY = 4  # activations as int8, one scale a block
SIGNS = {4: 0x88, 8: 0x80}  # by bits: the signs in a byte


def transposed_tables(model: ir.Model) -> None:
    """Rewrite every MatMul by a transposed, dequantized table; in place."""
    for node in list(model.graph):
        dequantize = _table_of(node)
        if dequantize is not None:
            _rewrite(model, node, dequantize)
    graph.drop_unused(model)


def _table_of(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear, with blocks along its second axis, whose transpose this MatMul multiplies by."""
    import onnx_ir as ir

    transpose = node.inputs[1].producer() if node.op_type == "MatMul" and node.inputs[1] is not None else None
    if transpose is None or transpose.op_type != "Transpose" or transpose.inputs[0] is None:
        return None
    found = transpose.inputs[0].producer()
    if found is None or found.op_type != "DequantizeLinear" or len(found.inputs) > 2:
        return None
    table, scale = (graph.weight(value) for value in found.inputs)
    if table is None or scale is None or scale.shape is None or len(scale.shape) != 2:
        return None
    known = table.dtype in (ir.DataType.INT4, ir.DataType.INT8)
    return found if known and found.attributes["axis"].as_int() == 1 and _block(found) else None


def _block(dequantize: ir.Node) -> int:
    """The largest block that MatMulNBits knows and that divides the table's; 0 if there is none."""
    given = dequantize.attributes["block_size"].as_int()
    return next((block for block in BLOCKS if given % block == 0), 0)


def _rewrite(model: ir.Model, node: ir.Node, dequantize: ir.Node) -> None:
    import onnx_ir as ir

    table, scale = (graph.weight(value) for value in dequantize.inputs)
    assert table is not None
    assert table.const_value is not None
    assert scale is not None
    assert scale.const_value is not None
    bits, block = table.const_value.dtype.bitwidth, _block(dequantize)
    outputs, inputs = (int(axis) for axis in table.const_value.shape)
    repeat = dequantize.attributes["block_size"].as_int() // block
    scales: Array = scale.const_value.numpy()
    if repeat > 1:
        scale = graph.initializer(model, f"{scale.name}.{block}", np.repeat(scales, repeat, axis=1))
    packed = _bytes(model, table, (outputs, inputs // block, block * bits // 8))
    flip = graph.initializer(model, f"signs.{bits}", np.array(SIGNS[bits], np.uint8))
    unsigned = ir.node("BitwiseXor", [packed, flip], name=f"{table.name}.unsigned")
    product = ir.node(
        "MatMulNBits",
        [node.inputs[0], unsigned.outputs[0], scale],
        {"K": inputs, "N": outputs, "bits": bits, "block_size": block, "accuracy_level": ACCURACY},
        domain=DOMAIN,
        name=node.name,
    )
    model.graph.insert_before(node, [unsigned, product])
    old, new = node.outputs[0], product.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    old.name = f"{new.name}.dequantized"
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    model.graph.opset_imports[DOMAIN] = 1


def _bytes(model: ir.Model, table: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """The table's bytes as uint8 of that shape; those in a file stay there."""
    import onnx_ir as ir

    tensor, name = table.const_value, f"{table.name}.blocks"
    assert tensor is not None
    if not isinstance(tensor, ir.ExternalTensor):
        return graph.initializer(model, name, np.frombuffer(tensor.tobytes(), np.uint8).reshape(shape))
    same = ir.ExternalTensor(
        tensor.location,
        tensor.offset,
        tensor.length,
        ir.DataType.UINT8,
        shape=ir.Shape(shape),
        name=name,
        base_dir=tensor.base_dir,
    )
    value = ir.Value(name=name, type=ir.TensorType(same.dtype), shape=same.shape, const_value=same)
    model.graph.register_initializer(value)
    return value
