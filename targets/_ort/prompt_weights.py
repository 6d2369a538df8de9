"""Weights for `_prompt_graph`: int8 with one scale an output, made on the device of a bundle's int4 or int8 blocks.

They are made once and kept in the target's cache, mapped: pages that no prompt needs cost nothing, and two processes
share them. Where nothing can be kept they are made for every session. What is kept is never trusted: it must be as
long, and add up, as when it was written.

Processors without instructions for it multiply two pairs of bytes at once and add them up in 16 bits, which two
products of 255 by 127 overflow: what comes out is cut off, and nobody is told. They are given weights of seven bits.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.bundle import onnx_file, safe_files
from edgekit.errors import BundleError
from edgekit.machine import system_calls

from .passes.prompt_graph import SCALES, VALUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Arrays, Graph

    Bytes = NDArray[np.uint8]
    Floats = NDArray[np.float32]
    Values = NDArray[np.int8]
    Fill = Callable[[Bytes], None]

log = logging.getLogger("edgekit")

FORM = "2"  # of what is kept; another makes all that was kept before worthless
PAGE = 4096
SLAB = 1 << 18  # weights at a time: what a core's own cache holds
WHOLE, HALF = 127, 63  # the largest weight: where products are added up in 32 bits, and in 16
# The two int4 numbers in a byte, the low one first, each as a byte.
PAIRS = np.array([((byte & 15 ^ 8) - 8, (byte >> 4 ^ 8) - 8) for byte in range(256)], np.int8).view(np.int16)


@dataclass(frozen=True)
class Matrix:
    """One weight, as inputs of the prompt's graph."""

    values: str
    scales: str
    inputs: int
    outputs: int

    @property
    def size(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Blocks:
    """What a matrix is made of."""

    numbers: Bytes  # as stored: row by row, two int4 numbers in a byte or one int8
    scales: Floats  # (inputs / block, outputs)


def prepare(folder: Path, graph: Graph, threads: int, cache: Path | None, largest: int = WHOLE) -> Arrays:
    """The inputs of `graph.prompt` that stand for weights, by name; no number in them is beyond `largest`.

    Raises BundleError without them.
    """
    assert graph.prompt is not None
    matrices = list(_matrices(graph.prompt))
    places, end = _places(matrices)
    kept = None if cache is None else cache / f"{_key(folder, graph, largest)}.int8"
    found = None if kept is None else _read(kept, end)
    if found is None:
        sources = _sources(folder, graph, matrices)
        found = _write(kept, end, lambda data: _fill(data, matrices, places, sources, threads, largest))
    named: dict[str, Array] = {}
    for one, values, scales in _parts(found, matrices, places):
        named |= {one.values: values, one.scales: scales}
    return named


def _matrices(prompt: Graph) -> Iterator[Matrix]:
    """In the order of the inputs, where each int8 matrix is followed by its scales."""
    for values, scales in pairwise(prompt.inputs):
        if values.name.endswith(VALUES):
            inputs, outputs = map(int, values.shape)
            yield Matrix(values.name, scales.name, inputs, outputs)


def _sources(folder: Path, graph: Graph, matrices: list[Matrix]) -> list[Blocks]:
    """Where the blocks of each are stored, mapped. Raises BundleError."""
    stored = {tensor.tensor: tensor for tensor in onnx_file.read(folder, graph.path).external}
    home, found = (folder / graph.path).parent, []
    for one in matrices:
        table, scales = (stored.get(one.values.removesuffix(VALUES)), stored.get(one.scales.removesuffix(SCALES)))
        if table is None or scales is None or not _fit(one, table.size, scales.size):
            hint = "export the model again, or get the bundle again from where it came from"
            raise BundleError(f"{graph.path} has no weights that {one.values!r} can be made of", hint=hint)
        numbers, steps = (
            np.memmap(home / each.location, np.uint8, "r", each.offset, (each.size,)) for each in (table, scales)
        )
        found.append(Blocks(numbers, steps.view(np.float32).reshape(-1, one.outputs)))
    return found


def _fit(matrix: Matrix, numbers: int, scales: int) -> bool:
    """Whether so many bytes can be its blocks and their scales."""
    groups, rest = divmod(scales, 4 * matrix.outputs)
    return not rest and groups > 0 and matrix.inputs % groups == 0 and numbers in (matrix.size, matrix.size / 2)


def _places(matrices: list[Matrix]) -> tuple[list[tuple[int, int]], int]:
    """Where values and scales of each begin, in bytes, and where all end."""
    found, end = [], 0
    for one in matrices:
        scales = end + one.size + -one.size % PAGE
        found.append((end, scales))
        end = scales + 4 * one.outputs
        end += -end % PAGE
    return found, end


def _parts(
    data: Bytes, matrices: list[Matrix], places: list[tuple[int, int]]
) -> Iterator[tuple[Matrix, Values, Floats]]:
    """Values (inputs, outputs) and scales (outputs,) of each, where they are in `data`."""
    for one, (values, scales) in zip(matrices, places, strict=True):
        made = data[values : values + one.size].view(np.int8).reshape(one.inputs, one.outputs)
        yield one, made, data[scales : scales + 4 * one.outputs].view(np.float32)


def _read(path: Path, end: int) -> Bytes | None:
    """What was kept, mapped; None where there is nothing sound."""
    try:
        data = _mapped(path)
    except (OSError, ValueError, BundleError):
        return None
    if len(data) != end + PAGE:
        return None
    if data[end : end + 8].view(np.uint64)[0] != _sum(data[:end]):
        log.warning("what was kept in %s is damaged; it is made anew", path.parent)
        return None
    return data[:end]


def _mapped(path: Path) -> Bytes:
    with safe_files.open_file(path) as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _write(path: Path | None, end: int, fill: Fill) -> Bytes:
    """The weights, in a file at `path` if there can be one, else in memory."""
    if path is not None:
        try:
            return _keep(path, end, fill)
        except OSError as error:
            log.debug("no prepared weights can be kept in %s: %s", path.parent, error)
    data: Bytes = np.zeros(end, np.uint8)
    fill(data)
    return data


def _keep(path: Path, end: int, fill: Fill) -> Bytes:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in path.parent.glob("*.int8"):
        old.unlink(missing_ok=True)
    with safe_files.whole_file(path) as file:
        system_calls.allocate(file.fileno(), end + PAGE)  # a full disk is told of here, not by a signal
        data = np.memmap(file, np.uint8, "r+", shape=(end + PAGE,))
        fill(data[:end])
        data[end : end + 8].view(np.uint64)[0] = _sum(data[:end])
        data.flush()
        del data  # Windows renames no file that is mapped
    return _mapped(path)[:end]


def _fill(
    data: Bytes,
    matrices: list[Matrix],
    places: list[tuple[int, int]],
    sources: list[Blocks],
    threads: int,
    largest: int,
) -> None:
    with ThreadPoolExecutor(threads) as pool:
        parts = zip(_parts(data, matrices, places), sources, strict=True)
        for job in [pool.submit(_convert, blocks, values, scales, largest) for (_, values, scales), blocks in parts]:
            job.result()


def _convert(source: Blocks, values: Values, scales: Floats, largest: int) -> None:
    """Every output's weights in steps of its own: the largest of them is `largest` steps."""
    groups, outputs = source.scales.shape
    blocks = _numbers(source.numbers, values.size).reshape(groups, -1, outputs)
    sizes = np.maximum(blocks.max(1), -blocks.min(1).astype(np.float32)) * np.abs(source.scales)
    most = sizes.max(0)
    scales[:] = np.where(most > 0, most / largest, 1)
    steps, into = source.scales / scales, values.reshape(blocks.shape)
    many = max(1, SLAB // blocks[0].size)
    for first in range(0, groups, many):
        slab = slice(first, first + many)
        made = blocks[slab] * steps[slab, None]
        into[slab] = np.rint(made, out=made)


def _numbers(stored: Bytes, count: int) -> Values:
    """So many numbers, as int8."""
    return np.take(PAIRS, stored).view(np.int8) if stored.size < count else stored.view(np.int8)


def _sum(data: Bytes) -> np.uint64:
    return np.add.reduce(data.view(np.uint64), initial=1, dtype=np.uint64)  # zeros do not add up to zero


def _key(folder: Path, graph: Graph, largest: int) -> str:
    """Another for another model at this place, or another processor."""
    beside = sorted(path for path in (folder / graph.path).parent.iterdir() if path.is_file())
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in beside]
    return hashlib.sha256(repr((FORM, graph.path, largest, files)).encode()).hexdigest()[:32]
