"""Decoders on the openvino target: whatever is done to a state, the logits are those of the text computed anew."""

from __future__ import annotations

import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
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
from edgekit.errors import ClosedError, ForkedSessionError, InputError, SessionBusyError, StateError, UnsupportedError

pytest.importorskip("openvino", reason="OpenVINO is not installed")
OPENVINO = registry.find("targets", "openvino")
CLOSE = 2e-5  # of logits that spread over 1.5: both are float32, added up in another order
SHAPES = {
    "plain": Shape(),
    "windows": Shape(windows=(None, 3, 1)),
    "everything": Shape(windows=(4, None), head_norm=True, softcap=15.0, scale=0.2, bias=True),
    "one query a head": Shape(heads=2, kv_heads=2),
    "learned positions": Shape(rotary=0, windows=(None, 5)),
    "part turns": Shape(rotary=16),
    "interleaved": Shape(interleaved=True),
    "computed angles": Shape(stretched=TABLE),
}


@dataclass
class Opened:
    folder: Path
    graph: Any
    session: Any
    whole: Callable[[Sequence[int]], Any]  # logits of every position, by the portable graph without a cache
    close: float = CLOSE


def compiled_form(folder: Path, shape: Shape) -> Any:
    """The noun of the graph in the target's form, in `folder`."""
    noun = write(folder, shape)
    model = OPENVINO.compile(graph.load(folder / noun.path), Recipe())
    (folder / "model.onnx").write_bytes(graph.to_bytes(model))
    return replace(graph.describe(model, "model", "model.onnx", {}), states=noun.states)


def open_both(folder: Path, shape: Shape, recipe: Recipe | None = None, **options: str) -> Opened:
    import onnxruntime as ort

    noun = compiled_form(folder, shape)
    exact = ort.SessionOptions()
    exact.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it would quantize activations
    reference = ort.InferenceSession(folder / "portable.onnx", exact)
    nothing = {port.name: np.zeros((1, shape.kv_heads, 0, HEAD), np.float32) for port in noun.inputs[4:]}

    def whole(tokens: Sequence[int]) -> Any:
        places = np.arange(len(tokens))[None]
        feeds = {"input_ids": np.array([tokens]), "position_ids": places, "attention_mask": places * 0 + 1}
        return reference.run(["logits"], {**feeds, "logit_positions": places, **nothing})[0][0]

    session = OPENVINO.open(folder, noun, recipe or Recipe(), threads=2, options=options)
    return Opened(folder, noun, session, whole)


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
        np.testing.assert_allclose(outputs["logits"][row, 0], tiny.whole(text)[-1], atol=tiny.close)
    assert state.lengths.tolist() == [len(text) for text in texts]
    return state


def drawn(draw: np.random.Generator, counts: Sequence[int]) -> list[list[int]]:
    return [draw.integers(0, VOCABULARY, count).tolist() for count in counts]


@pytest.mark.parametrize("name", SHAPES)
def test_every_wiring_is_right_in_prompts_chunks_and_steps(name: str, opened: Callable[[str], Opened]) -> None:
    tiny, draw = opened(name), np.random.default_rng(1)
    state = tiny.session.start(3, 8)
    texts: list[list[int]] = [[], [], []]
    for counts in ((5, 2, 9), (1, 1, 1), (4, 1, 6), (1, 1, 1), (3, 3, 3), (1, 1, 1)):
        state = follow(tiny, state, texts, drawn(draw, counts))


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
                most = int(draw.integers(1, 7))
                state = follow(tiny, state, texts, drawn(draw, [int(draw.integers(1, most + 1)) for _ in texts]))
        state = follow(tiny, state, texts, drawn(draw, [1] * len(texts)))


def test_places_that_no_row_needs_are_taken_out_when_they_are_many(tiny: Opened) -> None:
    texts: list[list[int]] = [[], []]
    state = tiny.session.start(2, 8)
    state = follow(tiny, state, texts, drawn(np.random.default_rng(2), (100, 3)))
    state = tiny.session.trim(state, [20, 3])
    texts[0] = texts[0][:20]
    assert state.there.shape == (2, 100)
    state = follow(tiny, state, texts, [[4], [5]])
    assert state.there.shape == (2, 21)
    state = tiny.session.trim(state, [0, 0])
    state = follow(tiny, state, [[], []], [[6, 7], [8]])
    assert state.there.shape == (2, 2)


def test_logits_of_any_positions_and_of_none(tiny: Opened) -> None:
    rows = [[1, 2, 3, 4, 5], [6, 7, 8]]
    feeds = {**padded(rows), "logit_positions": np.array([[0, 4], [2, 1]])}
    logits, state = tiny.session.run(feeds)
    for found, text, places in zip(logits["logits"], rows, feeds["logit_positions"]):
        np.testing.assert_allclose(found, tiny.whole(text)[places], atol=CLOSE)
    outputs, state = tiny.session.run(padded([[1], [2]]) | {"logit_positions": np.zeros((2, 0), np.int64)}, state)
    assert outputs["logits"].shape == (2, 0, VOCABULARY)
    follow(tiny, state, [[*rows[0], 1], [*rows[1], 2]], [[3], [4]])


def test_padding_takes_no_row_further_than_its_text(tmp_path: Path) -> None:
    """Behind the shorter row are places at positions where the longer one turns by other angles."""
    tiny = open_both(tmp_path, Shape(stretched=20))
    follow(tiny, tiny.session.start(2, 40), [[], []], [list(range(30)), [1, 2, 3]])
    tiny.session.close()


@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_in_blocks_are_multiplied_exactly(weights: str, tied: bool, tmp_path: Path) -> None:
    tiny = open_both(tmp_path, Shape(weights=weights, tied=tied))
    follow(tiny, tiny.session.start(1, 8), [[]], [list(range(3, 40))])
    tiny.session.close()


@pytest.mark.parametrize(
    ("kept", "recipe", "close"),
    [
        ("f16", Recipe(), 1e-2),
        ("u8", Recipe(), 0.05),
        ("bf16", Recipe("bf16"), 0.1),
        ("u8", Recipe("bf16"), 0.15),
    ],
)
def test_caches_of_fewer_bits_are_near(kept: str, recipe: Recipe, close: float, tmp_path: Path) -> None:
    """Bounds of the logits' largest difference, about twice what is seen; what is handed out is float32 always."""
    tiny = open_both(tmp_path, Shape(), recipe, KV_CACHE_PRECISION=kept)
    tiny.close = close
    session, draw, texts = tiny.session, np.random.default_rng(3), list[list[int]]([[], [], []])
    state = follow(tiny, session.start(3, 8), texts, drawn(draw, (9, 3, 6)))
    state = follow(tiny, state, texts, drawn(draw, (1, 4, 2)))
    state, texts = session.rows(state, [2, 0]), [texts[2], texts[0]]
    state = follow(tiny, session.fork(state), texts, drawn(draw, (1, 1)))
    saved = session.save(state)
    state = follow(tiny, session.load(saved), texts, drawn(draw, (1, 1)))
    assert {array.dtype.name for array in saved.values()} == {"int64", "float32"}
    token = 2 * 2 * 2 * (HEAD * {"u8": 1}.get(kept, 2) + 8 * (kept == "u8"))  # layers, key and value, heads
    assert session.nbytes(session.fork(state)) == int(state.lengths.max()) * 2 * token
    session.close()


@pytest.mark.parametrize("name", SHAPES)
def test_attention_and_rotation_are_one_operation_each(name: str, opened: Callable[[str], Opened]) -> None:
    from edgekit.targets._openvino_stateful import operations

    tiny, shape = opened(name), SHAPES[name]
    found = operations(tiny.session._compiled)
    layers = len(shape.windows)
    fused = 0 if shape.softcap else layers  # OpenVINO's operation knows no softcap
    assert found["ScaledDotProductAttention"] == fused
    assert found["Softmax"] == layers - fused
    assert found["RoPE"] == (2 * layers if shape.rotary else 0)


def test_attention_in_parts_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "edgekit"):
        open_both(tmp_path, Shape()).session.close()
        assert caplog.text == ""
        open_both(tmp_path, Shape(softcap=15.0)).session.close()
    assert "does not fuse the attention of model.onnx" in caplog.text


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "interleaved"])
def test_what_was_kept_is_right_and_used(
    name: str, opened: Callable[[str], Opened], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny, cache = opened(name), tmp_path / "compiled"
    for _ in range(2):
        session = OPENVINO.open(tiny.folder, tiny.graph, Recipe(), threads=2, cache=cache)
        follow(replace(tiny, session=session), session.start(2, 8), [[], []], [[1, 2, 3, 4], [5, 6]])
        session.close()
        kept = {file.name: file.stat().st_mtime_ns for file in cache.iterdir()}
        assert sorted(name.rpartition(".")[2] for name in kept) == ["blob", "npz"]
    session = OPENVINO.open(tiny.folder, tiny.graph, Recipe(), threads=2, cache=cache)
    assert {file.name: file.stat().st_mtime_ns for file in cache.iterdir()} == kept
    with pytest.raises(InputError, match="no such position"):
        session.run(padded([[1] * (TABLE + 1)]))
    session.close()
    assert caplog.text == "" or "everything" in name


def test_what_was_kept_and_is_wrong_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The portable graph itself: OpenVINO spoils its rotary positions when it keeps them."""
    tiny = open_both(tmp_path, Shape())
    portable = replace(tiny.graph, path="portable.onnx")
    for _ in range(3):
        session = OPENVINO.open(tmp_path, portable, Recipe(), threads=2, cache=tmp_path / "compiled")
        follow(replace(tiny, session=session), session.start(1, 8), [[]], [[1, 2, 3, 4]])
        session.close()
    assert caplog.text.count("compile cache is wrong for portable.onnx") == 1


def test_another_model_in_the_same_place_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    for scale in (0.2, 0.4):
        tiny = open_both(tmp_path, Shape(scale=scale))
        session = OPENVINO.open(tmp_path, tiny.graph, Recipe(), threads=2, cache=tmp_path / "compiled")
        follow(replace(tiny, session=session), session.start(1, 8), [[]], [[1, 2, 3, 4]])
        session.close()
    assert len(list((tmp_path / "compiled").glob("*.blob"))) == 1


def test_nothing_in_part_is_kept_on_a_full_disk(tmp_path: Path) -> None:
    tiny = open_both(tmp_path, Shape())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        session = OPENVINO.open(tmp_path, tiny.graph, Recipe(), threads=2, cache=tmp_path / "compiled")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    follow(replace(tiny, session=session), session.start(1, 8), [[]], [[1, 2, 3, 4]])
    assert list((tmp_path / "compiled").iterdir()) == []


def test_a_fork_and_what_it_came_from_do_not_know_each_other(tiny: Opened) -> None:
    texts: list[list[int]] = [[]]
    state = follow(tiny, tiny.session.start(1, 20), texts, [[1, 2, 3]])
    fork = tiny.session.fork(state)
    follow(tiny, state, [list(texts[0])], [[4, 5, 6]])
    follow(tiny, fork, [list(texts[0])], [[9, 9]])


def test_what_is_saved_holds_nothing_but_the_texts(tiny: Opened) -> None:
    state = tiny.session.run(padded([list(range(9)), [1, 2]]))[1]
    saved = tiny.session.save(tiny.session.trim(state, [4, 1]))
    names = {port.name for port in tiny.graph.inputs[4:]}
    assert saved.keys() == {"lengths", *names}
    assert saved["lengths"].tolist() == [4, 1]
    for name in names:
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
        ({"counts": np.array([3])}, r"counts is \[3\]"),
        ({"input_ids": np.array([[1, VOCABULARY]])}, "no such token"),
        ({"input_ids": np.array([[1, -1]])}, "no such token"),
        ({"input_ids": np.array([[1] * TABLE]), "counts": np.array([TABLE])}, "no such position"),
        ({"input_ids": np.array([[1, 2], [3, 4]]), "counts": np.array([2, 2])}, "has 2 rows, and the state holds 1"),
    ],
)
def test_feeds_that_do_not_fit_leave_the_state_as_it_was(tiny: Opened, change: Any, message: str) -> None:
    texts: list[list[int]] = [[]]
    state = follow(tiny, tiny.session.start(1, 20), texts, [[5, 6, 7]])
    with pytest.raises(InputError, match=message):
        tiny.session.run(padded([[1, 2]]) | change, state)
    follow(tiny, state, texts, [[8]])


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
    follow(tiny, state, [[1, 2, 3]], [[4]])


def test_a_state_whose_rows_were_taken_is_used_up(tiny: Opened) -> None:
    state = tiny.session.run(padded([[1, 2, 3], [4, 5]]))[1]
    taken = tiny.session.rows(state, [1])
    uses: list[Callable[[], Any]] = [
        lambda: tiny.session.run(padded([[1], [2]]), state),
        lambda: tiny.session.fork(state),
        lambda: tiny.session.rows(state, [0]),
        lambda: tiny.session.trim(state, [1, 1]),
        lambda: tiny.session.save(state),
    ]
    for use in uses:
        with pytest.raises(StateError, match="used up"):
            use()
    follow(tiny, taken, [[4, 5]], [[6]])


def test_a_state_of_another_session_is_refused(opened: Callable[[str], Opened]) -> None:
    state = opened("everything").session.start(1, 4)
    with pytest.raises(StateError, match="not of this session"):
        opened("plain").session.run(padded([[1]]), state)


def test_a_state_that_does_not_grow_is_not_for_this_target(tmp_path: Path) -> None:
    noun = compiled_form(tmp_path, Shape())
    fixed = replace(noun, states=tuple(replace(state, axis=None) for state in noun.states))
    with pytest.raises(UnsupportedError, match="does not grow"):
        OPENVINO.open(tmp_path, fixed, Recipe(), threads=1)


def test_a_long_run_is_interrupted_and_its_state_spoiled(tiny: Opened) -> None:
    class Stopped(Exception):
        pass

    def stop(number: int, frame: Any) -> None:
        raise Stopped

    def many_runs() -> None:
        while True:
            tiny.session.run(padded([[1] * 150] * 200))

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Stopped):
            many_runs()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    follow(tiny, tiny.session.start(1, 4), [[]], [[1, 2, 3]])


def test_a_signal_after_sessions_have_come_and_gone(tmp_path: Path) -> None:
    """In a process of its own, which OpenVINO would end if each session had a Core."""
    noun = compiled_form(tmp_path, Shape())
    (tmp_path / "noun").write_bytes(pickle.dumps(noun))
    program = f"""
import gc, pickle, signal
from pathlib import Path
from edgekit import registry
from edgekit.core import Recipe
folder = Path({str(tmp_path)!r})
graph = pickle.loads((folder / "noun").read_bytes())
opened = [registry.find("targets", "openvino").open(folder, graph, Recipe(), threads=1) for _ in range(2)]
while opened:
    opened.pop(0).close()
    gc.collect()
signal.signal(signal.SIGALRM, lambda number, frame: print("told"))
signal.raise_signal(signal.SIGALRM)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "told\n")


def test_threads_share_a_session_with_states_of_their_own(tiny: Opened) -> None:
    faults: list[BaseException] = []

    def work(seed: int) -> None:
        draw, texts = np.random.default_rng(seed), list[list[int]]([[]])
        try:
            state = tiny.session.start(1, 4)
            for count in (7, 1, 1, 5, 1, 1, 1):
                state = follow(tiny, state, texts, drawn(draw, [count]))
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
        lambda: tiny.session.rows(state, [0]),
        lambda: tiny.session.trim(state, [1]),
        lambda: tiny.session.save(state),
    ]
    with state.busy:
        for use in uses:
            with pytest.raises(SessionBusyError):
                use()
    follow(tiny, state, [[1, 2]], [[3]])


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
