"""The head of a recurrent model: a result for each step, for the whole series, or the prediction error of each step.

Knows heads and padding, and nothing of cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._onnx_writer import Draft
from .plan import Plan
from .weights import Tensors

if TYPE_CHECKING:
    import onnx_ir as ir

FLOAT = 1  # of ONNX's data types


@dataclass(frozen=True)
class Read:
    """What one layer made of the series, before any projection if it goes forward only, and of both sides otherwise."""

    steps: ir.Value  # (time, batch, width)
    last: ir.Value  # (batch, width): behind the last real step
    path: ir.Value | None = None  # (1 + time, batch, width): the state that came in, then `steps`; None of both sides


class Clock:
    """Which steps are real, from `x` (batch, time, features) and `counts` (batch,); each node is made once."""

    def __init__(self, draft: Draft, x: ir.Value, counts: ir.Value) -> None:
        self.draft, self.x, self.counts = draft, x, counts
        self._steps: ir.Value | None = None
        self._padding: ir.Value | None = None

    def padding(self) -> ir.Value:
        """(time, batch, 1), float32: 1 where a step is padding."""
        if self._padding is None:
            draft = self.draft
            column = draft.op("Unsqueeze", [self.steps(), draft.ints("axis.1", 1)], name="steps.column")
            beyond = draft.op("GreaterOrEqual", [column, self.counts], name="padding.where")
            flat = draft.op("Cast", [beyond], {"to": FLOAT}, name="padding.flat")
            self._padding = draft.op("Unsqueeze", [flat, draft.ints("axis.last", -1)], name="padding")
        return self._padding

    def mean(self, value: ir.Value) -> ir.Value:
        """Of (batch, time, 1), over each row's real steps: (batch, 1)."""
        draft = self.draft
        row = draft.op("Unsqueeze", [self.steps(), draft.ints("axis.0", 0)], name="steps.row")
        counts = draft.op("Unsqueeze", [self.counts, draft.ints("axis.1", 1)], name="counts.column")
        flat = draft.op("Less", [row, counts], name="real.flat")
        real = draft.op("Unsqueeze", [flat, draft.ints("axis.last", -1)], name="real")
        kept = draft.op("Where", [real, value, draft.number("nothing", 0.0)], name="mean.kept")
        total = draft.op("ReduceSum", [kept, draft.ints("axis.1", 1)], {"keepdims": 0}, name="mean.total")
        return draft.op("Div", [total, draft.op("Cast", [counts], {"to": FLOAT}, name="mean.count")], name="mean")

    def steps(self) -> ir.Value:
        """0, 1, … (time,)"""
        if self._steps is None:
            draft = self.draft
            axis = draft.op("Shape", [self.x], {"start": 1, "end": 2}, name="time.axis")
            time = draft.op("Squeeze", [axis, draft.ints("axis.0", 0)], name="time")
            first, by = (draft.tensor(f"step.{number}", np.asarray(number, np.int64)) for number in (0, 1))
            self._steps = draft.op("Range", [first, time, by], name="steps")
        return self._steps


def write_result(plan: Plan, tensors: Tensors, clock: Clock, x: ir.Value, top: Read) -> None:
    """The output `y`."""
    draft, end = tensors.draft, plan.per == "end"
    if plan.head == "anomaly":
        missed = _missed(plan, tensors, x, top)
        draft.output("y", clock.mean(missed) if end else missed, ("batch", 1) if end else ("batch", "time", 1))
    elif end:
        draft.output("y", _head(tensors, _wide(plan, tensors, top.last)), ("batch", plan.results))
    else:
        draft.output("y", _each(plan, tensors, top.steps), ("batch", "time", plan.results))


def _missed(plan: Plan, tensors: Tensors, x: ir.Value, top: Read) -> ir.Value:
    """The mean square, over a step's features, of what the head did not tell of them: (batch, time, 1)."""
    draft, told_by = tensors.draft, top.steps
    if plan.score == "prediction":  # the state before each step tells it
        assert top.path is not None
        cut = [draft.ints(name, number) for name, number in (("zero", 0), ("minus_one", -1), ("axis.0", 0))]
        told_by = draft.op("Slice", [top.path, *cut], name="before")
    missed = draft.op("Sub", [x, _each(plan, tensors, told_by)], name="missed")
    square = draft.op("Mul", [missed, missed], name="missed.square")
    return draft.op("ReduceMean", [square, draft.ints("axis.last", -1)], {"keepdims": 1}, name="score")


def _each(plan: Plan, tensors: Tensors, steps: ir.Value) -> ir.Value:
    """(time, batch, width) -> (batch, time, what the head gives)."""
    rows = tensors.draft.op("Transpose", [_wide(plan, tensors, steps)], {"perm": [1, 0, 2]}, name="hidden")
    return _head(tensors, rows)


def _wide(plan: Plan, tensors: Tensors, value: ir.Value) -> ir.Value:
    """Projected, where that is still to be done."""
    return tensors.projected("top", plan.layers[-1][0], value) if plan.streamable else value


def _head(tensors: Tensors, value: ir.Value) -> ir.Value:
    weight, bias = tensors.head()
    made = tensors.draft.op("MatMul", [value, weight], name="head")
    return made if bias is None else tensors.draft.op("Add", [made, bias], name="head.biased")
