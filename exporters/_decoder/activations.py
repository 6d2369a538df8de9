"""Activation functions as ONNX nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._onnx_writer import Draft

if TYPE_CHECKING:
    import onnx_ir as ir


def activation(draft: Draft, kind: str, value: ir.Value, *, name: str) -> ir.Value:
    """`kind` is one of those that `_reading` knows: silu, relu, gelu, gelu_tanh."""
    if kind == "silu":
        return silu(draft, value, name=name)
    if kind == "relu":
        return draft.op("Relu", [value], name=name)
    return draft.op("Gelu", [value], {"approximate": "tanh" if kind == "gelu_tanh" else "none"}, name=name)


def silu(draft: Draft, value: ir.Value, *, name: str) -> ir.Value:
    return draft.op("Mul", [value, draft.op("Sigmoid", [value], name=f"{name}.sigmoid")], name=name)


def softplus(draft: Draft, value: ir.Value, *, name: str) -> ir.Value:
    """log(1 + exp(x)), to the last digits wherever x is, as max(x, 0) + log(1 + u) with u = exp(-|x|).

    ONNX's own loses all digits of a small result in OpenVINO, and takes ONNX Runtime twice as long. What 1 + u
    rounds off is put back: log(1 + u) is log(w) + (u - (w - 1)) / w for the rounded w.
    """
    one = draft.number("float.one", 1.0)

    def op(kind: str, what: str, *inputs: ir.Value) -> ir.Value:
        return draft.op(kind, inputs, name=f"{name}.{what}" if what else name)

    u = op("Exp", "u", op("Neg", "negative", op("Abs", "absolute", value)))
    # 1 is the least that it can be: said so, because an engine would take the 1 that is added for the 1 that is
    # subtracted, and leave both out.
    w = op("Max", "w", op("Add", "sum", u, one), one)
    lost = op("Div", "lost", op("Sub", "rest", u, op("Sub", "rounded", w, one)), w)
    return op("Add", "", op("Relu", "line", value), op("Add", "bend", op("Log", "log", w), lost))
