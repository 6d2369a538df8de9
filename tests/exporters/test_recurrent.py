"""Recurrent graphs against torch: every cell and head, on two engines, step by step, in chunks, and with padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import built_decoders as engines
import numpy as np
import pytest
import torch_recurrent as tiny

from edgekit import registry
from edgekit.core import Recipe
from edgekit.quantize import blocks
from edgekit.workbench import graph as graphs

torch = pytest.importorskip("torch", reason="the reference needs it")
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

EXACT = 3e-6  # float32; numbers reach 2
# How rows of 9, 5 and 7 steps are fed: whole, in ragged pieces some of which are empty, and one by one.
LENGTHS = (9, 5, 7)
WHOLE = [LENGTHS]
RAGGED = [(4, 0, 3), (1, 5, 1), (0, 0, 2), (4, 0, 1)]
SINGLE = [tuple(int(step < length) for length in LENGTHS) for step in range(max(LENGTHS))]
STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("rnn", {}),
    ("rnn", {"nonlinearity": "relu", "num_layers": 2, "per": "end"}),
    ("gru", {"num_layers": 3}),
    ("gru", {"bias": False, "per": "end"}),
    ("lstm", {}),
    ("lstm", {"num_layers": 3, "per": "end"}),
    ("lstm", {"bias": False, "num_layers": 2}),
    ("lstm", {"proj_size": 4}),
    ("lstm", {"proj_size": 2, "num_layers": 2, "per": "end"}),
    ("lstm", {"head": "forecast", "horizon": 3, "quantiles": [0.1, 0.5, 0.9]}),
    ("gru", {"head": "classification", "labels": ["still", "walking", "running", "falling"]}),
    ("lstm", {"head": "anomaly"}),
    ("lstm", {"head": "anomaly", "proj_size": 2, "num_layers": 2}),
    ("gru", {"head": "anomaly", "score": "reconstruction"}),
]
ONCE: list[tuple[str, dict[str, Any]]] = [
    ("rnn", {"num_layers": 2}),
    ("gru", {"per": "end"}),
    ("lstm", {"num_layers": 2}),
    ("lstm", {"num_layers": 2, "proj_size": 4, "per": "end"}),
    ("lstm", {"head": "anomaly", "score": "reconstruction"}),
    ("gru", {"head": "anomaly", "score": "reconstruction", "per": "end"}),
]
each_engine = pytest.mark.parametrize("engine", engines.ENGINES)


def told(case: Any) -> str:
    return case if isinstance(case, str) else "-".join(str(value) for value in case.values())[:40]


@each_engine
@pytest.mark.parametrize(("cell", "changes"), STREAMS, ids=told)
def test_steps_and_chunks_give_what_torch_gives(
    tmp_path: Path, engine: str, cell: str, changes: dict[str, Any]
) -> None:
    source, modules = tiny.trained(tmp_path, cell, **changes)
    graph = tiny.build(source)
    run = engines.ENGINES[engine](tmp_path / graph.path)
    rows = tiny.series(LENGTHS)
    wanted = [modules.whole(row) for row in rows]
    assert min(np.ptp(y) for y, _ in wanted) > 0.01
    for cuts in (WHOLE, RAGGED, SINGLE):
        found, states = tiny.fed(run, graph, rows, cuts)
        for number, (y, last) in enumerate(wanted):
            assert np.abs(found[number] - y).max() <= EXACT, (cuts, number)
            for name, value in {} if "proj_size" in changes else last.items():
                assert np.abs(states[name][:, number] - value[:, 0]).max() <= EXACT, (cuts, number, name)


@each_engine
@pytest.mark.parametrize(("cell", "changes"), ONCE, ids=told)
def test_both_directions_are_read_at_once(tmp_path: Path, engine: str, cell: str, changes: dict[str, Any]) -> None:
    source, modules = tiny.trained(tmp_path, cell, bidirectional=True, **changes)
    graph = tiny.build(source)
    assert graph.states == ()
    run = engines.ENGINES[engine](tmp_path / graph.path)
    for lengths in (LENGTHS, (1,), (4, 4)):
        rows = tiny.series(lengths)
        found, _ = tiny.fed(run, graph, rows, [lengths])
        for row, y in zip(rows, found, strict=True):
            assert np.abs(y - modules.whole(row)[0]).max() <= EXACT, lengths


@each_engine
def test_a_row_that_is_fed_nothing_keeps_its_state_for_long(tmp_path: Path, engine: str) -> None:
    """Beside a row of a thousand steps: to the bit, of all states."""
    source, _ = tiny.trained(tmp_path, "lstm", num_layers=2)
    graph = tiny.build(source)
    run = engines.ENGINES[engine](tmp_path / graph.path)
    _, before = tiny.feed(run, graph, tiny.series((3, 3)), tiny.zeros(graph, 2))
    _, after = tiny.feed(run, graph, tiny.series((1000, 0)), before)
    for name, value in after.items():
        assert np.abs(value[:, 1] - before[name][:, 1]).max() <= 1e-7, name
        assert np.abs(value[:, 0] - before[name][:, 0]).max() > 0.01, name


def test_an_anomaly_at_the_end_is_the_mean_of_what_was_fed(tmp_path: Path) -> None:
    source, modules = tiny.trained(tmp_path, "gru", head="anomaly", per="end")
    graph = tiny.build(source)
    rows = tiny.series(LENGTHS)
    found, _ = tiny.fed(engines.onnxruntime(tmp_path / graph.path), graph, rows, WHOLE)
    for row, y in zip(rows, found, strict=True):
        assert y.shape == (1,)
        assert y == pytest.approx(modules.whole(row)[0], abs=EXACT)


def test_ports_are_those_of_the_contract(tmp_path: Path) -> None:
    graph = tiny.build(tiny.trained(tmp_path, "lstm", num_layers=2)[0])
    names = ["h.0", "c.0", "h.1", "c.1"]
    assert [port.name for port in graph.inputs] == ["x", "counts", *names]
    assert [port.name for port in graph.outputs] == ["y", *(f"{name}.next" for name in names)]
    assert {port.shape for port in (*graph.inputs[2:], *graph.outputs[1:])} == {(1, "batch", tiny.HIDDEN)}
    assert graph.inputs[0].shape == ("batch", "time", tiny.FEATURES)
    assert graph.outputs[0].shape == ("batch", "time", 2)
    assert {(state.axis, state.init) for state in graph.states} == {(None, 0.0)}
    written = graphs.describe(graphs.load(tmp_path / graph.path), "model", graph.path, {}, graph.states, graph.kind)
    assert written == graph


def test_a_head_may_lack_its_bias_and_names_their_prefix(tmp_path: Path) -> None:
    source, modules = tiny.trained(tmp_path, "gru", head_bias=False)
    arrays = {name: value.numpy() for name, value in modules.rnn.state_dict().items()}
    engines.save(tmp_path / "model.safetensors", arrays | {"head.weight": modules.head.weight.detach().numpy()})
    graph = tiny.build(source)
    rows = tiny.series(LENGTHS)
    found, _ = tiny.fed(engines.onnxruntime(tmp_path / graph.path), graph, rows, WHOLE)
    assert np.abs(found[0] - modules.whole(rows[0])[0]).max() <= EXACT


def test_made_up_weights_make_a_graph_too(tmp_path: Path) -> None:
    source = engines.as_source(tmp_path, tiny.config_of("lstm", proj_size=4), random=True)
    graph = tiny.build(source)
    found, _ = tiny.fed(engines.onnxruntime(tmp_path / graph.path), graph, tiny.series(LENGTHS), RAGGED)
    assert all(np.ptp(y) > 0.01 for y in found)


# Quantized


def wide(folder: Path, cell: str, **changes: Any) -> tuple[Any, tiny.Torch]:
    """Large enough to be quantized: 1,024 numbers in every matrix but the head's."""
    sizes = {"input_size": 32, "hidden_size": 64, "head_size": 20, "outputs": None}
    return tiny.trained(folder, cell, spread=0.15, **sizes | changes)


@each_engine
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(("weights", "group"), [("int8", None), ("int4", 32), ("int8", 16)])
def test_quantized_weights_are_those_of_the_blocks(
    tmp_path: Path, engine: str, cell: str, weights: str, group: int | None
) -> None:
    """Against torch with the same rounded weights in it: nothing is lost but what rounding loses."""
    source, modules = wide(tmp_path, cell, num_layers=2)
    graph = tiny.build(source, Recipe(weights=weights, group_size=group, method="rtn"))
    rows = tiny.series(LENGTHS, 32)
    plain = [modules.whole(row)[0] for row in rows]
    with torch.no_grad():
        for parameter in (*modules.rnn.parameters(), *modules.head.parameters()):
            if parameter.dim() == 2:
                found = blocks.quantize(parameter.numpy(), blocks.BITS[weights], group or parameter.shape[1], 1)
                parameter.copy_(torch.from_numpy(blocks.dequantize(*found, 1)))
    found, _ = tiny.fed(engines.ENGINES[engine](tmp_path / graph.path), graph, rows, RAGGED)
    for row, y, exact in zip(rows, found, plain, strict=True):
        wanted = modules.whole(row)[0]
        assert np.abs(y - wanted).max() <= 1e-5
        assert np.abs(wanted - exact).max() > 1e-4


@pytest.mark.parametrize(("weights", "most"), [("int8", 0.30), ("int4", 0.19)])
def test_quantized_weights_are_small(tmp_path: Path, weights: str, most: float) -> None:
    source, _ = wide(tmp_path, "lstm", hidden_size=256)
    sizes = []
    for recipe in (Recipe(), Recipe(weights=weights, group_size=32, method="rtn")):
        tiny.build(source, recipe)
        sizes.append((tmp_path / "model.bin").stat().st_size)
    assert sizes[1] <= most * sizes[0]


def test_a_recipe_names_weights(tmp_path: Path) -> None:
    source, modules = wide(tmp_path, "lstm")
    names = ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"]
    rows = tiny.series(LENGTHS, 32)

    def lost(**told: Any) -> float:
        graph = tiny.build(source, Recipe(weights="int4", group_size=32, method="rtn", **told))
        found, _ = tiny.fed(engines.onnxruntime(tmp_path / graph.path), graph, rows, WHOLE)
        return float(max(np.abs(y - modules.whole(row)[0]).max() for row, y in zip(rows, found)))

    assert lost(skip=tuple(names)) <= EXACT < 2 * lost(overrides=dict.fromkeys(names, "int8")) < lost()


def test_rows_that_blocks_do_not_divide_are_held_in_int8(tmp_path: Path) -> None:
    source, modules = wide(tmp_path, "gru", input_size=27, hidden_size=52)
    said: list[str] = []
    recipe = Recipe(weights="int4", group_size=32, method="rtn")
    graph = registry.exporter("gru").build(source, recipe, tmp_path / "model.onnx", said.append)
    assert "rnn.weight_hh_l0: rows of 52 are not made of blocks of 32, so they are held in int8" in said
    model = graphs.load(tmp_path / graph.path)
    kinds = {name: value.dtype.name for name, value in model.graph.initializers.items() if name.endswith("l0")}
    assert kinds["rnn.weight_ih_l0"] == kinds["rnn.weight_hh_l0"] == "INT8"
    rows = tiny.series(LENGTHS, 27)
    found, _ = tiny.fed(engines.onnxruntime(tmp_path / graph.path), graph, rows, WHOLE)
    assert np.abs(found[0] - modules.whole(rows[0])[0]).max() <= 0.05
