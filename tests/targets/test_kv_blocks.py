"""Blocks of keys and values against plain lists: rows that grow, are cut, picked, repeated and copied in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.errors import ResourceError
from edgekit.targets._states.kv_blocks import Blocks, Form

TOKENS = 4
FORMS = {"key": Form("f32", 2, TOKENS, 3), "value": Form("f16", 2, TOKENS, 5)}


class Rows:
    """Blocks, and beside them what each row's tokens are: a number that all of a token's keys and values have."""

    def __init__(self, count: int, blocks: int) -> None:
        self.blocks, self.texts = Blocks(FORMS, count, blocks), [list[int]() for _ in range(count)]

    @property
    def lengths(self) -> Any:
        return np.array([len(text) for text in self.texts])

    def append(self, more: list[list[int]]) -> bool:
        """As the engine does: into the places behind what each row holds."""
        grown = self.blocks.reserve(self.lengths, np.array([len(tokens) for tokens in more]))
        for table, text, tokens in zip(self.blocks.tables, self.texts, more):
            for place, token in enumerate(tokens, len(text)):
                for array in self.blocks.arrays.values():
                    array[table[place // TOKENS], :, place % TOKENS] = token
            text += tokens
        self.check()
        return grown

    def check(self) -> None:
        longest = max(map(len, self.texts))
        for name, form in FORMS.items():
            found = self.blocks.read(name, longest)
            assert (found.shape, found.dtype) == ((len(self.texts), form.heads, longest, form.dim), np.float32)
            for row, text in zip(found, self.texts):
                assert (row[:, : len(text)] == np.array(text)[:, None]).all()
        used = [block for table in self.blocks.tables for block in table]
        free = self.blocks._free
        assert sorted({*used, *free}) == list(range(len(self.blocks._readers)))
        assert not set(used) & set(free)
        assert [used.count(block) for block in range(len(self.blocks._readers))] == self.blocks._readers


@pytest.mark.parametrize("seed", range(20))
def test_rows_keep_their_own(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = Rows(2, 1)
    for _ in range(40):
        match draw.integers(0, 5):
            case 0:
                kept = [int(draw.integers(0, len(text) + 1)) for text in rows.texts]
                rows.blocks.cut(kept)
                rows.texts = [text[:keep] for text, keep in zip(rows.texts, kept)]
            case 1:
                picked = draw.integers(0, len(rows.texts), draw.integers(1, 4)).tolist()
                rows.blocks.pick(picked)
                rows.texts = [list(rows.texts[row]) for row in picked]
            case 2:
                picked = draw.integers(0, len(rows.texts), draw.integers(1, 4)).tolist()
                other = Rows(0, 0)
                other.blocks, other.texts = rows.blocks.copy(picked), [list(rows.texts[row]) for row in picked]
                other.append([[7] for _ in picked])
            case _:
                most = int(draw.integers(1, 7))
                rows.append([draw.integers(0, 99, draw.integers(0, most + 1)).tolist() for _ in rows.texts])
        rows.check()


def test_only_a_block_that_is_written_to_is_copied() -> None:
    rows = Rows(1, 4)
    rows.append([[1, 2, 3, 4, 5]])
    rows.blocks.pick([0, 0])
    rows.texts *= 2
    rows.texts = [list(text) for text in rows.texts]
    assert not rows.append([[6], [7]])
    (first, second), (other, third) = rows.blocks.tables
    assert first == other
    assert second != third


def test_room_is_doubled_when_there_is_none_left() -> None:
    rows = Rows(1, 2)
    assert not rows.append([[1] * 8])
    before = rows.blocks.nbytes
    assert rows.append([[2]])
    assert rows.blocks.nbytes == 2 * before == 4 * sum(form.nbytes for form in FORMS.values())


def test_memory_that_there_is_not() -> None:
    with pytest.raises(ResourceError, match="no memory for 4503599627370496 tokens"):
        Blocks({"key": Form("f32", 1, 4, 1)}, 1, 2**50)


@pytest.mark.parametrize(("kind", "close"), [("f32", 0), ("f16", 1e-3), ("bf16", 8e-3), ("u8", 0.02)])
def test_what_is_stored_is_near(kind: str, close: float) -> None:
    numbers = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    numbers[0, 0] = 0.25  # a token whose numbers are all the same
    form = Form(kind, 2, 5, 8)
    stored = form.encode(numbers)
    assert (stored.shape, stored.nbytes) == (form.shape, form.nbytes)
    found = form.decode(stored)
    assert found.dtype == np.float32
    assert np.abs(found - numbers).max() <= close
    assert (found[0, 0] == found[0, 0, 0]).all()


def test_bf16_is_rounded_to_the_nearest_and_to_even() -> None:
    numbers = np.array([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3.5]], np.float32)
    found = Form("bf16", 1, 1, 5)
    assert found.decode(found.encode(numbers)).tolist() == [[1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -3.5]]
