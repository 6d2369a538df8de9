"""Rewrite a traced decoder's graph to the form of a built one, in place.

Shapes that the tracer computes become constants, what depends on positions alone becomes rows of a table (which is
exact in every precision, where an angle is not), and ports get the names of their axes. Knows no architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph, State
from edgekit.errors import UnsupportedError

from .._onnx_writer import INLINE
from .._trace.traced import described
from .quantize import initializer

if TYPE_CHECKING:
    import onnx_ir as ir

    from .torch_module import Cache

POSITIONS = "position_ids"
LOOKED_UP = ("Cos", "Sin", "Gather")  # what makes of a position something that is worth a table
# What is computed number by number.
EACH = ("Add", "Sub", "Mul", "Div", "Relu", "Gelu", "Sigmoid", "Tanh", "Erf", "Pow", "Max", "Min", "Clip", "Cast")


def settle(model: ir.Model, held: Sequence[Cache], context: int) -> None:
    """All of it. Raises UnsupportedError where the graph is not what was asked for."""
    from onnx_ir.passes import common

    _name_axes(model, held)
    unused = common.RemoveUnusedNodesPass()
    unused(model)
    write_products_out(model)
    _keep_rows_apart(model)
    _write_shapes_out(model)
    same = common.CommonSubexpressionEliminationPass(size_limit=INLINE)
    same(model)
    _look_positions_up(model, context)
    same(model)
    unused(model)
    forget(model)


def describe(model: ir.Model, path: str) -> Graph:
    """The Graph noun of the model in the file `path`."""
    graph = described(model, "model", path)
    kept = [port.name.removeprefix("present.") for port in graph.outputs if port.name.startswith("present.")]
    states = tuple(State(into=f"past_key_values.{name}", out=f"present.{name}", axis=2) for name in kept)
    return replace(graph, states=states, kind="decoder")


def _name_axes(model: ir.Model, held: Sequence[Cache]) -> None:
    """The axes of all ports as a built graph names them."""
    import onnx_ir as ir

    shapes: dict[str, tuple[int | str, ...]] = {}
    for number, one in enumerate(held):
        for what, dim in (("key", one.key), ("value", one.value)):
            shapes[f"past_key_values.{number}.{what}"] = ("batch", one.heads, "past", dim)
            shapes[f"present.{number}.{what}"] = ("batch", one.heads, "total", dim)
    logits = model.graph.outputs[0]
    vocabulary = logits.shape[2] if logits.shape is not None and len(logits.shape) == 3 else None
    wanted = [str(axis) for axis in logits.shape[:2]] if logits.shape is not None else []
    if wanted != ["batch", "outputs"] or not isinstance(vocabulary, int):
        raise UnsupportedError(
            "the traced graph does not give the logits of the positions that are asked for",
            hint="this model computes something that the tracer does not follow: choose another one",
            shape=str(logits.shape),
        )
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name in shapes:
            for axis, length in enumerate(shapes[value.name]):
                found = value.shape[axis] if value.shape is not None else None
                if isinstance(found, int) != isinstance(length, int) or (isinstance(length, int) and found != length):
                    raise UnsupportedError(
                        f"the traced graph has {value.name} of {value.shape}, not {list(shapes[value.name])}",
                        hint="the tracer fixed an axis, so the graph would be right for that length only",
                    )
            value.shape = ir.Shape(shapes[value.name])


def _keep_rows_apart(model: ir.Model) -> None:
    """(batch, sequence, width) -> (tokens, width) and back again, around what goes over the last axis: left out."""
    import onnx_ir as ir

    for node in [node for node in model.graph if node.op_type == "Reshape"]:
        rows, flat = node.inputs[0], node.outputs[0]
        if rows is None or rows.shape is None or flat.shape is None or (len(rows.shape), len(flat.shape)) != (3, 2):
            continue
        if rows.shape[2] != flat.shape[1] or not isinstance(flat.shape[1], int):
            continue
        made, waiting = [flat], [flat]
        while waiting:
            for use in waiting.pop().uses():
                if use.node.op_type != "Reshape" and use.node.outputs[0] not in made:
                    made.append(use.node.outputs[0])
                    waiting.append(made[-1])
        if all(_goes_over_rows(value.producer(), made) for value in made[1:]):
            for value in made[1:]:
                value.shape = ir.Shape([*rows.shape[:2], value.shape[1]])
            ir.convenience.replace_all_uses_with(flat, rows)


def _goes_over_rows(node: Any, rows: Sequence[ir.Value]) -> bool:
    """Whether a node does the same to each row of `rows`, however they lie."""
    shapes = [value.shape for value in node.inputs if value not in rows]
    known = len(node.outputs[0].shape or ()) == 2 and all(shape is not None for shape in shapes)
    if not known or (len(node.outputs) > 1 and any(output.uses() for output in node.outputs[1:])):
        return False
    if node.op_type == "MatMul":
        return node.inputs[0] in rows and node.inputs[1] not in rows
    if node.op_type in ("LayerNormalization", "RMSNormalization"):
        axis = node.attributes.get("axis")
        return axis is None or axis.as_int() == -1
    return node.op_type in EACH and all(len(shape) < 2 for shape in shapes)


def _write_shapes_out(model: ir.Model) -> None:
    """The shape that a Reshape or an Expand is given as a constant, where axes are fixed or the input's own; a Reshape
    may have one that is neither. One that changes nothing is left out."""
    import onnx_ir as ir

    for node in model.graph:
        if node.op_type not in ("Reshape", "Expand") or ir.convenience.get_const_tensor(node.inputs[1]) is not None:
            continue
        given, made = node.inputs[0], node.outputs[0]
        if given is None or given.shape is None or made.shape is None or 0 in tuple(made.shape):
            continue
        if given.shape == made.shape and not made.is_graph_output():
            ir.convenience.replace_all_uses_with(made, given)
            continue
        same = 0 if node.op_type == "Reshape" else 1
        if same and len(given.shape) != len(made.shape):
            continue
        shape = [
            axis if isinstance(axis, int) else same if place < len(given.shape) and given.shape[place] == axis else -1
            for place, axis in enumerate(made.shape)
        ]
        if shape.count(-1) > 1 - same:
            continue
        text = "_".join(map(str, shape))
        node.replace_input_with(1, initializer(model, f"shape.{text}", np.asarray(shape, np.int64)))
        node.attributes.pop("allowzero", None)


def _look_positions_up(model: ir.Model, context: int) -> None:
    """Angles by position, and rows of a table by some number of the position -> rows of a table by position."""
    import onnx_ir as ir

    positions = next(value for value in model.graph.inputs if value.name == POSITIONS)
    for value in _turning(model):
        rows = _rows(model, positions, value, context)
        alone = [axis for axis in (1, 2) if rows.ndim == 4 and rows.shape[axis] == 1]
        if rows.size != context * rows.shape[-1] or rows.ndim != 3 + len(alone):
            continue  # not one row for each position
        table = initializer(model, f"{value.name}.table", rows.reshape(context, -1))
        nodes = [ir.node("Gather", [table, positions], {"axis": 0}, name=f"{value.name}.rows")]
        new = nodes[0].outputs[0]
        new.name, new.type, new.shape = (
            f"{value.name}.rows",
            value.type,
            ir.Shape(["batch", "sequence", rows.shape[-1]]),
        )
        if alone:
            axes = initializer(model, f"axis.{alone[0]}", np.asarray(alone, np.int64))
            nodes.append(ir.node("Unsqueeze", [new, axes], name=f"{value.name}.spread"))
            new = nodes[-1].outputs[0]
            new.name, new.type = f"{value.name}.spread", value.type
        producer = value.producer()
        assert producer is not None
        model.graph.insert_before(producer, nodes)
        ir.convenience.replace_all_uses_with(value, new)


def _turning(model: ir.Model) -> list[ir.Value]:
    """What is made of positions and nothing else, by one of LOOKED_UP, just before it meets something else."""
    import onnx_ir as ir

    kinds: dict[Any, str] = {}  # value -> "fixed", "place" (made of positions) or "turned" (and looked up)

    def kind(value: Any) -> str:
        if value is None or ir.convenience.get_const_tensor(value) is not None:
            return "fixed"
        return "place" if value.is_graph_input() and value.name == POSITIONS else kinds.get(value, "other")

    for node in model.graph:
        found = {kind(value) for value in node.inputs}
        if "other" in found or not found & {"place", "turned"} or node.op_type in ("Shape", "Size"):
            continue
        what = "turned" if node.op_type in LOOKED_UP or "turned" in found else "place"
        kinds.update(dict.fromkeys(node.outputs, what))
    turned = [value for value, what in kinds.items() if what == "turned"]
    return [value for value in turned if any(kinds.get(use.node.outputs[0]) != "turned" for use in value.uses())]


def _rows(model: ir.Model, positions: ir.Value, wanted: ir.Value, context: int) -> Any:
    """The values for every position from 0 on, computed as the graph itself would, for a batch of one."""
    import onnx
    import onnx.reference
    import onnx_ir as ir

    small = ir.Model(ir.convenience.extract(model.graph, [positions], [wanted]), ir_version=model.ir_version)
    small.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load_from_string(ir.to_proto(small).SerializeToString()))
    (found,) = evaluator.run(None, {POSITIONS: np.arange(context, dtype=np.int64)[None]})
    return np.asarray(found, np.float32)


def write_products_out(model: ir.Model) -> None:
    """Gemm -> MatMul and Add, as every other layer is written: what quantizes looks for products."""
    import onnx_ir as ir

    for node in [node for node in model.graph if node.op_type == "Gemm"]:
        given, weight, *bias = node.inputs
        tensor = ir.convenience.get_const_tensor(weight)
        plain = all(node.attributes[name].as_float() == 1 for name in ("alpha", "beta") if name in node.attributes)
        turned = {name for name in ("transA", "transB") if name in node.attributes and node.attributes[name].as_int()}
        if tensor is None or not plain or "transA" in turned:
            continue
        assert weight is not None
        matrix = tensor.numpy()
        matrix = initializer(model, f"{weight.name}.turned", np.ascontiguousarray(matrix.T)) if turned else weight
        product = ir.node("MatMul", [given, matrix], name=f"{node.name}.product")
        nodes = [product]
        made = product.outputs[0]
        made.name, made.type, made.shape = f"{node.name}.product", node.outputs[0].type, node.outputs[0].shape
        if bias:
            nodes.append(ir.node("Add", [made, bias[0]], name=node.name))
        old, new = node.outputs[0], nodes[-1].outputs[0]
        new.type, new.shape = old.type, old.shape
        model.graph.insert_before(node, nodes)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name = old.name
        model.graph.remove(node, safe=True)


def forget(model: ir.Model) -> None:
    """Drop what the tracer noted for its own debugging, with paths of this machine; keep what rewriters read."""
    model.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    for node in model.graph:
        window = node.metadata_props.get("sliding_window")
        node.metadata_props.clear()
        node.doc_string = None
        if window is not None:
            node.metadata_props["sliding_window"] = window
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
