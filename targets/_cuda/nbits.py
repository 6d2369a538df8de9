"""A graph pass for the GPU: a product with weights in int4 or int8 blocks -> MatMulNBits.

MatMulNBits reads (outputs, blocks, bytes): for each output its inputs one after the other, two int4 to a byte, the
first in the low half, counted from zero at 8 (int8: at 128). Weights are laid out anew when they are written, one at a
time. ONNX Runtime would do some of it by itself when it opens a session, but says nothing where it does not, and would
then multiply out all weights for every token.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgekit.workbench import graph

from .._ort.passes.blocks import Blocks, blocks_of, stand_in

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

DOMAIN = "com.microsoft"
SMALLEST = 16  # weights to a scale; the kernel takes powers of two from here


def block_products(model: ir.Model) -> None:
    """Rewrite every MatMul whose weights come in blocks that the kernel knows; in place."""
    for node in list(model.graph):
        blocks = blocks_of(node)
        if blocks is not None and blocks.size >= SMALLEST and blocks.size & (blocks.size - 1) == 0:
            _rewrite(model, node, blocks)
    graph.drop_unused(model)


def _rewrite(model: ir.Model, node: ir.Node, blocks: Blocks) -> None:
    import onnx_ir as ir

    (inputs, outputs), bits, name = blocks.shape, blocks.bits, blocks.table.name
    packed = ir.Shape([outputs, inputs // blocks.size, blocks.size * bits // 8])
    lazy = ir.LazyTensor(partial(_packed, blocks.numbers, blocks.turned, packed), ir.DataType.UINT8, packed)
    scales = blocks.scales if blocks.turned else np.ascontiguousarray(blocks.scales.T)
    product = ir.node(
        "MatMulNBits",
        [node.inputs[0], _added(model, f"{name}.blocks", lazy), _added(model, f"{name}.scales", scales)],
        {"K": inputs, "N": outputs, "bits": bits, "block_size": blocks.size},
        domain=DOMAIN,
        name=node.name,
    )
    stand_in(model, node, [product])
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
