"""ONNX models, good and hostile, made with the onnx package; and what that package sees in one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

helper, T = onnx.helper, onnx.TensorProto

WEIGHTS = np.arange(16, dtype=np.float32)


def outside(name: str = "w", dims: tuple[int, ...] = (16,), dtype: int = T.FLOAT, **entries: str) -> Any:
    """A tensor whose bytes are in weights.bin, unless `entries` say something else."""
    tensor = T(name=name, dims=dims, data_type=dtype, data_location=T.EXTERNAL)
    for key, value in {"location": "weights.bin", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def build(*tensors: Any, nodes: tuple[Any, ...] = (), functions: tuple[Any, ...] = (), **model: Any) -> Any:
    """y = x + w[0], and whatever else is given."""
    ports = [helper.make_tensor_value_info(name, T.FLOAT, ["batch", 16]) for name in ("x", "y")]
    adds = [helper.make_node("Add", ["x", tensors[0].name if tensors else "x"], ["y"]), *nodes]
    graph = helper.make_graph(adds, "g", ports[:1], ports[1:], list(tensors))
    model.setdefault("ir_version", 10)
    model.setdefault("opset_imports", [helper.make_opsetid("", 21)])
    return helper.make_model(graph, functions=list(functions), **model)


def save(folder: Path, model: Any) -> None:
    (folder / "m.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    if not os.path.lexists(folder / "weights.bin"):
        (folder / "weights.bin").write_bytes(WEIGHTS.tobytes())


def constant(value: Any, name: str = "c") -> Any:
    return helper.make_node("Constant", [], [name], **{"sparse_value" if hasattr(value, "indices") else "value": value})


def sparse(values: Any, dims: tuple[int, ...] = (32,)) -> Any:
    indices = helper.make_tensor("i", T.INT64, [16], np.arange(16))
    return onnx.SparseTensorProto(values=values, indices=indices, dims=dims)


def branch(depth: int) -> Any:
    """An If whose branches hold an If, `depth` deep."""
    out = helper.make_tensor_value_info("o", T.FLOAT, None)
    node = helper.make_node("Identity", ["x"], ["o"])
    for _ in range(depth):
        graph = helper.make_graph([node], "b", [], [out])
        node = helper.make_node("If", ["x"], ["o"], then_branch=graph, else_branch=graph)
    return node


def function(name: str, *calls: str, domain: str = "pkg.onnxscript.torch_lib") -> Any:
    nodes = [helper.make_node(call, ["a"], ["b"], domain=domain) for call in calls]
    return helper.make_function(domain, name, ["a"], ["b"], nodes, [helper.make_opsetid("", 21)])


def nested(depth: int) -> bytes:
    """If in If, written by hand: with both branches alike, onnx.helper would double the file with each level."""

    def field(number: int, data: bytes) -> bytes:
        size, length = len(data), b""
        while size > 127:
            size, length = size >> 7, length + bytes([size & 127 | 128])
        return bytes([number << 3 | 2]) + length + bytes([size]) + data

    graph = b""
    for _ in range(depth):
        graph = field(1, field(4, b"If") + field(5, field(6, graph)))
    return b"\x08\x0a" + field(7, graph) + field(8, b"\x10\x15")


def seen_by_onnx(model: Any) -> tuple[Counter[tuple[str, str]], set[tuple[str, str, int]]]:
    """Operators and external data as the onnx package sees them, by walking every message it has."""
    ops: Counter[tuple[str, str]] = Counter()
    external = set()

    def messages(part: Any) -> Iterator[Any]:
        yield part
        for descriptor, value in part.ListFields():
            if descriptor.message_type is not None:
                for item in value if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]:
                    yield from messages(item)

    for part in messages(model):
        if isinstance(part, onnx.NodeProto):
            ops["" if part.domain == "ai.onnx" else part.domain, part.op_type] += 1
        if isinstance(part, T) and part.data_location == T.EXTERNAL:
            entries = {entry.key: entry.value for entry in part.external_data}
            external.add((part.name, entries.get("location", ""), int(entries.get("offset", 0))))
    return ops, external
