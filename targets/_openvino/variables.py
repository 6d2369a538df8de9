"""A decoder in OpenVINO whose cache never leaves the engine: a state is an infer request with its variables.

The engine appends to its variables and knows no more of them. Which places of a cache hold a token of which row is
kept here, as a mask: rows of a batch grow by different counts, what is cut off is masked, and places that no row needs
any more are taken out when they are many. `beam_idx` selects and repeats rows, at no cost, with the next step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph

from .._states.held_inputs import HeldArrays
from .decoder import Decoder, Requested, changing
from .engine import new_request
from .stateful import ORDER, POSITIONS, variables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Arrays

    Integers = NDArray[np.int64]

WASTE = 64  # places of a cache that no row needs, before they are taken out
BYTES = {"f32": 4, "f16": 2, "bf16": 2, "u8": 1}


@dataclass(eq=False)
class Cache(Requested):
    """The state of some rows of text."""

    request: Any
    there: NDArray[np.bool_]  # (batch, places): a token of this row is in this place
    order: NDArray[np.int32]  # (batch,): the engine's row that is this state's row, once the next step has run

    @property
    def lengths(self) -> Integers:
        """Tokens that each row holds: int64 (batch,)."""
        return self.there.sum(1, dtype=np.int64)


class VariableSession(Decoder[Cache]):
    """A stateful model, whose states are of any kind."""

    # Once something is in the cache, OpenVINO attends from several tokens as slowly as from one after the other: 1,024
    # tokens take a third of the time if they are computed whole. 4,096 take 0.7 GB for that. An interrupt ends a run.
    chunk_tokens = 4096

    def __init__(self, graph: Graph, compiled: Any) -> None:
        super().__init__(graph, compiled)
        self._variables = variables(graph)
        self._placed = any(port.name == POSITIONS for port in graph.inputs)

    def _step(self, state: Cache, ids: Integers, counts: Integers, wanted: Integers) -> Array:
        self._compact(state)
        new = np.arange(ids.shape[1])
        there = np.concatenate([state.there, new < counts[:, None]], axis=1)
        engine: dict[str, Any] = {
            "input_ids": ids,
            "logit_positions": wanted,
            ORDER: state.order if state.there.shape[1] else np.arange(len(ids), dtype=np.int32),
        }
        if self._placed:
            engine[POSITIONS] = state.lengths[:, None] + np.minimum(new, counts[:, None] - 1)
        if self._growing:  # caches: their length is that of the mask
            engine["attention_mask"] = there.astype(np.int64)
        if len(self._cells):
            engine["counts"] = counts
        with changing(state) as request:
            _hold(request, state.held)
            self._runs.infer(request, engine)
            state.there, state.order = there, np.arange(len(ids), dtype=np.int32)
        logits: Array = request.get_tensor("logits").data
        return logits

    def _empty(self, batch: int, capacity: int) -> Cache:
        """OpenVINO makes room by itself: `capacity` tells it nothing."""
        return self._state(np.zeros(batch, np.int64))

    def _copied(self, state: Cache, rows: Sequence[int]) -> Cache:
        made = self._state(state.lengths)
        self._fill(made.request, self._tokens(state, state.request))
        return self._taken(made, rows)

    def _taken(self, state: Cache, rows: Sequence[int]) -> Cache:
        """Nothing is copied: the next step selects and repeats the rows."""
        return Cache(self, state.request, state.there[list(rows)], state.order[list(rows)])

    def _cut(self, state: Cache, lengths: Integers) -> None:
        state.there &= np.cumsum(state.there, axis=1) <= lengths[:, None]

    def _arrays(self, state: Cache) -> dict[str, Array]:
        return dict(self._tokens(state, state.request))

    def _filled(self, lengths: Integers, arrays: Arrays) -> Cache:
        state = self._state(lengths)
        self._fill(state.request, ((name, arrays[name]) for name in self._variables))
        return state

    def _size(self, state: Cache) -> int:
        """Of the tokens in the caches; the engine may hold twice as much, as room to grow."""
        kind = str(self._compiled.get_property("KV_CACHE_PRECISION").get_type_name())
        scales = 8 if kind == "u8" else 0  # a scale and a zero point for each head
        each = (int(port.shape[1]) * (int(port.shape[3]) * BYTES[kind] + scales) for port in self._growing.values())
        return int(state.there.size) * sum(each) + self._cells.nbytes(state.batch)

    def _state(self, lengths: Integers) -> Cache:
        """Of rows of so many tokens, which are still to be filled in."""
        there = np.arange(lengths.max()) < lengths[:, None]
        return Cache(self, new_request(self._compiled), there, np.arange(len(lengths), dtype=np.int32))

    def _tokens(self, state: Cache, request: Any) -> Iterator[tuple[str, Array]]:
        """Each state by its `into`; caches are (batch, heads, longest, dim), without the places that hold nothing."""
        longest = int(state.lengths.max())
        places = np.argsort(~state.there, axis=1, kind="stable")[:, None, :longest, None]
        held = {variable.name: variable for variable in request.query_state()}
        for into, port in self._growing.items():
            if longest:
                found = np.take_along_axis(held[self._variables[into]].state.data[state.order], places, axis=2)
            else:  # what a variable holds then has the rows of nobody
                found = np.zeros((state.batch, int(port.shape[1]), 0, int(port.shape[3])), port.dtype)
            yield into, found
        for cell in self._cells.cells:
            rows = len(state.order)
            begun = state.there.shape[1]
            fresh = np.full(cell.shape(rows), cell.init, cell.port.dtype)
            yield cell.into, held[self._variables[cell.into]].state.data[state.order] if begun else fresh

    def _fill(self, request: Any, caches: Iterable[tuple[str, Array]]) -> None:
        import openvino

        held = {variable.name: variable for variable in request.query_state()}
        for into, array in caches:
            if array.size:
                held[self._variables[into]].state = openvino.Tensor(np.ascontiguousarray(array))

    def _compact(self, state: Cache) -> None:
        """Take out the places that no row needs, where they are many."""
        lengths, places = state.lengths, state.there.shape[1]
        longest = int(lengths.max())
        if places - longest <= (max(WASTE, places // 4) if longest else 0):
            return
        with changing(state) as request:
            if longest:
                self._fill(request, self._tokens(state, request))
            else:
                request.reset_state()
            state.there = np.arange(longest) < lengths[:, None]
            state.order = np.arange(len(lengths), dtype=np.int32)


def _hold(request: Any, held: HeldArrays) -> None:
    """Let the request read these arrays, where they are, until it is given others."""
    import openvino

    if held.arrays and getattr(request, "held", None) is not held:
        for name, array in held.arrays.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        request.held = held  # an interrupted run goes on with them
