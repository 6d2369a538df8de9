"""A graph pass for OpenVINO: RotaryEmbedding -> the products and sums that it stands for, with tables of full width.

    x ─ RotaryEmbedding(cos, sin)          x * [cos cos] + [-second first] * [sin sin]    first, second: halves of x

OpenVINO 2026.4 makes one RoPE operation of either form. Of the left one it forgets, in what it exports and caches,
that the tables are half as wide as x, and then turns by the wrong angles; the right one survives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.workbench import graph

if TYPE_CHECKING:
    import onnx_ir as ir

END = 2**63 - 1


def write_out_rotary(model: ir.Model) -> None:
    """Rewrite every RotaryEmbedding on (batch, heads, sequence, dim) with halves of a known size; in place.

    Interleaved ones and those that look positions up themselves stay as they are.
    """
    wide: dict[str, ir.Value] = {}
    for node in [node for node in model.graph if node.op_type == "RotaryEmbedding" and node.domain in ("", "ai.onnx")]:
        half = _half(node)
        if half and len(node.inputs) == 3 and not _number(node, "interleaved") and not _number(node, "num_heads"):
            _rewrite(model, node, half, wide)
    graph.drop_unused(model)


def _rewrite(model: ir.Model, node: ir.Node, half: int, wide: dict[str, ir.Value]) -> None:
    import onnx_ir as ir

    draft = _Draft(model, node)
    x, cos, sin = node.inputs
    cos, sin = (_widened(draft, table, wide) for table in (cos, sin))
    rest = None
    if _number(node, "rotary_embedding_dim"):  # the other dimensions stay as they are
        x, rest = draft.cut(x, 0, 2 * half), draft.cut(x, 2 * half, END)
    crossed = draft.add("Concat", draft.add("Neg", draft.cut(x, half, END)), draft.cut(x, 0, half), axis=-1)
    turned = draft.add("Add", draft.add("Mul", x, cos), draft.add("Mul", crossed, sin))
    if rest is not None:
        turned = draft.add("Concat", turned, rest, axis=-1)
    old = node.outputs[0]
    turned.type, turned.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, turned, replace_graph_outputs=True)


def _widened(draft: _Draft, table: Any, wide: dict[str, ir.Value]) -> ir.Value:
    """(batch, sequence, half) as (batch, 1, sequence, 2 * half): once for all that read it."""
    if table.name not in wide:
        ones = graph.initializer(draft.model, "rotary.heads_axis", _ints(1))
        wide[table.name] = draft.add("Unsqueeze", draft.add("Concat", table, table, axis=-1), ones)
    return wide[table.name]


class _Draft:
    """New nodes, each in its place before the one that they stand for."""

    def __init__(self, model: ir.Model, before: ir.Node) -> None:
        self.model, self._before, self._count = model, before, 0

    def add(self, kind: str, *inputs: Any, **attributes: int) -> ir.Value:
        import onnx_ir as ir

        name = f"{self._before.outputs[0].name}.{self._count}"
        self._count += 1
        node = ir.node(kind, inputs, attributes, name=name)
        node.outputs[0].name = name
        self.model.graph.insert_before(self._before, node)
        return node.outputs[0]

    def cut(self, x: Any, first: int, end: int) -> ir.Value:
        """That part of the last axis."""
        places = [graph.initializer(self.model, f"rotary.int.{number}", _ints(number)) for number in (first, end, -1)]
        return self.add("Slice", x, *places)


def _half(node: ir.Node) -> int:
    """Half of the dimensions that turn; 0 where the graph does not say how many they are."""
    return _number(node, "rotary_embedding_dim") // 2 or _width(node.inputs[1])


def _width(table: ir.Value | None) -> int:
    """The last axis of rows that were looked up, and perhaps chosen and multiplied since; 0 if it is not known."""
    if table is None:
        return 0
    if table.shape is not None and len(table.shape) and isinstance(width := table.shape[-1], int):
        return width
    node = table.producer()
    if node is None or node.op_type not in ("Gather", "Cast", "Mul", "Where"):
        return 0
    return max(map(_width, node.inputs[:1] if node.op_type == "Gather" else node.inputs))


def _number(node: ir.Node, name: str) -> int:
    """An attribute; 0 where it is left out, which is what this operator takes then."""
    found = node.attributes.get(name)
    return 0 if found is None else int(found.value)


def _ints(*numbers: int) -> Any:
    import numpy as np

    return np.array(numbers, np.int64)
