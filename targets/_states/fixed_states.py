"""States that do not grow, on the host: the cells of an LSTM, the state of a Mamba, the window of a convolution.

Each array is there twice: a run reads one and writes the other, and nothing of it counts before the run has ended. So
a run that fails or is interrupted leaves the state as it was, and no step copies or allocates. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.core import Graph, Port
from edgekit.errors import ResourceError, StateError, UnsupportedError

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays

BATCH = "batch"  # the axis of a port that counts rows, by its name


@dataclass(frozen=True)
class Cell:
    """One state of a graph: the ports that it goes out of and into, and its value before anything was read."""

    into: str
    out: str
    port: Port
    init: float
    axis: int | None  # of the rows; None: it is made for a single one

    def shape(self, batch: int) -> tuple[int, ...]:
        return tuple(batch if place == self.axis else int(length) for place, length in enumerate(self.port.shape))

    def rows(self, array: Array) -> int | None:
        """How many an array of this state has; None where it has no such axis."""
        return None if self.axis is None or array.ndim <= self.axis else int(array.shape[self.axis])


class Cells:
    """The states of a graph that do not grow."""

    def __init__(self, graph: Graph) -> None:
        ports = {port.name: port for port in graph.inputs}
        self.cells = tuple(
            Cell(state.into, state.out, ports[state.into], state.init, _rows(ports[state.into]))
            for state in graph.states
            if state.axis is None and state.out is not None
        )

    def __len__(self) -> int:
        return len(self.cells)

    def nbytes(self, batch: int) -> int:
        """Of so many rows, each array once."""
        return sum(int(np.prod(cell.shape(batch))) * np.dtype(cell.port.dtype).itemsize for cell in self.cells)

    def start(self, batch: int) -> Fixed:
        """Of rows that nothing was read of. Raises StateError, ResourceError."""
        check_start(batch, 0)
        if batch > 1 and any(cell.axis is None for cell in self.cells):
            raise StateError(f"a state of {batch} rows of a model made for one", hint="run each row by itself")
        try:
            first = {cell.into: np.full(cell.shape(batch), cell.init, cell.port.dtype) for cell in self.cells}
            return Fixed(batch, (first, {name: np.empty_like(array) for name, array in first.items()}))
        except MemoryError as error:
            raise ResourceError(f"no memory for the states of {batch} rows", hint="use fewer rows") from error

    def rows(self, fixed: Fixed, rows: Sequence[int]) -> Fixed:
        """A copy with these rows only, in this order; a row may come twice. Raises StateError for one not there."""
        check_rows(rows, fixed.batch)
        made = self.start(len(rows))
        for cell in self.cells:
            held = fixed.reads[cell.into]
            made.reads[cell.into][...] = held if cell.axis is None else np.take(held, list(rows), cell.axis)
        return made

    def join(self, parts: Sequence[Fixed]) -> Fixed:
        """The rows of all of them, in order. Raises StateError for none."""
        made = self.start(sum(part.batch for part in parts))
        for cell in self.cells:
            held = [part.reads[cell.into] for part in parts]
            made.reads[cell.into][...] = held[0] if cell.axis is None else np.concatenate(held, cell.axis)
        return made

    def split(self, arrays: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
        """What was saved: that which is none of these states, and these."""
        names = {cell.into for cell in self.cells}
        return (
            {name: array for name, array in arrays.items() if name not in names},
            {name: array for name, array in arrays.items() if name in names},
        )

    def save(self, fixed: Fixed) -> dict[str, Array]:
        return {name: array.copy() for name, array in fixed.reads.items()}

    def check(self, arrays: Arrays, batch: int | None = None) -> int:
        """How many rows a saved state has: `batch`, if that is known. Raises StateError if it is not of this graph."""
        missing = [cell.into for cell in self.cells if cell.into not in arrays]
        if missing:
            raise not_ours(f"it has no {missing[0]}")
        if batch is None:
            batch = next((size for cell in self.cells if (size := cell.rows(arrays[cell.into]))), 1)
        for cell in self.cells:
            array, shape = arrays[cell.into], cell.shape(batch)
            if array.shape != shape or array.dtype.name != cell.port.dtype:
                said = f"{array.dtype.name} {list(array.shape)}"
                raise not_ours(f"{cell.into} is {said}, not {cell.port.dtype} {list(shape)}")
        return batch

    def load(self, arrays: Arrays, batch: int | None = None) -> Fixed:
        """What `save` gave. Raises what `check` raises."""
        made = self.start(self.check(arrays, batch))
        for cell in self.cells:
            made.reads[cell.into][...] = arrays[cell.into]
        return made

    def clear(self, fixed: Fixed) -> None:
        """What the next run would write is as if nothing was read of any row."""
        for cell in self.cells:
            fixed.writes[cell.into].fill(cell.init)


@dataclass(eq=False)
class Fixed:
    """The arrays of some rows by `into`, twice: `reads` count, `writes` are the next run's; then `now` is the other."""

    batch: int
    arrays: tuple[dict[str, Array], dict[str, Array]]
    now: int = 0

    @property
    def reads(self) -> dict[str, Array]:
        return self.arrays[self.now]

    @property
    def writes(self) -> dict[str, Array]:
        return self.arrays[1 - self.now]

    def take(self, rows: slice) -> None:
        """What was written of these rows counts at once. Of states whose first axis is the rows'."""
        for name, array in self.writes.items():
            self.reads[name][rows] = array[rows]

    def stay(self, rows: slice) -> None:
        """These rows are in the next state what they are in this one."""
        for name, array in self.reads.items():
            self.writes[name][rows] = array[rows]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for side in self.arrays for array in side.values())


def check_start(batch: int, capacity: int) -> None:
    """Raises StateError for a state of no rows."""
    if batch < 1 or capacity < 0:
        raise StateError(f"a state for {batch} rows of {capacity} tokens", hint="at least one row is needed")


def check_rows(rows: Sequence[int], have: int) -> None:
    """Raises StateError for a row that is not there, and for none."""
    if not len(rows) or any(not 0 <= row < have for row in rows):
        raise StateError(f"rows {list(rows)} of a state that has {have}", hint="count from 0; take at least one")


def not_ours(why: str) -> StateError:
    return StateError(f"this is not a saved state of this graph: {why}", hint="load it into the model that saved it")


def _rows(port: Port) -> int | None:
    """Which axis counts rows. Raises UnsupportedError for a state with another free axis."""
    free = [place for place, length in enumerate(port.shape) if isinstance(length, str)]
    if any(port.shape[place] != BATCH for place in free) or len(free) > 1:
        raise UnsupportedError(
            f"the state {port.name} is {port.dtype} {list(port.shape)}: its size is not known",
            hint="fix every axis of a state but the one named 'batch'",
        )
    return free[0] if free else None
