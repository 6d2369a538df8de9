"""A graph pass for ONNX Runtime: caches in 8 bits, on a decoder whose attention takes what it reads in one piece.

GroupQueryAttention rounds what is new to int8 and multiplies what it holds as it is: a quarter of the bytes to read,
and for single tokens a third of the time. Its kernels are quicker where a cache has one scale and not one for each
channel. So that scale is 1, and the channels' own are applied outside, where single tokens are all there is:

    queries, keys, values ─ * FACTORS ─ GroupQueryAttention ─ * SPREAD

FACTORS are the scales of the keys for queries, and one by its scale for keys and values; SPREAD is the scales of the
values. Both have them once for each head of the queries, and are inputs that `_kv_int8` chooses. Knows which channels
are turned into one another, which the shape of FACTORS tells the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.workbench import graph

from .packed_attention import PAST, QUERY, attentions, heads

if TYPE_CHECKING:
    import onnx_ir as ir

KEY = "key"  # the last part of a cache's name, or `value`
# In its place: (heads of all three, a, n, b), and as flat as queries are.
FACTORS, SPREAD = ".factors", ".spread"
TYPES = ("k_quant_type", "v_quant_type")
BITS = "kv_cache_bit_width"
COS, SCALES = 7, 12  # of GroupQueryAttention's inputs; the caches' scales


def quantize_caches(model: ir.Model) -> None:
    """Let every cache be int8; in place. Raises UnsupportedError for a model with other states, or none.

    A step may be run again, which a state that every step replaces would not stand.
    """
    import onnx_ir as ir

    nodes = attentions(model)
    caches = [value for node in nodes for value in node.inputs[PAST : PAST + 2]]
    states = [value for value in model.graph.outputs if str(value.name).startswith("present")]
    if not nodes or len(caches) != len(states):
        raise UnsupportedError(
            "what this model holds cannot be kept in 8 bits: it is not all GroupQueryAttention's keys and values",
            hint="export it without kv_cache=int8",
        )
    unit = graph.initializer(model, "unit_scale", np.ones(1, np.float32))
    for node in nodes:
        node.resize_inputs(SCALES + 2)
        _multiply_read(model, node)
        _multiply_found(model, node)
        for place, kind in enumerate(TYPES):
            node.replace_input_with(SCALES + place, unit)
            node.attributes[kind] = ir.AttrString(kind, "PER_TENSOR")
        node.attributes[BITS] = ir.AttrInt64(BITS, 8)
        for value in (*node.inputs[PAST : PAST + 2], *node.outputs[1:3]):  # one buffer
            assert value is not None
            value.type = ir.TensorType(ir.DataType.INT8)


def _multiply_read(model: ir.Model, node: ir.Node) -> None:
    """Queries by the scales of the keys that they will meet, keys and values by one through theirs."""
    queries, keys, dim = heads(node)
    factors = _input(model, f"{_layer(node)}{FACTORS}", (queries + 2 * keys, *_turning(node, dim)))
    flat = graph.initializer(model, "flat", np.array([-1]))
    (factors,) = graph.op(node, "Reshape", [factors, flat], name=f"{factors.name}.flat")
    (scaled,) = graph.op(node, "Mul", [node.inputs[QUERY], factors], name=f"{node.name}.read")
    node.replace_input_with(QUERY, scaled)


def _multiply_found(model: ir.Model, node: ir.Node) -> None:
    """What attention gives, by the scales of the values that it is made of."""
    import onnx_ir as ir

    queries, _, dim = heads(node)
    found = node.outputs[0]
    spread = _input(model, f"{_layer(node)}{SPREAD}", (queries * dim,))
    scaled = ir.node("Mul", [found, spread], name=f"{node.name}.found")
    scaled.outputs[0].name = scaled.name
    scaled.outputs[0].type, scaled.outputs[0].shape = found.type, found.shape
    ir.convenience.replace_all_uses_with(found, scaled.outputs[0])
    scaled.replace_input_with(0, found)
    model.graph.insert_after(node, scaled)


def _layer(node: ir.Node) -> str:
    """What the names of its two caches begin with."""
    past = node.inputs[PAST]
    assert past is not None
    return str(past.name).rpartition(".")[0]


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
