"""A decoder's caches in the GPU's memory: rows are copied there, and come to the host only to be saved.

A row's tokens lie apart for each head, (batch, heads, capacity, dim), so the first tokens of rows are equal pieces at
equal distances: one copy in two dimensions for all heads of all rows that follow one another. They are in the driver's
hands and not ONNX Runtime's, whose arena rounds up what it reserves and gives nothing back when a state is let go.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import EdgeKitError

from .driver import Driver, Side, driver, on_device, on_host

if TYPE_CHECKING:
    from edgekit.core import Array


@dataclass(eq=False)
class Buffer:
    """(batch, heads, capacity, dim), contiguous. Its memory is free again when nobody has it any more."""

    address: int
    shape: tuple[int, int, int, int]
    dtype: np.dtype[np.generic]

    @property
    def pitch(self) -> int:
        """Bytes from one head to the next."""
        return self.shape[2] * self.token

    @property
    def token(self) -> int:
        """Bytes of one token in one head."""
        return self.shape[3] * self.dtype.itemsize

    def side(self, row: int = 0) -> Side:
        return on_device(self.address + row * self.shape[1] * self.pitch, self.pitch)


class CudaMemory:
    """What `_decoder_session.Memory` asks for, on the GPU of that number."""

    device = "cuda"

    def __init__(self, index: int = 0, found: Driver | None = None) -> None:
        """Raises DeviceError where there is no such GPU."""
        self.index, self._driver = index, found or driver(index)

    def zeros(self, shape: Sequence[int], dtype: str) -> Buffer:
        """Raises MemoryError."""
        batch, heads, capacity, dim = shape
        kind = np.dtype(dtype)
        size = prod(shape) * kind.itemsize
        if size >= 1 << 63:
            raise MemoryError(f"{size} bytes are more than an address can tell")
        made = Buffer(self._driver.zeros(size), (batch, heads, capacity, dim), kind)
        weakref.finalize(made, _free, self._driver, made.address, os.getpid())
        return made

    def pointer(self, buffer: Buffer) -> int:
        return buffer.address

    def copy(self, source: Buffer, rows: Sequence[int], length: int, into: Buffer) -> None:
        """The first `length` tokens of these rows of `source` into the rows of `into`, in this order."""
        for place, row, count in _runs(rows):
            self._driver.copy(source.side(row), into.side(place), length * source.token, count * source.shape[1])

    def read(self, buffer: Buffer, length: int) -> Array:
        """The first `length` tokens of every row, as the caller's own array."""
        batch, heads, _, dim = buffer.shape
        found = np.empty((batch, heads, length, dim), buffer.dtype)
        width = length * buffer.token
        self._driver.copy(buffer.side(), on_host(found.ctypes.data, width), width, batch * heads)
        return found

    def write(self, array: Array, into: Buffer) -> None:
        """`array`, (batch, heads, tokens, dim), to the start of every row."""
        whole = np.ascontiguousarray(array)
        batch, heads, tokens, _ = whole.shape
        width = tokens * into.token
        self._driver.copy(on_host(whole.ctypes.data, width), into.side(), width, batch * heads)


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(place, row, count) of rows that follow one another: [4, 5, 6, 2] is (0, 4, 3), (3, 2, 1)."""
    first = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place] != rows[place - 1] + 1:
            yield first, rows[first], place - first
            first = place


def _free(found: Driver, address: int, owner: int) -> None:
    """Called by the garbage collector, where nothing can be raised; a forked child has no right to the memory."""
    if os.getpid() != owner:
        return
    try:
        found.free(address)
    except EdgeKitError:
        return  # the driver is shutting down, and frees everything itself
