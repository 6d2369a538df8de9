"""Inputs that a state is given once and holds: whatever is done to a state, what the graph gives when they are fed each
time."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cuda_forms import on_cpu
from interrupting import interrupted_at
from onnx import TensorProto, helper
from opened_decoder import CLOSE, compiled_form, drawn, padded
from tiny_decoder import HEAD, SOURCE_MASK, VOCABULARY, Shape, held_ports, write

from edgekit import registry
from edgekit.core import Graph, Port, Recipe, State
from edgekit.errors import InputError, StateError, UnsupportedError

SHAPE = Shape(cross=True, windows=(None, 3))
HERE = [name for name in ("cpu", "openvino") if registry.find("targets", name).probe().available]
FORMS = [*(["cpu as it is", "cpu"] if "cpu" in HERE else []), *(["openvino"] if "openvino" in HERE else [])]
SOURCES = 3  # as many as there are rows, of different lengths
KEY = "cross_key_values.0.key"


@dataclass
class Opened:
    """A session, and what the portable graph says of a text and a source, fed whole."""

    session: Any
    graph: Graph
    whole: Callable[[Sequence[int], int], Any]


def source(rows: Sequence[int]) -> dict[str, Any]:
    """The held inputs of these rows, each padded with numbers that must not matter."""
    lengths = [4 + 2 * row for row in rows]
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    found = {}
    for number, port in enumerate(held_ports(SHAPE)[:-1]):
        each = [np.random.default_rng(10 * row + number).normal(0, 1, (SHAPE.heads, 12, HEAD)) for row in rows]
        found[port.name] = np.stack(each).astype(np.float32)[:, :, : max(lengths)]
    return found | {SOURCE_MASK: mask.astype(np.int64)}


def reference(file: Path) -> Callable[[Sequence[int], int], Any]:
    import onnxruntime as ort

    engine = ort.InferenceSession(file)
    names = [port.name for port in engine.get_inputs() if port.name.startswith("past_key_values.")]
    nothing = {name: np.zeros((1, SHAPE.kv_heads, 0, HEAD), np.float32) for name in names}

    def whole(tokens: Sequence[int], row: int) -> Any:
        places = np.arange(len(tokens))[None]
        feeds = {"input_ids": np.array([tokens]), "position_ids": places, "attention_mask": places * 0 + 1}
        feeds |= {"logit_positions": places[:, -1:], **nothing, **source([row])}
        return engine.run(["logits"], feeds)[0][0, 0]

    return whole


@pytest.fixture(scope="module", params=FORMS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder, (target, *portable) = tmp_path_factory.mktemp("held"), request.param.split(" ", 1)
    graph = write(folder, SHAPE) if portable else compiled_form(target, folder, SHAPE)
    session = registry.find("targets", target).open(folder, graph, Recipe(), threads=2)
    yield Opened(session, graph, reference(folder / "portable.onnx"))
    session.close()


def follow(
    tiny: Opened, state: Any, texts: list[list[int]], rows: list[int], more: list[list[int]], **held: Any
) -> Any:
    """Run `more`; the last logits of each row are those of its whole text beside its source."""
    outputs, state = tiny.session.run(padded(more) | held, state)
    for place, (text, row, tokens) in enumerate(zip(texts, rows, more, strict=True)):
        text += tokens
        np.testing.assert_allclose(outputs["logits"][place, 0], tiny.whole(text, row), atol=CLOSE)
    return state


def begun(tiny: Opened, counts: Sequence[int] = (5, 1, 3)) -> tuple[Any, list[list[int]], list[int]]:
    rows, texts = list(range(len(counts))), [list[int]() for _ in counts]
    more = drawn(np.random.default_rng(0), counts)
    state = follow(tiny, tiny.session.start(len(rows), 8), texts, rows, more, **source(rows))
    return state, texts, rows


def test_the_forms_are_those_of_other_decoders(tiny: Opened, request: pytest.FixtureRequest) -> None:
    kinds = {"cpu as it is": "PlainDecoderSession", "cpu": "DecoderSession", "openvino": "VariableSession"}
    assert type(tiny.session).__name__ == kinds[request.node.callspec.params["tiny"]]


def test_steps_equal_what_is_fed_each_time(tiny: Opened) -> None:
    draw = np.random.default_rng(1)
    state, texts, rows = begun(tiny)
    for counts in ((1, 1, 1), (4, 1, 6), (1, 1, 1), (3, 3, 3), (1, 1, 1)):
        state = follow(tiny, state, texts, rows, drawn(draw, counts))


@pytest.mark.parametrize("seed", range(3))
def test_any_walk_over_states_keeps_what_is_held(tiny: Opened, seed: int) -> None:
    draw, session = np.random.default_rng(seed), tiny.session
    state, texts, rows = begun(tiny)
    for _ in range(14):
        match draw.integers(0, 4):
            case 0:
                kept = [int(draw.integers(0, len(text) + 1)) for text in texts]
                state, texts = session.trim(state, kept), [text[:keep] for text, keep in zip(texts, kept)]
            case 1:
                picked = draw.integers(0, len(texts), draw.integers(1, 4)).tolist()
                state = session.rows(state, picked)
                texts, rows = [list(texts[row]) for row in picked], [rows[row] for row in picked]
            case 2:
                state = session.load(session.save(state))
            case _:
                state, other = session.fork(state), session.fork(state, [-1 % len(texts)])
                follow(tiny, other, [list(texts[-1])], rows[-1:], [[1, 2]])
        more = [int(count) for count in draw.integers(1, 4, len(texts))]
        state = follow(tiny, state, texts, rows, drawn(draw, more))


def test_a_run_without_a_state_starts_one(tiny: Opened) -> None:
    outputs, state = tiny.session.run(padded([[1, 2], [3]]) | source([0, 1]))
    np.testing.assert_allclose(outputs["logits"][1, 0], tiny.whole([3], 1), atol=CLOSE)
    follow(tiny, state, [[1, 2], [3]], [0, 1], [[4], [5]])


def test_what_is_held_is_the_states_own(tiny: Opened) -> None:
    held = source([0, 1, 2])
    _, state = tiny.session.run(padded([[1], [2], [3]]) | held)
    for array in held.values():
        array[...] = 0
    follow(tiny, state, [[1], [2], [3]], [0, 1, 2], [[4], [5], [6]])


def test_what_is_held_counts_as_the_state(tiny: Opened) -> None:
    state, *_ = begun(tiny)
    bare = tiny.session.nbytes(tiny.session.start(3, 8))
    size = sum(array.nbytes for array in source([0, 1, 2]).values())
    assert tiny.session.nbytes(state) >= size
    assert tiny.session.nbytes(state) - size >= bare
    saved = tiny.session.save(state)
    for name, array in source([0, 1, 2]).items():
        np.testing.assert_array_equal(saved[name], array)


def test_beams_of_a_text_share_what_they_hold(tiny: Opened) -> None:
    state, texts, rows = begun(tiny)
    state = tiny.session.rows(state, [1, 1, 1])
    beams = state.held
    texts, rows = [list(texts[1]) for _ in range(3)], [1, 1, 1]
    state = follow(tiny, state, texts, rows, [[1], [2], [3]])
    state = tiny.session.rows(state, [2, 2, 0])
    assert state.held is beams
    follow(tiny, state, [list(texts[row]) for row in (2, 2, 0)], rows, [[4], [5], [6]])


def test_a_first_run_needs_them_all_and_no_other_takes_one(tiny: Opened) -> None:
    session, feeds, held = tiny.session, padded([[1, 2], [3]]), source([0, 1])
    state = session.start(2, 4)
    with pytest.raises(InputError, match=f"'{KEY}' is missing"):
        session.run(feeds | {name: array for name, array in held.items() if name != KEY}, state)
    with pytest.raises(InputError, match=rf"'{KEY}' is float64"):
        session.run(feeds | held | {KEY: held[KEY].astype(np.float64)}, state)
    for wrong in (held[KEY][:1], held[KEY][:, :1], held[KEY][0]):
        with pytest.raises(InputError, match=rf"'{KEY}' is float32"):
            session.run(feeds | held | {KEY: wrong}, state)
    state = follow(tiny, state, [[], []], [0, 1], [[1, 2], [3]], **held)
    with pytest.raises(InputError, match=f"'{KEY}' is held by the state already"):
        session.run(padded([[4], [5]]) | {KEY: held[KEY]}, state)
    state = follow(tiny, state, [[1, 2], [3]], [0, 1], [[4], [5]])
    follow(tiny, session.trim(state, [0, 0]), [[], []], [0, 1], [[6], [7]])


def test_a_first_run_that_fails_may_be_made_again(tiny: Opened) -> None:
    state = tiny.session.start(1, 4)
    with pytest.raises(InputError):
        tiny.session.run(padded([[VOCABULARY]]) | source([2]), state)
    follow(tiny, state, [[]], [2], [[1, 2]], **source([2]))


def test_an_interrupt_anywhere_in_a_first_run(tiny: Opened) -> None:
    """It was not, and may be made again; or it has ended, and is held; or the state says that it is lost."""
    outcomes = set()
    for place in itertools.count():
        state, again = tiny.session.start(1, 4), source([2])
        if not interrupted_at(place, "edgekit.targets.", partial(tiny.session.run, padded([[1, 2]]) | again, state)):
            break
        outcome = "not run"
        try:
            if state.lengths.any():
                outcome, again = "run", {}
                tiny.session.trim(state, [0])
            follow(tiny, state, [[]], [2], [[3, 4]], **again)
        except StateError:
            outcome = "lost"
        outcomes.add(outcome)
    assert place > 20
    assert "not run" in outcomes


def test_a_state_without_a_token_takes_others(tiny: Opened) -> None:
    state, *_ = begun(tiny, [3, 4])
    state = follow(tiny, tiny.session.trim(state, [0, 0]), [[], []], [2, 1], [[1], [2, 3]], **source([2, 1]))
    follow(tiny, state, [[1], [2, 3]], [2, 1], [[4], [5]])


def test_a_saved_state_has_all_of_them_or_was_never_fed(tiny: Opened) -> None:
    session = tiny.session
    empty = session.load(session.save(session.start(2, 4)))
    follow(tiny, empty, [[], []], [0, 1], [[1, 2], [3]], **source([0, 1]))
    saved = session.save(begun(tiny)[0])
    with pytest.raises(StateError, match=f"it has no {KEY}"):
        session.load({name: array for name, array in saved.items() if name != KEY})
    with pytest.raises(StateError, match=f"it has no {KEY}"):
        session.load({name: array for name, array in saved.items() if name not in source([0])})
    with pytest.raises(StateError, match=f"{KEY} is float32"):
        session.load(saved | {KEY: saved[KEY][:2]})


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")
def test_openvino_reads_them_where_they_are_and_fuses_caches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph, module = compiled_form("openvino", tmp_path, SHAPE), registry.find("targets", "openvino")
    with caplog.at_level(logging.WARNING, "edgekit"):
        for _ in range(2):  # the second one is from the cache
            session = module.open(tmp_path, graph, Recipe(), threads=1, cache=tmp_path / "cache")
            tiny = Opened(session, graph, reference(tmp_path / "portable.onnx"))
            state, texts, rows = begun(tiny)
            assert state.request.get_tensor(KEY).data.ctypes.data == state.held.arrays[KEY].ctypes.data
            follow(tiny, state, texts, rows, [[1], [2], [3]])
            session.close()
    assert not caplog.text


def test_cpu_reads_prompts_beside_what_is_held(tmp_path: Path) -> None:
    """By the form for prompts, which has no use for what the last layer holds; and with caches in 8 bits."""
    from edgekit.workbench import graph as graphs

    cpu, shape = registry.find("targets", "cpu"), replace(SHAPE, weights="int8", windows=(None, None))
    noun = write(tmp_path, shape)
    whole = reference(tmp_path / noun.path)
    text = drawn(np.random.default_rng(0), [40])[0]
    for form in ("float32", "int8"):
        model = cpu.compile(graphs.load(tmp_path / noun.path), Recipe("int8"), {"kv_cache": form}, kind=noun.kind)
        prompt = cpu.prompt(model)
        home = tmp_path / form
        home.mkdir()
        graphs.pack({"model.onnx": model, "prompt.onnx": prompt}, home)
        described = graphs.describe(prompt, "prompt", "prompt.onnx", {}, kind=noun.kind)
        assert "cross_key_values.1.key" not in {port.name for port in described.inputs}
        compiled = replace(graphs.describe(model, "model", "model.onnx", {}, noun.states, noun.kind), prompt=described)
        session = cpu.open(home, compiled, Recipe("int8"), threads=1, options={"kv_cache": form})
        outputs, _ = session.run(padded([text, text[:20]]) | source([1, 0]))
        for place, row in enumerate((1, 0)):
            right, wrong = (
                apart(outputs["logits"][place, 0], whole((text, text[:20])[place], s)) for s in (row, 1 - row)
            )
            assert right < 0.1 < 0.4 < wrong
        session.close()


def apart(found: Any, exact: Any) -> float:
    """The root mean square of what lies between them, in standard deviations."""
    return float(np.sqrt(np.mean((found - exact) ** 2)) / exact.std())


def test_cuda_says_that_it_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"cuda does not hold {KEY}"):
        on_cpu(tmp_path, write(tmp_path, SHAPE))


# Plain graphs: y = x * scale + shift, the latter of an "image" that all rows share.
EMBEDDED = Graph(
    "prompt",
    "prompt.onnx",
    (
        Port("x", "float32", ("batch", "points", 4)),
        Port("scale", "float32", ("batch", 1, 4)),
        Port("shift", "float32", (1, 1, 4)),
    ),
    (Port("y", "float32", ("batch", "points", 4)),),
    (State("scale"), State("shift")),
)
SCALE = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
SHIFT = np.array([[[0.5, 1, 2, 3]]], np.float32)
X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


@pytest.fixture(params=HERE)
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    session = registry.find("targets", request.param).open(embedded(tmp_path), EMBEDDED, Recipe(), threads=1)
    yield session
    session.close()


def embedded(folder: Path) -> Path:
    nodes = [helper.make_node("Mul", ["x", "scale"], ["scaled"]), helper.make_node("Add", ["scaled", "shift"], ["y"])]
    sides = (
        [helper.make_tensor_value_info(port.name, TensorProto.FLOAT, port.shape) for port in side]
        for side in (EMBEDDED.inputs, EMBEDDED.outputs)
    )
    model = helper.make_model(
        helper.make_graph(nodes, "plain", *sides), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    onnx.save(model, folder / EMBEDDED.path)
    return folder


def test_a_plain_graph_holds_an_image(plain: Any) -> None:
    outputs, state = plain.run({"x": X, "scale": SCALE, "shift": SHIFT}, plain.start(2))
    np.testing.assert_allclose(outputs["y"], X * SCALE + SHIFT, rtol=1e-6)
    other = plain.fork(state, [1])
    for points in (X[:, :1], X, X[:, 1:]):
        outputs, state = plain.run({"x": points}, state)
        np.testing.assert_allclose(outputs["y"], points * SCALE + SHIFT, rtol=1e-6)
    again = plain.load(plain.save(plain.rows(state, [1, 0])))
    np.testing.assert_allclose(plain.run({"x": X}, again)[0]["y"], X * SCALE[::-1] + SHIFT, rtol=1e-6)
    np.testing.assert_allclose(plain.run({"x": X[:1]}, other)[0]["y"], X[:1] * SCALE[1:] + SHIFT, rtol=1e-6)
    assert plain.nbytes(again) == SCALE.nbytes + SHIFT.nbytes
    assert again.batch == 2
    assert plain.placement in ("CPUExecutionProvider", "CPU")


def test_a_plain_graph_needs_what_it_holds_once(plain: Any) -> None:
    outputs, state = plain.run({"x": X, "scale": SCALE, "shift": SHIFT})
    np.testing.assert_allclose(outputs["y"], X * SCALE + SHIFT, rtol=1e-6)
    with pytest.raises(InputError, match="'shift' is held by the state already"):
        plain.run({"x": X, "shift": SHIFT}, state)
    with pytest.raises(InputError, match="'scale' is missing"):
        plain.run({"x": X, "shift": SHIFT})
    with pytest.raises(InputError, match="'x' is missing"):
        plain.run({}, state)
    with pytest.raises(InputError, match="'x' is missing"):
        plain.run({"scale": SCALE, "shift": SHIFT}, first := plain.start(2))
    np.testing.assert_allclose(plain.run({"x": X, "scale": SCALE, "shift": SHIFT}, first)[0]["y"], X * SCALE + SHIFT)
    for arrays in ({}, {"rows": np.array([2])}, {"rows": np.array(0)}, {"rows": np.array(1), "z": X}):
        with pytest.raises(StateError, match="not a saved state of this graph"):
            plain.load(arrays)
    with pytest.raises(StateError, match="for 0 rows"):
        plain.start(0)


@pytest.mark.parametrize("target", HERE)
def test_a_kind_that_does_not_fit_the_states_is_refused(target: str, tmp_path: Path) -> None:
    module, folder = registry.find("targets", target), embedded(tmp_path)
    with pytest.raises(UnsupportedError, match="is a stream, and holds its input scale"):
        module.open(folder, replace(EMBEDDED, kind="stream"), Recipe(), threads=1)
    changing = replace(EMBEDDED, states=(State("scale"), State("shift", "y")))
    with pytest.raises(UnsupportedError, match="is a plain graph, and its state shift changes"):
        module.open(folder, changing, Recipe(), threads=1)
