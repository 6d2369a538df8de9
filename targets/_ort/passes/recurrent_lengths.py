"""A graph pass for ONNX Runtime: recurrent nodes that heed how many steps of a row are real.

The portable form does without, since OpenVINO does not heed it: a column of the input keeps the gates shut in padding,
and the state is looked up behind the last real step. ONNX Runtime's own nodes stop there by themselves, and give the
state as an output: a dozen nodes fewer for each layer. A row needs one real step at least, which the session sees to.

    x, padding ─ Concat ─ LSTM ─ Concat(h) ─ Transpose ─ GatherND ─ Unsqueeze ─ h.next
    x ─ LSTM(counts) ─ h.next
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.workbench import graph

if TYPE_CHECKING:
    import onnx_ir as ir

CELLS = ("RNN", "GRU", "LSTM")
COUNTS = "counts"
LENGTHS, STATE = 4, 5  # inputs of the nodes
INT32 = 6  # of ONNX's data types


def heed_counts(model: ir.Model) -> None:
    """Rewrite every recurrent node with a state; in place."""
    import onnx_ir as ir

    counts = next((value for value in model.graph.inputs if value.name == COUNTS), None)
    found = [(node, last) for node in model.graph if node.op_type in CELLS and (last := _looked_up(node)) is not None]
    if counts is None or not found:
        return
    lengths = ir.node("Cast", [counts], {"to": INT32}, name="counts.lengths")
    model.graph.insert_before(found[0][0], lengths)
    lengths.outputs[0].name = "counts.lengths"
    for node, last in found:
        made = _heeding(node, lengths.outputs[0])
        flat = ir.node("Squeeze", [made.outputs[1], graph.initializer(model, "axis.0", np.array([0]))])
        flat.name = flat.outputs[0].name = f"{node.name}.last"
        model.graph.insert_before(node, [made, flat])
        for place, value in enumerate(node.outputs):
            made.outputs[place].name = value.name or f"{node.name}.out.{place}"
            made.outputs[place].type, made.outputs[place].shape = value.type, value.shape
            value.name = f"{node.name}.before.{place}"
            ir.convenience.replace_all_uses_with(value, made.outputs[place], replace_graph_outputs=True)
        _replace(model, last, made.outputs[1], flat.outputs[0])
    graph.drop_unused(model)


def _looked_up(node: ir.Node) -> ir.Value | None:
    """The state behind each row's last real step, (batch, hidden), where it is looked up in all steps."""
    state = node.inputs[STATE] if len(node.inputs) > STATE else None
    value: ir.Value | None = node.outputs[0] if state is not None and state.is_graph_input() else None
    for kind in ("Squeeze", "Concat", "Transpose", "GatherND"):
        readers = [use.node for use in value.uses() if use.node.op_type == kind] if value is not None else []
        value = next((reader.outputs[0] for reader in readers if kind != "Concat" or reader.inputs[0] is state), None)
    return value


def _heeding(node: ir.Node, lengths: ir.Value) -> ir.Node:
    """The node with lengths, and without the guard that stood for them."""
    import onnx_ir as ir

    inputs = list(node.inputs)
    inputs[LENGTHS] = inputs[LENGTHS] or lengths
    guards = [value.producer() if value is not None else None for value in inputs[:2]]
    if all(guard is not None and guard.op_type == "Concat" for guard in guards):
        inputs[:2] = [guard.inputs[0] for guard in guards if guard is not None]
    made = ir.node(
        node.op_type, inputs, dict(node.attributes), domain=node.domain, num_outputs=max(2, len(node.outputs))
    )
    made.name = f"{node.name}.heeding"
    return made


def _replace(model: ir.Model, last: ir.Value, state: ir.Value, flat: ir.Value) -> None:
    """Let the node's own state, (1, batch, hidden) or flat, stand for what was looked up."""
    import onnx_ir as ir

    for use in list(last.uses()):
        out = use.node.outputs[0]
        if use.node.op_type == "Unsqueeze" and out.is_graph_output():
            name, state.type, state.shape = out.name, out.type, out.shape
            ir.convenience.replace_all_uses_with(out, state, replace_graph_outputs=True)
            out.name, state.name = f"{name}.before", name
    ir.convenience.replace_all_uses_with(last, flat)
