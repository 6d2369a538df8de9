"""Quantize the weights of recurrent nodes and matrix products in a float32 graph to int8 or int4.

Scales for each row of a gate and each output, or for blocks along the inputs. Knows no architecture: weights are what
an RNN, a GRU, an LSTM or a MatMul multiplies by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Recipe
from edgekit.errors import UnsupportedError
from edgekit.quantize import blocks

from .._any_decoder.quantize import as_tensor, initializer

if TYPE_CHECKING:
    import onnx_ir as ir

CELLS = ("RNN", "GRU", "LSTM")
SMALLEST = 1024  # numbers: a smaller matrix costs more to quantize than it saves
OPSET = 21  # the first with blocks


def quantize(model: ir.Model, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Every weight as `recipe` says, in place; rows that blocks do not divide have one scale, in int8, which is said.

    Raises UnsupportedError for a graph that is too old to hold such weights.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    opset = model.graph.opset_imports.get("", 0)
    if opset < OPSET:
        raise UnsupportedError(
            f"the file is of ONNX opset {opset}, which has no weights in blocks",
            hint=f"export it for opset {OPSET} or newer, or use --precision fp32",
        )
    for node in list(model.graph):
        for place in (1, 2) if node.op_type in CELLS else (1,) if node.op_type == "MatMul" else ():
            _weight(model, node, place, recipe, say)
    RemoveUnusedNodesPass()(model)


def _weight(model: ir.Model, node: ir.Node, place: int, recipe: Recipe, say: Callable[[str], None]) -> None:
    import onnx_ir as ir

    weight = node.inputs[place]
    tensor: Any = weight.const_value if weight is not None and weight.is_initializer() else None
    cell = node.op_type in CELLS
    if tensor is None or len(tensor.shape) != (3 if cell else 2) or tensor.size < SMALLEST:
        return
    assert weight is not None
    if weight.name in recipe.skip or tensor.dtype != ir.DataType.FLOAT:
        return
    array = tensor.numpy()
    rows = array.reshape(-1, array.shape[-1]) if cell else array.T
    said, inputs = recipe.overrides.get(str(weight.name), recipe.weights), rows.shape[1]
    block = recipe.group_size or inputs
    if inputs % block or block % 2:
        if said == "int4":
            say(f"{weight.name}: rows of {inputs} are not made of blocks of {block}, so they are held in int8")
        said, block = "int8", inputs
    name = f"{weight.name}.{said}"
    values, scale = blocks.quantize(np.ascontiguousarray(rows), blocks.BITS[said], block, 1)
    attributes = {"axis": 2 if cell else 0, "block_size": block}
    if cell:
        values, scale = values.reshape(array.shape), scale.reshape(*array.shape[:2], -1)
    else:
        values, scale = np.ascontiguousarray(values.T), np.ascontiguousarray(scale.T)
        if block == inputs:
            scale, attributes = scale[0], {"axis": 1}
    given = [as_tensor(model, name, values, said), initializer(model, f"{name}.scale", scale)]
    made = ir.node(
        "DequantizeLinear", given, attributes, name=f"{node.name or node.outputs[0].name}.{place}.dequantized"
    )
    made.outputs[0].name = str(made.name)
    model.graph.insert_before(node, made)
    node.replace_input_with(place, made.outputs[0])
