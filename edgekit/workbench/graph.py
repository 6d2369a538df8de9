"""Read ports of ONNX files, and store the weights of many graphs in one shared file.

Works on `onnx_ir` models, which map their weights instead of reading them. Knows no architecture and no engine;
what a target wants rewritten is in `targets/`. Only the workbench imports onnx: a device never needs this file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgekit.core import Graph, Port, State

if TYPE_CHECKING:
    import onnx_ir as ir

WEIGHTS = "weights.bin"
INLINE = 256  # bytes: smaller tensors stay in the graph's own file
PAGE = 4096  # engines map an initializer only where it starts on a page


def load(path: Path) -> ir.Model:
    """The model, its weights mapped."""
    import onnx_ir as ir

    return ir.load(path)


def describe(
    model: ir.Model,
    name: str,
    path: str,
    proven: dict[str, tuple[int, ...]],
    states: tuple[State, ...] = (),
    kind: str = "plain",
) -> Graph:
    """The Graph noun of a model that will lie at `path` in a bundle."""
    inputs, outputs = tuple(map(_port, model.graph.inputs)), tuple(map(_port, model.graph.outputs))
    return Graph(name, path, inputs, outputs, states, proven, kind=kind)


def fingerprint(model: ir.Model) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Equal for two forms of one model that no pass has told apart: each node's domain, operator and outputs."""
    return tuple(
        (node.domain, node.op_type, tuple(str(output.name) for output in node.outputs)) for node in model.graph
    )


def _port(value: ir.Value) -> Port:
    assert value.name is not None
    assert value.dtype is not None
    assert value.shape is not None
    shape = tuple(axis if isinstance(axis, int) else str(axis.value) for axis in value.shape)
    return Port(value.name, value.dtype.numpy().name, shape)


def pack(models: Mapping[str, ir.Model], folder: Path) -> None:
    """Write each model to its path under `folder`; every distinct tensor goes once into `weights.bin`.

    Same models, same bytes. Each tensor starts on a page, so that an engine can map it.
    """
    import onnx_ir as ir

    with (folder / WEIGHTS).open("wb") as out:
        packed = _Packed(out)
        for path, model in models.items():
            for value in _heavy(model):
                tensor = value.const_value
                assert tensor is not None
                offset, length = packed.place(tensor)
                value.const_value = ir.ExternalTensor(
                    WEIGHTS,
                    offset,
                    length,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape),
                    name=value.name,
                    base_dir=folder,
                )
            _forget(model)
            (folder / path).write_bytes(to_bytes(model))


class _Packed:
    """The file of weights while it is written: what lies where (offset, length), by its content and by its source."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._contents: dict[bytes, tuple[int, int]] = {}
        self._sources: dict[tuple[str, int, int], tuple[int, int]] = {}

    def place(self, tensor: ir.TensorProtocol) -> tuple[int, int]:
        """Where its bytes are from now on. Forms of one model read the same file, whose bytes are looked at once."""
        import onnx_ir as ir

        if not isinstance(tensor, ir.ExternalTensor):
            return self._written(tensor)
        source = str(tensor.path), tensor.offset or 0, tensor.nbytes
        if source not in self._sources:
            self._sources[source] = self._written(tensor)
        return self._sources[source]

    def _written(self, tensor: ir.TensorProtocol) -> tuple[int, int]:
        data = tensor.tobytes()
        key = hashlib.sha256(data).digest()
        if key not in self._contents:
            self._out.seek(-self._out.tell() % PAGE, 1)
            self._contents[key] = self._out.tell(), len(data)
            self._out.write(data)
        return self._contents[key]


def to_bytes(model: ir.Model) -> bytes:
    """The content of the model's .onnx file; same model, same bytes. Weights that are in a file of their own stay."""
    import onnx_ir as ir

    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def _heavy(model: ir.Model) -> Iterator[ir.Value]:
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.nbytes > INLINE:
            yield value


def _forget(model: ir.Model) -> None:
    """Drop what the exporter noted for its own debugging: stack traces and paths of the machine that traced."""
    model.metadata_props.clear()
    model.doc_string = None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None


def weight(value: Any) -> ir.Value | None:
    """The value if it is an initializer with data, else None."""
    return value if value is not None and value.is_initializer() and value.const_value is not None else None


def initializer(model: ir.Model, name: str, array: Any) -> ir.Value:
    """A new initializer of that name, or the one that is there already."""
    import onnx_ir as ir

    if name in model.graph.initializers:
        return model.graph.initializers[name]
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def op(
    before: ir.Node,
    kind: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str,
    outputs: int = 1,
) -> list[ir.Value]:
    """What a new node in front of `before` gives: called after the node, and numbered where it is several."""
    import onnx_ir as ir

    assert before.graph is not None
    node = ir.node(kind, inputs, attributes or {}, name=name, num_outputs=outputs)
    for number, value in enumerate(node.outputs):
        value.name = f"{name}.{number}" if outputs > 1 else name
    before.graph.insert_before(before, node)
    return list(node.outputs)


def drop_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that nothing reads any more."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
