"""Rename the ports of a user's graph to a stream's: `x` (batch, time, features) and states in, `y` and states out.

Time may come first, which is seen where a state's free axis bears the name of x's second; one step may lack the axis
of time. Both are put right by a node before and behind. Axes are named batch and time. Knows no operator but these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.core import Port
from edgekit.errors import UnsupportedError, VerificationError

from .._any_decoder.graph import forget, write_products_out
from .._any_decoder.quantize import initializer

if TYPE_CHECKING:
    import onnx_ir as ir

Axis = int | str


@dataclass(frozen=True)
class Settled:
    """What the ports tell. `single`: the graph takes one step at a time."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    features: int
    results: int
    per: str
    single: bool


def settle(model: ir.Model, states: Mapping[str, str]) -> Settled:
    """In place; `states`: input -> output, all of whose names are there, and all others but one each side.

    Raises UnsupportedError for ports that are no stream's, VerificationError for a weight that is no number.
    """
    _check_weights(model)
    forget(model)
    write_products_out(model)
    _forget_shapes(model)
    inputs = {str(value.name): value for value in model.graph.inputs if not value.is_initializer()}
    outputs = {str(value.name): value for value in model.graph.outputs}
    x = next(value for name, value in inputs.items() if name not in states)
    y = next(value for name, value in outputs.items() if name not in states.values())
    pairs = [(inputs[into], outputs[out]) for into, out in states.items()]
    axes, turned = _axes(x, pairs)
    wide = _width(y, "the results")
    if axes[1:-1] not in ([], ["time"], [1]):
        raise UnsupportedError(
            f"the graph takes {axes[1]} steps at once, no more and no fewer",
            hint="export it for one step, or for any number of steps",
        )
    alone, each = len(axes) == 2, len(_shape(y)) == len(axes)
    shape: list[Axis] = [axes[0], 1 if alone else axes[1], axes[-1]]
    for into, out in pairs:
        _settle_state(into, out, axes[0])
    x = _before(model, x, shape, turned, alone)
    y = _behind(model, y, [*shape[:2], wide] if each else [shape[0], wide], turned and each, alone)
    model.graph.inputs[:] = [x, *(into for into, _ in pairs)]
    model.graph.outputs[:] = [y, *(out for _, out in pairs)]
    ports = [tuple(map(_port, values)) for values in (model.graph.inputs, model.graph.outputs)]
    return Settled(ports[0], ports[1], int(axes[-1]), wide, "step" if each else "end", shape[1] == 1)


def _check_weights(model: ir.Model) -> None:
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype.is_floating_point() and not np.isfinite(tensor.numpy()).all():
            raise VerificationError(
                f"weight {name!r} holds a NaN or an infinity",
                hint="the file is damaged, or the training diverged; download or train the model again",
                tensors=[name],
            )


def _forget_shapes(model: ir.Model) -> None:
    """Of all that is neither input nor output: torch.onnx was seen to write the length that it traced with behind an
    LSTM, and ONNX Runtime believes it."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def _axes(x: ir.Value, pairs: Sequence[tuple[ir.Value, ir.Value]]) -> tuple[list[Axis], bool]:
    """The axes of `x` as (batch, time, features), or (batch, features), and whether time comes first in the graph."""
    found = _shape(x)
    if len(found) not in (2, 3):
        raise UnsupportedError(
            f"the input {x.name!r} has the shape {found}", hint="a stream takes (batch, time, features), or one step"
        )
    _width(x, "the features")
    free = {axis for into, _ in pairs for axis in _shape(into) if isinstance(axis, str)}
    turned = len(found) == 3 and found[1] in free and found[0] not in free
    first, *rest = [found[1], found[0], found[2]] if turned else found
    batch: Axis = first if isinstance(first, int) else "batch"
    time = [axis if isinstance(axis, int) else "time" for axis in rest[:-1]]
    return [batch, *time, rest[-1]], turned


def _settle_state(into: ir.Value, out: ir.Value, batch: Axis) -> None:
    import onnx_ir as ir

    before, after = _shape(into), _shape(out)
    free = [axis for axis in before if isinstance(axis, str)]
    same = len(before) == len(after) and all(
        one == other or isinstance(one, str) or isinstance(other, str) for one, other in zip(before, after)
    )
    if not same or len(free) > 1 or (free and isinstance(batch, int)):
        raise UnsupportedError(
            f"the state {out.name}={into.name} goes in as {before} and comes out as {after}",
            hint="a state has one size, and at most one free axis, the batch; one that grows cannot be taken over",
        )
    shape = [axis if isinstance(axis, int) else batch for axis in before]
    into.shape, out.shape = ir.Shape(shape), ir.Shape(shape)


def _before(model: ir.Model, x: ir.Value, shape: Sequence[Axis], turned: bool, alone: bool) -> ir.Value:
    import onnx_ir as ir

    if not turned and not alone:
        x.shape = ir.Shape(shape)
        return _called(model, x, "x")
    made = ir.Value(name="x", type=x.type, shape=ir.Shape(shape))
    if turned:
        node = ir.node("Transpose", [made], {"perm": [1, 0, 2]}, name="x.by_time")
    else:
        node = ir.node("Squeeze", [made, initializer(model, "x.axis", np.array([1]))], name="x.step")
    node.outputs[0].name = f"{node.name}.value"
    ir.convenience.replace_all_uses_with(x, node.outputs[0])
    model.graph.insert_before(model.graph[0], node)
    return _called(model, made, "x")


def _behind(model: ir.Model, y: ir.Value, shape: Sequence[Axis], turned: bool, alone: bool) -> ir.Value:
    import onnx_ir as ir

    if turned or alone:
        if turned:
            node = ir.node("Transpose", [y], {"perm": [1, 0, 2]}, name="y.by_row")
        else:
            node = ir.node("Unsqueeze", [y, initializer(model, "y.axis", np.array([1]))], name="y.step")
        node.outputs[0].type = y.type
        model.graph.append(node)
        y = node.outputs[0]
    y.shape = ir.Shape(shape)
    return _called(model, y, "y")


def _called(model: ir.Model, port: ir.Value, name: str) -> ir.Value:
    """The port with that name, which nothing else bears."""
    others = [*model.graph.inputs, *model.graph.initializers.values(), *(v for n in model.graph for v in n.outputs)]
    for value in others:
        if value is not port and value.name == name:
            value.name = f"{name}.inner"
    port.name = name
    return port


def _shape(value: ir.Value) -> list[Axis]:
    """Raises UnsupportedError for what is not float32, or of no known rank."""
    import onnx_ir as ir

    if value.dtype != ir.DataType.FLOAT or value.shape is None:
        said = value.dtype.name if value.dtype is not None else "unknown"
        raise UnsupportedError(
            f"{value.name!r} is {said} {value.shape}", hint="streams and their states are float32, of known rank"
        )
    return [
        axis if isinstance(axis, int) else str(axis.value or f"{value.name}.{n}") for n, axis in enumerate(value.shape)
    ]


def _width(value: ir.Value, what: str) -> int:
    last = _shape(value)[-1] if _shape(value) else "nothing"
    if not isinstance(last, int):
        raise UnsupportedError(
            f"how many {what} {value.name!r} has is not fixed: {_shape(value)}",
            hint="the last axis must be a number; onnx.shape_inference.infer_shapes may find it",
        )
    return last


def _port(value: ir.Value) -> Port:
    assert value.shape is not None
    return Port(str(value.name), "float32", tuple(a if isinstance(a, int) else str(a.value) for a in value.shape))
