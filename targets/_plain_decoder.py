"""A decoder in ONNX Runtime as it is exported: every step copies the caches and adds to them.

For attention that no kernel of ONNX Runtime computes on a buffer of its own: right for every model, and slower with
every token in the cache. Which places hold a token of which row is kept here, as a mask: rows of a batch grow by
different counts, and what is cut off is masked, until so many places are wasted that the rest is moved together.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph
from edgekit.errors import InputError, StateError

from ._decoder_feeds import CHUNK, step_of
from ._decoder_states import alone, check_rows, check_saved, check_start, check_trim
from ._onnxruntime import OnnxRuntimeSession, engine_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Arrays

    Integers = NDArray[np.int64]

WASTE = 64  # places of a cache that no row needs, before they are taken out


@dataclass(eq=False)
class Cache:
    """The state of some rows of text. Only the session looks inside, but for `lengths`."""

    owner: PlainDecoderSession
    arrays: dict[str, Array]  # by the State's `into`: (batch, heads, places, dim)
    there: NDArray[np.bool_]  # (batch, places): a token of this row is in this place
    busy: threading.Lock = field(default_factory=threading.Lock)

    @property
    def lengths(self) -> Integers:
        """Tokens that each row holds: int64 (batch,)."""
        return np.asarray(self.there.sum(1), np.int64)


class PlainDecoderSession(OnnxRuntimeSession):
    """One decoder, of a portable graph. Threads may share it, each with its own states."""

    chunk_tokens = CHUNK

    def __init__(
        self,
        folder: Path,
        graph: Graph,
        provider: str,
        options: Any,
        provider_options: dict[str, Any] | None = None,
        without: Sequence[str] = (),
    ) -> None:
        """As OnnxRuntimeSession."""
        super().__init__(folder, graph, provider, options, provider_options, without)
        self._ports = {port.name: port for port in graph.inputs}
        self._caches = {state.into: state.out for state in graph.states}

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """One step: `input_ids` int64 (batch, sequence), padded on the right; `counts` int64 (batch,), how many of
        them are real; `logit_positions` int64 (batch, outputs), outputs from 0, or left out: the last real one.

        `logits` are float32 (batch, outputs, vocabulary). Without a state an empty one is started. A step that fails
        leaves the state as it was.
        Raises InputError, StateError, SessionBusyError, ResourceError, ClosedError, ForkedSessionError.
        """
        self._life.check()
        ids, counts, wanted = step_of(feeds)
        state = self.start(len(ids), ids.shape[1]) if states is None else self._own(states)
        if len(ids) != len(state.there):
            raise InputError(f"input_ids has {len(ids)} rows, and the state holds {len(state.there)}")
        with alone(state.busy):
            self._compact(state)
            new = np.arange(ids.shape[1])
            there = np.concatenate([state.there, new < counts[:, None]], axis=1)
            known = {
                "input_ids": ids,
                "position_ids": state.lengths[:, None] + np.minimum(new, counts[:, None] - 1),
                "attention_mask": there.astype(np.int64),
                "logit_positions": wanted,
                **state.arrays,
            }
            with engine_errors(f"ONNX Runtime failed in {self._graph.path}"):
                found = self._engine.run(self._outputs, {name: known[name] for name in self._ports})
            outputs = dict(zip(self._outputs, found, strict=True))
            state.arrays, state.there = {into: outputs[out] for into, out in self._caches.items()}, there
        return {"logits": outputs["logits"]}, state

    def start(self, batch: int, capacity: int) -> Cache:
        """An empty state of `batch` rows, which makes room as it grows: `capacity` tells it nothing."""
        self._life.check()
        check_start(batch, capacity)
        arrays = {}
        for into in self._caches:
            _, heads, _, dim = self._ports[into].shape
            arrays[into] = np.zeros((batch, int(heads), 0, int(dim)), self._ports[into].dtype)
        return Cache(self, arrays, np.zeros((batch, 0), np.bool_))

    def fork(self, state: Cache) -> Cache:
        """A copy that goes its own way. What is in the arrays is never written again, so they are shared."""
        with alone(self._own(state).busy):
            return Cache(self, dict(state.arrays), state.there.copy())

    def rows(self, state: Cache, rows: Sequence[int]) -> Cache:
        """A copy with these rows only, in this order; a row may come twice. Raises StateError for one not there."""
        check_rows(rows, len(self._own(state).there))
        with alone(state.busy):
            chosen = list(rows)
            return Cache(self, {name: array[chosen] for name, array in state.arrays.items()}, state.there[chosen])

    def trim(self, state: Cache, lengths: Sequence[int]) -> Cache:
        """Each row cut to its first so many tokens, in place. Raises StateError for more than a row holds."""
        with alone(self._own(state).busy):
            wanted = check_trim(lengths, state.lengths)
            state.there = state.there & (np.cumsum(state.there, axis=1) <= wanted[:, None])
        return state

    def save(self, state: Cache) -> dict[str, Array]:
        """What `load` takes: `lengths`, and each cache cut to the longest row, with zeros behind shorter ones."""
        with alone(self._own(state).busy):
            return {"lengths": state.lengths, **self._together(state)}

    def load(self, arrays: Arrays) -> Cache:
        """A state that `save` wrote, here or on another target. Raises StateError if it is not one of this graph."""
        self._life.check()
        lengths = check_saved(arrays, {into: self._ports[into] for into in self._caches})
        there = np.arange(lengths.max()) < lengths[:, None]
        return Cache(self, {into: arrays[into].copy() for into in self._caches}, there)

    def nbytes(self, state: Cache) -> int:
        """Bytes that the caches take; a step takes as many again."""
        return sum(array.nbytes for array in self._own(state).arrays.values())

    def _compact(self, state: Cache) -> None:
        """Take out the places that no row needs, where they are many."""
        lengths, places = state.lengths, state.there.shape[1]
        longest = int(lengths.max())
        if places - longest > (max(WASTE, places // 4) if longest else 0):
            state.arrays, state.there = self._together(state), np.arange(longest) < lengths[:, None]

    def _together(self, state: Cache) -> dict[str, Array]:
        """Each cache without the places that hold nothing: (batch, heads, longest, dim)."""
        lengths = state.lengths
        longest = int(lengths.max())
        places = np.argsort(~state.there, axis=1, kind="stable")[:, None, :longest, None]
        behind = np.arange(longest) >= lengths[:, None]
        made = {name: np.take_along_axis(array, places, axis=2) for name, array in state.arrays.items()}
        for array in made.values():
            array.swapaxes(1, 2)[behind] = 0
        return made

    def _own(self, state: Any) -> Cache:
        if not isinstance(state, Cache) or state.owner is not self:
            raise StateError("this state is not of this session", hint="start, fork or load it here")
        return state
