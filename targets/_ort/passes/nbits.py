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

from edgekit.workbench import graph

from .blocks import Blocks, blocks_of, stand_in

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"
SIZES = (256, 128, 64, 32, 16)  # weights to a scale that its kernels know
ACCURACY = 4  # activations as int8, one scale a block
SIGNS = {4: 0x88, 8: 0x80}  # by bits: the signs in a byte


def transposed_tables(model: ir.Model) -> None:
    """Rewrite every MatMul by a transposed, dequantized table; in place."""
    for node in list(model.graph):
        blocks = blocks_of(node)
        if blocks is not None and blocks.turned and (size := _size(blocks)):
            _rewrite(model, node, blocks, size)
    graph.drop_unused(model)


def _size(blocks: Blocks) -> int:
    """The largest block that MatMulNBits knows and that divides the table's; 0 if there is none."""
    return next((size for size in SIZES if blocks.size % size == 0), 0)


def _rewrite(model: ir.Model, node: ir.Node, blocks: Blocks, size: int) -> None:
    import onnx_ir as ir

    (inputs, outputs), bits, scale = blocks.shape, blocks.bits, blocks.scale
    if size < blocks.size:
        repeated = np.repeat(blocks.scales, blocks.size // size, axis=1)
        scale = graph.initializer(model, f"{scale.name}.{size}", repeated)
    packed = _bytes(model, blocks.table, (outputs, inputs // size, size * bits // 8))
    flip = graph.initializer(model, f"signs.{bits}", np.array(SIGNS[bits], np.uint8))
    unsigned = ir.node("BitwiseXor", [packed, flip], name=f"{blocks.table.name}.unsigned")
    product = ir.node(
        "MatMulNBits",
        [node.inputs[0], unsigned.outputs[0], scale],
        {"K": inputs, "N": outputs, "bits": bits, "block_size": size, "accuracy_level": ACCURACY},
        domain=DOMAIN,
        name=node.name,
    )
    stand_in(model, node, [unsigned, product])
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
