"""ONNX Runtime's form of quantized recurrent models: what it computes with, and that it stays what the model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import built_decoders as engines
import numpy as np
import pytest
import torch_recurrent as tiny

from edgekit import registry
from edgekit.core import Graph, Recipe
from edgekit.workbench import graph as graphs

pytest.importorskip("torch", reason="the reference needs it")
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

SIZES: dict[str, Any] = {"input_size": 16, "hidden_size": 48, "head_size": 32, "outputs": None, "num_layers": 2}
INT8 = Recipe(weights="int8", activations="int8", method="rtn")
INT4 = Recipe(weights="int4", activations="int8", group_size=16, method="rtn")
LENGTHS, RAGGED = (9, 4, 7), [(4, 1, 3), (1, 1, 1), (1, 1, 2), (3, 1, 1)]  # each row has a step in every run


def compiled(folder: Path, graph: Graph, recipe: Recipe) -> tuple[tiny.Run, list[str]]:
    """The form in which the cpu target runs it, and its operators."""
    target = registry.find("targets", "cpu")
    model = target.compile(graphs.load(folder / graph.path), recipe, kind=graph.kind)
    (folder / "compiled.onnx").write_bytes(graphs.to_bytes(model))
    assert graphs.describe(model, "model", graph.path, {}, graph.states, graph.kind) == graph
    run = engines.onnxruntime(folder / "compiled.onnx", target.session_options(recipe, 1, {}))
    return run, [node.op_type for node in model.graph]


def test_a_row_does_not_depend_on_the_rows_and_steps_beside_it(tmp_path: Path) -> None:
    """Of which some are a hundred times as large; fed at once, in pieces, and alone."""
    source, _ = tiny.trained(tmp_path, "lstm", spread=0.15, **SIZES)
    graph = tiny.build(source, INT8)
    run, kinds = compiled(tmp_path, graph, INT8)
    rows = [row * factor for row, factor in zip(tiny.series(LENGTHS, 16), (1, 100, 10), strict=True)]
    together, _ = tiny.fed(run, graph, rows, [LENGTHS])
    pieces, _ = tiny.fed(run, graph, rows, RAGGED)
    for row, one, cut in zip(rows, together, pieces, strict=True):
        (alone,), _ = tiny.fed(run, graph, [row], [(len(row),)])
        np.testing.assert_allclose(one, alone, atol=1e-5)
        np.testing.assert_allclose(cut, alone, atol=1e-5)
    assert "LSTM" in kinds


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
    """But for what int8 activations of the head lose, which is less than the weights lost."""
    source, modules = tiny.trained(tmp_path, cell, spread=0.15, **SIZES | changes)
    graph = tiny.build(source, recipe)
    run, kinds = compiled(tmp_path, graph, recipe)
    rows = tiny.series(LENGTHS, 16)
    cuts = [LENGTHS] if changes.get("bidirectional") else RAGGED
    portable, _ = tiny.fed(engines.onnxruntime(tmp_path / graph.path), graph, rows, cuts)
    found, states = tiny.fed(run, graph, rows, cuts)
    assert cell.upper() in kinds
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


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("per", ["step", "end"])
def test_float_cells_heed_counts_by_themselves(tmp_path: Path, cell: str, per: str) -> None:
    source, _ = tiny.trained(tmp_path, cell, **SIZES | {"per": per})
    graph = tiny.build(source)
    run, kinds = compiled(tmp_path, graph, Recipe())
    assert not {"GatherND", "Concat", "Range"} & set(kinds)  # what looked the state up, and kept the gates shut
    rows = tiny.series(LENGTHS, 16)
    portable, wanted_states = tiny.fed(engines.onnxruntime(tmp_path / graph.path), graph, rows, RAGGED)
    found, states = tiny.fed(run, graph, rows, RAGGED)
    for y, wanted in zip(found, portable, strict=True):
        np.testing.assert_allclose(y, wanted, atol=1e-6)
    for name, wanted in wanted_states.items():
        np.testing.assert_allclose(states[name], wanted, atol=1e-6)
