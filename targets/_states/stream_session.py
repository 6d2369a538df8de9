"""A recurrent model, engine by engine alike: an item and the state in, a result and the state out.

Everything that a step reads and writes lies in arrays that stay where they are, and the engine is told of them once for
each shape of a step: a step of a shape that came before copies its input, and runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph, Port
from edgekit.errors import InputError, StateError, UnsupportedError
from edgekit.session import Life, check_feeds

from .fixed_states import BATCH, Cells, Fixed
from .held_inputs import HeldInputs
from .stateful import Held, Stateful, alone, check_usable

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays

    # From what is read and what is written, by the ports' names, to what runs the graph once.
    Bind = Callable[[Mapping[str, Array], Mapping[str, Array]], Callable[[], None]]

COUNTS = "counts"  # int64 (batch,): how many steps of each row are real
SHAPES = 4  # that a state keeps prepared: single steps, chunks, and the rest of one


@dataclass(frozen=True)
class Bound:
    """One shape of a step, prepared: `runs` by which of the state's two sides is read."""

    feeds: tuple[Array, ...]
    outputs: dict[str, Array]
    runs: tuple[Callable[[], None], Callable[[], None]]


@dataclass(eq=False)
class State(Held):
    """The state of some streams. Only the session looks inside, but for `batch`."""

    fixed: Fixed
    bound: dict[tuple[Any, ...], Bound] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """How many streams."""
        return self.fixed.batch


class StreamSession(Stateful[State]):
    """One graph whose states all have a fixed size. Threads may share it, each with its own states."""

    length_step = 1
    batch_tokens = 512

    def __init__(self, graph: Graph, bind: Bind, placement: str, free: Callable[[], None]) -> None:
        """`bind` prepares the engine, `free` gives its memory back.

        Raises UnsupportedError for a graph whose results have an axis that its inputs do not have, or that holds an
        input.
        """
        self._held = HeldInputs(graph)
        if len(self._held):
            raise UnsupportedError(
                f"{graph.path} is a stream, and holds its input {next(iter(self._held.ports))}",
                hint="feed it with every step, or let its exporter call the graph a decoder",
            )
        self.placement, self._graph, self._bind, self._free = placement, graph, bind, free
        self._cells, self._life = Cells(graph), Life("this session")
        inside = {cell.into for cell in self._cells.cells} | {cell.out for cell in self._cells.cells}
        self._feeds = replace(graph, inputs=tuple(port for port in graph.inputs if port.name not in inside))
        self._names = tuple(port.name for port in self._feeds.inputs)
        self._counted = COUNTS in self._names
        self._results = tuple(port for port in graph.outputs if port.name not in inside)
        known = {axis for port in self._feeds.inputs for axis in port.shape}
        for port in self._results:
            if strange := [axis for axis in port.shape if isinstance(axis, str) and axis not in known]:
                raise UnsupportedError(
                    f"{graph.path}: nobody knows how long {strange[0]!r} of {port.name} is before it has run",
                    hint="name the axes of a result as those of the input that they go with",
                )

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """One step, or a chunk of them, for every stream of the state; without a state a new one is started.

        The results are the state's own arrays, which its next step of that shape writes over. A step that fails leaves
        the state as it was; one that is interrupted may have come to its end.
        Raises InputError, StateError, SessionBusyError, ResourceError, ClosedError, ForkedSessionError.
        """
        self._life.check()
        if states is None:
            check_feeds(self._feeds, feeds)
            states = self.start(self._axes(feeds).get(BATCH, 1))
        state = self._own(states)
        with alone(state.busy):
            check_usable(state)
            bound = self._bound(state, feeds)
            for array, name in zip(bound.feeds, self._names):
                array[...] = feeds[name]
            if self._counted and np.count_nonzero(feeds[COUNTS]) < state.batch:
                raise InputError("a row of counts is 0", hint="leave out rows that nothing is new of")
            bound.runs[state.fixed.now]()
            state.fixed.now = 1 - state.fixed.now
            return bound.outputs, state

    def start(self, batch: int) -> State:
        """Streams that nothing was read of. Raises ResourceError, StateError."""
        self._life.check()
        return State(self, self._cells.start(batch))

    def join(self, states: Sequence[State]) -> State:
        """One state of the streams of all of these, in order: a copy. Raises StateError."""
        for state in states:
            check_usable(self._own(state))
        return State(self, self._cells.join([state.fixed for state in states]))

    def _copied(self, state: State, rows: Sequence[int]) -> State:
        return State(self, self._cells.rows(state.fixed, rows))

    def _arrays(self, state: State) -> dict[str, Array]:
        return self._cells.save(state.fixed)

    def _loaded(self, arrays: Arrays) -> State:
        if unknown := sorted(arrays.keys() - {cell.into for cell in self._cells.cells}):
            raise StateError(f"this graph has no state {unknown[0]}", hint="load it into the model that saved it")
        return State(self, self._cells.load(arrays))

    def _size(self, state: State) -> int:
        """The side that the next step writes included."""
        return state.fixed.nbytes

    def close(self) -> None:
        if self._life.end():
            self._free()

    def _bound(self, state: State, feeds: Arrays) -> Bound:
        """The step of these shapes, prepared. Raises InputError for feeds that do not fit."""
        key = tuple([(array.shape, array.dtype) for array in map(feeds.get, self._names) if array is not None])
        if len(key) == len(feeds) and (found := state.bound.get(key)) is not None:
            return found
        check_feeds(self._feeds, feeds)
        axes = self._axes(feeds)
        if axes.get(BATCH, 1) != state.batch:
            raise StateError(f"{axes.get(BATCH, 1)} rows for a state of {state.batch}", hint="give a row a stream")
        if len(state.bound) == SHAPES:
            state.bound.pop(next(iter(state.bound)))
        state.bound[key] = made = self._prepare(state.fixed, feeds, axes)
        return made

    def _prepare(self, fixed: Fixed, feeds: Arrays, axes: Mapping[str, int]) -> Bound:
        """Arrays for feeds and results, and the engine bound to them in both directions."""
        given = {name: np.empty_like(feeds[name], order="C") for name in self._names}
        results = {port.name: np.zeros(_sizes(port, axes), port.dtype) for port in self._results}

        def one(reads: dict[str, Array], writes: dict[str, Array]) -> Callable[[], None]:
            out = {cell.out: writes[cell.into] for cell in self._cells.cells}
            return self._bind({**given, **reads}, {**results, **out})

        first, second = fixed.arrays
        return Bound(tuple(given.values()), results, (one(first, second), one(second, first)))

    def _axes(self, feeds: Arrays) -> dict[str, int]:
        """How long each named axis of the feeds is. Raises InputError where two feeds do not agree."""
        found: dict[str, int] = {}
        for port in self._feeds.inputs:
            for axis, length in zip(port.shape, feeds[port.name].shape):
                if isinstance(axis, str) and found.setdefault(axis, length) != length:
                    raise InputError(f"{port.name} has {length} of {axis!r}, and another input {found[axis]}")
        return found


def _sizes(port: Port, axes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(axes[axis] if isinstance(axis, str) else axis for axis in port.shape)
