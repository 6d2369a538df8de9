"""Graph passes for ONNX Runtime: GroupQueryAttention takes the quickest of its kernels for the CPU.

One goes over the cache in tiles and never holds all probabilities of a query; the other writes them down, and takes two
thirds of the time, for one token and for many. ONNX Runtime chooses the second where heads have a sink. There the
product of one query with the keys has a fast path of its own, unless it is to be scaled as well: so queries are scaled
before; 8-bit caches have products of their own, to which that is all one. tests/benchmarks/attention_kernels.py
measures each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.workbench import graph

from .kv_int8_graph import BITS
from .packed_attention import KEY, QUERY, attentions, heads

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

SINK = 11  # of GroupQueryAttention's inputs


def write_down(model: ir.Model) -> None:
    """The kernel that writes probabilities down, by a sink of minus infinity, which to the power of e changes nothing.

    In place; nothing where there is no such attention.
    """
    for node in attentions(model):
        count = node.attributes["num_heads"].as_int()
        sink = graph.initializer(model, f"no_sink.{count}", np.full(count, -np.inf, np.float32))
        if len(node.inputs) <= SINK:
            node.resize_inputs(SINK + 1)
        node.replace_input_with(SINK, sink)


def scale_before(model: ir.Model) -> None:
    """Queries are scaled before attention reads them; in place."""
    import onnx_ir as ir

    for node in attentions(model):
        scale = node.attributes["scale"].as_float()
        if scale != 1 and BITS not in node.attributes:
            factor = graph.initializer(model, *_factor(node, scale))
            (scaled,) = graph.op(node, "Mul", [node.inputs[QUERY], factor], name=f"{node.name}.scaled")
            node.replace_input_with(QUERY, scaled)
            node.attributes["scale"] = ir.AttrFloat32("scale", 1.0)


def _factor(node: ir.Node, scale: float) -> tuple[str, Array]:
    """A name, and what to multiply by: a number, or one for each of queries, keys and values, where they are packed."""
    if node.inputs[KEY] is not None:
        return f"query_scale.{scale}", np.array(scale, np.float32)
    queries, keys, dim = heads(node)
    factors = np.repeat(np.array([scale, 1], np.float32), [queries * dim, 2 * keys * dim])
    return f"query_scale.{scale}.{queries}.{keys}.{dim}", factors
