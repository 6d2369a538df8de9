"""Tiny decoders opened on a target, each beside its portable graph, which computes every text anew without a cache.

A test file says in a fixture `target` which it is about; `opened` and `tiny` come from here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupting import interrupted_at
from tiny_decoder import HEAD, TABLE, VOCABULARY, Shape, write

from edgekit import graph, registry
from edgekit.core import Graph, Recipe
from edgekit.errors import StateError

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
    "one product": Shape(together=True, bias=True, windows=(None, 4)),
    "one product, heads normalized": Shape(together=True, head_norm=True),
}


@dataclass
class Opened:
    folder: Path
    graph: Graph  # in the target's form
    session: Any
    whole: Callable[[Sequence[int]], Any]  # logits of every position of a text
    close: float = CLOSE


def compiled_form(target: str, folder: Path, shape: Shape) -> Graph:
    """The noun of the graph in the target's form, in `folder`; `portable.onnx` is there too."""
    noun = write(folder, shape)
    model = registry.find("targets", target).compile(graph.load(folder / noun.path), Recipe())
    (folder / "model.onnx").write_bytes(graph.to_bytes(model))
    return replace(graph.describe(model, "model", "model.onnx", {}), states=noun.states)


def open_both(target: str, folder: Path, shape: Shape, recipe: Recipe | None = None, **options: str) -> Opened:
    noun = compiled_form(target, folder, shape)
    session = registry.find("targets", target).open(folder, noun, recipe or Recipe(), threads=2, options=options)
    return Opened(folder, noun, session, reference(folder / "portable.onnx", shape))


def reference(file: Path, shape: Shape) -> Callable[[Sequence[int]], Any]:
    import onnxruntime as ort

    exact = ort.SessionOptions()
    exact.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it would quantize activations
    engine = ort.InferenceSession(file, exact)
    states = [port.name for port in engine.get_inputs() if port.name.startswith("past_key_values.")]
    nothing = {name: np.zeros((1, shape.kv_heads, 0, HEAD), np.float32) for name in states}

    def whole(tokens: Sequence[int]) -> Any:
        places = np.arange(len(tokens))[None]
        feeds = {"input_ids": np.array([tokens]), "position_ids": places, "attention_mask": places * 0 + 1}
        return engine.run(["logits"], {**feeds, "logit_positions": places, **nothing})[0][0]

    return whole


@pytest.fixture(scope="module")
def opened(target: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Opened]]:
    """Each of SHAPES once, by its name."""
    found: dict[str, Opened] = {}

    def find(name: str) -> Opened:
        if name not in found:
            found[name] = open_both(target, tmp_path_factory.mktemp("decoder"), SHAPES[name])
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


def drawn(draw: np.random.Generator, counts: Sequence[int]) -> list[list[int]]:
    return [draw.integers(0, VOCABULARY, count).tolist() for count in counts]


def follow(tiny: Opened, state: Any, texts: list[list[int]], more: Sequence[Sequence[int]]) -> Any:
    """Run `more`, add it to `texts`, and hold the last logits of each row against those of the whole text."""
    outputs, state = tiny.session.run(padded(more), state)
    assert outputs["logits"].shape == (len(texts), 1, VOCABULARY)
    for row, (text, tokens) in enumerate(zip(texts, more, strict=True)):
        text += tokens
        np.testing.assert_allclose(outputs["logits"][row, 0], tiny.whole(text)[-1], atol=tiny.close)
    assert state.lengths.tolist() == [len(text) for text in texts]
    return state


def walk(tiny: Opened, seed: int, go: Callable[..., Any] = follow, *, empty: bool = True, cuts: bool = True) -> None:
    """Cut, pick, save, fork and go on in any order; `go` holds what comes out against the text computed anew.

    `empty`: states without any token are cut and picked too. `cuts`: anywhere, not only to nothing.
    """
    draw, session = np.random.default_rng(seed), tiny.session
    state, texts = session.start(2, 1), list[list[int]]([[], []])
    for step in range(14):
        match draw.integers(0, 5) if step or empty else 4:
            case 0:
                kept = [int(draw.integers(0, len(text) + 1)) if cuts else 0 for text in texts]
                state, texts = session.trim(state, kept), [text[:keep] for text, keep in zip(texts, kept)]
            case 1:
                picked = draw.integers(0, len(texts), draw.integers(1, 4)).tolist()
                state, texts = session.rows(state, picked), [list(texts[row]) for row in picked]
            case 2:
                state = session.load(session.save(state))
            case 3:
                state, other = session.fork(state), session.fork(state, [-1 % len(texts)])
                go(tiny, other, [list(texts[-1])], [[1, 2]])
            case _:
                most = int(draw.integers(1, 7))
                state = go(tiny, state, texts, drawn(draw, [int(draw.integers(1, most + 1)) for _ in texts]))
        state = go(tiny, state, texts, drawn(draw, [1] * len(texts)))


def interrupt(tiny: Opened, go: Callable[..., Any] = follow, *, cuts: bool = True) -> None:
    """A step that makes the caches grow and takes out what was cut off, interrupted wherever Python hears a signal, in
    turn: the state is what it was, or it holds nothing, or it says that it is lost. `cuts`: there is something cut off.
    """
    long, more = drawn(np.random.default_rng(3), [80, 83])
    for place in itertools.count():
        state = tiny.session.run(padded([long if cuts else long[:7]]))[1]
        tiny.session.trim(state, [7])
        if not interrupted_at(place, "edgekit.targets.", partial(tiny.session.run, padded([more]), state)):
            break
        with suppress(StateError):
            tiny.session.trim(state, [7])
            go(tiny, state, [long[:7]], [[5]])
    assert place > 20
