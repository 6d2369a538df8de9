"""What the cpu target's decoders alone do: one buffer for past and present, and weights multiplied as integers.

What they do as every target's do is in test_decoders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opened_decoder import Opened, follow, open_both, opened, padded, tiny
from tiny_decoder import HEAD, Shape

from edgekit.core import Recipe
from edgekit.errors import ResourceError

__all__ = ["opened", "tiny"]


@pytest.fixture(scope="module")
def target() -> str:
    return "cpu"


@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_in_blocks_stay_near_to_the_portable_graph(weights: str, tied: bool, tmp_path: Path) -> None:
    """ONNX Runtime quantizes what it multiplies with them to 8 bits: 1 part in 127 of each group's largest."""
    tiny = open_both("cpu", tmp_path, Shape(weights=weights, tied=tied))
    try:
        text = list(range(3, 40))
        logits = tiny.session.run(padded([text]))[0]["logits"][0, 0]
        wanted = tiny.whole(text)[-1]
        assert np.abs(logits - wanted).max() < 0.1 * wanted.std()
    finally:
        tiny.session.close()


def test_blocks_of_int8_open_where_16_bits_add_up_products_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.machine.device.cpu_features", lambda: {"avx2"})
    recipe = Recipe("int8", activations="int8", group_size=16, method="rtn")
    tiny = open_both("cpu", tmp_path, Shape(weights="int8"), recipe=recipe)
    try:
        logits = tiny.session.run(padded([[3, 4, 5]]))[0]["logits"][0, 0]
        assert np.abs(logits - tiny.whole([3, 4, 5])[-1]).max() < 0.1 * logits.std()
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
