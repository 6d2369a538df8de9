"""A graph pass for ONNX Runtime: GroupQueryAttention takes queries, keys and values in one piece, as they are made.

    product ─ Split ─ q, k, v ─ attention                      product ─ attention

Heads of queries and keys that are normalized alike go through one norm:

              ┌ q ─ heads ─ norm ─ join ┐                                ┌ q, k ─ heads ─ norm ─ join ┐
    product ─ Split k ─ heads ─ norm ─ join ─ attention        product ─ Split ─ v ───────────────── Concat ─ attention
              └ v ──────────────────────┘

In a step of one token each of these nodes takes longer to start than to compute; with many tokens attention is slower
so. Knows no architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit.workbench import graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

    Attributes = Mapping[str, ir.Attr]
    Values = Sequence[ir.Value | None]

QUERY, KEY, VALUE, PAST = 0, 1, 2, 3  # GroupQueryAttention's inputs
NONE: Attributes = {}


def pack(model: ir.Model) -> None:
    """In place; nothing where there is no such attention."""
    found = attentions(model)
    for node in found:
        parts = node.inputs[QUERY:PAST]
        whole = _split_into(parts) or _normalized(model, node) or _joined(node, parts)
        for place, value in ((QUERY, whole), (KEY, None), (VALUE, None)):
            node.replace_input_with(place, value)
    if found:
        graph.drop_unused(model)


def attentions(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "GroupQueryAttention"]


def heads(node: ir.Node) -> tuple[int, int, int]:
    """Of an attention: how many heads queries have, how many keys have, and the dimensions of each."""
    past = node.inputs[PAST]
    assert past is not None
    assert past.shape is not None
    dim = past.shape[3]
    assert isinstance(dim, int)
    return node.attributes["num_heads"].as_int(), node.attributes["kv_num_heads"].as_int(), dim


def _split_into(parts: Values) -> ir.Value | None:
    """What was split into exactly these, in this order."""
    split = _made_by("Split", parts[0])
    return split.inputs[0] if split is not None and [*split.outputs] == [*parts] else None


def _joined(before: ir.Node, parts: Values) -> ir.Value:
    (joined,) = graph.op(before, "Concat", parts, {"axis": -1}, name=f"{before.name}.packed")
    return joined


def _normalized(model: ir.Model, attention: ir.Node) -> ir.Value | None:
    """The three in one piece, where heads of queries and of keys went through norms alike; else None.

    Queries are scaled by their norm then, so that the attention need not.
    """
    import onnx_ir as ir

    queries, keys, dim = heads(attention)
    query, key = (_norm_of_heads(value, dim) for value in attention.inputs[QUERY:VALUE])
    if query is None or key is None or query.attributes != key.attributes:
        return None
    product = _split_into([_flat(query), _flat(key), attention.inputs[VALUE]])
    if product is None:
        return None
    scale = np.float32(attention.attributes["scale"].as_float())
    attention.attributes["scale"] = ir.AttrFloat32("scale", 1.0)
    weights = np.repeat([_weight(query) * scale, _weight(key)], [queries, keys], axis=0)
    name, both = attention.name, queries + keys

    def op(kind: str, what: str, value: ir.Value, other: ir.Value, attributes: Attributes = NONE) -> ir.Value:
        return graph.op(attention, kind, [value, other], attributes, name=f"{name}.{what}")[0]

    def constant(*numbers: int) -> ir.Value:
        return graph.initializer(model, "numbers." + ".".join(map(str, numbers)), np.array(numbers))

    columns = constant(both * dim, keys * dim)
    turning, values = graph.op(attention, "Split", [product, columns], {"axis": -1}, name=f"{name}.parts", outputs=2)
    apart = op("Reshape", "heads", turning, constant(0, 0, both, dim))
    normed = op(
        "RMSNormalization", "norm", apart, graph.initializer(model, f"{name}.weight", weights), query.attributes
    )
    return _joined(attention, [op("Reshape", "flat", normed, constant(0, 0, both * dim)), values])


def _norm_of_heads(value: ir.Value | None, dim: int) -> ir.Node | None:
    """The norm over so many dimensions of each head, of which this is what came out, heads joined again."""
    import onnx_ir as ir

    join = _made_by("Reshape", value)
    norm = _made_by("RMSNormalization", join.inputs[0]) if join is not None else None
    if norm is None or _made_by("Reshape", norm.inputs[0]) is None:
        return None
    weight = ir.convenience.get_const_tensor(_given(norm, 1))
    return norm if weight is not None and tuple(weight.shape) == (dim,) else None


def _flat(norm: ir.Node) -> ir.Value | None:
    """What was taken apart into heads for it."""
    apart = _given(norm, 0).producer()
    return apart.inputs[0] if apart is not None else None


def _weight(norm: ir.Node) -> Array:
    tensor = _given(norm, 1).const_value
    assert tensor is not None
    return np.asarray(tensor.numpy())


def _made_by(kind: str, value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == kind else None


def _given(node: ir.Node, place: int) -> ir.Value:
    value = node.inputs[place]
    assert value is not None
    return value
