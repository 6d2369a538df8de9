"""A recurrent model in the portable form, written node by node: small and random, one graph for steps and chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.core import Graph, Port, State

FEATURES, HIDDEN, RESULTS, LAYERS = 3, 8, 2, 2


def write(folder: Path, *, counts: bool = False, rows: int | str = "batch") -> Graph:
    """Two layers of LSTM in `folder`/recurrent.onnx. `counts`: with the input of that name; `rows`: a fixed batch."""
    draw, nodes, tensors, states = np.random.default_rng(0), list[Any](), list[Any](), list[State]()
    inputs = [Port("x", "float32", (rows, "time", FEATURES))]
    outputs = [Port("y", "float32", (rows, "time", RESULTS))]
    lengths = ""
    if counts:
        inputs.append(Port("counts", "int64", (rows,)))
        nodes.append(helper.make_node("Cast", ["counts"], [lengths := "lengths"], to=TensorProto.INT32))

    def tensor(name: str, *shape: int) -> str:
        tensors.append(numpy_helper.from_array(draw.normal(0, 0.4, shape).astype(np.float32), name))
        return name

    tensors.append(numpy_helper.from_array(np.array([1]), "directions"))
    nodes.append(helper.make_node("Transpose", ["x"], ["in.0"], perm=[1, 0, 2]))
    for layer in range(LAYERS):
        wide = HIDDEN if layer else FEATURES
        weights = [
            tensor(f"W.{layer}", 1, 4 * HIDDEN, wide),
            tensor(f"R.{layer}", 1, 4 * HIDDEN, HIDDEN),
            tensor(f"B.{layer}", 1, 8 * HIDDEN),
        ]
        kept = [f"h.{layer}", f"c.{layer}"]
        read = [f"in.{layer}", *weights, lengths, *kept]
        written = [f"out.{layer}", *(f"{name}.next" for name in kept)]
        nodes.append(helper.make_node("LSTM", read, written, hidden_size=HIDDEN))
        nodes.append(helper.make_node("Squeeze", [f"out.{layer}", "directions"], [f"in.{layer + 1}"]))
        for name in kept:
            inputs.append(Port(name, "float32", (1, rows, HIDDEN)))
            outputs.append(Port(f"{name}.next", "float32", (1, rows, HIDDEN)))
            states.append(State(name, f"{name}.next"))
    nodes.append(helper.make_node("Transpose", [f"in.{LAYERS}"], ["last"], perm=[1, 0, 2]))
    nodes.append(helper.make_node("MatMul", ["last", tensor("head", HIDDEN, RESULTS)], ["y"]))
    ports = ([_value(port) for port in side] for side in (inputs, outputs))
    made = helper.make_graph(nodes, "recurrent", *ports, tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.save(model, folder / "recurrent.onnx")
    return Graph("model", "recurrent.onnx", tuple(inputs), tuple(outputs), tuple(states))


def reference(folder: Path, graph: Graph) -> Callable[[Any], Any]:
    """What the graph gives for a whole series (time, features), from the start: (time, results)."""
    import onnxruntime

    engine = onnxruntime.InferenceSession(folder / graph.path)
    states = {state.into: np.zeros((1, 1, HIDDEN), np.float32) for state in graph.states}

    def whole(series: Any) -> Any:
        feeds = {"x": np.asarray(series, np.float32)[None], **states}
        if any(port.name == "counts" for port in graph.inputs):
            feeds["counts"] = np.array([len(series)])
        return engine.run(["y"], feeds)[0][0]

    return whole


def _value(port: Port) -> Any:
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    return helper.make_tensor_value_info(port.name, kinds[port.dtype], port.shape)
