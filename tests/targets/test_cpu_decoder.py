"""Decoders on the cpu target: whatever is done to a state, the logits are those of the whole text computed anew."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder import HEAD, TABLE, VOCABULARY, Shape, write

from edgekit import graph, registry
from edgekit.core import Recipe
from edgekit.errors import (
    ClosedError,
    ForkedSessionError,
    InputError,
    ResourceError,
    SessionBusyError,
    StateError,
)

CPU = registry.find("targets", "cpu")
CLOSE = 2e-5  # of logits that spread over 1.5: both are float32, added up in another order
SHAPES = {
    "plain": Shape(),
    "windows": Shape(windows=(None, 3, 1)),
    "everything": Shape(windows=(4, None), head_norm=True, softcap=15.0, scale=0.2, bias=True),
    "one query a head": Shape(heads=2, kv_heads=2),
    "learned positions": Shape(rotary=0, windows=(None, 5)),
    "part turns": Shape(rotary=16),
    "small part turns": Shape(rotary=8),
    "interleaved": Shape(interleaved=True),
    "computed angles": Shape(stretched=TABLE),
}


@dataclass
class Opened:
    session: Any
    whole: Callable[[Sequence[int]], Any]  # logits of every position, by the portable graph without a cache


def open_both(folder: Path, shape: Shape) -> Opened:
    import onnxruntime as ort

    noun = write(folder, shape)
    model = CPU.compile(graph.load(folder / noun.path), Recipe())
    compiled = graph.describe(model, "model", "model.onnx", {})
    (folder / compiled.path).write_bytes(graph.to_bytes(model))
    reference = ort.InferenceSession(folder / noun.path)
    nothing = {port.name: np.zeros((1, shape.kv_heads, 0, HEAD), np.float32) for port in noun.inputs[4:]}

    def whole(tokens: Sequence[int]) -> Any:
        places = np.arange(len(tokens))[None]
        feeds = {"input_ids": np.array([tokens]), "position_ids": places, "attention_mask": places * 0 + 1}
        return reference.run(["logits"], {**feeds, "logit_positions": places, **nothing})[0][0]

    return Opened(CPU.open(folder, replace(compiled, states=noun.states), Recipe(), threads=2), whole)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Opened]]:
    """Each shape once, by its name."""
    found: dict[str, Opened] = {}

    def find(name: str) -> Opened:
        if name not in found:
            found[name] = open_both(tmp_path_factory.mktemp("decoder"), SHAPES[name])
        return found[name]

    yield find
    for each in found.values():
        each.session.close()


@pytest.fixture
def tiny(opened: Callable[[str], Opened]) -> Opened:
    return opened("plain")


def padded(rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Feeds for rows of any length; what is behind a short one must not matter."""
    ids = np.full((len(rows), max(map(len, rows))), VOCABULARY - 1)
    for row, tokens in zip(ids, rows):
        row[: len(tokens)] = tokens
    return {"input_ids": ids, "counts": np.array([len(tokens) for tokens in rows])}


def follow(tiny: Opened, state: Any, texts: list[list[int]], more: Sequence[Sequence[int]]) -> Any:
    """Run `more`, add it to `texts`, and hold the last logits of each row against those of the whole text."""
    outputs, state = tiny.session.run(padded(more), state)
    assert outputs["logits"].shape == (len(texts), 1, VOCABULARY)
    for row, (text, tokens) in enumerate(zip(texts, more)):
        text += tokens
        np.testing.assert_allclose(outputs["logits"][row, 0], tiny.whole(text)[-1], atol=CLOSE)
    assert state.lengths.tolist() == [len(text) for text in texts]
    return state


@pytest.mark.parametrize("name", SHAPES)
def test_every_wiring_is_right_in_prompts_chunks_and_steps(name: str, opened: Callable[[str], Opened]) -> None:
    tiny, draw = opened(name), np.random.default_rng(1)
    state = tiny.session.start(3, 8)
    texts: list[list[int]] = [[], [], []]
    for counts in ((5, 2, 9), (1, 1, 1), (4, 1, 6), (1, 1, 1), (3, 3, 3), (1, 1, 1)):
        state = follow(tiny, state, texts, [draw.integers(0, VOCABULARY, count).tolist() for count in counts])


@pytest.mark.parametrize("name", ["plain", "everything", "computed angles"])
@pytest.mark.parametrize("seed", range(4))
def test_any_walk_over_states_equals_the_text_computed_anew(
    name: str, seed: int, opened: Callable[[str], Opened]
) -> None:
    tiny, draw = opened(name), np.random.default_rng(seed)
    session = tiny.session
    state, texts = session.start(2, 1), list[list[int]]([[], []])
    for _ in range(14):
        match draw.integers(0, 5):
            case 0:
                kept = [int(draw.integers(0, len(text) + 1)) for text in texts]
                state, texts = session.trim(state, kept), [text[:keep] for text, keep in zip(texts, kept)]
            case 1:
                picked = draw.integers(0, len(texts), draw.integers(1, 4)).tolist()
                state, texts = session.rows(state, picked), [list(texts[row]) for row in picked]
            case 2:
                state = session.load(session.save(state))
            case 3:
                state, other = session.fork(state), state
                follow(tiny, other, [list(text) for text in texts], [[1, 2]] * len(texts))
            case _:
                count = int(draw.integers(1, 7))
                most = [int(draw.integers(1, count + 1)) for _ in texts]
                state = follow(tiny, state, texts, [draw.integers(0, VOCABULARY, each).tolist() for each in most])
        state = follow(tiny, state, texts, [[int(draw.integers(0, VOCABULARY))] for _ in texts])


def test_logits_of_any_positions(tiny: Opened) -> None:
    rows = [[1, 2, 3, 4, 5], [6, 7, 8]]
    feeds = {**padded(rows), "logit_positions": np.array([[0, 4], [2, 1]])}
    logits = tiny.session.run(feeds)[0]["logits"]
    for found, text, places in zip(logits, rows, feeds["logit_positions"]):
        np.testing.assert_allclose(found, tiny.whole(text)[places], atol=CLOSE)


def test_no_logits_are_wanted_but_of_the_last_piece(tiny: Opened) -> None:
    text, step = list(range(70)), 16
    state = tiny.session.start(1, len(text))
    for first in range(0, len(text) - step, step):
        feeds = {**padded([text[first : first + step]]), "logit_positions": np.zeros((1, 0), np.int64)}
        outputs, state = tiny.session.run(feeds, state)
        assert outputs["logits"].shape == (1, 0, VOCABULARY)
    follow(tiny, state, [text[: first + step]], [text[first + step :]])


def test_prompts_that_are_too_much_at_once_go_in_parts(tiny: Opened) -> None:
    texts: list[list[int]] = [[] for _ in range(12)]
    draw = np.random.default_rng(5)
    more = [draw.integers(0, VOCABULARY, 40 + row).tolist() for row in range(12)]
    follow(tiny, tiny.session.start(12, 64), texts, more)


def test_padding_takes_no_row_further_than_its_text(tmp_path: Path) -> None:
    """Behind the shorter row are slots at positions where the longer one turns by other angles."""
    tiny = open_both(tmp_path, Shape(stretched=20))
    try:
        follow(tiny, tiny.session.start(2, 40), [[], []], [list(range(30)), [1, 2, 3]])
    finally:
        tiny.session.close()


@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_in_blocks_stay_near_to_the_portable_graph(weights: str, tied: bool, tmp_path: Path) -> None:
    """ONNX Runtime quantizes what it multiplies with them to 8 bits: 1 part in 127 of each group's largest."""
    tiny = open_both(tmp_path, Shape(weights=weights, tied=tied))
    try:
        text = list(range(3, 40))
        logits = tiny.session.run(padded([text]))[0]["logits"][0, 0]
        wanted = tiny.whole(text)[-1]
        assert np.abs(logits - wanted).max() < 0.1 * wanted.std()
    finally:
        tiny.session.close()


def test_a_step_copies_and_allocates_nothing_of_the_cache(tiny: Opened) -> None:
    state = tiny.session.run(padded([[1, 2, 3], [4, 5]]), tiny.session.start(2, 32))[1]
    before = {name: buffer.ctypes.data for name, buffer in state.buffers.items()}
    first = tiny.session.run(padded([[7], [8]]), state)[0]["logits"]
    again = tiny.session.run(padded([[7], [8]]), state)[0]["logits"]
    assert {name: buffer.ctypes.data for name, buffer in state.buffers.items()} == before
    assert first is again
    assert state.capacity == 32


def test_a_buffer_grows_by_half_at_least(tiny: Opened) -> None:
    state = tiny.session.start(1, 32)
    bytes_a_token = tiny.session.nbytes(state) // 32
    assert bytes_a_token == 2 * 2 * 2 * HEAD * 4  # layers, key and value, heads, dimensions, float32
    texts: list[list[int]] = [[]]
    state = follow(tiny, state, texts, [list(range(32))])
    assert state.capacity == 32
    state = follow(tiny, state, texts, [[1]])
    assert (state.capacity, tiny.session.nbytes(state)) == (48, 48 * bytes_a_token)
    state = follow(tiny, state, texts, [list(range(50))])
    assert state.capacity == 83


def test_a_fork_and_what_it_came_from_do_not_know_each_other(tiny: Opened) -> None:
    texts: list[list[int]] = [[]]
    state = follow(tiny, tiny.session.start(1, 20), texts, [[1, 2, 3]])
    fork = tiny.session.fork(state)
    follow(tiny, state, [list(texts[0])], [[4, 5, 6]])
    follow(tiny, fork, [list(texts[0])], [[9, 9]])


def test_what_is_saved_holds_nothing_but_the_texts(tiny: Opened) -> None:
    state = tiny.session.run(padded([list(range(9)), [1, 2]]))[1]
    saved = tiny.session.save(tiny.session.trim(state, [4, 1]))
    assert saved.keys() == {"lengths", *state.buffers}
    assert saved["lengths"].tolist() == [4, 1]
    for name in state.buffers:
        assert saved[name].shape == (2, 2, 4, HEAD)
        assert saved[name].any()
        assert not saved[name][1, :, 1:].any()
    kept = {name: array.copy() for name, array in saved.items()}
    tiny.session.run(padded([[1], [2]]), state)
    for name, array in saved.items():
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("lengths", None),
        ("lengths", lambda array: array.astype(np.int32)),
        ("lengths", lambda array: array[:, None]),
        ("lengths", lambda array: array[:0]),
        ("lengths", lambda array: array - 9),
        ("lengths", lambda array: array + 1),
        ("past_key_values.0.key", None),
        ("past_key_values.0.key", lambda array: array.astype(np.float16)),
        ("past_key_values.1.value", lambda array: array[:, :1]),
        ("past_key_values.1.value", lambda array: array[:, :, :1]),
        ("past_key_values.2.value", lambda array: array),
    ],
)
def test_a_saved_state_that_does_not_fit_is_refused(tiny: Opened, name: str, spoil: Any) -> None:
    saved = tiny.session.save(tiny.session.run(padded([[1, 2, 3], [4]]))[1])
    array = saved.pop(name, saved["past_key_values.0.key"] if name != "lengths" else None)
    if spoil is not None:
        saved[name] = spoil(array)
    with pytest.raises(StateError, match="no saved state"):
        tiny.session.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": None}, "'input_ids' is missing"),
        ({"input_ids": np.array([[1, 2]], np.int32)}, "'input_ids' is int32"),
        ({"input_ids": np.array([1, 2])}, r"'input_ids' is int64 \[2\]"),
        ({"input_ids": np.zeros((1, 0), np.int64)}, "counts is"),
        ({"counts": None}, "'counts' is missing"),
        ({"counts": np.array([0])}, r"counts is \[0\]"),
        ({"counts": np.array([3])}, r"counts is \[3\]"),
        ({"counts": np.array([1, 1])}, r"counts is \[1, 1\]"),
        ({"logit_positions": np.array([[2]])}, "goes beyond"),
        ({"logit_positions": np.array([[-1]])}, "goes beyond"),
        ({"logit_positions": np.array([[0], [0]])}, "goes beyond"),
        ({"logit_positions": np.array([0])}, "'logit_positions' is int64"),
        ({"position_ids": np.array([[0, 1]])}, "no input 'position_ids'"),
        ({"input_ids": np.array([[1, VOCABULARY]])}, "no such token"),
        ({"input_ids": np.array([[1, 2], [3, 4]]), "counts": np.array([2, 2])}, "has 2 rows, and the state holds 1"),
    ],
)
def test_feeds_that_do_not_fit_leave_the_state_as_it_was(tiny: Opened, change: Any, message: str) -> None:
    texts: list[list[int]] = [[]]
    state = follow(tiny, tiny.session.start(1, 20), texts, [[5, 6, 7]])
    feeds = {name: array for name, array in (padded([[1, 2]]) | change).items() if array is not None}
    with pytest.raises(InputError, match=message):
        tiny.session.run(feeds, state)
    follow(tiny, state, texts, [[8]])


@pytest.mark.parametrize("name", ["plain", "learned positions", "computed angles"])
def test_a_text_beyond_the_positions_is_refused(name: str, opened: Callable[[str], Opened]) -> None:
    tiny = opened(name)
    state = tiny.session.run(padded([[1] * TABLE]))[1]
    with pytest.raises(InputError, match="no such token or position"):
        tiny.session.run(padded([[1]]), state)
    assert state.lengths.tolist() == [TABLE]


@pytest.mark.parametrize(
    "use",
    [
        lambda session, state: session.trim(state, [4]),
        lambda session, state: session.trim(state, [-1]),
        lambda session, state: session.trim(state, [1, 1]),
        lambda session, state: session.rows(state, []),
        lambda session, state: session.rows(state, [1]),
        lambda session, state: session.rows(state, [-1]),
        lambda session, state: session.start(0, 4),
        lambda session, state: session.start(1, -1),
        lambda session, state: session.run(padded([[1]]), {"lengths": state.lengths}),
    ],
)
def test_what_a_state_cannot_do(tiny: Opened, use: Any) -> None:
    state = tiny.session.run(padded([[1, 2, 3]]))[1]
    with pytest.raises(StateError):
        use(tiny.session, state)
    assert state.lengths.tolist() == [3]


def test_a_state_of_another_session_is_refused(opened: Callable[[str], Opened]) -> None:
    state = opened("everything").session.start(1, 4)
    with pytest.raises(StateError, match="not of this session"):
        opened("plain").session.run(padded([[1]]), state)


@pytest.mark.parametrize("capacity", [10**14, 10**19])
def test_a_cache_that_no_memory_holds(tiny: Opened, capacity: int) -> None:
    with pytest.raises(ResourceError, match="no memory for a cache"):
        tiny.session.start(1, capacity)


def test_growth_that_fails_leaves_the_state_as_it_was(tiny: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[list[int]] = [[]]
    state = follow(tiny, tiny.session.start(1, 16), texts, [list(range(16))])
    zeros, calls = tiny.session._memory.zeros, []

    def third_fails(shape: Any, dtype: str) -> Any:
        calls.append(shape)
        if len(calls) == 3:
            raise MemoryError("no more")
        return zeros(shape, dtype)

    monkeypatch.setattr(tiny.session._memory, "zeros", third_fails)
    with pytest.raises(ResourceError):
        tiny.session.run(padded([[1]]), state)
    monkeypatch.undo()
    follow(tiny, state, texts, [[1]])


def test_threads_share_a_session_with_states_of_their_own(tiny: Opened) -> None:
    faults: list[BaseException] = []

    def work(seed: int) -> None:
        draw, texts = np.random.default_rng(seed), list[list[int]]([[]])
        try:
            state = tiny.session.start(1, 4)
            for count in (7, 1, 1, 5, 1, 1, 1):
                state = follow(tiny, state, texts, [draw.integers(0, VOCABULARY, count).tolist()])
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_two_threads_at_one_state_are_told(tiny: Opened) -> None:
    state = tiny.session.run(padded([[1, 2]]))[1]
    uses: list[Callable[[], Any]] = [
        lambda: tiny.session.run(padded([[1]]), state),
        lambda: tiny.session.fork(state),
        lambda: tiny.session.trim(state, [1]),
        lambda: tiny.session.save(state),
    ]
    with state.busy:
        for use in uses:
            with pytest.raises(SessionBusyError):
                use()
    assert state.lengths.tolist() == [2]


def test_closed_and_forked(tmp_path: Path) -> None:
    session = open_both(tmp_path, Shape()).session
    state = session.run(padded([[1, 2]]))[1]
    saved = session.save(state)
    child = os.fork()
    if child == 0:
        try:
            session.run(padded([[1]]), state)
        except ForkedSessionError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    session.close()
    session.close()
    uses: list[Callable[[], Any]] = [
        lambda: session.run(padded([[1]]), state),
        lambda: session.start(1, 1),
        lambda: session.load(saved),
    ]
    for use in uses:
        with pytest.raises(ClosedError):
            use()
