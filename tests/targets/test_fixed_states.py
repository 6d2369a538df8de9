"""Decoders whose states have a fixed size, alone or beside caches that grow, on every target that keeps such states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_decoders import build, config_of, folder_of
from opened_decoder import Opened, drawn, follow, interrupt, padded, walk
from tiny_decoder import VOCABULARY

from edgekit import registry
from edgekit.core import Recipe
from edgekit.errors import StateError, UnsupportedError
from edgekit.runtimes.loops.decode import whole_prompts as feeds
from edgekit.workbench import graph

ARCHITECTURES = ("mamba", "mamba2", "falcon_mamba", "lfm2", "falcon_h1")
KINDS = ("mamba", "lfm2")  # a state of a fixed size alone, and beside caches
HERE = [name for name in ("cpu", "openvino") if registry.find("targets", name).probe().available]


@pytest.fixture(scope="module", params=[(arch, target) for arch in ARCHITECTURES for target in HERE], ids="-".join)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    arch, target = request.param
    folder = tmp_path_factory.mktemp(arch)
    portable = build(folder_of(folder / "source", config_of(arch, vocab_size=VOCABULARY)), folder)
    module = registry.find("targets", target)
    model = module.compile(graph.load(folder / portable.path), Recipe(), kind=portable.kind)
    noun = graph.describe(model, "model", "compiled.onnx", {}, portable.states, portable.kind)
    (folder / noun.path).write_bytes(graph.to_bytes(model))
    session = module.open(folder, noun, Recipe(), threads=1)
    yield Opened(folder, noun, session, reference(folder, portable))
    session.close()


def reference(folder: Path, portable: Any) -> Callable[[Any], Any]:
    import onnxruntime

    engine = onnxruntime.InferenceSession(folder / portable.path)

    def whole(tokens: Any) -> Any:
        return engine.run(["logits"], feeds(portable, [tokens], [range(len(tokens))]))[0][0]

    return whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_any_walk_over_states_equals_the_text_computed_anew(tiny: Opened, seed: int) -> None:
    walk(tiny, seed, cuts=False)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_a_text_in_chunks_is_the_text_at_once(tiny: Opened, chunk: int) -> None:
    (text,) = drawn(np.random.default_rng(2), [100])
    state, held = tiny.session.start(1, 4), list[int]()
    for first in range(0, len(text), chunk):
        state = follow(tiny, state, [held], [text[first : first + chunk]])


def test_a_state_that_cannot_go_back_says_so_and_goes_on(tiny: Opened) -> None:
    state = tiny.session.run(padded([[1, 2, 3], [4, 5]]))[1]
    for lengths in ([2, 2], [3, 1], [0, 2]):
        with pytest.raises(StateError, match="cannot go back"):
            tiny.session.trim(state, lengths)
    state = follow(tiny, tiny.session.trim(state, [3, 2]), [[1, 2, 3], [4, 5]], [[6], [7]])
    follow(tiny, tiny.session.trim(state, [0, 0]), [[], []], [[8, 9], [10]])


def test_a_state_of_many_tokens_is_as_large_as_one_of_few(tiny: Opened) -> None:
    """But for the caches of attention."""
    sizes = []
    for count in (3, 90):
        state = tiny.session.run(padded([list(range(count))]))[1]
        saved = tiny.session.save(state)
        sizes.append(sum(array.nbytes for name, array in saved.items() if "past_key_values" not in name))
        assert tiny.session.nbytes(state) >= sum(array.nbytes for array in saved.values()) - 8 * len(saved["lengths"])
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    "spoil", [lambda saved, name: saved.pop(name), lambda saved, name: saved.update({name: saved[name][:, :1]})]
)
def test_a_saved_state_that_does_not_fit_is_refused(tiny: Opened, spoil: Any) -> None:
    saved = tiny.session.save(tiny.session.run(padded([[1, 2, 3]]))[1])
    spoil(saved, next(name for name in saved if name.startswith("past_conv")))
    with pytest.raises(StateError, match="not a saved state"):
        tiny.session.load(saved)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tiny", [(arch, name) for arch in ("mamba", "lfm2") for name in HERE], indirect=True, ids="-".join
)
def test_an_interrupt_anywhere_in_a_step(tiny: Opened) -> None:
    interrupt(tiny, cuts=False)


def test_a_gpu_is_not_asked_for_what_it_would_not_keep(tmp_path: Path) -> None:
    portable = build(folder_of(tmp_path / "source", config_of("mamba")), tmp_path)
    model = graph.load(tmp_path / portable.path)
    with pytest.raises(UnsupportedError, match=r"past_conv\.0, of a fixed size"):
        registry.find("targets", "cuda").compile(model, Recipe(weights="fp16"), kind=portable.kind)
