"""Write an ONNX file piece by piece: nodes stay in memory, tensors go to the external data file at once.

Knows the format, and no model. Tensors start on pages, so that engines can map them; only small ones are in the
graph's own file. While one piece is written the next can be thought of. The graph's file is written last: where it is,
the rest is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from edgekit.core import Port

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

OPSET = 23  # the first with Attention, RotaryEmbedding and RMSNormalization, and the newest that every engine reads
IR_VERSION = 11
INLINE = 256  # bytes
PAGE = 4096


class Draft:
    """A graph under way, a context manager. Left by an error, it leaves no file."""

    def __init__(self, path: Path) -> None:
        self.path, self.weights = path, path.with_suffix(".bin")
        self._file: BinaryIO | None = None
        self._writer = ThreadPoolExecutor(1)
        self._written: Future[int] | None = None  # the last piece
        self._size = 0  # of the file, when that is written
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._overridable: list[ir.Value] = []

    def __enter__(self) -> Draft:
        self.path.unlink(missing_ok=True)
        self._file = self.weights.open("wb")
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        assert self._file is not None
        self._writer.shutdown()
        self._file.close()
        if kind is not None:
            self.weights.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> ir.Value:
        self.inputs.append(Port(name, dtype, tuple(shape)))
        self._inputs.append(_value(self.inputs[-1]))
        return self._inputs[-1]

    def output(self, name: str, value: ir.Value, shape: Sequence[int | str]) -> None:
        """Let `value`, float32 of that shape, be an output; it takes the output's name."""
        self.outputs.append(Port(name, "float32", tuple(shape)))
        made = _value(self.outputs[-1])
        value.name, value.type, value.shape = made.name, made.type, made.shape
        self._outputs.append(value)

    def op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str,
        notes: Mapping[str, str] | None = None,
    ) -> ir.Value:
        """The one output of a new node, which has the node's name; `notes` become the node's metadata."""
        return self.ops(kind, inputs, attributes, name=name, outputs=[name], notes=notes)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str,
        outputs: Sequence[str],
        notes: Mapping[str, str] | None = None,
    ) -> Sequence[ir.Value]:
        """The outputs of a new node, with their own names; one without a name is not computed."""
        import onnx_ir as ir

        metadata = dict(notes or {})
        node = ir.node(kind, inputs, attributes, name=name, num_outputs=len(outputs), metadata_props=metadata)
        self._nodes.append(node)
        for value, output in zip(node.outputs, outputs, strict=True):
            value.name = output
        return node.outputs

    def split(self, value: ir.Value, sizes: Sequence[int], *, name: str) -> Sequence[ir.Value]:
        """Parts of these sizes, along the last axis."""
        cut = self.ints(f"{name}.sizes", *sizes)
        outputs = [f"{name}.{part}" for part in range(len(sizes))]
        return self.ops("Split", [value, cut], {"axis": -1}, name=name, outputs=outputs)

    @contextmanager
    def body(self) -> Iterator[list[ir.Node]]:
        """Nodes that are made meanwhile are those of a loop's body: they go into this list, and not into the graph."""
        outer, self._nodes = self._nodes, []
        try:
            yield self._nodes
        finally:
            self._nodes = outer

    def tensor(self, name: str, array: Array) -> ir.Value:
        """An initializer with the content of `array`; one of that name is made once."""
        import onnx_ir as ir

        if name in self._initializers:
            return self._initializers[name]
        if array.nbytes <= INLINE:
            return self._initializer(name, ir.tensor(array, name=name))
        return self.stream(name, array.dtype.name, array.shape, [array])

    def ints(self, name: str, *numbers: int) -> ir.Value:
        """A small constant, int64 (n,)."""
        return self.tensor(name, np.asarray(numbers, np.int64))

    def number(self, name: str, number: float) -> ir.Value:
        """A float32 scalar."""
        return self.tensor(name, np.asarray(number, np.float32))

    def known(self, name: str) -> ir.Value | None:
        """The initializer of that name, if it was made."""
        return self._initializers.get(name)

    def stream(
        self, name: str, dtype: str, shape: Sequence[int], pieces: Iterable[Array], *, overridable: bool = False
    ) -> ir.Value:
        """An initializer whose bytes come in `pieces`, in order; `dtype` is numpy's name, int4 for packed bytes, or
        bfloat16. One that is overridable is an input too, which no engine takes for a constant.

        A piece must stay as it is: it is written while the next one comes.
        """
        self._put(memoryview(b"\0" * (-self._size % PAGE)))
        begin = self._size
        for piece in pieces:
            self._put(np.ascontiguousarray(piece).data.cast("B"))
        value = self._external(name, dtype, shape, begin, self._size - begin)
        if overridable:
            value.shape = value.const_value.shape
            self._overridable.append(value)
        return value

    def _put(self, data: memoryview) -> None:
        """One piece at a time waits to be written. Raises OSError where the one before could not be."""
        assert self._file is not None
        self._wait()
        self._written = self._writer.submit(self._file.write, data)
        self._size += data.nbytes

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()

    def alias(self, name: str, dtype: str, shape: Sequence[int], of: ir.Value) -> ir.Value:
        """An initializer that reads the bytes of another one as something else."""
        import onnx_ir as ir

        tensor = of.const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert tensor.offset is not None
        return self._external(name, dtype, shape, tensor.offset, tensor.length or 0)

    def _external(self, name: str, dtype: str, shape: Sequence[int], begin: int, size: int) -> ir.Value:
        import onnx_ir as ir

        kind = ir.DataType[{"float32": "FLOAT"}.get(dtype, dtype.upper())]
        assert size == -(-int(np.prod(shape, dtype=np.int64)) * kind.bitwidth // 8), name
        tensor = ir.ExternalTensor(
            self.weights.name, begin, size, kind, shape=ir.Shape(shape), name=name, base_dir=self.path.parent
        )
        return self._initializer(name, tensor)

    def _initializer(self, name: str, tensor: Any) -> ir.Value:
        import onnx_ir as ir

        assert name not in self._initializers, name
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
        self._initializers[name] = value
        return value

    def _in_order(self) -> list[ir.Node]:
        """What is made of weights alone first, if they may be overridden: ONNX Runtime, which cannot fold it then, goes
        backwards through the nodes, and comes to it when it is needed. Elsewhere it would make all of it beforehand."""
        if not self._overridable:
            return self._nodes
        known = set(self._initializers.values())
        first = []
        for node in self._nodes:
            if known.issuperset(node.inputs):
                known.update(node.outputs)
                first.append(node)
        return [*first, *(node for node in self._nodes if not known.issuperset(node.outputs))]

    def write(self, name: str) -> None:
        """The graph's own file; nothing can be added after."""
        import onnx_ir as ir

        assert self._file is not None
        self._wait()
        self._file.flush()
        graph = ir.Graph(
            [*self._inputs, *self._overridable],
            self._outputs,
            nodes=self._in_order(),
            initializers=list(self._initializers.values()),
            opset_imports={"": OPSET},
            name=name,
        )
        model = ir.Model(graph, ir_version=IR_VERSION, producer_name="edgekit")
        self.path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def _value(port: Port) -> ir.Value:
    import onnx_ir as ir

    kind = {"int64": ir.DataType.INT64, "float32": ir.DataType.FLOAT}[port.dtype]
    return ir.Value(name=port.name, type=ir.TensorType(kind), shape=ir.Shape(port.shape))
