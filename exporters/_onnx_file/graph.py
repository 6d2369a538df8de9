"""Rename the ports of a user's graph to a stream's: `x` (batch, time, features) and states in, `y` and states out.

Time may come first, and a graph may have no axis of time (one step) or none of the batch (one series): nodes before and
behind put that right. Several inputs become the features of one, several outputs the results of one. Knows no operator
but these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgekit.core import Port
from edgekit.errors import UnsupportedError, VerificationError

from .._any_decoder.graph import forget, write_products_out
from .._any_decoder.quantize import initializer

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array, Arrays

Axis = int | str
# The axes of the file's inputs: (batch, time, features), (time, batch, features), (batch, features), (time, features).
Form = Literal["series", "time first", "step", "one series"]


@dataclass(frozen=True)
class Layout:
    """How a stream's arrays lie in the file's: the inputs with their widths, and the outputs."""

    form: Form
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[str, ...]
    each: bool  # the outputs have a result for each step

    def to_file(self, x: Array) -> dict[str, Array]:
        """`x` (batch, time, features) as the file's inputs."""
        ends = np.cumsum([width for _, width in self.inputs])[:-1]
        return {
            name: np.ascontiguousarray(self._turned(part))
            for (name, _), part in zip(self.inputs, np.split(x, ends, axis=2))
        }

    def _turned(self, x: Array) -> Array:
        if self.form == "time first":
            return x.transpose(1, 0, 2)
        return x[:, 0] if self.form == "step" else x[0] if self.form == "one series" else x

    def from_file(self, outputs: Arrays, rows: int, steps: int) -> Array:
        """The file's outputs as `y`: (batch, time, n), or (batch, n) at the end."""
        found = [outputs[name] for name in self.outputs]
        if self.form == "time first" and self.each:
            found = [y.swapaxes(0, 1) for y in found]
        shape = (rows, steps, -1) if self.each else (rows, -1)
        return np.concatenate([y.reshape(shape) for y in found], axis=-1)


@dataclass(frozen=True)
class Settled:
    """What the ports tell. `single`: the graph takes one step at a time."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    features: tuple[str, ...]
    results: tuple[str, ...]
    per: str
    single: bool
    layout: Layout


def settle(model: ir.Model, states: Mapping[str, str]) -> Settled:
    """In place; `states`: input -> output, all of whose names are there, and at least one other on each side.

    Raises UnsupportedError for ports that are not a stream's, VerificationError for a weight that is not a number.
    """
    _check_weights(model)
    forget(model)
    write_products_out(model)
    _forget_shapes(model)
    inputs = {str(value.name): value for value in model.graph.inputs if not value.is_initializer()}
    outputs = {str(value.name): value for value in model.graph.outputs}
    pairs = [(inputs[into], outputs[out]) for into, out in states.items()]
    xs = [value for name, value in inputs.items() if name not in states]
    ys = [value for name, value in outputs.items() if name not in states.values()]
    form, batch, time = _axes(xs, pairs)
    own = _own_time(xs[0], form)
    widths = [_width(x, "features") for x in xs]
    results = [(_width_of(y, form, own), *_each(y, form, own)) for y in ys]
    if len({each for _, each, _ in results}) > 1:
        raise UnsupportedError(
            f"of the outputs {', '.join(outputs)} some have a result for each step, some one for the end",
            hint="export the file with outputs of one kind",
        )
    each = results[0][1]
    for into, out in pairs:
        _settle_state(into, out, batch)
    layout = Layout(
        form,
        tuple((str(x.name), width) for x, width in zip(xs, widths)),
        tuple(str(y.name) for y in ys),
        each,
    )
    names = _names("x", xs, widths), _names("output_", ys, [width for width, _, _ in results])
    x = _before(model, xs, widths, form, [batch, time, sum(widths)])
    wide = sum(width for width, _, _ in results)
    y = _behind(model, ys, [nodes for _, _, nodes in results], [batch, time, wide] if each else [batch, wide])
    model.graph.inputs[:] = [x, *(into for into, _ in pairs)]
    model.graph.outputs[:] = [y, *(out for _, out in pairs)]
    ports = [tuple(map(_port, values)) for values in (model.graph.inputs, model.graph.outputs)]
    return Settled(ports[0], ports[1], *names, "step" if each else "end", time == 1, layout)


def _names(usual: str, values: Sequence[ir.Value], widths: Sequence[int]) -> tuple[str, ...]:
    """Of the numbers of these ports: those of one port are counted, those of several named after it."""
    if len(values) == 1:
        return tuple(f"{usual}{number}" for number in range(widths[0]))
    return tuple(
        str(value.name) if width == 1 else f"{value.name}_{number}"
        for value, width in zip(values, widths)
        for number in range(width)
    )


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


def _axes(xs: Sequence[ir.Value], pairs: Sequence[tuple[ir.Value, ir.Value]]) -> tuple[Form, Axis, Axis]:
    """The form of the inputs, the axis of the batch and that of time."""
    first = _shape(xs[0])
    for x in xs:
        shape = _shape(x)
        if len(shape) not in (2, 3):
            raise UnsupportedError(
                f"the input {x.name!r} has the shape {shape}",
                hint="a stream takes (batch, time, features), or one step; an input that never changes is fixed with "
                f"--input {x.name}=VALUE",
            )
        if shape[:-1] != first[:-1] and [isinstance(a, int) and a for a in shape[:-1]] != [
            isinstance(a, int) and a for a in first[:-1]
        ]:
            raise UnsupportedError(
                f"the inputs {xs[0].name} {first} and {x.name} {shape} do not have the same axes before the last",
                hint=f"fix an input that never changes: --input {x.name}=VALUE",
            )
    free = {axis for into, _ in pairs for axis in _shape(into) if isinstance(axis, str)}
    if len(first) == 2:
        if isinstance(first[0], str) and not free:  # the states have no rows, so that these are steps
            return "one series", 1, "time"
        return "step", first[0] if isinstance(first[0], int) else "batch", 1
    turned = first[1] in free and first[0] not in free
    batch, time = (first[1], first[0]) if turned else (first[0], first[1])
    if isinstance(time, int) and time != 1:
        raise UnsupportedError(
            f"the graph takes {time} steps at once, no more and no fewer",
            hint="export it for one step, or for any number of steps",
        )
    batch = batch if isinstance(batch, int) else "batch"
    return "time first" if turned else "series", batch, time if isinstance(time, int) else "time"


def _own_time(x: ir.Value, form: Form) -> Axis:
    """What the file calls the axis of time."""
    shape = _shape(x)
    return {"series": shape[1], "time first": shape[0], "step": 1, "one series": shape[0]}[form]


def _each(y: ir.Value, form: Form, time: Axis) -> tuple[bool, Sequence[tuple[str, list[int]]]]:
    """Whether an output has a result for each step, and the operators, with axes, that bring it into a stream's form.

    Raises UnsupportedError.
    """
    shape = _shape(y)
    spread: dict[tuple[Form, int], list[int]] = {
        ("step", 2): [1],
        ("step", 1): [1, 2],
        ("one series", 2): [0],
        ("one series", 1): [0, 2],
    }
    if form in ("series", "time first"):
        if len(shape) == 3:
            return True, [("Transpose", [1, 0, 2])] * (form == "time first")
        if len(shape) == 2:
            if not _narrow(shape, form, time):
                return False, []
            return True, [*[("Transpose", [1, 0])] * (form == "time first"), ("Unsqueeze", [2])]
    elif (form, len(shape)) in spread:
        return True, [("Unsqueeze", spread[form, len(shape)])]
    raise UnsupportedError(
        f"the output {y.name!r} has the shape {shape}", hint="a stream gives (batch, time, results), or one step's"
    )


def _narrow(shape: Sequence[Axis], form: Form, time: Axis) -> bool:
    """Whether an output of rank 2 is (batch, time), without an axis of results."""
    return isinstance(time, str) and shape[0 if form == "time first" else 1] == time


def _width_of(y: ir.Value, form: Form, time: Axis) -> int:
    """How many results an output has a step."""
    shape = _shape(y)
    none = 1 if form in ("step", "one series") else 2
    narrow = len(shape) == none and (none == 1 or _narrow(shape, form, time))
    return 1 if narrow else _width(y, "results")


def _settle_state(into: ir.Value, out: ir.Value, batch: Axis) -> None:
    import onnx_ir as ir

    before, after = _shape(into), _shape(out)
    free = [axis for axis in before if isinstance(axis, str)]
    same = len(before) == len(after) and all(
        one == other or isinstance(one, str) or isinstance(other, str) for one, other in zip(before, after)
    )
    own = [axis for axis in after if isinstance(axis, str) and axis.partition(".")[0] != out.name]
    grows = isinstance(batch, int) and bool(free) and bool(own) and free != own
    if not same or len(free) > 1 or grows:
        raise UnsupportedError(
            f"the state {out.name}={into.name} goes in as {before} and comes out as {after}",
            hint="a state has one size, and at most one free axis, the batch; one that grows cannot be taken over",
        )
    shape = [axis if isinstance(axis, int) else batch for axis in before]
    into.shape, out.shape = ir.Shape(shape), ir.Shape(shape)


def _before(
    model: ir.Model, xs: Sequence[ir.Value], widths: Sequence[int], form: Form, shape: Sequence[Axis]
) -> ir.Value:
    """The stream's input, and in front of the graph what makes the file's inputs of it."""
    import onnx_ir as ir

    if form == "series" and len(xs) == 1:
        xs[0].shape = ir.Shape(shape)
        return _called(model, xs[0], "x")
    made = ir.Value(name="x", type=xs[0].type, shape=ir.Shape(shape))
    nodes, parts = [], [made]
    if len(xs) > 1:
        sizes = initializer(model, "x.widths", np.array(widths, np.int64))
        nodes.append(ir.node("Split", [made, sizes], {"axis": 2}, name="x.parts", num_outputs=len(xs)))
        parts = list(nodes[-1].outputs)
        for number, part in enumerate(parts):
            part.name = f"x.part.{number}"
    for number, (x, part) in enumerate(zip(xs, parts)):
        value = part
        if form == "time first":
            nodes.append(ir.node("Transpose", [part], {"perm": [1, 0, 2]}, name=f"x.by_time.{number}"))
        elif form != "series":
            axis = initializer(model, "x.axis", np.array([1 if form == "step" else 0]))
            nodes.append(ir.node("Squeeze", [part, axis], name=f"x.step.{number}"))
        if form != "series":
            value = nodes[-1].outputs[0]
            value.name = f"{nodes[-1].name}.value"
        ir.convenience.replace_all_uses_with(x, value)
    model.graph.insert_before(model.graph[0], nodes)
    return _called(model, made, "x")


def _behind(
    model: ir.Model,
    ys: Sequence[ir.Value],
    operators: Sequence[Sequence[tuple[str, list[int]]]],
    shape: Sequence[Axis],
) -> ir.Value:
    """The stream's output, made of the file's outputs."""
    import onnx_ir as ir

    def append(node: ir.Node, name: str) -> ir.Value:
        node.name, node.outputs[0].name, node.outputs[0].type = name, f"{name}.value", ys[0].type
        model.graph.append(node)
        return node.outputs[0]

    made = []
    for place, (y, steps) in enumerate(zip(ys, operators)):
        for number, (kind, axes) in enumerate(steps):
            if kind == "Transpose":
                node = ir.node(kind, [y], {"perm": axes})
            else:
                node = ir.node(kind, [y, initializer(model, f"y.axes.{'.'.join(map(str, axes))}", np.array(axes))])
            y = append(node, f"y.{place}.{number}")
        made.append(y)
    y = made[0] if len(made) == 1 else append(ir.node("Concat", made, {"axis": -1}), "y.all")
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
        dtype = value.dtype.name if value.dtype is not None else "unknown"
        hint = "streams and their states are float32, of known rank"
        if value.is_graph_input():
            hint += f"; an input that never changes is fixed with --input {value.name}=VALUE"
        raise UnsupportedError(f"{value.name!r} is {dtype} {value.shape}", hint=hint)
    return [
        axis if isinstance(axis, int) else str(axis.value or f"{value.name}.{n}") for n, axis in enumerate(value.shape)
    ]


def _width(value: ir.Value, what: str) -> int:
    shape = _shape(value)
    last = shape[-1] if shape else "nothing"
    if isinstance(last, int):
        return last
    raise UnsupportedError(
        f"the number of {what} of {value.name!r} is not fixed: its shape is {shape}",
        hint=f"fix the last axis: --shape {value.name}={','.join(map(str, [*shape[:-1], 'N']))}"
        if what == "features"
        else "fix the axes of the inputs with --shape INPUT=1,N, so that the number of results is known",
    )


def _port(value: ir.Value) -> Port:
    assert value.shape is not None
    return Port(str(value.name), "float32", tuple(a if isinstance(a, int) else str(a.value) for a in value.shape))
