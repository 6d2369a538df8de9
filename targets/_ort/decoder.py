"""A decoder in ONNX Runtime whose past and present are one buffer: a step writes its tokens where they belong.

Nothing of the cache is copied or allocated by a step; it is when a buffer grows, by half or more. The buffers are in
`Memory`, which is the host's here and a device's for a target that brings its own. Knows nothing of tokens' meaning.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgekit.core import Graph, Port
from edgekit.errors import InputError, ResourceError

from .._states.decoder_feeds import CHUNK, behind, step_of, together
from .._states.fixed_states import Cells, Fixed
from .._states.held_inputs import HeldInputs
from .._states.stateful import DecoderStates, Tokens, alone, check_usable
from .engine import running
from .passes.decoder_graph import COUNTS, LENGTHS, POSITIONS, TOTAL
from .prompt_reader import PromptReader, silent
from .session import OnnxRuntimeSession

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Arrays

    Integers = NDArray[np.int64]

SMALLEST = 16  # tokens that a row has room for at least
BFLOAT16 = 16  # ONNX's number of the type; numpy has none: buffers and saved states hold its bits, as uint16


class Memory(Protocol):
    """Where caches are. A buffer is (batch, heads, capacity, dim), contiguous; rows are copied on the device."""

    device: str  # ONNX Runtime's name: "cpu", "cuda"
    index: int

    def zeros(self, shape: Sequence[int], dtype: str) -> Any: ...
    def pointer(self, buffer: Any) -> int: ...
    def copy(self, source: Any, rows: Sequence[int], length: int, into: Any) -> None:
        """The first `length` tokens of these rows of `source` into the rows of `into`, in this order."""

    def read(self, buffer: Any, length: int) -> Array:
        """The first `length` tokens of every row, as the caller's own array."""

    def write(self, array: Array, into: Any) -> None:
        """`array` to the start of every row."""


class HostMemory:
    """Pages of zeros that cost nothing before they are written."""

    device, index = "cpu", 0

    def zeros(self, shape: Sequence[int], dtype: str) -> Array:
        return np.zeros(shape, dtype)

    def pointer(self, buffer: Array) -> int:
        return buffer.ctypes.data

    def copy(self, source: Array, rows: Sequence[int], length: int, into: Array) -> None:
        for place, row in enumerate(rows):
            into[place, :, :length] = source[row, :, :length]

    def read(self, buffer: Array, length: int) -> Array:
        return buffer[:, :, :length].copy()

    def write(self, array: Array, into: Array) -> None:
        into[:, :, : array.shape[2]] = array


@dataclass(eq=False)
class Cache(Tokens):
    """The state of some rows of text."""

    buffers: dict[str, Any]  # by the State's `into`
    capacity: int  # tokens that a row has room for
    lengths: Integers
    fixed: Fixed  # what does not grow
    logits: Array | None = None  # written anew by every step
    whole: dict[int, Any] = field(default_factory=dict)  # bindings of all rows, as long as the buffers stay


class DecoderSession(DecoderStates[Cache], OnnxRuntimeSession):
    """One decoder, of a graph that `group_queries` made. Threads may share it, each with its own states.

    A long prompt is best fed in pieces of `chunk_tokens`, all but the last without logits.
    """

    def __init__(
        self,
        folder: Path,
        graph: Graph,
        provider: str,
        options: Any,
        provider_options: dict[str, Any] | None = None,
        without: Sequence[str] = (),
        memory: Memory | None = None,
        reader: PromptReader | None = None,
    ) -> None:
        """As OnnxRuntimeSession; `memory` is where the caches are to be: the provider's own; `reader` reads prompts."""
        super().__init__(folder, graph, provider, options, provider_options, without)
        self._reader = reader
        self.chunk_tokens = reader.chunk_tokens if reader else CHUNK
        self._memory: Memory = memory or HostMemory()
        ports = {port.name: port for port in graph.inputs}
        growing = ((state.into, state.out) for state in graph.states if state.axis is not None)
        self._caches = {into: (out, _stored(ports[into])) for into, out in growing if out is not None}
        self._growing = {into: port for into, (_, port) in self._caches.items()}
        self._elements = {into: _element(ports[into]) for into in self._caches}
        self._cells, self._held = Cells(graph), HeldInputs(graph)
        self._positions, self._counted = POSITIONS in ports, COUNTS in ports
        self._prompt_inputs = frozenset(port.name for port in graph.prompt.inputs) if graph.prompt else frozenset()
        self._vocabulary = next(port for port in graph.outputs if port.name == "logits")

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """One step: `input_ids` int64 (batch, sequence), padded on the right; `counts` int64 (batch,), how many of
        them are real; `logit_positions` int64 (batch, outputs), outputs from 0, or left out: the last real one.
        Held inputs come with a state's first run.

        `logits` float32 (batch, outputs, vocabulary) are the state's own, and the next step writes over them. Without a
        state an empty one is started. A step that fails leaves the state as it was, or empty if that happened while its
        buffers grew.
        Raises InputError, StateError, SessionBusyError, ResourceError, ClosedError, ForkedSessionError.
        """
        self._life.check()
        held_feeds, feeds = self._held.split(feeds)
        ids, counts, wanted = step_of(feeds)
        state = self.start(len(ids), int(counts.max())) if states is None else self._own(states)
        if len(ids) != len(state.lengths):
            raise InputError(f"input_ids has {len(ids)} rows, and the state holds {len(state.lengths)}")
        with alone(state.busy):
            check_usable(state)
            self._hold(state, held_feeds)
            after = state.lengths + counts
            if after.max() > state.capacity:
                self._resize(state, max(int(after.max()), state.capacity + state.capacity // 2))
            logits = self._logits(state, wanted.shape[1])
            with kept(state):
                if self._reader is not None and (read := self._silent(state, counts, wanted)).any():
                    self._read(self._reader, state, ids, read)
                    ids, counts, wanted = behind(ids, read), counts - read, wanted - read[:, None]
                for rows in together(after - counts, counts) if self._caches else [slice(0, len(ids))]:
                    if counts[rows].any():
                        self._step(state, rows, ids, counts, wanted, logits, after)
                    else:
                        state.fixed.stay(rows)
                state.lengths, state.fixed.now = after, 1 - state.fixed.now
        return {"logits": logits}, state

    def _size(self, state: Cache) -> int:
        shapes = (self._shape(port, state.batch, state.capacity) for port in self._growing.values())
        items = (np.dtype(port.dtype).itemsize for port in self._growing.values())
        return state.fixed.nbytes + sum(int(np.prod(shape)) * item for shape, item in zip(shapes, items))

    def _cut(self, state: Cache, lengths: Integers) -> None:
        if lengths.any() or not len(self._cells):
            state.lengths = lengths
        else:
            self._cells.clear(state.fixed)
            state.lengths, state.fixed.now = lengths, 1 - state.fixed.now

    def _copied(self, state: Cache, rows: Sequence[int]) -> Cache:
        made = self._empty(len(rows), state.capacity)
        made.lengths, made.fixed = state.lengths[list(rows)], self._cells.rows(state.fixed, rows)
        for name, buffer in state.buffers.items():
            self._memory.copy(buffer, rows, int(made.lengths.max()), made.buffers[name])
        return made

    def _arrays(self, state: Cache) -> dict[str, Array]:
        longest = int(state.lengths.max())
        caches = {name: self._memory.read(buffer, longest) for name, buffer in state.buffers.items()}
        return caches | self._cells.save(state.fixed)

    def _filled(self, lengths: Integers, arrays: Arrays) -> Cache:
        made = self._empty(len(lengths), int(lengths.max()))
        for name, buffer in made.buffers.items():
            self._memory.write(arrays[name], buffer)
        made.lengths, made.fixed = lengths.copy(), self._cells.load(arrays, len(lengths))
        return made

    def _silent(self, state: Cache, counts: Integers, wanted: Integers) -> Integers:
        """How many of each row's new tokens the reader is to read."""
        return silent(counts, wanted)

    def _read(self, reader: PromptReader, state: Cache, ids: Integers, counts: Integers) -> None:
        """Put the first so many tokens of each row into its state; what has a fixed size is changed in place."""
        if len(self._cells):
            state.fixed, state.whole = self._cells.rows(state.fixed, range(len(ids))), {}
        for row in np.flatnonzero(counts):
            with running(self._graph.path):
                length, rows = int(state.lengths[row]), slice(row, row + 1)
                then = partial(state.fixed.take, rows)
                reader.read(ids[row, : counts[row]], length, partial(self._bind_prompt, state, rows), then)

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
        """Run these rows; their tokens are in the cache afterwards, and their logits in `logits`."""
        most = int(counts[rows].max())
        after = after[rows]
        binding = self._binding(state, rows)
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids[rows, :most]))
        binding.bind_cpu_input("logit_positions", np.ascontiguousarray(wanted[rows]))
        if self._caches:
            binding.bind_cpu_input(LENGTHS, (after - 1).astype(np.int32))
            binding.bind_cpu_input(TOTAL, np.array(after.max(), np.int32))
        if self._counted:
            binding.bind_cpu_input(COUNTS, np.ascontiguousarray(counts[rows]))
        if self._positions:
            # No row goes further than its text, padding or not: some rotations depend on the furthest position.
            places = np.minimum((after - counts[rows])[:, None] + np.arange(most), after[:, None] - 1)
            binding.bind_cpu_input(POSITIONS, places)
        out = logits[rows]
        binding.bind_output("logits", "cpu", 0, out.dtype.type, out.shape, out.ctypes.data)
        with running(self._graph.path):
            self._engine.run_with_iobinding(binding)

    def _binding(self, state: Cache, rows: slice) -> Any:
        """Past and present of these rows, in place. That of all rows is kept, as every token of a reply needs it."""
        whole = rows.stop - rows.start == len(state.lengths)
        if whole and (known := state.whole.get(state.fixed.now)) is not None:
            return known
        binding = self._engine.io_binding()
        self._bind(state, rows, binding)
        self._bind_held(state, rows, binding, self._held.ports)
        if whole:
            state.whole[state.fixed.now] = binding
        return binding

    def _hold(self, state: Cache, feeds: Arrays) -> None:
        held = self._held.after(state.held, feeds, state.batch, empty=bool(feeds) and not state.lengths.any())
        if held is not state.held:
            state.held, state.whole = held, {}

    def _bind_prompt(self, state: Cache, rows: slice, binding: Any) -> None:
        self._bind(state, rows, binding)
        self._bind_held(state, rows, binding, self._prompt_inputs)

    def _bind_held(self, state: Cache, rows: slice, binding: Any, names: Container[str]) -> None:
        """What these rows hold, of these inputs."""
        for name, array in self._held.part(state.held, rows).items():
            if name in names:
                binding.bind_cpu_input(name, array)

    def _bind(self, state: Cache, rows: slice, binding: Any) -> None:
        memory = self._memory
        for into, (out, port) in self._caches.items():
            shape = self._shape(port, rows.stop - rows.start, state.capacity)
            first = memory.pointer(state.buffers[into])
            first += rows.start * int(np.prod(shape[1:])) * np.dtype(port.dtype).itemsize
            place = (memory.device, memory.index, self._elements[into], shape, first)
            binding.bind_input(into, *place)
            binding.bind_output(out, *place)
        for cell in self._cells.cells:
            read, written = (side[cell.into][rows] for side in (state.fixed.reads, state.fixed.writes))
            binding.bind_input(cell.into, "cpu", 0, read.dtype.type, read.shape, read.ctypes.data)
            binding.bind_output(cell.out, "cpu", 0, written.dtype.type, written.shape, written.ctypes.data)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        super().close()

    def _empty(self, batch: int, capacity: int) -> Cache:
        capacity = max(capacity, SMALLEST)
        buffers = {name: self._buffer(port, batch, capacity) for name, (_, port) in self._caches.items()}
        return Cache(self, buffers, capacity, np.zeros(batch, np.int64), self._cells.start(batch))

    def _resize(self, state: Cache, capacity: int) -> None:
        """All or nothing is reserved; pages are taken one buffer after the other, as they are written.

        Until all are, the state is an empty one: that is what an interrupt leaves.
        """
        larger = self._empty(len(state.lengths), capacity)
        held, fixed, smaller = state.lengths, state.fixed, state.buffers
        state.lengths, state.fixed, state.whole = larger.lengths, larger.fixed, {}
        state.buffers, state.capacity = larger.buffers, larger.capacity
        for name, buffer in larger.buffers.items():
            self._memory.copy(smaller.pop(name), range(len(held)), int(held.max()), buffer)
        state.lengths, state.fixed = held, fixed

    def _buffer(self, port: Port, batch: int, capacity: int) -> Any:
        shape = self._shape(port, batch, capacity)
        try:
            return self._memory.zeros(shape, port.dtype)
        except (MemoryError, ValueError) as error:  # numpy's ValueError: more bytes than an address can tell
            size = f"{batch} rows of {capacity} tokens"
            hint = "use fewer rows, or a shorter context"
            raise ResourceError(f"no memory for a cache of {size}", hint=hint, cause=str(error)) from error

    def _shape(self, port: Port, batch: int, tokens: int) -> tuple[int, ...]:
        _, heads, _, dim = port.shape
        return batch, int(heads), tokens, int(dim)

    def _logits(self, state: Cache, outputs: int) -> Array:
        """The state's own array for so many logits a row; the same one as long as the number does not change."""
        shape = (len(state.lengths), outputs, int(self._vocabulary.shape[2]))
        if state.logits is None or state.logits.shape != shape:
            state.logits = np.empty(shape, self._vocabulary.dtype)
        return state.logits


@contextmanager
def kept(state: Cache) -> Iterator[None]:
    """Puts back what has a fixed size where a run fails: a prompt is read into a copy of it."""
    fixed = state.fixed
    try:
        yield
    except BaseException:
        state.fixed, state.whole = fixed, {}
        raise


def _stored(port: Port) -> Port:
    """The port with the dtype that its buffers have in numpy."""
    return replace(port, dtype="uint16") if port.dtype == "bfloat16" else port


def _element(port: Port) -> Any:
    """The port's dtype as ONNX Runtime's bindings take it: numpy's type, or ONNX's number where there is none."""
    return BFLOAT16 if port.dtype == "bfloat16" else np.dtype(port.dtype).type
