"""Keys and values in blocks of tokens, on the host, and which block holds whose: what PagedAttention reads and writes.

Blocks are shared by rows that have the same past, and counted; one that is going to be written to is a row's own
first. Rows grow, are cut, picked and repeated without any being moved. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import ResourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array

    Integers = NDArray[np.int64]

SCALES = 8  # bytes before each token's u8 numbers: what to multiply by, and the number that stands for 0, both float32
STORED = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16, "u8": np.uint8}  # what the bits lie in


@dataclass(frozen=True)
class Form:
    """How a block holds one layer's keys or values: (heads, tokens, dim) numbers of a kind by OpenVINO's name."""

    kind: str
    heads: int
    tokens: int
    dim: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.heads, self.tokens, self.dim + SCALES * (self.kind == "u8")

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(STORED[self.kind]).itemsize

    def encode(self, numbers: Array) -> Array:
        """float32 (..., dim) as it is stored."""
        if self.kind == "bf16":
            bits = np.ascontiguousarray(numbers).view(np.uint32)
            return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        if self.kind != "u8":
            return numbers.astype(STORED[self.kind])
        low, high = numbers.min(-1, keepdims=True), numbers.max(-1, keepdims=True)
        scale = np.where(high > low, (high - low) / 255, 1).astype(np.float32)
        zero = (-low / scale).astype(np.float32)
        bits = np.clip(np.rint(numbers / scale + zero), 0, 255).astype(np.uint8)
        return np.concatenate([np.concatenate([scale, zero], -1).view(np.uint8), bits], -1)

    def decode(self, stored: Array) -> Array:
        """The counterpart: float32 (..., dim)."""
        if self.kind == "bf16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        if self.kind != "u8":
            return stored.astype(np.float32)
        scale, zero = np.split(np.ascontiguousarray(stored[..., :SCALES]).view(np.float32), 2, -1)
        return (stored[..., SCALES:] - zero) * scale


class Blocks:
    """Of some rows: `arrays` (blocks, *form.shape) by the name of the state; `tables`, each row's blocks in order."""

    def __init__(self, forms: Mapping[str, Form], rows: int, blocks: int) -> None:
        """Empty rows, and room for so many blocks, which takes memory when it is written to. Raises ResourceError."""
        self._forms = forms
        self._tokens = next(iter(forms.values())).tokens
        self.arrays = {name: _zeros(form, blocks) for name, form in forms.items()}
        self.tables: list[list[int]] = [[] for _ in range(rows)]
        self._free = list(range(blocks))[::-1]
        self._readers = [0] * blocks

    @property
    def nbytes(self) -> int:
        """Room to grow included."""
        return sum(form.nbytes for form in self._forms.values()) * len(self._readers)

    def reserve(self, lengths: Integers, more: Integers) -> bool:
        """Room of its own for each row's next `more` tokens behind its first `lengths`. Raises ResourceError.

        True: there was none left, and `arrays` are others now.
        """
        shared = [self._shared(row, int(length)) for row, length in enumerate(lengths)]
        wanted = [self._count(length + count) for length, count in zip(lengths, more)]
        missing = sum(count - len(table) for count, table in zip(wanted, self.tables)) + sum(shared)
        grown = missing > len(self._free)
        if grown:
            self._grow(max(missing - len(self._free), len(self._readers)))
        for table, count, copied in zip(self.tables, wanted, shared):
            if copied and self._readers[table[-1]] > 1:  # the last of those that shared it may keep it
                table[-1] = self._copy(table[-1])
            table.extend(self._take() for _ in range(count - len(table)))
        return grown

    def cut(self, lengths: Iterable[int]) -> None:
        """Keep each row's first so many tokens."""
        for table, length in zip(self.tables, lengths):
            for block in table[self._count(length) :]:
                self._release(block)
            del table[self._count(length) :]

    def pick(self, rows: Sequence[int]) -> None:
        """These rows only, in this order; a row may come twice. Nothing is copied."""
        picked = [list(self.tables[row]) for row in rows]
        for table in picked:
            for block in table:
                self._readers[block] += 1
        for table in self.tables:
            for block in table:
                self._release(block)
        self.tables = picked

    def copy(self, rows: Sequence[int]) -> Blocks:
        """Blocks of these rows that share nothing with this, and no room to grow. Raises ResourceError."""
        numbers = sorted({block for row in rows for block in self.tables[row]})
        place = {block: number for number, block in enumerate(numbers)}
        made = Blocks(self._forms, len(rows), len(numbers))
        for name, array in self.arrays.items():
            made.arrays[name][...] = array[numbers]
        made.tables = [[place[block] for block in self.tables[row]] for row in rows]
        made._free = []
        for table in made.tables:
            for block in table:
                made._readers[block] += 1
        return made

    def read(self, name: str, longest: int) -> Array:
        """One state of all rows as float32 (rows, heads, longest, dim); what is behind a shorter row means nothing."""
        form, count = self._forms[name], self._count(longest)
        found = np.zeros((len(self.tables), form.heads, count * form.tokens, form.dim), np.float32)
        for row, table in zip(found, self.tables):
            for place, block in enumerate(table[:count]):
                row[:, place * form.tokens : (place + 1) * form.tokens] = form.decode(self.arrays[name][block])
        return found[:, :, :longest]

    def write(self, name: str, numbers: Array) -> None:
        """The counterpart, (rows, heads, longest, dim), into blocks that were reserved for it and are nobody else's."""
        form = self._forms[name]
        for row, table in zip(numbers, self.tables):
            for place, block in enumerate(table):
                part = row[:, place * form.tokens : (place + 1) * form.tokens]
                self.arrays[name][block, :, : part.shape[1]] = form.encode(part)

    def _count(self, tokens: int) -> int:
        """Blocks that so many tokens take."""
        return -(-int(tokens) // self._tokens)

    def _shared(self, row: int, length: int) -> bool:
        """Whether the row's next token goes into a block that another reads."""
        return length % self._tokens > 0 and self._readers[self.tables[row][-1]] > 1

    def _take(self) -> int:
        block = self._free.pop()
        self._readers[block] = 1
        return block

    def _release(self, block: int) -> None:
        self._readers[block] -= 1
        if not self._readers[block]:
            self._free.append(block)

    def _copy(self, block: int) -> int:
        made = self._take()
        for array in self.arrays.values():
            array[made] = array[block]
        self._release(block)
        return made

    def _grow(self, more: int) -> None:
        held = len(self._readers)
        arrays = {}
        for name, form in self._forms.items():
            arrays[name] = _zeros(form, held + more)
            arrays[name][:held] = self.arrays[name]
        self.arrays = arrays
        self._free.extend(range(held, held + more)[::-1])
        self._readers += [0] * more


def _zeros(form: Form, blocks: int) -> Array:
    try:
        return np.zeros((blocks, *form.shape), STORED[form.kind])
    except MemoryError as error:
        raise ResourceError(f"no memory for {blocks * form.tokens} tokens", hint="use a shorter text") from error
