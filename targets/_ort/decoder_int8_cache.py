"""A decoder in ONNX Runtime whose caches are int8: as `DecoderSession`, at a quarter of the memory for each token.

Single tokens and short pieces go through the int8 form. The form that reads prompts works on float32, a row at a time:
what it reads is brought to 8 bits afterwards, and tells how large the scales must be. A new number that they do not fit
is found after the step, which is then run again with larger ones, so that nothing is ever cut off. What a state hands
out and takes in is float32, as on every target. Knows no operator: the graph is `_kv_int8_graph`'s.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph
from edgekit.errors import ResourceError

from .._states.kv_int8 import dequantize, doubled, fitting, grown, is_full, lengths, quantize, rescale
from .decoder import Cache, DecoderSession
from .engine import running
from .passes.kv_int8_graph import FACTORS, KEY, SPREAD
from .prompt_reader import PromptReader, silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Arrays

    Integers = NDArray[np.int64]

PRIVATE = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}  # shared memory has no large pages
# Makes ONNX Runtime multiply keys in 8 bits with queries that it rounds to 8 bits as well, a scale each: half the time,
# where the processor has VNNI. It is read once, when that is first to be done; nothing else depends on it.
QUICK = "ORT_MLAS_QKGEMM_S8_APPROX_VNNI"
ENOUGH = 64  # tokens that tell the scales, where nothing but that is wanted of them


@dataclass(eq=False)
class Int8Cache(Cache):
    """`scales` are shared by the rows; what the graph takes of them is written in place: bindings point at it."""

    scales: dict[str, Any] = field(default_factory=dict)  # float32 (heads, a, n, b), by the State's `into`
    given: dict[str, Any] = field(default_factory=dict)  # the graph's inputs that are made of them, by name
    # Views of these, by the State's `into`: scales (heads, queries' heads that share one, dim), and one by them.
    times: dict[str, Any] = field(default_factory=dict)
    over: dict[str, Any] = field(default_factory=dict)
    settled: bool = False  # whether the scales were told by any token
    repeats: int = 0  # steps that were run again

    def scale(self, into: str, scales: Array) -> None:
        """From now on these are the scales of that cache."""
        self.scales[into][...] = scales
        flat = scales.reshape(len(scales), -1)
        self.times[into][...], self.over[into][...] = flat[:, None], 1 / flat


class Int8DecoderSession(DecoderSession):
    """A decoder of a graph that `quantize_caches` made."""

    def __init__(
        self,
        folder: Path,
        graph: Graph,
        provider: str,
        options: Any,
        without: Sequence[str],
        reader: PromptReader,
    ) -> None:
        os.environ.setdefault(QUICK, "1")
        super().__init__(folder, graph, provider, options, without=without, reader=reader)
        self._prompts = reader
        self._floats = {into: (out, replace(port, dtype="float32")) for into, (out, port) in self._caches.items()}
        given = (port for port in graph.inputs if port.name.endswith((FACTORS, SPREAD)))
        self._given = {port.name: tuple(map(int, port.shape)) for port in given}
        self._scales = {into: self._shape_of_scales(into) for into in self._caches}
        self._growing = {into: port for into, (_, port) in self._floats.items()}

    def _filled(self, lengths: Integers, arrays: Arrays) -> Cache:
        """Rounded to 8 bits."""
        state = self._empty(len(lengths), int(lengths.max()))
        if lengths.any():
            caches = {into: arrays[into] for into in self._caches}
            self._settle(state, caches, np.arange(lengths.max()) < lengths[:, None])
            for into, array in caches.items():
                quantize(array, state.scales[into], state.buffers[into][:, :, : array.shape[2]])
        state.lengths = lengths.copy()
        return state

    def _size(self, state: Cache) -> int:
        arrays = (*state.buffers.values(), *_int8(state).scales.values(), *_int8(state).given.values())
        return sum(array.nbytes for array in arrays)

    def _empty(self, batch: int, capacity: int) -> Int8Cache:
        made = super()._empty(batch, capacity)
        found = Int8Cache(self, made.buffers, made.capacity, made.lengths, made.fixed)
        found.given = {name: np.ones(shape, np.float32) for name, shape in self._given.items()}
        for into, shape in self._scales.items():
            found.scales[into] = np.ones(shape, np.float32)
            found.times[into], found.over[into] = self._views(into, found.given)
        return found

    def _copied(self, state: Cache, rows: Sequence[int]) -> Cache:
        found, source = _int8(super()._copied(state, rows)), _int8(state)
        for into, scales in source.scales.items():
            found.scale(into, scales)
        found.settled = source.settled
        return found

    def _arrays(self, state: Cache) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for into, kept in super()._arrays(state).items():
            dequantize(kept, _int8(state).scales[into], found.setdefault(into, np.empty(kept.shape, np.float32)))
        return found

    def _silent(self, state: Cache, counts: Integers, wanted: Integers) -> Integers:
        """A state's first tokens tell its scales, also where they are too few to be worth it: one row's are enough."""
        read = silent(counts, wanted)
        if not read.any() and not _int8(state).settled:
            before = wanted.min(1) if wanted.shape[1] else counts
            read[before.argmax()] = before.max()
        return read

    def _read(self, reader: PromptReader, state: Cache, ids: Integers, counts: Integers) -> None:
        tokens = int((state.lengths + counts).max())
        for row in np.flatnonzero(counts).tolist():
            held, count = int(state.lengths[row]), int(counts[row])
            found = self._float(state, row, ids[row, :count])
            news = {into: array[:, :, held:] for into, array in found.items()}
            if not _int8(state).settled:
                self._settle(_int8(state), news, np.ones((1, count), np.bool_))
            self._fit(_int8(state), news, tokens)
            for into, new in news.items():
                quantize(new, _int8(state).scales[into], state.buffers[into][row : row + 1, :, held : held + count])

    def _float(self, state: Cache, row: int, ids: Integers) -> dict[str, Array]:
        """The row's caches in float32, these tokens read into them. Raises what a step raises."""
        held = int(state.lengths[row])
        found = self._scratch(held + len(ids))
        for into, array in found.items():
            kept = state.buffers[into][row : row + 1, :, :held]
            dequantize(kept, _int8(state).scales[into], array[:, :, :held])

        def bind(binding: Any) -> None:
            for into, (out, _) in self._floats.items():
                place = ("cpu", 0, np.float32, found[into].shape, found[into].ctypes.data)
                binding.bind_input(into, *place)
                binding.bind_output(out, *place)
            self._bind_held(state, slice(row, row + 1), binding, self._prompt_inputs)

        with running(self._graph.path):
            self._prompts.read(ids, held, bind)
        return found

    def _scratch(self, tokens: int) -> dict[str, Array]:
        """Caches of one row in float32. A mapping of its own goes back to the system at once, as malloc's may not."""
        shapes = {into: self._shape(port, 1, tokens) for into, (_, port) in self._floats.items()}
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()]).tolist()
        try:
            pages = mmap.mmap(-1, ends[-1] * np.dtype(np.float32).itemsize, **PRIVATE)
        except (OSError, OverflowError) as error:
            hint = "use a shorter prompt, or a smaller context"
            raise ResourceError(f"no memory to read {tokens} tokens", hint=hint, cause=str(error)) from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without large pages
                pages.madvise(mmap.MADV_HUGEPAGE)
        parts = np.split(np.frombuffer(pages, np.float32), ends[:-1])
        return {into: part.reshape(shape) for (into, shape), part in zip(shapes.items(), parts, strict=True)}

    def _step(
        self,
        state: Cache,
        rows: slice,
        ids: Integers,
        counts: Integers,
        wanted: Integers,
        logits: Array,
        after: Integers,
    ) -> None:
        if not _int8(state).settled:
            first = ids[rows.start, : min(ENOUGH, int(counts[rows.start]))]
            self._settle(_int8(state), self._float(state, rows.start, first), np.ones((1, len(first)), np.bool_))
        while True:
            super()._step(state, rows, ids, counts, wanted, logits, after)
            places = {row: slice(after[row] - counts[row], after[row]) for row in range(rows.start, rows.stop)}
            larger = self._too_small(_int8(state), places)
            if not larger:
                return
            self._rescale(_int8(state), larger, int(after.max()))
            _int8(state).repeats += 1

    def _too_small(self, state: Int8Cache, places: Mapping[int, slice]) -> dict[str, Array]:
        """Larger scales for the caches that have a number cut off at these tokens of these rows."""
        news = {into: [buffer[row, :, at] for row, at in places.items()] for into, buffer in state.buffers.items()}
        if not is_full(np.concatenate([*chain.from_iterable(news.values())], axis=None)):  # hardly ever is one
            return {}
        larger = {into: doubled(state.scales[into], np.concatenate(new, axis=1)) for into, new in news.items()}
        return {into: scales for into, scales in larger.items() if scales is not state.scales[into]}

    def _settle(self, state: Int8Cache, news: Arrays, real: NDArray[np.bool_]) -> None:
        """Scales for an empty state, of the keys and values (rows, heads, tokens, dim) where `real` (rows, tokens)."""
        for into, new in news.items():
            shape = self._scales[into]
            state.scale(into, fitting(lengths(new, shape)[real], shape))
        state.settled = True

    def _fit(self, state: Int8Cache, news: Arrays, tokens: int) -> None:
        """Let the scales grow where new keys and values are beyond them; `tokens` of each row are in the caches."""
        larger = {}
        for into, new in news.items():
            scales = grown(state.scales[into], lengths(new, self._scales[into])[0])
            if scales is not state.scales[into]:
                larger[into] = scales
        if larger:
            self._rescale(state, larger, tokens)

    def _rescale(self, state: Int8Cache, larger: Arrays, tokens: int) -> None:
        """Until all are done the state is an empty one: that is what an interrupt leaves."""
        held, state.lengths = state.lengths, np.zeros_like(state.lengths)
        for into, scales in larger.items():
            rescale(state.buffers[into][:, :, :tokens], state.scales[into], scales)
            state.scale(into, scales)
        state.lengths = held

    def _bind(self, state: Cache, rows: slice, binding: Any) -> None:
        super()._bind(state, rows, binding)
        for name, array in _int8(state).given.items():
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def _shape_of_scales(self, into: str) -> tuple[int, ...]:
        """(heads, a, n, b): the channels of keys that turn together are together."""
        heads, dim = self._floats[into][1].shape[1::2]
        layer, _, kind = into.rpartition(".")
        return (int(heads), *(self._given[f"{layer}{FACTORS}"][1:] if kind == KEY else (1, int(dim), 1)))

    def _views(self, into: str, given: Arrays) -> tuple[Array, Array]:
        """Where the graph takes the scales of that cache from, and where one by them."""
        layer, _, kind = into.rpartition(".")
        heads, dim = map(int, self._floats[into][1].shape[1::2])
        factors = given[f"{layer}{FACTORS}"].reshape(-1, dim)
        queries, keys, values = np.split(factors, [-2 * heads, -heads])
        times, over = (queries, keys) if kind == KEY else (given[f"{layer}{SPREAD}"], values)
        return times.reshape(heads, -1, dim), over


def is_quantized(graph: Graph) -> bool:
    """Whether the graph's caches are int8."""
    return any(port.name.endswith(FACTORS) for port in graph.inputs)


def _int8(state: Cache) -> Int8Cache:
    assert isinstance(state, Int8Cache)
    return state
