"""A decoder in OpenVINO whose cache never leaves the engine: a state is an infer request with its variables.

The engine appends to its variables and knows no more of them. Which places of a cache hold a token of which row is
kept here, as a mask: rows of a batch grow by different counts, what is cut off is masked, and places that no row needs
any more are taken out when they are many. `beam_idx` selects and repeats rows, at no cost, with the next step.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph, Life
from edgekit.errors import InputError, StateError

from ._decoder_feeds import step_of
from ._decoder_states import alone, check_rows, check_saved, check_start, check_trim
from ._fixed_states import Cells
from ._openvino_engine import engine_errors, new_request, placement
from ._openvino_runs import Runs
from ._openvino_stateful import ORDER, positions, variables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Arrays

    Integers = NDArray[np.int64]

WASTE = 64  # places of a cache that no row needs, before they are taken out
BYTES = {"f32": 4, "f16": 2, "bf16": 2, "u8": 1}


@dataclass(eq=False)
class Cache:
    """The state of some rows of text. Only the session looks inside, but for `lengths`."""

    owner: DecoderSession
    request: Any  # None once another state has taken it over, or a failed run has spoiled it
    there: NDArray[np.bool_]  # (batch, places): a token of this row is in this place
    order: NDArray[np.int32]  # (batch,): the engine's row that is this state's row, once the next step has run
    busy: threading.Lock = field(default_factory=threading.Lock)

    @property
    def lengths(self) -> Integers:
        """Tokens that each row holds: int64 (batch,)."""
        return self.there.sum(1, dtype=np.int64)


class DecoderSession:
    """One compiled stateful model. Threads may share it, each with its own states; their steps take turns."""

    length_step = 1
    batch_tokens = 512
    # Once something is in the cache, OpenVINO attends from several tokens as slowly as from one after the other: 1,024
    # tokens take a third of the time if they are computed whole. 4,096 take 0.7 GB for that. An interrupt ends a run.
    chunk_tokens = 4096

    def __init__(self, graph: Graph, compiled: Any) -> None:
        self._graph, self._compiled, self._runs = graph, compiled, Runs(compiled)
        self._life = Life("this session")
        self._variables = variables(graph)
        growing = {state.into for state in graph.states if state.axis is not None}
        self._ports = {port.name: port for port in graph.inputs if port.name in growing}
        self._cells = Cells(graph)
        self.vocabulary = next(int(port.shape[-1]) for port in graph.outputs if port.name == "logits")
        self._positions = positions(compiled)
        self.placement = placement(compiled)

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """One step: `input_ids` int64 (batch, sequence), padded on the right; `counts` int64 (batch,), how many of
        them are real; `logit_positions` int64 (batch, outputs), the last real one if it is left out.

        Gives `logits` float32 (batch, outputs, vocabulary), which are the request's own, and the next step writes over
        them; and the same state, which has grown. Without a state an empty one is started. A run that fails or is
        interrupted spoils its state.
        Raises InputError, StateError, SessionBusyError, ResourceError, ClosedError, ForkedSessionError.
        """
        self._life.check()
        ids, counts, wanted = step_of(feeds)
        state = self.start(len(ids), ids.shape[1]) if states is None else self._own(states)
        if len(ids) != len(state.order):
            raise InputError(f"input_ids has {len(ids)} rows, and the state holds {len(state.order)}")
        self._check_range(ids, state.lengths + counts)
        with usable(state):
            self._compact(state)
            new = np.arange(ids.shape[1])
            there = np.concatenate([state.there, new < counts[:, None]], axis=1)
            engine: dict[str, Any] = {
                "input_ids": ids,
                "logit_positions": wanted,
                ORDER: state.order if state.there.shape[1] else np.arange(len(ids), dtype=np.int32),
            }
            if self._ports:  # caches: their length is that of the mask
                engine["position_ids"] = state.lengths[:, None] + np.minimum(new, counts[:, None] - 1)
                engine["attention_mask"] = there.astype(np.int64)
            if len(self._cells):
                engine["counts"] = counts
            with engine_errors(f"OpenVINO failed in {self._graph.path}"), changing(state) as request:
                self._runs.infer(request, engine)
                state.there, state.order = there, np.arange(len(ids), dtype=np.int32)
            return {"logits": request.get_tensor("logits").data}, state

    def start(self, batch: int, capacity: int) -> Cache:
        """An empty state of `batch` rows. OpenVINO makes room by itself: `capacity` tells it nothing."""
        self._life.check()
        check_start(batch, capacity)
        return self._state(np.zeros(batch, np.int64))

    def fork(self, state: Cache) -> Cache:
        """A copy that goes its own way."""
        with usable(self._own(state)):
            made = self._state(state.lengths)
            self._fill(made.request, self._tokens(state, state.request))
        return made

    def rows(self, state: Cache, rows: Sequence[int]) -> Cache:
        """These rows only, in this order; a row may come twice. Nothing is copied: the given state is used up.

        Raises StateError for a row that is not there.
        """
        with usable(self._own(state)):
            check_rows(rows, len(state.order))
            request, state.request = state.request, None
            return Cache(self, request, state.there[list(rows)], state.order[list(rows)])

    def trim(self, state: Cache, lengths: Sequence[int]) -> Cache:
        """Each row cut to its first so many tokens, in place. Raises StateError for more than a row holds, and for a
        state of fixed size that would have to go back.
        """
        with usable(self._own(state)):
            wanted = check_trim(lengths, state.lengths, fixed=len(self._cells) > 0)
            state.there &= np.cumsum(state.there, axis=1) <= wanted[:, None]
        return state

    def save(self, state: Cache) -> dict[str, Array]:
        """What `load` takes: `lengths`, and each cache cut to the longest row, with zeros behind shorter ones."""
        with usable(self._own(state)):
            return {"lengths": state.lengths, **dict(self._tokens(state, state.request))}

    def load(self, arrays: Arrays) -> Cache:
        """A state that `save` wrote, here or on another target. Raises StateError if it is not one of this graph."""
        self._life.check()
        growing, fixed = self._cells.split(arrays)
        lengths = check_saved(growing, self._ports)
        self._cells.load(fixed, len(lengths))
        state = self._state(lengths)
        self._fill(state.request, ((name, arrays[name]) for name in self._variables))
        return state

    def nbytes(self, state: Cache) -> int:
        """Bytes of the tokens in the caches; the engine may hold twice as much, as room to grow."""
        kind = str(self._compiled.get_property("KV_CACHE_PRECISION").get_type_name())
        places = int(self._own(state).there.size)
        scales = 8 if kind == "u8" else 0  # a scale and a zero point for each head
        each = (int(port.shape[1]) * (int(port.shape[3]) * BYTES[kind] + scales) for port in self._ports.values())
        return places * sum(each) + self._cells.nbytes(len(state.order))

    def close(self) -> None:
        if self._life.end():
            del self._compiled, self._runs

    def _check_range(self, ids: Integers, lengths: Integers) -> None:
        """OpenVINO would take zeros for what is beyond a table, and say nothing. Raises InputError."""
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            raise InputError(
                f"{self._graph.path} has no such token: its vocabulary ends at {self.vocabulary - 1}",
                hint="check that the tokenizer is this model's",
            )
        if self._positions is not None and lengths.max() > self._positions:
            raise InputError(
                f"{self._graph.path} has no such position: {lengths.max()} tokens, and it takes {self._positions}",
                hint="use a shorter text",
            )

    def _state(self, lengths: Integers) -> Cache:
        """Of rows of so many tokens, which are still to be filled in."""
        there = np.arange(lengths.max()) < lengths[:, None]
        return Cache(self, new_request(self._compiled), there, np.arange(len(lengths), dtype=np.int32))

    def _tokens(self, state: Cache, request: Any) -> Iterator[tuple[str, Array]]:
        """Each state by its `into`; caches are (batch, heads, longest, dim), without the places that hold nothing."""
        lengths = state.lengths
        longest = int(lengths.max())
        places = np.argsort(~state.there, axis=1, kind="stable")[:, None, :longest, None]
        behind = np.arange(longest) >= lengths[:, None]
        held = {variable.name: variable for variable in request.query_state()}
        for into, port in self._ports.items():
            if longest:
                found = np.take_along_axis(held[self._variables[into]].state.data[state.order], places, axis=2)
                found.swapaxes(1, 2)[behind] = 0
            else:  # what a variable holds then has the rows of nobody
                found = np.zeros((len(lengths), int(port.shape[1]), 0, int(port.shape[3])), port.dtype)
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

    def _own(self, state: Any) -> Cache:
        if not isinstance(state, Cache) or state.owner is not self:
            raise StateError("this state is not of this session", hint="start, fork or load it here")
        return state


def ask(compiled: Any, graph: Graph) -> dict[str, Array]:
    """What a decoder gives for a prompt that is always the same, and for the token after it."""
    session = DecoderSession(graph, compiled)
    ids = np.random.default_rng(0).integers(0, session.vocabulary, (1, 4))
    answers, state = {}, session.start(1, 4)
    for name, part in (("prompt", ids[:, :3]), ("step", ids[:, 3:])):
        outputs, state = session.run({"input_ids": part, "counts": np.array([part.shape[1]])}, state)
        answers[name] = outputs["logits"].copy()
    return answers


@contextmanager
def usable(state: Cache) -> Iterator[None]:
    """Raises SessionBusyError if another thread is at this state, StateError if it cannot be used any more."""
    with alone(state.busy):
        if state.request is None:
            raise StateError(
                "this state was used up by rows(), or spoiled by a run that failed",
                hint="use what rows() returned; fork a state to keep it",
            )
        yield


@contextmanager
def changing(state: Cache) -> Iterator[Any]:
    """The state's request, while nobody knows what is in its caches: whatever fails meanwhile spoils the state."""
    request, state.request = state.request, None
    yield request
    state.request = request
