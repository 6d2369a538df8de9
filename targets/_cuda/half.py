"""A graph pass for the GPU: a decoder in float32 -> float16 or bfloat16, in place; logits stay float32.

Weights, caches and products are in 16 bits: that is what bounds the speed, and all that GroupQueryAttention takes. Kept
in float32 is what costs little and where 16 bits would add up:

- the sums along the layers (the residual stream): each layer rounds them again, and in some models they pass 65504,
  where float16 ends;
- what reads these sums without multiplying by a matrix: the norms, and the choice of positions;
- what is done to logits behind the last product (a softcap, a divisor), and the logits.

Softmax is inside GroupQueryAttention, which computes it in float32, as norms of 16 bits (of single heads) do theirs.
Knows no architecture: it goes by operators and wiring.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.workbench import graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

# In 16 bits whatever they read.
PRODUCTS = {"MatMul", "MatMulNBits", "Gemm", "GroupQueryAttention", "RotaryEmbedding", "DequantizeLinear"}
# Their output is no float whatever they read.
NO_FLOAT = {"Shape", "Size", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf", "ArgMax"}
CHUNK = 1 << 22  # numbers that are converted at once


def halve(model: ir.Model, kind: ir.DataType) -> None:
    """Rewrite for `kind`, FLOAT16 or BFLOAT16. Weights are converted when they are written, one at a time; one that
    does not fit raises UnsupportedError then.
    """
    _Halving(model, kind).rewrite()
    graph.drop_unused(model)


class _Halving:
    """Values are seen in the graph's order; `kinds` has the float ones and what each is by then."""

    def __init__(self, model: ir.Model, kind: ir.DataType) -> None:
        import onnx_ir as ir

        self.model, self.kind, self.float = model, kind, ir.DataType.FLOAT
        self.kinds: dict[ir.Value, ir.DataType] = {}
        self._as: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._behind = _behind_products(model)

    def rewrite(self) -> None:
        import onnx_ir as ir

        for value in self.model.graph.inputs:
            if value.dtype == self.float:
                value.type = ir.TensorType(self.kind)
                self.kinds[value] = self.kind
        for node in list(self.model.graph):
            self._node(node)
        for value in list(self.model.graph.outputs):
            self._output(value)

    def _node(self, node: ir.Node) -> None:
        """Let the node compute in 16 bits or in float32, and all its float inputs be that."""
        floats = [place for place, value in enumerate(node.inputs) if self._is_float(value)]
        if node.op_type == "Cast":
            self._cast(node)
            return
        if not floats:
            self._made(node, self.float, known=True)
            return
        kind = self.float if self._is_wide(node, floats) else self.kind
        for place in floats:
            node.replace_input_with(place, self._in(node.inputs[place], kind, node))
        if node.op_type not in NO_FLOAT:
            self._made(node, kind)

    def _cast(self, node: ir.Node) -> None:
        """One to float32 becomes one to what is computed in there; any other stays."""
        import onnx_ir as ir

        if node.attributes["to"].as_int() == self.float:
            kind = self.float if node in self._behind else self.kind
            node.attributes["to"] = ir.AttrInt64("to", kind)
            self._made(node, kind)

    def _is_wide(self, node: ir.Node, floats: list[int]) -> bool:
        """Whether the node is one of those that the module's docstring keeps in float32."""
        if node.op_type in PRODUCTS:
            return False
        computed = [node.inputs[place] for place in floats if not _is_constant(node.inputs[place])]
        if node in self._behind or (node.op_type == "Add" and len(computed) == 2):
            return True
        return any(self.kinds[value] == self.float for value in computed if value is not None)

    def _made(self, node: ir.Node, kind: ir.DataType, *, known: bool = False) -> None:
        """The node's outputs are of that kind; `known`: only those that say of themselves that they are float32."""
        import onnx_ir as ir

        for value in node.outputs:
            if value.dtype == self.float or (value.dtype is None and not known):
                value.type = ir.TensorType(kind)
                self.kinds[value] = kind

    def _is_float(self, value: ir.Value | None) -> bool:
        return value is not None and (value in self.kinds or (_is_constant(value) and value.dtype == self.float))

    def _in(self, value: ir.Value | None, kind: ir.DataType, before: ir.Node) -> ir.Value:
        """The value in that kind: itself, a constant of its own, or a Cast before the node."""
        import onnx_ir as ir

        assert value is not None
        if self.kinds.get(value, self.float) == kind:
            return value
        if (value, kind) not in self._as:
            if _is_constant(value):
                made = self._constant(value)
            else:
                cast = ir.node("Cast", [value], {"to": kind}, name=f"{value.name}.{kind.name.lower()}")
                self.model.graph.insert_before(before, cast)
                made = cast.outputs[0]
                made.name, made.type, made.shape = cast.name, ir.TensorType(kind), value.shape
            self.kinds[made] = kind
            self._as[value, kind] = made
        return self._as[value, kind]

    def _constant(self, value: ir.Value) -> ir.Value:
        import onnx_ir as ir

        tensor, name = value.const_value, f"{value.name}.{self.kind.name.lower()}"
        assert tensor is not None
        shape = ir.Shape(tensor.shape)
        lazy = ir.LazyTensor(partial(_narrowed, tensor, self.kind, name), self.kind, shape, name=name)
        made = ir.Value(name=name, type=ir.TensorType(self.kind), shape=shape, const_value=lazy)
        self.model.graph.register_initializer(made)
        return made

    def _output(self, value: ir.Value) -> None:
        """Caches are what they are; anything else is given out as float32."""
        import onnx_ir as ir

        producer = value.producer()
        if self.kinds.get(value) != self.kind or producer is None or producer.op_type == "GroupQueryAttention":
            return
        name, place = value.name, self.model.graph.outputs.index(value)
        value.name = f"{name}.{self.kind.name.lower()}"
        cast = ir.node("Cast", [value], {"to": self.float}, name=f"{name}.float")
        self.model.graph.append(cast)
        made = cast.outputs[0]
        made.name, made.type, made.shape = name, ir.TensorType(self.float), value.shape
        self.model.graph.outputs[place] = made


def _behind_products(model: ir.Model) -> set[ir.Node]:
    """Nodes between the last products and the outputs; none of those from which a cache is given out."""
    found: set[ir.Node] = set()
    todo = [value.producer() for value in model.graph.outputs]
    while todo:
        node = todo.pop()
        if node is None or node in found or node.op_type in PRODUCTS:
            continue
        found.add(node)
        todo += [value.producer() for value in node.inputs if value is not None]
    return found


def _narrowed(tensor: ir.TensorProtocol, kind: ir.DataType, name: str) -> ir.Tensor:
    """The tensor rounded to the nearest. Raises UnsupportedError for a number that is beyond the kind's largest."""
    import onnx_ir as ir

    whole: Array = tensor.numpy()
    made = np.empty(whole.shape, kind.numpy())
    source, target = whole.reshape(-1), made.reshape(-1)
    for first in range(0, source.size, CHUNK):
        piece = slice(first, first + CHUNK)
        with np.errstate(over="ignore"):
            target[piece] = source[piece].astype(kind.numpy())
        if not np.isfinite(target[piece]).all():
            raise _too_large(name, float(np.abs(source[piece]).max()), kind)
    return ir.Tensor(made, dtype=kind, name=name)


def _too_large(name: str, number: float, kind: ir.DataType) -> UnsupportedError:
    weight, shown = name.removesuffix(f".{kind.name.lower()}"), {"FLOAT16": "fp16", "BFLOAT16": "bf16"}[kind.name]
    hint = "export it in bf16, which reaches as far as float32" if shown == "fp16" else "export it for another target"
    return UnsupportedError(f"{shown} cannot hold {weight!r}: it has a {number:g}", hint=hint)


def _is_constant(value: Any) -> bool:
    return graph.weight(value) is not None
