"""A plain graph some of whose inputs are given once and held, engine by engine alike: an image's embedding.

The engine's session is given all inputs at each run; the held ones are the state's own arrays, which it reads where
they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph
from edgekit.errors import UnsupportedError
from edgekit.session import Life

from .fixed_states import BATCH, Cells, check_start, not_ours
from .held_inputs import HeldArrays, HeldInputs
from .stateful import Held, Stateful, alone, check_usable

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays
    from edgekit.session import Session

ROWS = "rows"  # of a saved state: int64 (), how many


@dataclass(eq=False)
class State(Held):
    """What is held for some rows. Only the session looks inside, but for `batch`."""

    batch: int


@contextmanager
def _holding(state: State, held: HeldArrays) -> Iterator[None]:
    """Around a run from which on the state holds this; one that fails leaves what it held."""
    before = state.held
    try:
        state.held = held
        yield
    except BaseException:
        state.held = before
        raise


class HeldSession(Stateful[State]):
    """One graph whose states are all held. Threads may share it, each with its own states."""

    def __init__(self, graph: Graph, session: Session) -> None:
        """`session` runs the graph, all inputs given. Raises UnsupportedError for a state that a run would change."""
        changing = [state.into for state in graph.states if state.out is not None]
        if changing:
            raise UnsupportedError(
                f"{graph.path} is a plain graph, and its state {changing[0]} changes",
                hint="let its exporter call the graph a stream or a decoder",
            )
        self._session, self._ports = session, graph.inputs
        self._held, self._cells, self._life = HeldInputs(graph), Cells(graph), Life("this session")
        self.placement = session.placement
        self.length_step, self.batch_tokens = session.length_step, session.batch_tokens

    def start(self, batch: int) -> State:
        """A state of so many rows, which holds nothing yet. Raises StateError."""
        self._life.check()
        check_start(batch, 0)
        return State(self, batch)

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """Outputs by name, and the state. Held inputs are among the feeds of a state's first run, and of no other.

        Without a state one is started. A run that fails leaves the state as it was.
        Raises InputError, StateError, SessionBusyError, ResourceError, ClosedError, ForkedSessionError.
        """
        self._life.check()
        held_feeds, others = self._held.split(feeds)
        state = self.start(self._rows(feeds)) if states is None else self._own(states)
        with alone(state.busy):
            check_usable(state)
            with _holding(state, self._held.after(state.held, held_feeds, state.batch)):
                outputs, _ = self._session.run({**others, **state.held.arrays})
        return outputs, state

    def _rows(self, feeds: Arrays) -> int:
        """As many as a feed says that counts them; one where none does."""
        axes = ((feeds.get(port.name), port.shape.index(BATCH)) for port in self._ports if BATCH in port.shape)
        return next((array.shape[axis] for array, axis in axes if array is not None and array.ndim > axis), 1)

    def _copied(self, state: State, rows: Sequence[int]) -> State:
        return State(self, len(rows))

    def _arrays(self, state: State) -> dict[str, Array]:
        return {ROWS: np.array(state.batch, np.int64)}

    def _loaded(self, arrays: Arrays) -> State:
        rows = arrays.get(ROWS)
        if rows is None or arrays.keys() != {ROWS} or rows.dtype != np.int64 or rows.shape or rows < 1:
            raise not_ours("it holds other arrays, or does not say for how many rows")
        return State(self, int(rows))

    def _size(self, state: State) -> int:
        return 0

    def close(self) -> None:
        if self._life.end():
            self._session.close()
