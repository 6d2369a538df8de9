"""A graph pass for ONNX Runtime: recurrent nodes whose weights are quantized.

Its RNN, GRU and LSTM take float weights. An LSTM with int8 weights, one scale for each row, becomes a
DynamicQuantizeLSTM, which computes in int8. Anything else is multiplied out once, when the session opens: ONNX Runtime
folds a Cast and a Mul of constants, but never a DequantizeLinear, which it would compute anew for every step.

    guarded x ─ Concat ─┐                                      x ───────────┐
    int8 ─ DequantizeLinear ─ Concat ─ LSTM       ->           int8 turned ─ DynamicQuantizeLSTM
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.workbench import graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from edgekit.core import Array

CELLS = ("RNN", "GRU", "LSTM")
DOMAIN = "com.microsoft"
FLOAT = 1  # of ONNX's data types


@dataclass(frozen=True)
class Rows:
    """Quantized weights of a recurrent node, (1, rows, columns). `guarded`: a column for padding comes behind."""

    node: ir.Node
    guarded: bool

    @property
    def numbers(self) -> ir.Value:
        found = graph.weight(self.node.inputs[0])
        assert found is not None
        return found

    @property
    def scales(self) -> Array:
        """(1, rows, blocks)"""
        found = graph.weight(self.node.inputs[1])
        assert found is not None
        assert found.const_value is not None
        return np.asarray(found.const_value.numpy())

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.numbers.const_value is not None
        return tuple(map(int, self.numbers.const_value.shape))

    @property
    def whole(self) -> bool:
        """int8, and one scale for each row."""
        import onnx_ir as ir

        return self.numbers.dtype == ir.DataType.INT8 and self.scales.shape[2] == 1


def quantized_cells(model: ir.Model) -> None:
    """Rewrite what reads quantized weights; in place."""
    for node in [node for node in model.graph if node.op_type in CELLS]:
        inputs, states = (_rows(node.inputs[place]) for place in (1, 2))
        if inputs and states and inputs.whole and states.whole and _is_plain(node):
            _integer(model, node, inputs, states)
            continue
        for rows in (inputs, states):
            if rows is not None:
                _multiply_out(model, rows)
    graph.drop_unused(model)


def _is_plain(node: ir.Node) -> bool:
    """Whether it is an LSTM that the integer kernel knows: no peepholes, no activations but its own."""
    usual = {"hidden_size", "direction", "input_forget", "layout"}
    off = all(node.attributes[name].as_int() == 0 for name in ("input_forget", "layout") if name in node.attributes)
    return node.op_type == "LSTM" and off and set(node.attributes) <= usual and len(node.inputs) <= 7


def _rows(value: ir.Value | None) -> Rows | None:
    made = value.producer() if value is not None else None
    guarded = made is not None and made.op_type == "Concat"
    if made is not None and guarded:
        first = made.inputs[0]
        made = first.producer() if first is not None else None
    return Rows(made, guarded) if made is not None and made.op_type == "DequantizeLinear" else None


def _multiply_out(model: ir.Model, rows: Rows) -> None:
    """DequantizeLinear -> Cast and Mul, block by block."""
    draft, name, blocks = _Draft(model, rows.node), rows.numbers.name, rows.scales[..., None]
    apart = graph.initializer(model, f"{name}.blocks", np.array([*blocks.shape[:3], -1], np.int64))
    whole = graph.initializer(model, f"{name}.whole", np.array(rows.shape, np.int64))
    numbers = draft.add("Reshape", draft.add("Cast", rows.numbers, to=FLOAT), apart)
    found = draft.add("Mul", numbers, graph.initializer(model, f"{name}.scale.blocks", blocks))
    draft.replace(rows.node.outputs[0], draft.add("Reshape", found, whole))


def _integer(model: ir.Model, node: ir.Node, inputs: Rows, states: Rows) -> None:
    draft, (x, _, _, bias, *rest) = _Draft(model, node), [*node.inputs, None][: max(4, len(node.inputs))]
    direction = node.attributes["direction"].as_string() if "direction" in node.attributes else "forward"
    counts, *into = [*rest, None, None, None][:3]
    if inputs.guarded:  # which `heed_counts` makes good
        guard = x.producer() if x is not None else None
        assert guard is not None
        x = guard.inputs[0]
    weights, scales = zip(*(_turned(model, rows) for rows in (inputs, states)))
    # Two of them: where ONNX Runtime turns int8 into uint8 for a processor, it writes a new one for each weight.
    zeros = [
        graph.initializer(model, f"{rows.numbers.name}.zero", np.zeros(states.shape[:2], np.int8))
        for rows in (inputs, states)
    ]
    made = draft.several(
        "DynamicQuantizeLSTM",
        [x, *weights, bias, counts, *into, None, scales[0], zeros[0], scales[1], zeros[1]],
        {"hidden_size": states.shape[2], "direction": direction},
        outputs=3,
    )
    for old, new in zip(node.outputs, made, strict=False):
        draft.replace(old, new)
    model.graph.opset_imports[DOMAIN] = 1


def _turned(model: ir.Model, rows: Rows) -> tuple[ir.Value, ir.Value]:
    """Weights as (1, inputs, rows), and a scale for each row."""
    assert rows.numbers.const_value is not None
    turned = np.ascontiguousarray(rows.numbers.const_value.numpy().transpose(0, 2, 1))
    scale = graph.initializer(model, f"{rows.numbers.name}.scale.row", rows.scales[..., 0])
    return graph.initializer(model, f"{rows.numbers.name}.turned", turned), scale


class _Draft:
    """New nodes, each in its place before the one that they stand for."""

    def __init__(self, model: ir.Model, before: ir.Node) -> None:
        self._model, self._before, self._count = model, before, 0

    def add(self, kind: str, *inputs: ir.Value | None, **attributes: int) -> ir.Value:
        return self.several(kind, inputs, attributes)[0]

    def several(
        self, kind: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, int | str], outputs: int = 1
    ) -> Sequence[ir.Value]:
        import onnx_ir as ir

        name, domain = f"{self._before.name}.{self._count}", DOMAIN if kind.startswith("Dynamic") else ""
        self._count += 1
        node = ir.node(kind, inputs, attributes, name=name, num_outputs=outputs, domain=domain)
        for place, value in enumerate(node.outputs):
            value.name = f"{name}.{place}"
        self._model.graph.insert_before(self._before, node)
        return node.outputs

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new` be what `old` was, under its name."""
        import onnx_ir as ir

        new.type, new.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name, old.name = old.name, f"{old.name}.before"
