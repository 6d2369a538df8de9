"""A decoder's graph as OpenVINO reads prompts and batches fastest: with PagedAttention on blocks of keys and values.

    ReadValue ─ Gather(beam_idx) ─ Concat(new) ─ Attention(mask)      PagedAttention(new, blocks, which are whose)

The tokens of all rows lie one behind the other, without padding, and every row attends to its own blocks; a mask is not
read any more. So this is only for attention of which is known what its mask means: causal, and perhaps within a window.
The builder's graphs say so, and `mark` writes it into the mask's name, which is all that OpenVINO's reader keeps of it.

OpenVINO 2026.4 exports such a model and refuses to import it, so it is compiled each time, which takes no longer.
Source: its transformation SDPAToPagedAttention, and src/plugins/intel_cpu/src/nodes/kernels/scaled_attn/executor_pa.cpp
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph
from edgekit.machine import device

from .._ort.passes.decoder_graph import BUILT, is_shareable
from .stateful import AXIS, POSITIONS, variables

if TYPE_CHECKING:
    import onnx_ir as ir

BLOCK = 32  # tokens of a block, as OpenVINO's kernels on a CPU have it
PLACES = "logit_positions"
MARK = "causal_mask.window_"  # and how many tokens a query sees at most; 0: all
KINDS = {"f32": ("f32", "f16", "u8"), "bf16": ("bf16", "u8")}  # what its kernels take
_MARKED = re.compile(rf"{re.escape(MARK)}(\d+)")
_WINDOW = 10  # the input of PagedAttention that says how far back a query sees


def mark(model: ir.Model) -> None:
    """Name the masks after what they mean, where the graph says so and no token knows of the others but by attention;
    in place."""
    if not is_shareable(model) or not _apart(model):
        return
    for node in model.graph:
        if BUILT.fullmatch(node.name or "") and len(node.inputs) > 3 and (mask := node.inputs[3]) is not None:
            mask.name = f"{MARK}{node.metadata_props.get('sliding_window', 0)}"


def keeps(kind: str, computes: str) -> bool:
    """Whether blocks can be of this kind where OpenVINO computes in f32 or bf16, both by its names."""
    return device.is_x86() and kind in KINDS[computes]


def pageable(model: Any, graph: Graph) -> bool:
    """Whether all that a stateful model keeps are caches of attention whose masks are known."""
    windows = [_window(node) for node in _attention(model)]
    caches = [state for state in graph.states if state.axis == AXIS]
    return None not in windows and 2 * len(windows) == len(caches) == len(graph.states)


def page(model: Any, graph: Graph) -> None:
    """Rewrite a stateful model of which `pageable` holds; in place. Each input for blocks is named after the state that
    is in them."""
    from openvino import opset13 as ops
    from openvino._offline_transformations import paged_attention_transformation

    into = {variable: state for state, variable in variables(graph).items()}
    known: dict[str, tuple[int, list[str]]] = {}
    for node in _attention(model):
        names = [into[_above(node, "ReadValue", place).get_attributes()["variable_id"]] for place in (1, 2)]
        node.set_friendly_name(f"attended.{len(known)}")  # the last of the nodes that take its place is named so, too
        known[node.get_friendly_name()] = (_window(node) or 0, names)
    positions = model.input(POSITIONS).get_names()
    paged_attention_transformation(model)
    model.input(POSITIONS).get_tensor().add_names(positions)
    for node in model.get_ops():
        if node.get_friendly_name() in known:
            window, names = known[node.get_friendly_name()]
            attention = _above(node, "PagedAttentionExtension")
            attention.input(_WINDOW).replace_source_output(ops.constant(np.int32(window)).output(0))
            for place, name in zip((3, 4), names):
                attention.input_value(place).get_tensor().add_names({name})
    _choose(model)
    model.validate_nodes_and_infer_types()


def _apart(model: ir.Model) -> bool:
    """Whether tokens know of each other by attention alone, and are chosen as `_choose` expects.

    Positions are then looked up and compared; angles that depend on the furthest one need whole rows.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    if not {POSITIONS, PLACES} <= inputs.keys() or any(node.op_type == "ReduceMax" for node in model.graph):
        return False
    lookups = {use.node.op_type for use in inputs[POSITIONS].uses()}
    raised = [use.node for use in inputs[PLACES].uses()]
    chosen = {use.node.op_type for node in raised for use in node.outputs[0].uses()}
    return lookups <= {"Gather", "Unsqueeze"} and {node.op_type for node in raised} | chosen == {
        "Unsqueeze",
        "GatherND",
    }


def _choose(model: Any) -> None:
    """`logit_positions` count through the tokens of all rows, which lie one behind the other now."""
    from openvino import opset13 as ops

    places = ops.reshape(model.input(PLACES), ops.constant([-1]), False)
    for node in [node for node in model.get_ops() if node.get_type_name() == "GatherND"]:
        if _above(node, "Parameter", 1).get_friendly_name() == PLACES:
            chosen = ops.gather(node.input_value(0), places, ops.constant(0))
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(chosen.output(0))


def _attention(model: Any) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == "ScaledDotProductAttention"]


def _window(node: Any) -> int | None:
    """How many tokens a query sees, 0 for all; None where the mask does not say."""
    if node.get_input_size() < 4:
        return None
    found = filter(None, map(_MARKED.fullmatch, node.input_value(3).get_names()))
    return next((int(match[1]) for match in found), None)


def _above(node: Any, kind: str, place: int = 0) -> Any:
    """The first node of this kind among those that this input is made of, by the first input of each; or where that
    ends."""
    while node.get_type_name() != kind and node.get_input_size():
        node, place = node.input_value(place).get_node(), 0
    return node
