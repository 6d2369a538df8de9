"""Mamba 2's state space as ONNX nodes, in its dual form (https://arxiv.org/abs/2405.21060, section 6).

A head has one decay, so that what its state gives for a run of tokens is what attention would, with C for queries, B
for keys, and instead of a softmax the decay from one token to the other; what came before the run is added from the
state. Nothing is gone through one by one; a run of T tokens takes T² numbers for each head, so a long text is fed in
pieces.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .activations import activation, silu, softplus
from .conv_state import Run
from .parts import Dual

if TYPE_CHECKING:
    import onnx_ir as ir

# The exponent below which a decay is not followed: 2e-22 is nothing beside what is added to it, and still a number
# that processors multiply at full speed. Real models reach numbers that they do not, within a hundred tokens.
FORGOTTEN = -50.0


def dual(run: Run, number: int, part: Dual, hidden: ir.Value) -> tuple[ir.Value, dict[str, ir.Value]]:
    """(batch, sequence, channels) before the output projection, and both states for the next run."""
    draft, at = run.draft, f"layers.{number}.mixer"
    shared = part.groups * part.states_each
    made = run.store.linear(f"{at}.in_proj", part.into, hidden)
    gate, value, step = draft.split(made, [part.channels, part.conv.channels, part.heads], name=f"{at}.in_parts")
    value, window = run.convolved(number, part.conv, value)
    value = activation(draft, run.store.plan.activation, value, name=f"{at}.conv_activation")
    value, b, c = draft.split(value, [part.channels, shared, shared], name=f"{at}.conv_parts")
    made, state = _Space(run, number, part).through(value, b, c, step)
    return _gated(run, at, part, made, gate), {f"present_conv.{number}": window, f"present_ssm.{number}": state}


def _gated(run: Run, at: str, part: Dual, made: ir.Value, gate: ir.Value) -> ir.Value:
    draft, gate = run.draft, silu(run.draft, gate, name=f"{at}.gate")
    if part.gate_first or not part.norm:
        made = draft.op("Mul", [made, gate], name=f"{at}.gated")
        return _normed(run, at, part, made)
    return draft.op("Mul", [_normed(run, at, part, made), gate], name=f"{at}.gated")


def _normed(run: Run, at: str, part: Dual, made: ir.Value) -> ir.Value:
    """Each group's channels by themselves."""
    draft, name = run.draft, f"{at}.ssm_norm"
    if part.norm is None or part.groups == 1:
        return run.store.norm(name, part.norm, made)
    width = part.channels // part.groups
    made = draft.op("Reshape", [made, draft.ints("shape.groups", 0, 0, part.groups, width)], name=f"{name}.groups")
    ones = draft.tensor(f"ones.{width}", np.ones(width, np.float32))
    norm = {"axis": -1, "epsilon": run.store.plan.epsilon}
    made = draft.op("RMSNormalization", [made, ones], norm, name=f"{name}.each")
    made = draft.op("Reshape", [made, draft.ints("shape.channels", 0, 0, part.channels)], name=f"{name}.flat")
    return draft.op("Mul", [made, run.store.whole(f"{part.norm.name}.weight", part.channels)], name=name)


class _Space:
    """One layer's state space. Axes: (batch, sequence, groups, heads of a group, head_dim)."""

    def __init__(self, run: Run, number: int, part: Dual) -> None:
        self.run, self.draft, self.part = run, run.draft, part
        self.at, self.held = f"layers.{number}.mixer.ssm", run.held[f"past_ssm.{number}"]
        self.inner = part.heads // part.groups

    def op(self, kind: str, what: str, *inputs: ir.Value) -> ir.Value:
        return self.draft.op(kind, inputs, name=f"{self.at}.{what}")

    def shaped(self, what: str, value: ir.Value, *shape: int) -> ir.Value:
        return self.op("Reshape", what, value, self.draft.ints("shape." + "_".join(map(str, shape)), *shape))

    def turned(self, what: str, value: ir.Value, *perm: int) -> ir.Value:
        return self.draft.op("Transpose", [value], {"perm": perm}, name=f"{self.at}.{what}")

    def wider(self, what: str, value: ir.Value, axis: int) -> ir.Value:
        return self.op("Unsqueeze", what, value, self.draft.ints(f"axis.{axis}", axis))

    def decay(self, what: str, exponent: ir.Value) -> ir.Value:
        """1 between tokens in the wrong order, whose exponents are above 0: nobody counts them."""
        bounds = [self.draft.number(f"decay.{name}", end) for name, end in (("least", FORGOTTEN), ("most", 0.0))]
        return self.op("Exp", what, self.op("Clip", f"{what}_exponent", exponent, *bounds))

    def through(self, value: ir.Value, b: ir.Value, c: ir.Value, step: ir.Value) -> tuple[ir.Value, ir.Value]:
        """What comes out for each token, (batch, sequence, channels), and the state behind the last."""
        part, store = self.part, self.run.store
        step, sums = self._steps(step)
        value = self.shaped("heads", value, 0, 0, part.groups, self.inner, part.head_dim)
        driven = self.op("Mul", "driven", value, self.wider("dt_wide", step, -1))
        b = self.shaped("b_groups", b, 0, 0, part.groups, part.states_each)
        c = self.shaped("c_groups", c, 0, 0, part.groups, part.states_each)
        b, c = self.turned("b", b, 0, 2, 3, 1), self.turned("c", c, 0, 2, 1, 3)
        made = self.op("Add", "both", self._within(sums, driven, b, c), self._from_before(sums, c))
        d = store.whole(part.d, part.heads, lambda found: found.reshape(part.groups, self.inner, 1))
        made = self.op("Add", "whole", made, self.op("Mul", "skipped", value, d))
        return self.shaped("made", made, 0, 0, part.channels), self._state(sums, driven, b)

    def _steps(self, step: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Each head's time step, which for padding is 0, and the exponents summed up to each token."""
        part, draft, store = self.part, self.draft, self.run.store
        step = self.op("Add", "dt_biased", step, store.whole(part.dt_bias, part.heads))
        step = softplus(draft, step, name=f"{self.at}.dt")
        low, high = part.limit
        if low > 0 or high < math.inf:
            bounds = [draft.number(f"dt.{bound}", bound) for bound in (low, min(high, float(np.finfo(np.float32).max)))]
            step = self.op("Clip", "dt_clipped", step, *bounds)
        step = self.op("Mul", "dt_real", step, self.run.real)
        decay = store.whole(part.log_a, part.heads, lambda found: -np.exp(found))
        sums = self.op("CumSum", "sums", self.op("Mul", "exponents", step, decay), draft.ints("axis.sequence", 1))
        shape = 0, 0, part.groups, self.inner
        return self.shaped("dt_heads", step, *shape), self.shaped("sums_heads", sums, *shape)

    def _within(self, sums: ir.Value, driven: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """What the run's own tokens give."""
        across = self.turned("sums_across", sums, 0, 2, 3, 1)
        between = self.op("Sub", "between", self.wider("to", across, -1), self.wider("from", across, -2))
        scores = self.op("Mul", "causal", self.op("MatMul", "scores", c, b), self.run.causal)
        scores = self.op("Mul", "decayed", self.wider("scores_wide", scores, 2), self.decay("decay", between))
        made = self.op("MatMul", "within", scores, self.turned("driven_heads", driven, 0, 2, 3, 1, 4))
        return self.turned("within_tokens", made, 0, 3, 1, 2, 4)

    def _from_before(self, sums: ir.Value, c: ir.Value) -> ir.Value:
        """What the state from before the run gives."""
        made = self.op("MatMul", "before", c, self.held)
        made = self.shaped("before_heads", made, 0, 0, 0, self.inner, self.part.head_dim)
        left = self.wider("left", self.decay("left_heads", sums), -1)
        return self.op("Mul", "before_left", self.turned("before_tokens", made, 0, 2, 1, 3, 4), left)

    def _state(self, sums: ir.Value, driven: ir.Value, b: ir.Value) -> ir.Value:
        """(batch, groups, states_each, channels of a group). Sums stand still over padding, and nothing drives it."""
        part, draft = self.part, self.draft
        bounds = [draft.ints(f"slice.{name}", bound) for name, bound in (("last", -1), ("end", 2**62))]
        total = self.op("Slice", "total", sums, *bounds, draft.ints("axis.sequence", 1))
        to_end = self.decay("to_end", self.op("Sub", "rest", total, sums))
        driven = self.op("Mul", "driven_to_end", driven, self.wider("to_end_wide", to_end, -1))
        driven = self.shaped("driven_groups", driven, 0, 0, 0, part.channels // part.groups)
        new = self.op("MatMul", "new", b, self.turned("driven_turned", driven, 0, 2, 1, 3))
        # (batch, 1, groups, heads of a group) -> (batch, groups, 1, channels of a group)
        left = self.turned("total_groups", self.decay("total_left", total), 0, 2, 1, 3)
        left = self.op(
            "Expand",
            "total_wide",
            self.wider("total_each", left, -1),
            draft.ints(f"shape.each_{part.head_dim}", 1, 1, 1, 1, part.head_dim),
        )
        left = self.shaped("kept", left, 0, 0, 0, part.channels // part.groups)
        return self.op("Add", "state", self.op("Mul", "old", self.held, left), new)
