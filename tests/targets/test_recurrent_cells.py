"""ONNX Runtime's form of quantized recurrent models: what it computes with, and that it stays what the model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import built_decoders as engines
import numpy as np
import pytest
import torch_recurrent as tiny

from edgekit import graph as graphs
from edgekit import registry
from edgekit.core import Graph, Recipe

pytest.importorskip("torch", reason="the reference needs it")
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

SIZES: dict[str, Any] = {"input_size": 16, "hidden_size": 48, "head_size": 32, "outputs": None, "num_layers": 2}
INT8 = Recipe(weights="int8", activations="int8", method="rtn")
INT4 = Recipe(weights="int4", activations="int8", group_size=16, method="rtn")
LENGTHS, RAGGED = (9, 5, 7), [(4, 0, 3), (1, 5, 1), (0, 0, 2), (4, 0, 1)]


def compiled(folder: Path, graph: Graph, recipe: Recipe) -> tuple[tiny.Run, list[str]]:
    """The form in which the cpu target runs it, and its operators."""
    model = registry.find("targets", "cpu").compile(graphs.load(folder / graph.path), recipe)
    (folder / "compiled.onnx").write_bytes(graphs.to_bytes(model))
    assert graphs.describe(model, "model", graph.path, {}, graph.states) == graph
    return engines.onnxruntime(folder / "compiled.onnx"), [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("cell", "recipe", "changes"),
    [
        ("lstm", INT8, {}),
        ("lstm", INT8, {"per": "end", "proj_size": 32}),
        ("lstm", INT8, {"bidirectional": True}),
        ("lstm", INT8, {"bias": False, "num_layers": 1}),
        ("lstm", INT4, {}),
        ("gru", INT8, {}),
        ("gru", INT4, {"per": "end"}),
        ("rnn", INT8, {"nonlinearity": "relu"}),
        ("rnn", INT4, {"bidirectional": True}),
    ],
)
def test_it_gives_what_the_portable_graph_gives(
    tmp_path: Path, cell: str, recipe: Recipe, changes: dict[str, Any]
) -> None:
    """But for what int8 activations lose, which is less than the weights lost."""
    source, modules = tiny.trained(tmp_path, cell, spread=0.15, **SIZES | changes)
    graph = tiny.build(source, recipe)
    run, kinds = compiled(tmp_path, graph, recipe)
    rows = tiny.series(LENGTHS, 16)
    cuts = [LENGTHS] if changes.get("bidirectional") else RAGGED
    portable, _ = tiny.fed(engines.onnxruntime(tmp_path / graph.path), graph, rows, cuts)
    found, states = tiny.fed(run, graph, rows, cuts)
    integer = cell == "lstm" and recipe is INT8
    assert ("DynamicQuantizeLSTM" in kinds) == integer
    assert ("LSTM" in kinds) == (cell == "lstm" and not integer)
    for row, y, wanted in zip(rows, found, portable, strict=True):
        lost = np.abs(wanted - modules.whole(row)[0]).max()
        assert lost > 1e-4
        assert np.abs(y - wanted).max() <= max(2 * lost, 0.02)
    assert all(np.isfinite(value).all() for value in states.values())


def test_what_is_multiplied_out_once_is_exact_and_small(tmp_path: Path) -> None:
    source, _ = tiny.trained(tmp_path, "gru", **SIZES)
    graph = tiny.build(source, INT4)
    run, kinds = compiled(tmp_path, graph, INT4)
    assert kinds.count("DequantizeLinear") == 1  # the head's: ONNX Runtime multiplies by blocks itself
    rows = tiny.series(LENGTHS, 16)
    portable, _ = tiny.fed(engines.onnxruntime(tmp_path / graph.path), graph, rows, RAGGED)
    found, _ = tiny.fed(run, graph, rows, RAGGED)
    assert max(np.abs(y - wanted).max() for y, wanted in zip(found, portable)) <= 1e-5


def test_integer_cells_keep_the_state_of_a_row_of_no_steps(tmp_path: Path) -> None:
    source, _ = tiny.trained(tmp_path, "lstm", **SIZES)
    graph = tiny.build(source, INT8)
    run, _ = compiled(tmp_path, graph, INT8)
    _, before = tiny.feed(run, graph, tiny.series((3, 3), 16), tiny.zeros(graph, 2))
    _, after = tiny.feed(run, graph, tiny.series((40, 0), 16), before)
    for name, value in after.items():
        assert np.array_equal(value[:, 1], before[name][:, 1]), name
        assert np.abs(value[:, 0] - before[name][:, 0]).max() > 0.01, name


def test_a_graph_without_quantized_cells_stays_as_it_is(tmp_path: Path) -> None:
    source, _ = tiny.trained(tmp_path, "lstm")
    graph = tiny.build(source)
    before = graphs.fingerprint(graphs.load(tmp_path / graph.path))
    assert before == graphs.fingerprint(
        registry.find("targets", "cpu").compile(graphs.load(tmp_path / graph.path), INT8)
    )
