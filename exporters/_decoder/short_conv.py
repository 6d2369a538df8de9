"""LFM2's gated short convolution as ONNX nodes (https://arxiv.org/abs/2511.23404)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .conv_state import Run
from .parts import ShortConv

if TYPE_CHECKING:
    import onnx_ir as ir


def short_conv(run: Run, number: int, part: ShortConv, hidden: ir.Value) -> tuple[ir.Value, dict[str, ir.Value]]:
    """(batch, sequence, channels) before the output projection, and the window for the next run."""
    draft, at = run.draft, f"layers.{number}.mixer"
    made = run.store.linear(f"{at}.in_proj", part.into, hidden)
    before, behind, value = draft.split(made, [part.conv.channels] * 3, name=f"{at}.in_parts")
    value = draft.op("Mul", [before, value], name=f"{at}.let_in")
    value, window = run.convolved(number, part.conv, value)
    return draft.op("Mul", [behind, value], name=f"{at}.let_out"), {f"present_conv.{number}": window}
