"""The portable graph as ONNX Runtime runs it by itself: whatever is done to a state, the text computed anew."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opened_decoder import SHAPES, Opened, drawn, follow, interrupt, padded, reference, walk
from tiny_decoder import VOCABULARY, Shape, write

from edgekit import registry
from edgekit.core import Recipe
from edgekit.errors import InputError, StateError
from edgekit.targets._ort.plain_decoder import WASTE, PlainDecoderSession
from edgekit.workbench import graph

CPU = registry.find("targets", "cpu")


def plain(folder: Path, shape: Shape) -> Opened:
    noun = write(folder, shape)
    session = CPU.open(folder, noun, Recipe(), threads=1)
    assert isinstance(session, PlainDecoderSession)
    return Opened(folder, noun, session, reference(folder / "portable.onnx", shape))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    opened = plain(tmp_path_factory.mktemp("plain"), SHAPES["windows"])
    yield opened
    opened.session.close()


@pytest.mark.parametrize("name", ["plain", "everything", "computed angles"])
def test_every_wiring_is_right_in_prompts_chunks_and_steps(name: str, tmp_path: Path) -> None:
    tiny, draw = plain(tmp_path, SHAPES[name]), np.random.default_rng(1)
    state = tiny.session.start(3, 8)
    texts: list[list[int]] = [[], [], []]
    for counts in ((5, 2, 9), (1, 1, 1), (4, 1, 6), (1, 1, 1), (3, 3, 3), (1, 1, 1)):
        state = follow(tiny, state, texts, drawn(draw, counts))


@pytest.mark.parametrize("seed", range(4))
def test_any_walk_over_states_equals_the_text_computed_anew(seed: int, tiny: Opened) -> None:
    walk(tiny, seed)


def test_an_interrupt_anywhere_in_a_step(tiny: Opened) -> None:
    interrupt(tiny)


def test_places_that_no_row_needs_are_taken_out(tiny: Opened) -> None:
    draw, session = np.random.default_rng(0), tiny.session
    state, texts = session.start(2, 1), list[list[int]]([[], []])
    for _ in range(WASTE // 2 + 2):  # each of these wastes two places of either row, in turn
        state = follow(tiny, state, texts, drawn(draw, (3, 1)))
        state = session.trim(state, [1, 1])
        texts = [text[:1] for text in texts]
    assert state.there.shape[1] <= WASTE + 8
    assert session.nbytes(state) == sum(array.nbytes for array in state.arrays.values())
    state = session.trim(state, [0, 0])
    follow(tiny, state, [[], []], drawn(draw, (2, 4)))


def test_a_saved_state_is_that_of_shared_buffers(tiny: Opened) -> None:
    compiled = CPU.compile(graph.load(tiny.folder / tiny.graph.path), Recipe(), kind=tiny.graph.kind)
    (tiny.folder / "shared.onnx").write_bytes(graph.to_bytes(compiled))
    noun = graph.describe(compiled, "model", "shared.onnx", {}, tiny.graph.states, tiny.graph.kind)
    other = CPU.open(tiny.folder, noun, Recipe(), threads=1)
    try:
        rows = drawn(np.random.default_rng(0), (5, 3))
        _, mine = tiny.session.run(padded(rows))
        _, theirs = other.run(padded(rows))
        mine, theirs = tiny.session.save(mine), other.save(theirs)
        assert mine.keys() == theirs.keys()
        for name, array in mine.items():
            np.testing.assert_allclose(array, theirs[name], atol=1e-5)
    finally:
        other.close()


def test_what_a_state_may_not_be_asked(tiny: Opened) -> None:
    session = tiny.session
    _, state = session.run(padded([[1, 2, 3]]))
    with pytest.raises(InputError, match="has 2 rows, and the state holds 1"):
        session.run(padded([[1], [2]]), state)
    with pytest.raises(InputError, match="has no such token or position"):
        session.run(padded([[VOCABULARY]]), state)
    assert state.lengths.tolist() == [3]  # and goes on from there
    with pytest.raises(StateError, match="not of this session"):
        session.run(padded([[1]]), object())
    with pytest.raises(StateError, match="cannot be cut"):
        session.trim(state, [4])
    with pytest.raises(StateError, match="rows"):
        session.rows(state, [1])
    with pytest.raises(StateError):
        session.start(0, 1)
    with pytest.raises(StateError, match="saved state"):
        session.load({"lengths": np.array([1])})


def test_attention_without_a_name_is_left_as_it_is(tiny: Opened) -> None:
    def form(name: str | None) -> Any:
        model = graph.load(tiny.folder / tiny.graph.path)
        for node in model.graph:
            if node.op_type == "Attention":
                node.name = name or node.name
        return CPU.compile(model, Recipe(), kind=tiny.graph.kind)

    assert "GroupQueryAttention" in {node.op_type for node in form(None).graph}
    assert "GroupQueryAttention" not in {node.op_type for node in form("attention").graph}


def test_that_it_is_slow_is_said_to_who_opens_it(tiny: Opened, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "edgekit"):
        CPU.open(tiny.folder, tiny.graph, Recipe(), threads=1).close()
    assert "long texts are slow" in caplog.text
