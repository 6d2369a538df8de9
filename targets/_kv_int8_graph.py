"""A graph pass for ONNX Runtime: caches in 8 bits, on a decoder that `group_queries` made.

GroupQueryAttention rounds what is new to int8 and multiplies what it holds as it is: a quarter of the bytes to read,
and for single tokens half the time. Scales are inputs, one for each channel, that `_kv_int8` chooses. Knows which
channels are turned into one another, which the shape of the scales tells the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

SCALE = ".scale"  # behind the name of the past: the input that its scales are
TYPES = ("k_quant_type", "v_quant_type")
BITS = "kv_cache_bit_width"
COS, SCALES = 7, 12  # GroupQueryAttention's inputs; the values' scales come next


def quantize_caches(model: ir.Model) -> None:
    """Let every cache be int8; in place. Raises UnsupportedError for a model with other states, or none.

    A step may be run again, which a state that every step replaces would not stand.
    """
    import onnx_ir as ir

    attentions = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    caches = [value for node in attentions for value in node.inputs[3:5]]
    states = [value for value in model.graph.outputs if str(value.name).startswith("present")]
    if not attentions or len(caches) != len(states):
        raise UnsupportedError(
            "what this model holds cannot be kept in 8 bits: it is not all GroupQueryAttention's keys and values",
            hint="export it without kv_cache=int8",
        )
    for node in attentions:
        node.resize_inputs(SCALES + 2)
        for place, kind in enumerate(TYPES):
            node.replace_input_with(SCALES + place, _scales(model, node, place))
            node.attributes[kind] = ir.AttrString(kind, "PER_CHANNEL")
        node.attributes[BITS] = ir.AttrInt64(BITS, 8)
        _retype(node, ir.DataType.INT8)


def float_caches(model: ir.Model) -> None:
    """Undo `quantize_caches`; in place, and nothing where caches are float32."""
    import onnx_ir as ir

    for node in model.graph:
        if node.attributes.pop(BITS, None) is None:
            continue
        for place, kind in enumerate(TYPES):
            scales = node.inputs[SCALES + place]
            assert scales is not None
            node.replace_input_with(SCALES + place, None)
            model.graph.inputs.remove(scales)
            del node.attributes[kind]
        node.resize_inputs(SCALES if node.inputs[SCALES - 1] else COS + 2)
        _retype(node, ir.DataType.FLOAT)


def _scales(model: ir.Model, node: ir.Node, place: int) -> ir.Value:
    """The input for the keys' scales (place 0) or the values', as (heads, a, n, b): see `_kv_int8`."""
    import onnx_ir as ir

    past = node.inputs[3 + place]
    assert past is not None
    assert past.shape is not None
    heads, dim = int(past.shape[1]), int(past.shape[3])  # type: ignore[arg-type]
    shape = heads, *((1, dim, 1) if place else _turning(node, dim))
    value = ir.Value(name=f"{past.name}{SCALE}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    model.graph.inputs.append(value)
    return value


def _turning(node: ir.Node, dim: int) -> tuple[int, int, int]:
    """(a, n, b) of the keys. Where only the first channels turn, the others are grouped in the same way: that costs
    them some precision and nothing else. Keys that something else has turned are taken as they come."""
    if not node.attributes["do_rotary"].as_int():
        return 1, dim, 1
    if node.attributes["rotary_interleaved"].as_int():
        return 1, dim // 2, 2
    table = node.inputs[COS]
    assert table is not None
    assert table.shape is not None
    half = int(table.shape[1])  # type: ignore[arg-type]
    return (dim // half, half, 1) if dim % half == 0 else (1, dim, 1)


def _retype(node: ir.Node, dtype: ir.DataType) -> None:
    """Past and present are one buffer of this type."""
    import onnx_ir as ir

    for value in (*node.inputs[3:5], *node.outputs[1:3]):
        assert value is not None
        value.type = ir.TensorType(dtype)
