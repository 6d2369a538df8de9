"""Real bundles of recurrent models that need no export: an LSTM with fixed weights, and the same LSTM in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import bundle as bundles
from edgekit import tasks
from edgekit.core import Bundle, Graph, Port, Recipe, Source, State, Variant

if TYPE_CHECKING:
    import pytest

FEATURES = ["speed", "load"]
HIDDEN = 5
NORMALIZE = {"mean": [2.0, -1.0], "std": [0.5, 4.0]}
SETTINGS: dict[str, dict[str, Any]] = {
    "values": {"outputs": ["a", "b", "c"], "denormalize": {"mean": [1.0, 0.0, -1.0], "std": [2.0, 1.0, 3.0]}},
    "forecast": {
        "outputs": ["speed"],
        "horizon": 2,
        "quantiles": [0.1, 0.5, 0.9],
        "denormalize": {"mean": [2.0], "std": [0.5]},
    },
    "labels": {"outputs": ["logits"], "labels": ["good", "worn", "a, b"]},
    "anomaly": {"outputs": ["score"], "threshold": 0.1},
}
RESULTS = {"values": 3, "forecast": 6, "labels": 3, "anomaly": 1}


def weights(results: int) -> dict[str, Any]:
    """In ONNX's order of gates: input, output, forget, cell."""
    rng = np.random.default_rng(0)
    shapes = {"W": (1, 4 * HIDDEN, 2), "R": (1, 4 * HIDDEN, HIDDEN), "B": (1, 8 * HIDDEN), "head": (HIDDEN, results)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def by_hand(x: Any, results: int) -> Any:
    """What the graph gives for normalized samples (time, 2): (time, results), in float64."""
    w = {name: array.astype(np.float64) for name, array in weights(results).items()}
    h, c, found = np.zeros(HIDDEN), np.zeros(HIDDEN), []
    bias = w["B"][0, : 4 * HIDDEN] + w["B"][0, 4 * HIDDEN :]
    for row in np.asarray(x, np.float64):
        i, o, f, g = np.split(w["W"][0] @ row + w["R"][0] @ h + bias, 4)
        i, o, f = (1 / (1 + np.exp(-gate)) for gate in (i, o, f))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        found.append(h @ w["head"])
    return np.stack(found)


def make(
    folder: Path,
    head: str = "values",
    *,
    per: str = "step",
    counted: bool = True,
    batched: bool = True,
    bidirectional: bool = False,
    **settings: Any,
) -> Path:
    """A bundle in a new folder, with an LSTM of two features."""
    folder.mkdir(parents=True)
    rows: int | str = "batch" if batched else 1
    results = RESULTS[head]
    x = Port("x", "float32", (rows, "time", 2))
    counts = (Port("counts", "int64", (rows,)),) * counted
    cells = () if bidirectional else tuple(Port(name, "float32", (1, rows, HIDDEN)) for name in ("h.0", "c.0"))
    after = tuple(Port(f"{port.name}.next", "float32", port.shape) for port in cells)
    y = Port("y", "float32", (rows, "time", results) if per == "step" else (rows, results))
    states = tuple(State(port.name, f"{port.name}.next") for port in cells)
    graph = Graph("model", "model.onnx", (x, *counts, *cells), (y, *after), states)
    _write_graph(folder / graph.path, graph, results, per)
    (task,) = (task for task in tasks.TASKS if (task.ingest, task.head) == ("series", head))
    told = {"features": FEATURES, "normalize": NORMALIZE, "missing": "hold", "rate": None, "per": per}
    told |= {"chunk_steps": 4, "streamable": True, **SETTINGS[head]}
    if bidirectional:
        told |= {"streamable": False, "why_not": "it reads a series from both ends"}
    made = Bundle(
        folder,
        Source("zoo:small", "lstm", folder, "", {"model_type": "lstm"}),
        task.name,
        task.ingest,
        "once" if bidirectional else task.loop,
        task.head,
        {**told, **settings},
        tuple(Variant(target, Recipe(), (graph,), {}, {"bytes": 2000}) for target in ("cpu", "openvino")),
    )
    bundles.write(made, folder, {})
    return folder


def series(count: int, seed: int = 0) -> Any:
    """Samples (count, 2) in the model's units."""
    return np.random.default_rng(seed).standard_normal((count, 2)) * NORMALIZE["std"] + NORMALIZE["mean"]


def shapes(session: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Those of `x` in all runs of a session from now on."""
    seen, run = list[tuple[int, ...]](), session.run

    def noted(feeds: Any, states: Any = None) -> Any:
        seen.append(feeds["x"].shape)
        return run(feeds, states)

    monkeypatch.setattr(session, "run", noted)
    return seen


def _write_graph(file: Path, graph: Graph, results: int, per: str) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    known = weights(results)
    both = not graph.states
    if both:
        known |= {name: np.concatenate([known[name]] * 2) for name in ("W", "R", "B")}
        known["head"] = np.concatenate([known["head"]] * 2)
    counted = any(port.name == "counts" for port in graph.inputs)
    given = ["steps", "W", "R", "B", "lengths" if counted else "", *([] if both else ["h.0", "c.0"])]
    made = ["all", "h.0.next", "c.0.next"]
    nodes = [helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2])]
    nodes += [helper.make_node("Cast", ["counts"], ["lengths"], to=TensorProto.INT32)] * counted
    kind = {"direction": "bidirectional"} if both else {}
    nodes.append(helper.make_node("LSTM", given, made, hidden_size=HIDDEN, **kind))
    if per == "step":  # (time, directions, batch, hidden)
        nodes.append(helper.make_node("Transpose", ["all"], ["turned"], perm=[2, 0, 1, 3]))
        nodes.append(helper.make_node("Reshape", ["turned", "flat"], ["hidden"]))
    else:
        nodes.append(helper.make_node("Transpose", ["h.0.next"], ["turned"], perm=[1, 0, 2]))
        nodes.append(helper.make_node("Reshape", ["turned", "flat"], ["hidden"]))
    nodes.append(helper.make_node("MatMul", ["hidden", "head"], ["y"]))
    wide = HIDDEN * (2 if both else 1)
    known["flat"] = np.array([0, 0, wide] if per == "step" else [0, wide], np.int64)

    def value(port: Port) -> Any:
        return helper.make_tensor_value_info(port.name, kinds[port.dtype], list(port.shape))

    built = helper.make_graph(
        nodes,
        "lstm",
        [value(port) for port in graph.inputs],
        [value(port) for port in graph.outputs],
        [numpy_helper.from_array(array, name) for name, array in known.items()],
    )
    onnx.save(helper.make_model(built, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), file)
