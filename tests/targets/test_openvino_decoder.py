"""What the openvino target's decoders alone do: states that are the engine's own, fused operations, a compile cache.

What they do as every target's do is in test_decoders; what is about blocks of keys and values in test_openvino_pages.
"""

from __future__ import annotations

import logging
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opened_decoder import SHAPES, Opened, compiled_form, drawn, follow, open_both, opened, padded, tiny
from tiny_decoder import HEAD, TABLE, Shape

from edgekit import registry
from edgekit.core import Recipe
from edgekit.errors import InputError, UnsupportedError
from edgekit.targets._openvino.paged_graph import BLOCK
from edgekit.targets._openvino.pages import PagedSession

__all__ = ["opened", "tiny"]
pytest.importorskip("openvino", reason="OpenVINO is not installed")
OPENVINO = registry.find("targets", "openvino")
INSIDE = ("computed angles", "everything")  # of SHAPES: their caches are variables of the model


@pytest.fixture(scope="module")
def target() -> str:
    return "openvino"


def test_places_that_no_row_needs_are_taken_out_when_they_are_many(opened: Callable[[str], Opened]) -> None:
    tiny, texts = opened(INSIDE[0]), list[list[int]]([[], []])
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


@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_in_blocks_are_multiplied_exactly(weights: str, tied: bool, tmp_path: Path) -> None:
    tiny = open_both("openvino", tmp_path, Shape(weights=weights, tied=tied))
    follow(tiny, tiny.session.start(1, 8), [[]], [list(range(3, 40))])
    tiny.session.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kept", "recipe", "close"),
    [
        ("f16", Recipe(), 1e-2),
        ("u8", Recipe(), 0.12),
        ("bf16", Recipe("bf16"), 0.1),
        ("u8", Recipe("bf16"), 0.2),
    ],
)
def test_caches_of_fewer_bits_are_near(kept: str, recipe: Recipe, close: float, tmp_path: Path) -> None:
    """Bounds of the logits' largest difference, about twice what is seen; what is handed out is float32 always."""
    tiny = open_both("openvino", tmp_path, Shape(), recipe, KV_CACHE_PRECISION=kept)
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
    places = BLOCK if isinstance(session, PagedSession) else int(state.lengths.max())
    assert session.nbytes(session.fork(state)) == places * 2 * token
    session.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_attention_and_rotation_are_one_operation_each(name: str, opened: Callable[[str], Opened]) -> None:
    tiny, shape = opened(name), SHAPES[name]
    nodes = tiny.session._compiled.get_runtime_model().get_ops()
    found = Counter(node.get_rt_info()["layerType"].astype(str) for node in nodes)
    layers = len(shape.windows)
    fused = 0 if shape.softcap else layers  # OpenVINO's operation knows no softcap
    assert found["ScaledDotProductAttention"] + found["PagedAttention"] == fused
    assert found["PagedAttention"] == (0 if name in INSIDE else layers)
    assert found["Softmax"] == layers - fused
    assert found["RoPE"] == (2 * layers if shape.rotary else 0)


def test_attention_in_parts_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "edgekit"):
        open_both("openvino", tmp_path, Shape()).session.close()
        assert caplog.text == ""
        open_both("openvino", tmp_path, Shape(softcap=15.0)).session.close()
    assert "does not fuse the attention of model.onnx" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", INSIDE)
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


@pytest.mark.slow
def test_what_was_kept_and_is_wrong_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The portable graph itself: OpenVINO spoils its rotary positions when it keeps them."""
    tiny = open_both("openvino", tmp_path, Shape())
    portable = replace(tiny.graph, path="portable.onnx")
    for _ in range(3):
        session = OPENVINO.open(tmp_path, portable, Recipe(), threads=2, cache=tmp_path / "compiled")
        follow(replace(tiny, session=session), session.start(1, 8), [[]], [[1, 2, 3, 4]])
        session.close()
    assert caplog.text.count("compile cache is wrong for portable.onnx") == 1


def test_another_model_in_the_same_place_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    for scale in (0.2, 0.4):
        tiny = open_both("openvino", tmp_path, Shape(scale=scale, stretched=TABLE))
        session = OPENVINO.open(tmp_path, tiny.graph, Recipe(), threads=2, cache=tmp_path / "compiled")
        follow(replace(tiny, session=session), session.start(1, 8), [[]], [[1, 2, 3, 4]])
        session.close()
    assert len(list((tmp_path / "compiled").glob("*.blob"))) == 1


def test_nothing_in_part_is_kept_on_a_full_disk(tmp_path: Path) -> None:
    tiny = open_both("openvino", tmp_path, Shape(stretched=TABLE))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        session = OPENVINO.open(tmp_path, tiny.graph, Recipe(), threads=2, cache=tmp_path / "compiled")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    follow(replace(tiny, session=session), session.start(1, 8), [[]], [[1, 2, 3, 4]])
    assert list((tmp_path / "compiled").iterdir()) == []


@pytest.mark.parametrize(("axis", "why"), [(1, "grows, and not along axis 2"), (None, "its size is not known")])
def test_a_state_that_grows_otherwise_is_not_for_this_target(axis: int | None, why: str, tmp_path: Path) -> None:
    noun = compiled_form("openvino", tmp_path, Shape())
    strange = replace(noun, states=tuple(replace(state, axis=axis) for state in noun.states))
    with pytest.raises(UnsupportedError, match=why):
        OPENVINO.open(tmp_path, strange, Recipe(), threads=1)


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


class Interrupted:
    """A request whose first run is interrupted some seconds after it began."""

    def __init__(self, request: Any, after: float) -> None:
        self._request, self._after, self._heard = request, after, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def wait_for(self, milliseconds: int) -> bool:
        if self._heard:
            return bool(self._request.wait_for(milliseconds))
        self._heard = True
        until = time.perf_counter() + self._after
        while time.perf_counter() < until:
            pass
        raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "windows", *INSIDE])
def test_a_run_broken_off_anywhere_leaves_the_others_right(name: str, opened: Callable[[str], Opened]) -> None:
    """The engine keeps shapes for all states together, and would take some of them from the run that had no end."""
    tiny = opened(name)
    text, more = drawn(np.random.default_rng(3), [80, 83])
    wanted = tiny.whole(text)[-1]
    for after in np.linspace(0, 2e-3, 200):
        state = tiny.session.trim(tiny.session.run(padded([text]))[1], [7])
        state.request = Interrupted(state.request, after)
        with pytest.raises(KeyboardInterrupt):
            tiny.session.run(padded([more]), state)
        np.testing.assert_allclose(tiny.session.run(padded([text]))[0]["logits"][0, 0], wanted, atol=tiny.close)


def test_a_signal_after_sessions_have_come_and_gone(tmp_path: Path) -> None:
    """In a process of its own, which OpenVINO would end if each session had a Core."""
    noun = compiled_form("openvino", tmp_path, Shape())
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
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "told\n")
