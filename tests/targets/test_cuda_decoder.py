"""Decoders on a GPU: whatever is done to a state, the logits are those of the portable graph on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from built_decoders import build, caching, config_of, folder_of, generate, prompts
from cuda_forms import CUDA, RECIPES, compiled
from onnx import TensorProto, helper
from opened_decoder import SHAPES, Opened, drawn, follow, padded, reference, walk
from tiny_decoder import TABLE, VOCABULARY, Shape, write

from edgekit import registry
from edgekit.core import Graph, Port, Recipe
from edgekit.errors import DeviceError, InputError, ResourceError
from edgekit.workbench import graph

HERE = CUDA.probe()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HERE.available, reason=f"cuda: {HERE.why}")]
NEAR = {"fp16": 0.02, "bf16": 0.15, "int8": 0.03, "int4": 0.03}  # of the spread of logits
PRECISIONS = ("fp16", "bf16")


def open_both(folder: Path, shape: Shape, precision: str) -> Opened:
    portable = write(folder, shape)
    noun = compiled(folder, portable, precision)
    whole = reference(folder / portable.path, shape)
    session = CUDA.open(folder, noun, RECIPES[precision], threads=1)
    return Opened(folder, noun, session, whole, NEAR[precision] * float(whole(range(40)).std()))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Opened]]:
    """Each shape in each precision once."""
    found: dict[tuple[str, str], Opened] = {}

    def find(name: str, precision: str) -> Opened:
        if (name, precision) not in found:
            found[name, precision] = open_both(tmp_path_factory.mktemp("decoder"), SHAPES[name], precision)
        return found[name, precision]

    yield find
    for each in found.values():
        each.session.close()


@pytest.fixture
def tiny(opened: Callable[[str, str], Opened]) -> Opened:
    return opened("plain", "fp16")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_wiring_is_right_in_prompts_chunks_and_steps(
    name: str, precision: str, opened: Callable[[str, str], Opened]
) -> None:
    tiny, draw = opened(name, precision), np.random.default_rng(1)
    assert tiny.session.placement == "CUDAExecutionProvider"
    state, texts = tiny.session.start(3, 8), list[list[int]]([[], [], []])
    for counts in ((5, 2, 9), (1, 1, 1), (4, 1, 6), (1, 1, 1), (3, 3, 3), (1, 1, 1)):
        state = follow(tiny, state, texts, drawn(draw, counts))


@pytest.mark.parametrize("precision", RECIPES)
@pytest.mark.parametrize("arch", caching())
def test_every_architecture_gives_what_the_portable_graph_gives(arch: str, precision: str, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", config_of(arch))
    portable = build(source, tmp_path, RECIPES[precision] if precision in ("int8", "int4") else Recipe())
    session = CUDA.open(tmp_path, compiled(tmp_path, portable, precision), RECIPES[precision], threads=1)
    exact = ort.SessionOptions()
    exact.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    engine = ort.InferenceSession(tmp_path / portable.path, exact, providers=["CPUExecutionProvider"])
    names = [output.name for output in engine.get_outputs()]
    rows, state = prompts([7, 4, 11]), None
    feeds = padded(rows)
    for step in generate(lambda given: dict(zip(names, engine.run(None, given))), portable, rows, 4):
        if state is not None:
            feeds = padded([row[-1:] for row in step.rows])
        outputs, state = session.run(feeds, state)
        assert np.abs(outputs["logits"][:, 0] - step.logits).max() < NEAR[precision] * step.logits.std()
    session.close()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("seed", range(4))
def test_any_walk_over_states_equals_the_text_computed_anew(
    seed: int, precision: str, opened: Callable[[str, str], Opened]
) -> None:
    walk(opened("everything", precision), seed, follow, empty=False)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "uint16")])
def test_a_saved_state_is_arrays_of_the_host(precision: str, dtype: str, opened: Callable[[str, str], Opened]) -> None:
    session = opened("plain", precision).session
    saved = session.save(session.run(padded([[1, 2, 3], [4]]))[1])
    for name, array in saved.items():
        assert array.dtype == ("int64" if name == "lengths" else dtype)
        assert array.any()


def test_caches_are_on_the_gpu_and_stay_where_they_are(tiny: Opened) -> None:
    from edgekit.targets._cuda.memory import Buffer  # type: ignore[import-not-found]

    state = follow(tiny, tiny.session.start(1, 32), [[]], [[1, 2, 3]])
    before = {name: buffer.address for name, buffer in state.buffers.items()}
    assert all(isinstance(buffer, Buffer) for buffer in state.buffers.values())
    first = tiny.session.run(padded([[4]]), state)[0]["logits"]
    assert first is tiny.session.run(padded([[5]]), state)[0]["logits"]
    assert {name: buffer.address for name, buffer in state.buffers.items()} == before


def test_logits_of_any_positions_and_of_none(tiny: Opened) -> None:
    rows = [[1, 2, 3, 4, 5], [6, 7, 8]]
    feeds = {**padded(rows), "logit_positions": np.array([[0, 4], [2, 1]])}
    logits = tiny.session.run(feeds)[0]["logits"]
    for found, text, places in zip(logits, rows, feeds["logit_positions"]):
        np.testing.assert_allclose(found, tiny.whole(text)[places], atol=tiny.close)
    outputs, state = tiny.session.run({**padded(rows), "logit_positions": np.zeros((2, 0), np.int64)})
    assert outputs["logits"].shape == (2, 0, VOCABULARY)
    follow(tiny, state, rows, [[9], [9]])


def test_a_prompt_in_pieces(tiny: Opened) -> None:
    text = np.random.default_rng(3).integers(0, VOCABULARY, TABLE - 10).tolist()
    state, texts = tiny.session.start(1, 8), list[list[int]]([[]])
    for first in range(0, len(text), 37):
        state = follow(tiny, state, texts, [text[first : first + 37]])


def test_threads_share_a_session_with_states_of_their_own(tiny: Opened) -> None:
    faults: list[BaseException] = []

    def work(seed: int) -> None:
        draw, texts = np.random.default_rng(seed), list[list[int]]([[]])
        try:
            state = tiny.session.start(1, 4)
            for count in (7, 1, 1, 5, 1, 1, 1):
                state = tiny.session.fork(follow(tiny, state, texts, drawn(draw, [count])))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_a_text_beyond_the_positions_is_refused(tiny: Opened) -> None:
    state = tiny.session.run(padded([[1] * TABLE]))[1]
    with pytest.raises(InputError, match="no such token or position"):
        tiny.session.run(padded([[1]]), state)
    assert state.lengths.tolist() == [TABLE]


def test_a_cache_that_the_gpu_does_not_hold(tiny: Opened) -> None:
    with pytest.raises(ResourceError, match="no memory for a cache"):
        tiny.session.start(1, 10**10)
    follow(tiny, tiny.session.start(1, 8), [[]], [[1, 2]])


def test_a_graph_that_the_gpu_cannot_run_whole_is_refused(tmp_path: Path) -> None:
    """There is no kernel for Det."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    made = helper.make_graph([helper.make_node("Det", ["x"], ["y"])], "det", [x], [y])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), tmp_path / "d.onnx")
    noun = Graph("d", "d.onnx", (Port("x", "float32", ("batch", 4, 4)),), (Port("y", "float32", ("batch",)),))
    with pytest.raises(DeviceError, match="does not run whole on the GPU"):
        CUDA.open(tmp_path, noun, Recipe(), threads=1)


def test_a_decoder_in_float32_does_not_open(tmp_path: Path) -> None:
    """As a bundle that somebody else wrote might hold it: the kernel takes 16 bits only."""
    portable = write(tmp_path, Shape())
    model = registry.find("targets", "cpu").compile(graph.load(tmp_path / portable.path), Recipe(), kind=portable.kind)
    (tmp_path / "model.onnx").write_bytes(graph.to_bytes(model))
    noun = graph.describe(model, "model", "model.onnx", {}, portable.states, portable.kind)
    with pytest.raises(DeviceError, match="does not run whole on the GPU"):
        CUDA.open(tmp_path, noun, RECIPES["fp16"], threads=1)
