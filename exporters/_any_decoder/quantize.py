"""Quantize the weights of a traced decoder's graph to int4 or int8 blocks, as in a built graph.

Knows no architecture: weights are what a MatMul multiplies by, and the tables whose rows are looked up by token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Recipe
from edgekit.errors import UnsupportedError
from edgekit.quantize import blocks

from .._decoder.weights_in_graph import PAIRS

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

SMALLEST = 1024  # numbers: a smaller table or matrix costs more to quantize than it saves


def quantize(model: ir.Model, recipe: Recipe) -> None:
    """Every weight as `recipe` says, in place. Raises UnsupportedError for a group that does not divide a weight."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    ids = next(value for value in model.graph.inputs if value.name == "input_ids")
    tables = {node.inputs[0]: node for node in model.graph if node.op_type == "Gather" and node.inputs[1] is ids}
    for node in list(model.graph):
        if node.op_type == "MatMul" and _is_weight(node.inputs[1], recipe):
            _matrix(model, node, recipe)
    for table, gather in tables.items():
        if _is_weight(table, recipe):
            turns = [use.node for use in table.uses() if use.node.op_type == "Transpose"]
            # What is only looked up is held in int8: the better half costs space and no time.
            _table(model, table, recipe.weights if turns else "int8", recipe, gather, turns)
    RemoveUnusedNodesPass()(model)


def initializer(model: ir.Model, name: str, array: Array, tensor: Any = None) -> ir.Value:
    """A new initializer of that name, or the one that is there already; `tensor` for numbers that numpy has not."""
    import onnx_ir as ir

    if name in model.graph.initializers:
        return model.graph.initializers[name]
    tensor = ir.tensor(array, name=name) if tensor is None else tensor
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _is_weight(value: Any, recipe: Recipe) -> bool:
    tensor = value.const_value if value is not None and value.is_initializer() else None
    if tensor is None or len(tensor.shape) != 2 or tensor.size < SMALLEST:
        return False
    return bool(tensor.dtype.is_floating_point()) and value.name not in recipe.skip


def _block(name: str, inputs: int, recipe: Recipe) -> int:
    block = recipe.group_size or inputs
    if inputs % block or block % 2:
        raise UnsupportedError(
            f"{name!r} has {inputs} inputs, which cannot be quantized in groups of {block}",
            hint=f"choose an even --group-size that divides {inputs}: 32 fits most models",
        )
    return block


def as_tensor(model: ir.Model, name: str, values: Array, precision: str) -> ir.Value:
    """int8 `values` as an initializer of that precision."""
    import onnx_ir as ir

    if precision == "int8":
        return initializer(model, name, values)
    packed = blocks.pack(values)
    return initializer(
        model, name, packed, ir.PackedTensor(packed, ir.DataType.INT4, shape=ir.Shape(values.shape), name=name)
    )


def _matrix(model: ir.Model, node: ir.Node, recipe: Recipe) -> None:
    """(inputs, outputs): behind a DequantizeLinear whose blocks run along the inputs."""
    import onnx_ir as ir

    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    block, name = _block(str(weight.name), int(weight.const_value.shape[0]), recipe), f"{weight.name}.{recipe.weights}"
    if name not in model.graph.initializers:
        values, scale = blocks.quantize(weight.const_value.numpy(), blocks.BITS[recipe.weights], block, 0)
        as_tensor(model, name, values, recipe.weights)
        initializer(model, f"{name}.scale", scale)
    found = [model.graph.initializers[each] for each in (name, f"{name}.scale")]
    made = ir.node("DequantizeLinear", found, {"axis": 0, "block_size": block}, name=f"{node.name}.dequantized")
    made.outputs[0].name = f"{node.outputs[0].name}.dequantized"
    model.graph.insert_before(node, made)
    node.replace_input_with(1, made.outputs[0])


def _table(
    model: ir.Model, table: ir.Value, precision: str, recipe: Recipe, gather: ir.Node, turns: list[ir.Node]
) -> None:
    """(vocabulary, hidden): looked up as it is stored and multiplied out row by row; behind a DequantizeLinear for the
    head, which turns it."""
    import onnx_ir as ir

    assert table.const_value is not None
    name, (vocabulary, hidden) = f"{table.name}.{precision}", (int(axis) for axis in table.const_value.shape)
    block = _block(str(table.name), hidden, recipe)
    values, scale = blocks.quantize(table.const_value.numpy(), blocks.BITS[precision], block, 1)
    stored, scales = as_tensor(model, name, values, precision), initializer(model, f"{name}.scale", scale)
    draft = _Draft(model, gather)
    ids = gather.inputs[1]
    if precision == "int8":
        rows = draft.add("Cast", draft.add("Gather", stored, ids, axis=0), to=ir.DataType.FLOAT)
    else:  # Gather knows no int4: it takes bytes, then pairs by byte
        packed = initializer(model, f"{name}.bytes", blocks.pack(values).reshape(vocabulary, hidden // 2))
        places = draft.add("Cast", draft.add("Gather", packed, ids, axis=0), to=ir.DataType.INT32)
        rows = draft.add("Gather", initializer(model, "embed.pairs", PAIRS), places, axis=0)
    apart = initializer(model, "shape.embed_blocks", np.asarray([0, 0, hidden // block, block]))
    whole = initializer(model, "shape.embedded", np.asarray([0, 0, hidden]))
    last = initializer(model, "axis.last", np.asarray([-1]))
    by = draft.add("Unsqueeze", draft.add("Gather", scales, ids, axis=0), last)
    found = draft.add("Reshape", draft.add("Mul", draft.add("Reshape", rows, apart), by), whole)
    found.type, found.shape = gather.outputs[0].type, gather.outputs[0].shape
    ir.convenience.replace_all_uses_with(gather.outputs[0], found)
    for turn in turns:  # a head that is the same table: stored once
        draft = _Draft(model, turn)
        turn.replace_input_with(0, draft.add("DequantizeLinear", stored, scales, axis=1, block_size=block))


class _Draft:
    """New nodes, each in its place before the one that they stand for."""

    def __init__(self, model: ir.Model, before: ir.Node) -> None:
        self._model, self._before, self._count = model, before, 0

    def add(self, kind: str, *inputs: Any, **attributes: int) -> ir.Value:
        import onnx_ir as ir

        name = f"{self._before.outputs[0].name}.{self._count}"
        self._count += 1
        node = ir.node(kind, inputs, attributes, name=name)
        node.outputs[0].name = name
        self._model.graph.insert_before(self._before, node)
        return node.outputs[0]
