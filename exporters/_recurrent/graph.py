"""Build a recurrent model's portable graph from its plan and weights, with ONNX's RNN, GRU and LSTM operators.

Inputs: `x` (batch, time, features), `counts` int64 (batch,): how many of each row's steps are real, with padding on
the right, and each layer's `h.N` (1, batch, hidden), of an LSTM `c.N` too. Outputs: `y` (batch, time, results), or
(batch, results) where a model answers at the end, and each layer's `h.N.next` and `c.N.next`: what they were behind
the last real step, or what came in where none was real. Time is free: one graph for single steps and for chunks.
A model that reads both directions has no states.

`sequence_lens` is not used: OpenVINO does not heed it, and ONNX Runtime forgets the state of a row of no steps. Instead
the state is looked up behind the last real step; of an LSTM's cell, which comes out at the end only, padding itself
keeps the gates shut (`_recurrent_weights`). A row read backwards is turned around by ReverseSequence.

Rewriters may count on this: weights of a recurrent node are initializers, behind a DequantizeLinear where they are
quantized; an LSTM with states has them Concat to a column for padding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.core import Graph, Recipe, Source, State
from edgekit.errors import BundleError

from .._decoder.tensors import MadeUp, Weights, stored
from .._onnx_writer import Draft
from .head import Clock, Read, write_result
from .plan import Layer, Plan
from .weights import Tensors

if TYPE_CHECKING:
    import onnx_ir as ir


def build(source: Source, plan: Plan, recipe: Recipe, path: Path, say: Callable[[str], None]) -> Graph:
    """The portable graph in the file `path`, its weights beside it with the suffix .bin; older files are replaced.

    `recipe` says how weights are held: int4 and int8 in blocks of `group_size` inputs (None: one scale for each row of
    a gate), biases and what is small as float32. Raises BundleError, UnsupportedError, VerificationError (a NaN); then
    no file is left.
    """
    weights = _open(source, plan)
    with Draft(path) as draft:
        states = _Body(draft, plan, Tensors(draft, plan, weights, recipe, say), say).write()
        draft.write(source.arch)
    kind = "stream" if plan.streamable else "plain"
    return Graph("model", path.name, tuple(draft.inputs), tuple(draft.outputs), states, kind=kind)


def _open(source: Source, plan: Plan) -> Weights:
    """The model's weights, checked. Raises BundleError, UnsupportedError."""
    shapes = plan.shapes()
    if source.random:
        fill = {name: 0.0 for name, shape in shapes.items() if len(shape) == 1}
        return MadeUp(shapes, fill, plan.hidden**-0.5)
    found = stored(source.folder, "rnn.", shapes, {"head.bias"}, ())
    if plan.head_bias and "head.bias" not in found.places:
        raise BundleError(
            "the weights have no 'head.bias'", hint='set "head_bias": false in config.json if the head has none'
        )
    return found


class _Body:
    """The nodes of one graph. Inside, time comes first: (time, batch, width)."""

    def __init__(self, draft: Draft, plan: Plan, tensors: Tensors, say: Callable[[str], None]) -> None:
        self.draft, self.plan, self.tensors, self.say = draft, plan, tensors, say
        self.kinds = () if not plan.streamable else ("h", "c") if plan.cell == "LSTM" else ("h",)

    def write(self) -> tuple[State, ...]:
        """Everything, inputs and outputs too."""
        plan, draft, shape = self.plan, self.draft, (1, "batch", self.plan.hidden)
        x = draft.input("x", "float32", ("batch", "time", plan.inputs))
        self.counts = draft.input("counts", "int64", ("batch",))
        self.clock = Clock(draft, x, self.counts)
        names = [[f"{kind}.{number}" for kind in self.kinds] for number in range(len(plan.layers))]
        into = [[draft.input(name, "float32", shape) for name in layer] for layer in names]
        value, states = draft.op("Transpose", [x], {"perm": [1, 0, 2]}, name="x.by_time"), []
        for number, layers in enumerate(plan.layers):
            self.say(f"layer {number + 1} of {len(plan.layers)}")
            at = f"layers.{number}"
            if number and plan.streamable:
                value = self.tensors.projected(f"{at}.read", plan.layers[number - 1][0], value)
            read, out = self._layer(at, layers, value, into[number])
            value = read.steps
            states.append(out)
        self.say("head")
        write_result(plan, self.tensors, self.clock, x, read)
        for layer, out in zip(names, states, strict=True):
            for name, made in zip(layer, out, strict=True):
                draft.output(f"{name}.next", made, shape)
        return tuple(State(name, f"{name}.next") for layer in names for name in layer)

    def _layer(
        self, at: str, layers: tuple[Layer, ...], value: ir.Value, into: list[ir.Value]
    ) -> tuple[Read, list[ir.Value]]:
        """What it made, and its states behind the last real step."""
        if len(layers) == 1:
            return self._forward(at, layers[0], value, into)
        return self._both(at, layers, value), []

    def _forward(self, at: str, layer: Layer, value: ir.Value, into: list[ir.Value]) -> tuple[Read, list[ir.Value]]:
        draft = self.draft
        if "c" in self.kinds:
            value = draft.op("Concat", [value, self.clock.padding()], {"axis": 2}, name=f"{at}.guarded")
        made, *cell = self._cells(at, layer, value, into)
        path = draft.op("Concat", [into[0], made], {"axis": 0}, name=f"{at}.path")
        last = self._at(f"{at}.last", path, self.counts)
        state = draft.op("Unsqueeze", [last, draft.ints("axis.0", 0)], name=f"{at}.state")
        return Read(made, last, path), [state, *cell]

    def _both(self, at: str, layers: tuple[Layer, ...], value: ir.Value) -> Read:
        """Forward and backward side by side."""
        draft, turn = self.draft, {"batch_axis": 1, "time_axis": 0}
        steps, last = [], []
        end = draft.op("Sub", [self.counts, draft.ints("one", 1)], name=f"{at}.end")
        for layer, way in zip(layers, ("forward", "backward"), strict=True):
            name, read = f"{at}.{way}", value
            if way == "backward":
                read = draft.op("ReverseSequence", [value, self.counts], turn, name=f"{name}.turned")
            made = self.tensors.projected(f"{name}.steps", layer, self._cells(name, layer, read, [])[0])
            last.append(self._at(f"{name}.last", made, end))
            if way == "backward":
                made = draft.op("ReverseSequence", [made, self.counts], turn, name=f"{name}.turned_back")
            steps.append(made)
        last_of_both = draft.op("Concat", last, {"axis": 1}, name=f"{at}.last")
        return Read(draft.op("Concat", steps, {"axis": 2}, name=f"{at}.steps"), last_of_both)

    def _cells(self, at: str, layer: Layer, value: ir.Value, states: list[ir.Value]) -> list[ir.Value]:
        """The state behind each step, (time, batch, hidden), and an LSTM's cell behind the last if it is kept."""
        plan, draft, tensors = self.plan, self.draft, self.tensors
        guarded = "c" in self.kinds
        weights = [tensors.inputs(layer, guarded=guarded), tensors.states(layer), tensors.biases(layer)]
        attributes: dict[str, object] = {"hidden_size": plan.hidden}
        if plan.cell == "GRU":
            attributes["linear_before_reset"] = 1  # as torch does it
        if plan.relu:
            attributes["activations"] = ["Relu"]
        given = [value, *weights, *([None, *states] if states else [])]
        outputs = [f"{at}.y", "", f"{at}.c"] if guarded else [f"{at}.y"]
        steps, *rest = draft.ops(plan.cell, given, attributes, name=at, outputs=outputs)
        # The axis of directions goes.
        return [draft.op("Squeeze", [steps, draft.ints("axis.1", 1)], name=f"{at}.made"), *rest[1:]]

    def _at(self, name: str, path: ir.Value, step: ir.Value) -> ir.Value:
        """(time, batch, width) and (batch,) -> each row's values at its own step, (batch, width)."""
        draft = self.draft
        rows = draft.op("Transpose", [path], {"perm": [1, 0, 2]}, name=f"{name}.rows")
        place = draft.op("Unsqueeze", [step, draft.ints("axis.last", -1)], name=f"{name}.place")
        return draft.op("GatherND", [rows, place], {"batch_dims": 1}, name=name)
