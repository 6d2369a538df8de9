"""A decoder in ONNX Runtime as it is exported: every step copies the caches and adds to them.

For attention that no kernel of ONNX Runtime computes on a buffer of its own: right for every model, and slower with
every token in the cache. Which places hold a token of which row is kept here, as a mask: rows of a batch grow by
different counts, and what is cut off is masked, until so many places are wasted that the rest is moved together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph
from edgekit.errors import InputError

from .._states.decoder_feeds import CHUNK, step_of
from .._states.fixed_states import Cells
from .._states.held_inputs import HeldInputs
from .._states.stateful import DecoderStates, Tokens, alone, check_usable
from .engine import running
from .session import OnnxRuntimeSession

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Arrays

    Integers = NDArray[np.int64]

WASTE = 64  # places of a cache that no row needs, before they are taken out


@dataclass(eq=False)
class Cache(Tokens):
    """The state of some rows of text."""

    arrays: dict[str, Array]  # by the State's `into`: (batch, heads, places, dim); never written once they are here
    there: NDArray[np.bool_]  # (batch, places): a token of this row is in this place

    @property
    def lengths(self) -> Integers:
        """Tokens that each row holds: int64 (batch,)."""
        return np.asarray(self.there.sum(1), np.int64)


class PlainDecoderSession(DecoderStates[Cache], OnnxRuntimeSession):
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
        self._caches = {state.into: state.out for state in graph.states if state.out is not None}
        self._growing = {into: self._ports[into] for into in self._caches}
        self._cells, self._held = Cells(graph), HeldInputs(graph)

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """One step: `input_ids` int64 (batch, sequence), padded on the right; `counts` int64 (batch,), how many of
        them are real; `logit_positions` int64 (batch, outputs), outputs from 0, or left out: the last real one.

        Held inputs come with a state's first run.

        `logits` are float32 (batch, outputs, vocabulary). Without a state an empty one is started. A step that fails
        leaves the state as it was.
        Raises InputError, StateError, SessionBusyError, ResourceError, ClosedError, ForkedSessionError.
        """
        self._life.check()
        held_feeds, feeds = self._held.split(feeds)
        ids, counts, wanted = step_of(feeds)
        state = self.start(len(ids), ids.shape[1]) if states is None else self._own(states)
        if len(ids) != len(state.there):
            raise InputError(f"input_ids has {len(ids)} rows, and the state holds {len(state.there)}")
        with alone(state.busy):
            check_usable(state)
            held = self._held.after(state.held, held_feeds, len(ids), empty=bool(held_feeds) and not state.there.any())
            self._compact(state)
            new = np.arange(ids.shape[1])
            there = np.concatenate([state.there, new < counts[:, None]], axis=1)
            known = {
                "input_ids": ids,
                "position_ids": state.lengths[:, None] + np.minimum(new, counts[:, None] - 1),
                "attention_mask": there.astype(np.int64),
                "logit_positions": wanted,
                **state.arrays,
                **held.arrays,
            }
            with running(self._graph.path):
                found = self._engine.run(self._outputs, {name: known[name] for name in self._ports})
            outputs = dict(zip(self._outputs, found, strict=True))
            arrays = {into: outputs[out] for into, out in self._caches.items()}
            state.arrays, state.there, state.held = arrays, there, held
        return {"logits": outputs["logits"]}, state

    def _empty(self, batch: int, capacity: int) -> Cache:
        """It makes room as it grows: `capacity` tells it nothing."""
        shapes = {into: (batch, int(port.shape[1]), 0, int(port.shape[3])) for into, port in self._growing.items()}
        arrays = {into: np.zeros(shape, self._growing[into].dtype) for into, shape in shapes.items()}
        return Cache(self, arrays, np.zeros((batch, 0), np.bool_))

    def _copied(self, state: Cache, rows: Sequence[int]) -> Cache:
        chosen = list(rows)
        arrays = state.arrays
        if chosen != list(range(state.batch)):
            arrays = {name: array[chosen] for name, array in arrays.items()}
        return Cache(self, dict(arrays), state.there[chosen])

    def _cut(self, state: Cache, lengths: Integers) -> None:
        state.there = state.there & (np.cumsum(state.there, axis=1) <= lengths[:, None])

    def _filled(self, lengths: Integers, arrays: Arrays) -> Cache:
        there = np.arange(lengths.max()) < lengths[:, None]
        return Cache(self, {into: arrays[into].copy() for into in self._caches}, there)

    def _size(self, state: Cache) -> int:
        """A step takes as many again."""
        return sum(array.nbytes for array in state.arrays.values())

    def _compact(self, state: Cache) -> None:
        """Take out the places that no row needs, where they are many."""
        lengths, places = state.lengths, state.there.shape[1]
        longest = int(lengths.max())
        if places - longest > (max(WASTE, places // 4) if longest else 0):
            state.arrays, state.there = self._arrays(state), np.arange(longest) < lengths[:, None]

    def _arrays(self, state: Cache) -> dict[str, Array]:
        """Each cache without the places that hold nothing: (batch, heads, longest, dim)."""
        longest = int(state.lengths.max())
        places = np.argsort(~state.there, axis=1, kind="stable")[:, None, :longest, None]
        return {name: np.take_along_axis(array, places, axis=2) for name, array in state.arrays.items()}
