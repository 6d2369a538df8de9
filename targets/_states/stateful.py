"""What a caller may do with a session's states, one implementation for every engine and every kind of state.

Who may (its own session, one caller at a time), whether it fits, and in what order things happen is here. How a state's
arrays lie, and how they are copied, is the engine's session's to say, in the few methods with an underscore. Knows no
engine.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from edgekit.errors import StateError
from edgekit.session import Life, free

from .fixed_states import Cells, check_rows, check_start, not_ours
from .held_inputs import NOTHING, HeldArrays, HeldInputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Arrays, Port

    Integers = NDArray[np.int64]

LENGTHS = "lengths"  # of a saved decoder's state: int64 (batch,), tokens that each row holds


@dataclass(eq=False)
class Held:
    """A state: whose it is, who is at it, and whether it can still be used."""

    owner: Any
    busy: threading.Lock = field(default_factory=threading.Lock, kw_only=True)
    spent: bool = field(default=False, kw_only=True)  # another state has taken over what it held, or a run spoiled it
    held: HeldArrays = field(default=NOTHING, kw_only=True)  # what its first run was given once

    if TYPE_CHECKING:

        @property
        def batch(self) -> int:
            """How many rows."""


H = TypeVar("H", bound=Held)


def alone(busy: threading.Lock) -> threading.Lock:
    """What a `with` holds while it uses a state. Raises SessionBusyError if another thread is at it."""
    return free(busy, "two threads use one state", hint="fork the state, or take turns")


def check_usable(state: Held) -> None:
    """To be asked while nobody else is at it. Raises StateError."""
    if state.spent:
        raise StateError(
            "this state was used up by rows(), or spoiled by a run that failed",
            hint="use what rows() returned; fork a state to keep it",
        )


class Stateful(ABC, Generic[H]):
    """Of a session whose states these are. Each method raises StateError for a state that is not, or not any more,
    and SessionBusyError while another thread is at it."""

    _life: Life
    _cells: Cells  # states of a fixed size
    _held: HeldInputs  # states that are given once

    def fork(self, state: H, rows: Sequence[int] | None = None) -> H:
        """A copy that goes its own way; of these rows only, in this order, if any are named."""
        with alone(self._own(state).busy):
            check_usable(state)
            chosen = self._chosen(state, rows)
            copy = self._copied(state, chosen)
            copy.held = self._held.rows(state.held, chosen)
        return copy

    def rows(self, state: H, rows: Sequence[int]) -> H:
        """These rows only, in this order; a row may come twice. The given state is used up."""
        with alone(self._own(state).busy):
            check_usable(state)
            chosen = self._chosen(state, rows)
            held = self._held.rows(state.held, chosen)
            made = self._taken(state, chosen)
            made.held = held
            state.spent = True
        return made

    def save(self, state: H) -> dict[str, Array]:
        """What `load` takes, here or on another target: each state by the name of its input."""
        with alone(self._own(state).busy):
            check_usable(state)
            return self._arrays(state) | self._held.save(state.held)

    def load(self, arrays: Arrays) -> H:
        """A state that `save` wrote. Raises StateError if it is not one of this graph, ResourceError."""
        self._life.check()
        held, own = self._held.split(arrays)
        state = self._loaded(own)
        state.held = self._held.load(held, state.batch)
        return state

    def nbytes(self, state: H) -> int:
        """Bytes that the state takes, room to grow included."""
        return self._size(self._own(state)) + state.held.nbytes

    def _chosen(self, state: H, rows: Sequence[int] | None) -> Sequence[int]:
        if rows is None:
            return range(state.batch)
        check_rows(rows, state.batch)
        return rows

    def _own(self, state: Any) -> H:
        if not isinstance(state, Held) or state.owner is not self:
            raise StateError("this state is not of this session", hint="start, fork or load it here")
        return state  # type: ignore[return-value]

    @abstractmethod
    def _copied(self, state: H, rows: Sequence[int]) -> H:
        """A state of these rows that shares nothing that is ever written."""

    def _taken(self, state: H, rows: Sequence[int]) -> H:
        """The same, of a state that nobody will use again."""
        return self._copied(state, rows)

    @abstractmethod
    def _arrays(self, state: H) -> dict[str, Array]:
        """All that it holds, as every target takes it, in arrays of the caller's own."""

    @abstractmethod
    def _loaded(self, arrays: Arrays) -> H:
        """The counterpart of `_arrays`; checks what it is given."""

    @abstractmethod
    def _size(self, state: H) -> int: ...


class Tokens(Held):
    """A decoder's state. Only the session looks inside, but for `lengths`."""

    if TYPE_CHECKING:

        @property
        def lengths(self) -> Integers:
            """Tokens that each row holds: int64 (batch,)."""

    @property
    def batch(self) -> int:
        return len(self.lengths)


D = TypeVar("D", bound=Tokens)


class DecoderStates(Stateful[D]):
    """Of a decoder: caches that grow by the tokens that each row was given, and states of a fixed size and held ones
    beside them."""

    _growing: Mapping[str, Port]  # the caches as they are saved, (batch, heads, tokens, dim), by the State's `into`

    def start(self, batch: int, capacity: int) -> D:
        """An empty state of `batch` rows; `capacity` tokens a row have room before it must grow, where that has a
        meaning. Raises StateError, ResourceError."""
        self._life.check()
        check_start(batch, capacity)
        return self._empty(batch, capacity)

    def trim(self, state: D, lengths: Sequence[int]) -> D:
        """Each row cut to its first so many tokens, in place. Raises StateError for more than a row holds, and for a
        state of fixed size that would have to go back."""
        with alone(self._own(state).busy):
            check_usable(state)
            self._cut(state, check_trim(lengths, state.lengths, fixed=len(self._cells) > 0))
        return state

    def save(self, state: D) -> dict[str, Array]:
        """What `load` takes: `lengths`, the other states, and each cache cut to the longest row, with zeros behind
        shorter ones."""
        with alone(self._own(state).busy):
            check_usable(state)
            lengths, arrays = state.lengths.copy(), self._arrays(state) | self._held.save(state.held)
        behind = np.arange(lengths.max()) >= lengths[:, None]
        for name in self._growing:
            arrays[name].swapaxes(1, 2)[behind] = 0
        return {LENGTHS: lengths, **arrays}

    def load(self, arrays: Arrays) -> D:
        state = super().load(arrays)
        if len(self._held) and state.lengths.any() and not state.held.arrays:
            raise not_ours(f"it has no {next(iter(self._held.ports))}")
        return state

    def _loaded(self, arrays: Arrays) -> D:
        growing, fixed = self._cells.split(arrays)
        lengths = check_saved(growing, self._growing)
        self._cells.check(fixed, len(lengths))
        return self._filled(lengths, arrays)

    @abstractmethod
    def _empty(self, batch: int, capacity: int) -> D: ...

    @abstractmethod
    def _cut(self, state: D, lengths: Integers) -> None:
        """These lengths fit; where there are states of a fixed size, they are all 0 or what the rows hold."""

    @abstractmethod
    def _filled(self, lengths: Integers, arrays: Arrays) -> D:
        """A state of rows of these lengths that holds these arrays, which fit; they stay the caller's."""


def check_trim(lengths: Sequence[int], held: Integers, *, fixed: bool = False) -> Integers:
    """The lengths as an array of their own. Raises StateError for more than a row holds.

    `fixed`: a part of the state has a fixed size. It cannot go back, but to the start of all rows.
    """
    wanted = np.array(lengths, np.int64)
    if wanted.shape != held.shape or (wanted < 0).any() or (wanted > held).any():
        raise StateError(
            f"rows of {held.tolist()} tokens cannot be cut to {wanted.tolist()}",
            hint="give one length a row, from 0 to what the row holds",
        )
    if fixed and wanted.any() and (wanted != held).any():
        raise StateError(
            f"a recurrent state of {held.tolist()} tokens cannot go back to {wanted.tolist()}",
            hint="fork the state to keep it, or start again",
        )
    return wanted


def check_saved(arrays: Arrays, ports: Mapping[str, Port]) -> Integers:
    """The lengths of a saved state, whose caches fit the ports. Raises StateError."""
    lengths = arrays.get(LENGTHS)
    if lengths is None or lengths.dtype != np.int64 or lengths.ndim != 1 or not len(lengths):
        raise not_ours("it has no lengths, int64 (batch,)")
    if (lengths < 0).any() or arrays.keys() - {LENGTHS} != ports.keys():
        raise not_ours("it holds other caches")
    for name, port in ports.items():
        shape = (len(lengths), port.shape[1], int(lengths.max()), port.shape[3])
        if arrays[name].shape != shape or arrays[name].dtype.name != port.dtype:
            found = f"{arrays[name].dtype.name} {list(arrays[name].shape)}"
            raise not_ours(f"{name} is {found}, not {port.dtype} {list(shape)}")
    return lengths
