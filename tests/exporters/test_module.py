"""torch modules and ONNX files with named states: what is made of them, what it is held against, what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import built_decoders as engines
import numpy as np
import pytest
import torch_recurrent as tiny

import edgekit
from edgekit import registry
from edgekit.core import Graph, Recipe, Source
from edgekit.errors import EdgeKitError, UnsupportedError, UsageError, VerificationError
from edgekit.source import onnx_file, resolve
from edgekit.workbench import graph as graphs
from edgekit.workbench.prove import check_steps, prove

torch = pytest.importorskip("torch", reason="it makes the modules")
nn = torch.nn
WIDE, HIDDEN = 3, 6


@pytest.fixture(autouse=True)
def workbench() -> Iterator[None]:
    """torch.export warns of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Lstm(nn.Module):
    """Two layers in one state, with a head."""

    def __init__(self, hidden: int = HIDDEN, wide: int = WIDE, rows_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.rnn = nn.LSTM(wide, hidden, 2, batch_first=rows_first)
        self.head = nn.Linear(hidden, 2)

    def forward(self, x: Any, h: Any, c: Any) -> Any:
        y, (h, c) = self.rnn(x, (h, c))
        return self.head(y), h, c


class Stack(nn.Module):
    """Any other recurrent layers."""

    def __init__(self, kind: Any, **told: Any) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.rnn, self.head = kind(WIDE, HIDDEN, batch_first=True, **told), nn.Linear(HIDDEN, 2)

    def forward(self, x: Any, h: Any) -> Any:
        y, h = self.rnn(x, h)
        return self.head(y), h


class Wide(nn.Module):
    """Many features, as a spectrogram has."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(features, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Any, h: Any) -> Any:
        y, h = self.rnn(x, h)
        return self.head(y), h


class Cell(nn.Module):
    """One step, (batch, features), and a state that is not a recurrent layer's: a running mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.cell, self.head = nn.GRUCell(WIDE, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, sample: Any, mean: Any, hidden: Any) -> Any:
        mean = 0.9 * mean + 0.1 * sample
        hidden = self.cell(sample - mean, hidden)
        return self.head(hidden), mean, hidden


class Loop(nn.Module):
    """Python goes over the steps, which a tracer can only write out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell()

    def forward(self, x: Any, mean: Any, hidden: Any) -> Any:
        found = []
        for step in range(x.shape[1]):
            y, mean, hidden = self.cell(x[:, step], mean, hidden)
            found.append(y)
        return torch.stack(found, 1), mean, hidden


LSTM_STATES = {"h": "h_next", "c": "c_next"}
CELL_STATES = {"mean": "mean_next", "hidden": "hidden_next"}


def zeros(*sizes: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(torch.zeros(size) for size in sizes)


def traced(folder: Path, module: Any, example: Any, states: dict[str, str]) -> tuple[Source, list[str]]:
    said: list[str] = []
    folder.mkdir(exist_ok=True)
    return onnx_file.traced(module, example, states, folder, lambda stage, what: said.append(what)), said


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Source]:
    """An LSTM wide enough for weights in blocks, and what it was traced to."""
    module, example = Lstm(hidden=64, wide=32), zeros((3, 5, 32), (2, 3, 64), (2, 3, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module, traced(tmp_path_factory.mktemp("wide"), module, example, LSTM_STATES)[0]


def built(found: Source, folder: Path, recipe: Recipe | None = None) -> Graph:
    folder.mkdir(exist_ok=True)
    made: Graph
    (made,) = registry.exporter(found.arch).graphs(found, "any", recipe or Recipe(), folder, lambda what: None)
    assert graphs.describe(graphs.load(folder / made.path), "model", made.path, {}, made.states, made.kind) == made
    return made


def settings(found: Source) -> dict[str, Any]:
    told: dict[str, Any] = registry.exporter(found.arch).settings(found, "any", found.folder)
    return told


def proved(folder: Path, graph: Graph) -> None:
    for target in ("cpu", "openvino"):
        session = registry.find("targets", target).open(folder, graph, Recipe(), threads=1)
        try:
            assert prove(session, folder / "proof-model.npz", Recipe(), target) <= 1e-4
        finally:
            session.close()


LSTMS = (zeros((3, 5, WIDE), (2, 3, HIDDEN), (2, 3, HIDDEN)), zeros((5, 3, WIDE), (2, 3, HIDDEN), (2, 3, HIDDEN)))
CELLS = zeros((3, WIDE), (3, WIDE), (3, HIDDEN))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "example", "states", "steps"),
    [
        (Lstm(), LSTMS[0], LSTM_STATES, None),
        (Lstm(rows_first=False), LSTMS[1], LSTM_STATES, None),
        (Stack(nn.GRU, num_layers=2, bias=False), zeros((3, 5, WIDE), (2, 3, HIDDEN)), {"h": "h_next"}, None),
        (Stack(nn.RNN, nonlinearity="relu"), zeros((2, 5, WIDE), (1, 2, HIDDEN)), {"h": "h_next"}, None),
        (Cell(), dict(zip(("sample", "mean", "hidden"), CELLS)), CELL_STATES, 1),
        (Loop(), zeros((3, 4, WIDE), (3, WIDE), (3, HIDDEN)), CELL_STATES, 1),
    ],
    ids=["lstm", "time-first", "gru", "rnn", "one-step", "python-loop"],
)
def test_a_module_is_a_stream_on_every_engine(
    tmp_path: Path, module: Any, example: Any, states: dict[str, str], steps: int | None
) -> None:
    module.train()
    found, said = traced(tmp_path / "traced", module, example, states)
    assert module.training, "the module is left as it is"
    assert any("one at a time" in what for what in said) == isinstance(module, Loop)
    graph = built(found, tmp_path)
    assert [port.name for port in graph.inputs] == ["x", *states]
    assert [port.name for port in graph.outputs] == ["y", *states.values()]
    assert graph.inputs[0].shape == ("batch", steps or "time", WIDE)
    proved(tmp_path, graph)
    check_steps(tmp_path, graph)
    told = settings(found)
    assert (told["features"], told["outputs"]) == (["x0", "x1", "x2"], ["output_0", "output_1"])
    assert (told["per"], told["chunk_steps"]) == ("step", steps or 64)


@pytest.mark.slow
@pytest.mark.parametrize("features", [576, 4096])
def test_a_stream_of_any_width_is_exported(tmp_path: Path, features: int) -> None:
    torch.manual_seed(0)
    module, example = Wide(features), zeros((1, 4, features), (1, 1, 8))
    states: dict[str, Any] = {"example_inputs": example, "states": {"h": "h_next"}}
    made = edgekit.export(module, tmp_path / "wide.ek", targets=["cpu"], precision="fp32", **states)
    assert made.goldens is not None
    assert made.goldens.inputs == tuple({"array": number} for number in range(8))
    assert (made.folder / "edgekit.json").stat().st_size < 100_000 + 20 * features
    assert all(check.ok for check in edgekit.verify(made.folder))
    x = np.random.default_rng(0).standard_normal((5, features)).astype(np.float32)
    with edgekit.load(made.folder, threads=1) as model, torch.no_grad():
        whole = np.stack(list(model.stream(iter(x))))
        expected = module(torch.from_numpy(x)[None], torch.zeros(1, 1, 8))[0][0].numpy()
    np.testing.assert_allclose(whole, expected, atol=1e-4)


@pytest.mark.slow
def test_states_that_are_exchanged_are_found_out(tmp_path: Path) -> None:
    found, _ = traced(tmp_path / "traced", Lstm(), LSTMS[0], LSTM_STATES)
    wrong = {"h": "c_next", "c": "h_next"}
    graph = built(resolve.resolve(str(found.folder / onnx_file.FILE), states=wrong), tmp_path)
    with pytest.raises(VerificationError, match="step by step, the outputs differ") as caught:
        check_steps(tmp_path, graph)
    assert "c_next=h, h_next=c" in caught.value.hint
    with pytest.raises(VerificationError, match="differs from the original model"):
        proved(tmp_path, graph)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "group", "most"), [("int8", None, 0.02), ("int4", 32, 0.25)])
def test_weights_of_a_module_are_quantized(
    tmp_path: Path, wide: tuple[Any, Source], weights: str, group: int | None, most: float
) -> None:
    module, found = wide
    rows = tiny.series([20, 20], 32)
    answers, sizes = [], []
    for recipe in (Recipe(), Recipe(weights=weights, activations="int8", group_size=group, method="rtn")):
        graph = built(found, tmp_path, recipe)
        sizes.append(sum((tmp_path / name).stat().st_size for name in ("model.onnx", "model.bin")))
        cpu = registry.find("targets", "cpu")
        compiled = cpu.compile(graphs.load(tmp_path / graph.path), recipe, kind=graph.kind)
        (tmp_path / "compiled.onnx").write_bytes(graphs.to_bytes(compiled))
        options = cpu.session_options(recipe, 1, {})
        for run in (engines.openvino(tmp_path / graph.path), engines.onnxruntime(tmp_path / "compiled.onnx", options)):
            outputs = run({"x": np.stack(rows), **tiny.zeros(graph, 2)})
            answers.append(outputs["y"])
    with torch.inference_mode():
        wanted = module(torch.from_numpy(np.stack(rows)), *zeros((2, 2, 64), (2, 2, 64)))[0].numpy()
    lost = [np.abs(found - wanted).max() / np.abs(wanted).max() for found in answers]
    assert max(lost[:2]) <= 1e-5
    assert min(lost[2:]) > 1e-4
    assert max(lost[2:]) <= most
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize(
    ("example", "states", "error", "why"),
    [
        (None, LSTM_STATES, UsageError, "needs example_inputs and states"),
        (LSTMS[0], {}, UsageError, "needs example_inputs and states"),
        (LSTMS[0], {"hidden": "h_next"}, UsageError, r"forward\(\) has no 'hidden'"),
        (LSTMS[0][:2], LSTM_STATES, UsageError, "lack the state 'c'"),
        (LSTMS[0], {"h": "h_next"}, UsageError, r"2 inputs are not states \(x, c\)"),
        ((*LSTMS[0][:2], LSTMS[0][2].double()), LSTM_STATES, UsageError, "of 'c' is torch.float64"),
        ((torch.zeros(3), *LSTMS[0][1:]), LSTM_STATES, UsageError, r"of 'x' has the shape \[3\]"),
        ((LSTMS[0][0], *zeros((2, 1, HIDDEN), (2, 1, HIDDEN))), LSTM_STATES, UnsupportedError, "batch of another size"),
    ],
)
def test_a_module_that_is_called_wrongly(
    tmp_path: Path, example: Any, states: dict[str, str], error: type[EdgeKitError], why: str
) -> None:
    with pytest.raises(error, match=why) as caught:
        traced(tmp_path, Lstm(), example, states)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_module(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the model is a PosixPath"):
        traced(tmp_path, tmp_path, LSTMS[0], LSTM_STATES)
