"""Quantize weights to int8: symmetric, one scale per output channel of MatMul, Gemm and Conv, or per row of a table.

Activations stay float in this form; a target that computes in int8 quantizes them as it runs (`method="dynamic"`).
q = round(w / s), s = max|w| / 127 over the channel, as in arXiv:1712.05877 with a zero point of 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.core import Recipe
from edgekit.workbench import graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

SMALLEST = 1024  # elements: below this a weight costs more to quantize than it saves


def quantize(model: ir.Model, recipe: Recipe) -> ir.Model:
    """Every weight of a MatMul, Gemm or Conv and every embedding table, but those named in `recipe.skip`; in place."""
    for node in list(model.graph):
        place = _place(node)
        weight = graph.weight(node.inputs[place[0]]) if place else None
        if place is None or weight is None or not _worth(node, weight) or weight.name in recipe.skip:
            continue
        if node.op_type == "Gather":
            _gather(model, node, weight)
        else:
            _dequantize(model, node, weight, *place)
    graph.drop_unused(model)
    return model


def _place(node: ir.Node) -> tuple[int, int] | None:
    """The position of the node's weight among its inputs, and the weight's axis of output channels, or of rows."""
    if node.op_type == "Gather":
        return (0, 0) if _attribute(node, "axis") == 0 else None
    if node.op_type == "Gemm":
        return 1, 0 if _attribute(node, "transB") else 1
    return {"MatMul": (1, 1), "Conv": (1, 0)}.get(node.op_type)


def _attribute(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else int(attribute.as_int())


def _worth(node: ir.Node, weight: ir.Value) -> bool:
    tensor = weight.const_value
    assert tensor is not None
    matrix = len(tensor.shape) == 2 or node.op_type == "Conv"
    return matrix and int(tensor.size) >= SMALLEST and bool(tensor.dtype.is_floating_point())


def rounded(array: Array, axis: int) -> tuple[Array, Array]:
    """int8 values and float32 scales, one for each index of `axis`. A channel of zeros gets scale 1."""
    import numpy as np

    others = tuple(other for other in range(array.ndim) if other != axis)
    scale = (np.abs(array).max(axis=others) / 127).astype(np.float32)
    scale[scale == 0] = 1
    values = np.rint(array / np.expand_dims(scale, others))
    return values.astype(np.int8), scale


def _dequantize(model: ir.Model, node: ir.Node, weight: ir.Value, position: int, axis: int) -> None:
    """The weight at this position behind a DequantizeLinear, with one scale for each index of `axis`."""
    import onnx_ir as ir

    values, scale = _initializers(model, weight, axis)
    dequantize = ir.node("DequantizeLinear", [values, scale], {"axis": axis})
    _name(dequantize, node, "dequantized", weight)
    model.graph.insert_before(node, dequantize)
    node.replace_input_with(position, dequantize.outputs[0])


def _gather(model: ir.Model, node: ir.Node, weight: ir.Value) -> None:
    """Rows of an embedding table: gather the int8 rows and their scales, then multiply; the table is never unpacked."""
    import onnx_ir as ir

    values, scale = _initializers(model, weight, axis=0, column=True)
    rows = ir.node("Gather", [values, node.inputs[1]], {"axis": 0})
    scales = ir.node("Gather", [scale, node.inputs[1]], {"axis": 0})
    cast = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
    product = ir.node("Mul", [cast.outputs[0], scales.outputs[0]])
    for new, what in ((rows, "rows"), (scales, "scales"), (cast, "float"), (product, "dequantized")):
        _name(new, node, what, weight)
    product.outputs[0].type, product.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    model.graph.insert_before(node, [rows, scales, cast, product])
    ir.convenience.replace_all_uses_with(node.outputs[0], product.outputs[0])


def _initializers(model: ir.Model, weight: ir.Value, axis: int, *, column: bool = False) -> tuple[Any, Any]:
    """The int8 values and scales of `weight` as initializers; a weight that several nodes read is quantized once."""
    assert weight.const_value is not None
    name = f"{weight.name}.int8.{axis}"
    if name in model.graph.initializers:
        return model.graph.initializers[name], model.graph.initializers[f"{name}.scale"]
    values, scale = rounded(weight.const_value.numpy(), axis)
    return (
        graph.initializer(model, name, values),
        graph.initializer(model, f"{name}.scale", scale[:, None] if column else scale),
    )


def _name(new: ir.Node, old: ir.Node, what: str, weight: ir.Value) -> None:
    new.name = f"{old.name}.{what}"
    new.outputs[0].name = f"{old.outputs[0].name}.{weight.name}.{what}"
