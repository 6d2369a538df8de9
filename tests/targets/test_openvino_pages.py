"""OpenVINO's decoders on blocks: which graphs go so, and what only they do. Their answers are test_decoders'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from opened_decoder import SHAPES, Opened, compiled_form, drawn, follow, open_both, opened, padded, tiny
from tiny_decoder import TABLE, Shape, write

from edgekit import registry
from edgekit.core import Recipe
from edgekit.errors import UnsupportedError
from edgekit.targets._openvino import paged_graph as paged
from edgekit.targets._openvino import pages
from edgekit.targets._openvino.pages import PagedSession
from edgekit.targets._openvino.variables import VariableSession
from edgekit.workbench import graph

__all__ = ["opened", "tiny"]
pytest.importorskip("openvino", reason="OpenVINO is not installed")
OPENVINO = registry.find("targets", "openvino")


@pytest.fixture(scope="module")
def target() -> str:
    return "openvino"


def masks(model: Any) -> list[str]:
    return [node.inputs[3].name for node in model.graph if node.op_type == "Attention"]


@pytest.mark.parametrize("name", SHAPES)
def test_masks_say_what_they_mean(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    model = graph.load(tmp_path / write(tmp_path, shape).path)
    before = masks(model)
    paged.mark(model)
    assert masks(model) == (before if shape.stretched else [f"{paged.MARK}{window or 0}" for window in shape.windows])


@pytest.mark.parametrize("change", ["another name", "no mask", "another choice"])
def test_a_graph_that_does_not_say_what_its_masks_mean_keeps_its_caches_inside(change: str, tmp_path: Path) -> None:
    noun = write(tmp_path, Shape())
    model = graph.load(tmp_path / noun.path)
    for node in list(model.graph):
        if node.op_type == "Attention" and change == "another name":
            node.name = "model.attn.0"
        if node.op_type == "Attention" and change == "no mask":
            node.resize_inputs(3)
        if node.op_type == "GatherND" and change == "another choice":
            node.op_type = "Gather"
    before = [node.inputs[3:] for node in model.graph if node.op_type == "Attention"]
    names = [value.name for inputs in before for value in inputs]
    paged.mark(model)
    assert [value.name for inputs in before for value in inputs] == names


def test_an_encoder_is_left_as_it_is(tmp_path: Path) -> None:
    model = graph.load(tmp_path / write(tmp_path, Shape()).path)
    before = masks(model)
    OPENVINO.compile(model, Recipe(), kind="plain")
    assert masks(model) == before


@pytest.mark.parametrize(
    ("kind", "computes", "there"),
    [("f16", "f32", True), ("bf16", "f32", False), ("u8", "bf16", True), ("f16", "bf16", False)],
)
def test_blocks_are_of_the_kinds_that_the_kernels_take(kind: str, computes: str, there: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert paged.keeps(kind, computes) is there
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not paged.keeps(kind, computes)


def test_what_blocks_cannot_hold_is_kept_inside(tmp_path: Path) -> None:
    sessions = [
        open_both("openvino", tmp_path, Shape(), Recipe("fp32"), KV_CACHE_PRECISION=kind).session
        for kind in ("f32", "f16", "u8", "bf16")
    ]
    assert [type(session) for session in sessions] == [PagedSession] * 3 + [VariableSession]
    for session in sessions:
        session.close()


def test_nothing_is_compiled_for_later(tiny: Opened, tmp_path: Path) -> None:
    """OpenVINO does not import what it exports of such a model."""
    session = OPENVINO.open(tiny.folder, tiny.graph, Recipe(), threads=1, cache=tmp_path / "compiled")
    assert isinstance(session, PagedSession)
    session.close()
    assert not (tmp_path / "compiled").exists()


def test_blocks_of_a_form_that_is_not_known_are_refused(tmp_path: Path) -> None:
    """Keys in 8 bits with scales for each channel, as OpenVINO has them by itself."""
    from edgekit.targets._openvino.engine import core
    from edgekit.targets._openvino.stateful import stateful

    noun = compiled_form("openvino", tmp_path, Shape())
    model = stateful(tmp_path / noun.path, noun)
    assert paged.pageable(model, noun)
    paged.page(model, noun)
    compiled = core().compile_model(model, "CPU", {"KV_CACHE_PRECISION": "u8", "KEY_CACHE_QUANT_MODE": "BY_CHANNEL"})
    with pytest.raises(UnsupportedError, match=r"OpenVINO keeps past_key_values\.0\.key as u8 2 x 40 x 32"):
        PagedSession(noun, compiled)


def test_a_text_in_parts_is_the_same_as_whole(tiny: Opened) -> None:
    """Parts that end within a block, at its end, and go over several."""
    (text,) = drawn(np.random.default_rng(4), [150])
    state, texts, first = tiny.session.start(1, 1), list[list[int]]([[]]), 0
    for count in (1, 31, 32, 5, 70, 11):
        state = follow(tiny, state, texts, [text[first : first + count]])
        first += count


def test_rows_of_very_different_lengths_take_the_blocks_that_they_need(tiny: Opened) -> None:
    state = tiny.session.run(padded([[1] * 100, [2]]))[1]
    assert [len(table) for table in state.blocks.tables] == [4, 1]
    tiny.session.trim(state, [33, 0])
    assert [len(table) for table in state.blocks.tables] == [2, 0]


def test_the_window_reaches_the_engine(tmp_path: Path) -> None:
    """Wrong by far where it does not: a text beyond the window with the mask of one that sees all."""
    tiny = open_both("openvino", tmp_path, Shape(windows=(3, None)))
    assert isinstance(tiny.session, PagedSession)
    (text,) = drawn(np.random.default_rng(5), [40])
    state = follow(tiny, tiny.session.start(1, 40), [[]], [text])
    follow(tiny, state, [list(text)], [[5]])
    model = onnx.load(tmp_path / "model.onnx")
    for node in model.graph.node:
        node.input[:] = [name.replace(f"{paged.MARK}3", f"{paged.MARK}30") for name in node.input]
        node.output[:] = [name.replace(f"{paged.MARK}3", f"{paged.MARK}30") for name in node.output]
    onnx.save(model, tmp_path / "model.onnx")
    session = OPENVINO.open(tmp_path, tiny.graph, Recipe(), threads=1)
    found = session.run(padded([text]))[0]["logits"][0, 0]
    assert np.abs(found - tiny.whole(text)[-1]).max() > 0.1
    session.close()
    tiny.session.close()


def test_positions_end_where_the_tables_do(tiny: Opened) -> None:
    assert tiny.session._positions == TABLE


@pytest.fixture
def met(tiny: Opened, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of tokens that the engine runs, as they come."""
    found, runs = list[int](), tiny.session._runs
    infer = runs.infer
    monkeypatch.setattr(
        runs, "infer", lambda request, feeds: (found.append(feeds["input_ids"].size), infer(request, feeds))
    )
    return found


def test_the_engine_meets_few_numbers_of_tokens(tiny: Opened, met: list[int]) -> None:
    """It keeps kernels for each; what is added changes no answer, and takes no block for longer than the run."""
    draw = np.random.default_rng(6)
    for counts in ([1], [4], [5], [17], [3, 30], [31, 33], [60, 1, 1]):
        texts = [list[int]() for _ in counts]
        state = follow(tiny, tiny.session.start(len(counts), 64), texts, drawn(draw, counts))
        assert [len(table) for table in state.blocks.tables] == [-(-count // paged.BLOCK) for count in counts]
        follow(tiny, state, texts, drawn(draw, [1] * len(counts)))
    assert met == [1, 1, 4, 1, 8, 1, 24, 1, 40, 2, 64, 2, 64, 3]


def test_long_steps_are_run_in_parts(tiny: Opened, met: list[int]) -> None:
    """That end within a row, and at its end; some rows end in the first part, and all go on afterwards."""
    draw = np.random.default_rng(8)
    for counts in ([130], [64, 3], [2, 5, 70, 1], [40, 24, 100], [150, 150]):
        texts = [list[int]() for _ in counts]
        state = follow(tiny, None, texts, drawn(draw, counts))
        follow(tiny, state, texts, drawn(draw, [3] * len(counts)))
    assert met == [128, 2, 3, 64, 3, 8, 64, 16, 16, 128, 40, 16, 128, 128, 48, 8]


def test_logits_of_places_in_all_parts_or_in_the_first_alone(tiny: Opened) -> None:
    texts = drawn(np.random.default_rng(9), [90, 20])
    for places in ([[0, 63, 64, 89], [0, 1, 18, 19]], [[5], [2]], [[63], [19]], [[3], [19]], [[], []]):
        wanted = np.array(places, np.int64).reshape(2, -1)
        outputs, state = tiny.session.run(padded(texts) | {"logit_positions": wanted})
        assert outputs["logits"].shape == (*wanted.shape, tiny.session.vocabulary)
        for row, text in enumerate(texts):
            expected = tiny.whole(text)[wanted[row]]
            np.testing.assert_allclose(outputs["logits"][row], expected, atol=tiny.close, rtol=0)
        assert state.lengths.tolist() == [90, 20]


@pytest.mark.parametrize("tokens", [*range(1, 70), 127, 128, 129, 255, 256, 257, 600, 2048])
def test_parts_are_all_tokens_in_few_sizes(tokens: int) -> None:
    found = list(pages.parts(tokens))
    assert [found[0].start, *(part.stop for part in found)] == [*(part.start for part in found), tokens]
    sizes = {part.stop - part.start + pages.padding(part.stop - part.start) for part in found}
    assert sizes <= {1, 2, 3, 4, *range(8, 65, 8), 128}
