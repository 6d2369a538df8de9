"""A graph pass for ONNX Runtime: caches in 8 bits, on a decoder that `group_queries` made.

GroupQueryAttention rounds what is new to int8 and multiplies what it holds as it is: a quarter of the bytes to read,
and for single tokens a third of the time. Its kernels are quicker where a cache has one scale and not one for each
channel. So that scale is 1, and the channels' own are applied outside, where single tokens are all there is:

    q * SPREAD(k) ─┐
    k / SCALE(k) ─ GroupQueryAttention ─ * SPREAD(v)
    v / SCALE(v) ──┘

Scales are inputs that `_kv_int8` chooses; SPREAD has them once for each head of the queries. Knows which channels are
turned into one another, which the shape of the scales tells the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit import graph
from edgekit.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

SCALE = ".scale"  # behind the name of the past: the input that its scales are, (heads, a, n, b)
SPREAD = ".spread"  # as flat as queries are: each query head's share of the scales
TYPES = ("k_quant_type", "v_quant_type")
BITS = "kv_cache_bit_width"
# GroupQueryAttention's inputs: what is new, keys first; the caches; positions; the caches' scales.
NEW, PAST, COS, SCALES = 1, 3, 7, 12


def quantize_caches(model: ir.Model) -> None:
    """Let every cache be int8; in place. Raises UnsupportedError for a model with other states, or none.

    A step may be run again, which a state that every step replaces would not stand.
    """
    import onnx_ir as ir

    attentions = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    caches = [value for node in attentions for value in node.inputs[PAST : PAST + 2]]
    states = [value for value in model.graph.outputs if str(value.name).startswith("present")]
    if not attentions or len(caches) != len(states):
        raise UnsupportedError(
            "what this model holds cannot be kept in 8 bits: it is not all GroupQueryAttention's keys and values",
            hint="export it without kv_cache=int8",
        )
    unit = graph.initializer(model, "unit_scale", np.ones(1, np.float32))
    for node in attentions:
        node.resize_inputs(SCALES + 2)
        for place in range(2):
            _divide_new(model, node, place)
        _multiply_queries(model, node)
        _multiply_found(model, node)
        for place, kind in enumerate(TYPES):
            node.replace_input_with(SCALES + place, unit)
            node.attributes[kind] = ir.AttrString(kind, "PER_TENSOR")
        node.attributes[BITS] = ir.AttrInt64(BITS, 8)
        _retype(node, ir.DataType.INT8)


def float_caches(model: ir.Model) -> None:
    """Undo `quantize_caches`; in place, and nothing where caches are float32."""
    import onnx_ir as ir

    for node in model.graph:
        if node.attributes.pop(BITS, None) is None:
            continue
        for place, kind in enumerate(TYPES):
            node.replace_input_with(SCALES + place, None)
            del node.attributes[kind]
        node.resize_inputs(SCALES if node.inputs[SCALES - 1] else COS + 2)
        _retype(node, ir.DataType.FLOAT)
    scales = [value for value in model.graph.inputs if str(value.name).endswith((SCALE, SPREAD))]
    for value in scales:
        (scaling,) = value.consumers()
        if scaling.op_type == "Reshape":
            (scaling,) = scaling.outputs[0].consumers()
        ir.convenience.replace_all_uses_with(scaling.outputs[0], scaling.inputs[0])
    graph.drop_unused(model)
    for value in scales:
        model.graph.inputs.remove(value)


def _divide_new(model: ir.Model, node: ir.Node, place: int) -> None:
    """New keys (place 0) or values by their scales, which are an input of shape (heads, a, n, b): see `_kv_int8`."""
    past, heads, dim = _cache(node, place)
    shape = heads, *((1, dim, 1) if place else _turning(node, dim))
    flat = graph.initializer(model, "flat", np.array([-1]))
    scales = _node("Reshape", f"{past}{SCALE}.flat", _input(model, f"{past}{SCALE}", shape), flat)
    divided = _node("Div", f"{past}.scaled", node.inputs[NEW + place], scales.outputs[0])
    model.graph.insert_before(node, [scales, divided])
    node.replace_input_with(NEW + place, divided.outputs[0])


def _multiply_queries(model: ir.Model, node: ir.Node) -> None:
    """By the scales of the keys that they will meet."""
    scaled = _node("Mul", f"{node.name}.queries", node.inputs[0], _spread(model, node, 0))
    model.graph.insert_before(node, scaled)
    node.replace_input_with(0, scaled.outputs[0])


def _multiply_found(model: ir.Model, node: ir.Node) -> None:
    """What attention gives, by the scales of the values that it is made of."""
    import onnx_ir as ir

    found = node.outputs[0]
    scaled = _node("Mul", f"{node.name}.values", found, _spread(model, node, 1))
    scaled.outputs[0].type, scaled.outputs[0].shape = found.type, found.shape
    ir.convenience.replace_all_uses_with(found, scaled.outputs[0])
    scaled.replace_input_with(0, found)
    model.graph.insert_after(node, scaled)


def _spread(model: ir.Model, node: ir.Node, place: int) -> ir.Value:
    """The input for the scales of the keys (place 0) or values, once for each head of the queries."""
    past, _, dim = _cache(node, place)
    return _input(model, f"{past}{SPREAD}", (node.attributes["num_heads"].as_int() * dim,))


def _cache(node: ir.Node, place: int) -> tuple[str, int, int]:
    """Of the past keys (place 0) or values: name, heads and dimensions of a head."""
    past = node.inputs[PAST + place]
    assert past is not None
    assert past.shape is not None
    _, heads, _, dim = past.shape
    assert isinstance(heads, int)
    assert isinstance(dim, int)
    return str(past.name), heads, dim


def _node(kind: str, name: str, *inputs: ir.Value | None) -> ir.Node:
    """With an output of its name."""
    import onnx_ir as ir

    node = ir.node(kind, inputs, name=name)
    node.outputs[0].name = name
    return node


def _input(model: ir.Model, name: str, shape: tuple[int, ...]) -> ir.Value:
    import onnx_ir as ir

    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
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

    for value in (*node.inputs[PAST : PAST + 2], *node.outputs[1:3]):
        assert value is not None
        value.type = ir.TensorType(dtype)
