"""A recurrent graph's session in the plainest way: ONNX Runtime, with states that are numpy arrays and are copied.

What `edgekit.core.StatefulSession` asks for and nothing clever: a reference for sessions, and what loops are tested on.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.core import Graph, Life, check_feeds
from edgekit.errors import InputError, SessionBusyError, StateError


@dataclass(eq=False)
class Held:
    owner: PortableStream
    arrays: dict[str, Any]
    batch: int
    busy: Any = field(default_factory=threading.Lock)


class PortableStream:
    """`runs` are the shapes of `x`, in order."""

    placement = "CPUExecutionProvider"
    length_step = 1
    batch_tokens = 512

    def __init__(self, folder: Path, graph: Graph) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._engine = onnxruntime.InferenceSession(folder / graph.path, options)
        self._graph, self._life = graph, Life("this session")
        self._ports = {port.name: port for port in graph.inputs}
        self.runs: list[tuple[int, ...]] = []

    def run(self, feeds: Mapping[str, Any], states: Any = None) -> tuple[dict[str, Any], Held]:
        self._life.check()
        state = self.start(len(feeds["x"])) if states is None else self._own(states)
        if not state.busy.acquire(blocking=False):
            raise SessionBusyError("two threads use one state")
        try:
            given = {**feeds, **state.arrays}
            check_feeds(self._graph, given)
            if len(feeds["x"]) != state.batch:
                raise InputError(f"{len(feeds['x'])} rows for a state of {state.batch}")
            self.runs.append(feeds["x"].shape)
            names = [port.name for port in self._graph.outputs]
            found = dict(zip(names, self._engine.run(names, given), strict=True))
            state.arrays = {each.into: found.pop(each.out) for each in self._graph.states}
            return found, state
        finally:
            state.busy.release()

    def start(self, batch: int) -> Held:
        self._life.check()
        if batch < 1 or (batch > 1 and not self._graph.batched):
            raise StateError(f"a state of {batch} rows")
        shapes = {each.into: [batch if a == "batch" else a for a in self._shape(each.into)] for each in self._states}
        return Held(self, {e.into: np.full(shapes[e.into], e.init, np.float32) for e in self._states}, batch)

    def fork(self, state: Held) -> Held:
        return self.rows(state, range(self._own(state).batch))

    def rows(self, state: Held, rows: Sequence[int]) -> Held:
        if not rows or any(not 0 <= row < self._own(state).batch for row in rows):
            raise StateError(f"rows {list(rows)} of a state of {state.batch}")
        return Held(self, {name: self._taken(name, held, list(rows)) for name, held in state.arrays.items()}, len(rows))

    def join(self, states: Sequence[Held]) -> Held:
        batch = sum(self._own(state).batch for state in states)
        made = self.start(batch)
        for name in made.arrays:
            made.arrays[name] = np.concatenate([state.arrays[name] for state in states], self._axis(name))
        return made

    def save(self, state: Held) -> dict[str, Any]:
        return {name: held.copy() for name, held in self._own(state).arrays.items()}

    def load(self, arrays: Mapping[str, Any]) -> Held:
        if arrays.keys() != {each.into for each in self._states}:
            raise StateError(f"this graph has no states {sorted(arrays)}")
        first = self._states[0].into
        batch = arrays[first].shape[self._axis(first)] if self._graph.batched else 1
        made = self.start(batch)
        for name, held in made.arrays.items():
            if arrays[name].shape != held.shape or arrays[name].dtype != np.float32:
                raise StateError(f"{name} is {arrays[name].shape}, not {held.shape}")
            made.arrays[name] = arrays[name].copy()
        return made

    def nbytes(self, state: Held) -> int:
        return sum(held.nbytes for held in state.arrays.values())

    def close(self) -> None:
        self._life.end()

    @property
    def _states(self) -> Any:
        return self._graph.states

    def _shape(self, name: str) -> Any:
        return self._ports[name].shape

    def _axis(self, name: str) -> int:
        return int(self._shape(name).index("batch"))

    def _taken(self, name: str, held: Any, rows: list[int]) -> Any:
        return np.take(held, rows, self._axis(name)) if self._graph.batched else held.copy()

    def _own(self, state: Any) -> Held:
        if not isinstance(state, Held) or state.owner is not self:
            raise StateError("this state is not of this session")
        return state
