"""Mamba's selective state space as ONNX nodes (https://arxiv.org/abs/2312.00752, section 3).

Each channel c has its numbers h, each of which decays by itself: h = exp(dt A) h + dt B x, y = C h + D x. The tokens
are gone through one by one, in a Scan whose body holds one token's numbers only, so that they stay in the processor's
cache; computing all tokens' exp(dt A) ahead takes nearly twice as long. Channels lie last, where the products run
along them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .activations import activation, silu, softplus
from .conv_state import Run
from .parts import Selective

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Floats

TIME_FIRST = [1, 0, 2]  # and back


def selective(run: Run, number: int, part: Selective, hidden: ir.Value) -> tuple[ir.Value, dict[str, ir.Value]]:
    """(batch, sequence, channels) before the output projection, and both states for the next run."""
    draft, store, at = run.draft, run.store, f"layers.{number}.mixer"
    made = store.linear(f"{at}.in_proj", part.into, hidden)
    value, gate = draft.split(made, [part.conv.channels] * 2, name=f"{at}.in_parts")
    value, window = run.convolved(number, part.conv, value)
    value = activation(draft, store.plan.activation, value, name=f"{at}.conv_activation")
    step, b, c = _told(run, at, part, value)
    made, state = _scan(run, number, part, (step, draft.op("Mul", [step, value], name=f"{at}.driven"), b, c))
    through = draft.op("Mul", [value, store.whole(part.d, part.conv.channels)], name=f"{at}.through")
    made = draft.op("Add", [made, through], name=f"{at}.ssm.whole")
    made = draft.op("Mul", [made, silu(draft, gate, name=f"{at}.gate")], name=f"{at}.gated")
    return made, {f"present_conv.{number}": window, f"present_ssm.{number}": state}


def _told(run: Run, at: str, part: Selective, value: ir.Value) -> list[ir.Value]:
    """Of each token: the channels' time steps, which for padding are 0, and B and C."""
    draft, store, sizes = run.draft, run.store, [part.dt.inputs, part.states_each, part.states_each]
    told = list(draft.split(store.linear(f"{at}.x_proj", part.x, value), sizes, name=f"{at}.x_parts"))
    if part.epsilon is not None:
        for place, (what, size) in enumerate(zip(("dt", "b", "c"), sizes, strict=True)):
            ones = draft.tensor(f"ones.{size}", np.ones(size, np.float32))
            norm = {"axis": -1, "epsilon": part.epsilon}
            told[place] = draft.op("RMSNormalization", [told[place], ones], norm, name=f"{at}.{what}_norm")
    step, b, c = told
    step = softplus(draft, store.linear(f"{at}.dt_proj", part.dt, step), name=f"{at}.dt")
    return [draft.op("Mul", [step, run.real], name=f"{at}.dt.real"), b, c]


def _scan(run: Run, number: int, part: Selective, told: tuple[ir.Value, ...]) -> tuple[ir.Value, ir.Value]:
    """What comes of the state, (batch, sequence, channels), and the state behind the last token."""
    draft, at = run.draft, f"layers.{number}.mixer.ssm"
    # (sequence, batch, …): the time step and what drives the state for each channel, B for each number, C across them.
    axes = {"dt": 2, "driven": 2, "b": -1, "c": 2}
    inputs = []
    for (what, axis), value in zip(axes.items(), told, strict=True):
        value = draft.op("Transpose", [value], {"perm": TIME_FIRST}, name=f"{at}.{what}_in_time")
        inputs.append(draft.op("Unsqueeze", [value, draft.ints(f"axis.{axis}", axis)], name=f"{at}.{what}_steps"))
    decay = run.store.whole(part.log_a, part.conv.channels, _decay)
    state, made = draft.ops(
        "Scan",
        [run.held[f"past_ssm.{number}"], *inputs],
        {"body": _step(run, at, part, decay), "num_scan_inputs": len(inputs)},
        name=at,
        outputs=[f"{at}.state", f"{at}.steps"],
    )
    made = draft.op("Squeeze", [made, draft.ints("axis.2", 2)], name=f"{at}.in_time")
    return draft.op("Transpose", [made], {"perm": TIME_FIRST}, name=f"{at}.made"), state


def _decay(log_a: Floats) -> Floats:
    """A, with the channels last."""
    return np.ascontiguousarray(-np.exp(log_a).T)


def _step(run: Run, at: str, part: Selective, decay: ir.Value) -> ir.Graph:
    """One token: the state before, and what it is told; the state behind it, and what comes out."""
    import onnx_ir as ir

    draft, numbers, channels = run.draft, part.states_each, part.conv.channels

    def value(what: str, *shape: int) -> ir.Value:
        kind = ir.TensorType(ir.DataType.FLOAT)
        return ir.Value(name=f"{at}.step.{what}", type=kind, shape=ir.Shape(["batch", *shape]))

    inputs = state, dt, driven, b, c = (
        value("before", numbers, channels),
        value("dt", 1, channels),
        value("driven", 1, channels),
        value("b", numbers, 1),
        value("c", 1, numbers),
    )
    with draft.body() as nodes:
        kept = draft.op("Exp", [draft.op("Mul", [dt, decay], name=f"{at}.step.exponent")], name=f"{at}.step.kept")
        old = draft.op("Mul", [state, kept], name=f"{at}.step.old")
        new = draft.op("Mul", [driven, b], name=f"{at}.step.new")
        after = draft.op("Add", [old, new], name=f"{at}.step.after")
        made = draft.op("MatMul", [c, after], name=f"{at}.step.made")
    after.type = made.type = state.type
    after.shape, made.shape = state.shape, dt.shape
    return ir.Graph(inputs, [after, made], nodes=nodes, name=f"{at}.step")
