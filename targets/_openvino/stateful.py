"""A decoder's portable graph as OpenVINO runs it fastest: with its caches inside, and attention fused with them.

    past ─ Concat(new) ─ Attention          ReadValue ─ Gather(beam_idx) ─ Concat(new) ─ Attention
               └─ present                                                     └─ Assign

OpenVINO makes one ScaledDotProductAttention of each attention in the right form, which appends to its cache in place.
Knows no architecture; which inputs and outputs are a cache is in the graph's States.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.core import Graph
from edgekit.errors import UnsupportedError

from .engine import read_model

log = logging.getLogger("edgekit")

ORDER = "beam_idx"  # int32 (batch,): for each row of a step the row of the cache that it goes on with
POSITIONS = "position_ids"
AXIS = 2  # of a cache (batch, heads, length, dim)
_TABLE = "positions."  # and how many there are: a name of the input `position_ids`, since names survive being kept


def variables(graph: Graph) -> dict[str, str]:
    """For each state's `into` the name that OpenVINO's make-stateful transformation gives to the variable."""
    return {state.into: f"{state.into}{state.out}" for state in graph.states if state.out is not None}


def stateful(path: Path, graph: Graph) -> Any:
    """The model in `path` with its states as variables, empty at first. Raises UnsupportedError, RuntimeError."""
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    carried = [state for state in graph.states if state.out is not None]
    strange = [state.into for state in carried if state.axis not in (AXIS, None)]
    if strange:
        raise UnsupportedError(
            f"{strange[0]} grows, and not along axis {AXIS} as a KV cache does", hint="use another target"
        )
    model = read_model(path)
    if any(port.name == POSITIONS for port in graph.inputs):
        _name_positions(model)
    order = ops.parameter([-1], np.int32, name=ORDER)
    order.output(0).get_tensor().add_names({ORDER})
    model.add_parameters([order])
    first = ops.constant(np.int64(0))
    for state in carried:
        past = model.input(state.into)
        readers = past.get_target_inputs()
        ordered = ops.gather(past, order, first)
        for reader in readers:
            reader.replace_source_output(ordered.output(0))
    apply_make_stateful_transformation(model, {state.into: state.out for state in carried})
    _start_empty(model, graph)
    model.validate_nodes_and_infer_types()
    return model


def _start_empty(model: Any, graph: Graph) -> None:
    """Give each variable a first value without tokens, of as many rows as the step has."""
    from openvino import opset13 as ops

    batch = ops.gather(ops.shape_of(model.input("input_ids")), ops.constant([0]), ops.constant(0))
    ports = {port.name: port for port in graph.inputs}
    names = variables(graph)
    starts = {names[state.into]: (ports[state.into], state.init) for state in graph.states if state.into in names}
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            port, init = starts[node.get_attributes()["variable_id"]]
            inner = [length if isinstance(length, int) else 0 for length in port.shape[1:]]
            shape = ops.concat([batch, ops.constant(np.array(inner, np.int64))], 0)
            node.set_arguments([ops.broadcast(ops.constant(np.dtype(port.dtype).type(init)), shape).output(0)])


def _name_positions(model: Any) -> None:
    """Beyond its tables OpenVINO looks up zeros, and says nothing: note how long they are."""
    places = model.input(POSITIONS)
    readers = [reader.get_node() for reader in places.get_target_inputs()]
    tables = [node.input_value(0).get_partial_shape()[0] for node in readers if node.get_type_name() == "Gather"]
    if tables and all(length.is_static for length in tables):
        places.get_tensor().add_names({f"{_TABLE}{min(length.get_length() for length in tables)}"})


def positions(compiled: Any) -> int | None:
    """How many positions the tables of a compiled stateful model have; None if it has none."""
    inputs = {port.get_any_name(): port.get_names() for port in compiled.inputs}
    names = next((names for names in inputs.values() if POSITIONS in names), ())
    return next((int(name.removeprefix(_TABLE)) for name in names if name.startswith(_TABLE)), None)


def _fused(compiled: Any) -> int:
    """How many attentions of the compiled model read a cache that they append to; those beside what is held do not."""
    attention = [node for node in compiled.get_runtime_model().get_ops() if _layer(node) == "ScaledDotProductAttention"]
    return sum(any(_layer(value.get_node()) == "MemoryInput" for value in node.input_values()) for node in attention)


def _layer(node: Any) -> str:
    return str(node.get_rt_info()["layerType"].astype(str))


def warn_if_loose(compiled: Any, graph: Graph) -> None:
    """Say so where attention is computed in parts: that is right, and slower with every token in the cache."""
    growing = sum(state.axis is not None and state.out is not None for state in graph.states)
    if not growing:
        return
    if 2 * _fused(compiled) != growing:
        log.warning("OpenVINO does not fuse the attention of %s with its cache: long texts are slow", graph.path)
