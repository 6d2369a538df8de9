"""Run many independent streams of samples as one batch.

Streams that were given samples together last time are one state of as many rows, and need not be touched to run again;
who joins, leaves, or comes at another time costs a copy of the rows. Knows no architecture and no engine.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import ClosedError, EdgeKitError, StateError

from .loops.stream import RESULTS
from .stream import Past, Recurrent, alone, read, write

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Floats

    Doubles = NDArray[np.float64]

TOGETHER = 256  # streams in one run


@dataclass(eq=False)
class Group:
    """A state of several rows, and whose each is. A row counts as long as its stream points here."""

    keys: Sequence[int]
    state: Any

    @cached_property
    def places(self) -> dict[int, int]:
        return {key: place for place, key in enumerate(self.keys)}


class Streams:
    """Streams that join and leave at any time, each as if it were alone: results by key.

    One caller at a time (SessionBusyError); a context manager, as it owns memory. What is wrong with a sample is an
    InputError before any stream has changed. Streams whose results were lost by a failure or an interrupt raise
    StateError until `reset`; the others go on.
    """

    def __init__(self, model: Recurrent) -> None:
        self._model, self._busy, self._open = model, threading.Lock(), True
        self._held: dict[int, Doubles] = {}  # the last sample of each stream, filled
        self._steps: dict[int, int] = {}
        self._groups: dict[int, Group] = {}  # those that were given samples
        self._lost: set[int] = set()
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def keys(self) -> tuple[int, ...]:
        """Those of all streams, in the order in which they joined."""
        return tuple(self._steps)

    def add(self) -> int:
        """A new stream's key."""
        with alone(self._busy):
            self._check_open()
            return self._join(Past(self._model.ingest.mean))

    def steps(self, key: int) -> int:
        """How many samples that stream was given. Raises StateError for a key that is not there."""
        self._check([key], lost=True)
        return self._steps[key]

    def step(self, samples: Mapping[int, Any]) -> dict[int, Any]:
        """The result of each of these streams after one more sample: (F,), or a number. Others stay as they are.

        Raises InputError, StateError for a stream that is not there, and what the session raises.
        """
        with alone(self._busy):
            self._check(samples)
            if not samples:
                return {}
            keys, before = tuple(samples), [self._held[key] for key in samples]
            x, held = self._model.ingest.samples(list(samples.values()), before, keys)
            found = self._run([dict(zip(keys, x[:, None]))], dict(zip(keys, held)))
            return dict(zip(keys, self._model.head.results(np.concatenate(found), self._model.settings)))

    def feed(self, chunks: Mapping[int, Any]) -> dict[int, Any]:
        """The results of each of these streams after several samples, (n, F) or (n,), n of its own; see `Stream.feed`.

        Raises as `step`.
        """
        with alone(self._busy):
            self._check(chunks)
            ingest, settings = self._model.ingest, self._model.settings
            read = {key: ingest.chunk(x, self._held[key], f"the chunk of {key}") for key, x in chunks.items()}
            windows = {key: list(ingest.windows(x)) for key, (x, _) in read.items()}
            rounds = max(map(len, windows.values()), default=0)
            pieces = [{key: of[n] for key, of in windows.items() if n < len(of)} for n in range(rounds)]
            found = self._run(pieces, {key: held for key, (_, held) in read.items()})
            return {key: self._model.head.results(y, settings) for key, y in zip(chunks, found, strict=True)}

    def reset(self, key: int) -> None:
        """That stream forgets everything. Raises StateError for a key that is not there."""
        with alone(self._busy):
            self._check([key], lost=True)
            self._lost.add(key)  # an interrupt on the way leaves no half of it
            self._groups.pop(key, None)
            self._held[key], self._steps[key] = self._model.ingest.mean, 0
            self._lost.discard(key)

    def fork(self, key: int) -> int:
        """The key of a new stream that goes on from where that one is. Raises StateError."""
        with alone(self._busy):
            self._check([key])
            return self._join(self._past(key), self._state(key))

    def remove(self, key: int) -> None:
        """Let that stream go. Raises StateError for a key that is not there."""
        with alone(self._busy):
            self._check([key], lost=True)
            del self._steps[key]
            del self._held[key]
            self._groups.pop(key, None)
            self._lost.discard(key)

    def save(self, key: int, path: str | Path | None = None) -> bytes:
        """That stream as bytes, and as a file, for `load` here or of a Stream. Raises StateError, ResourceError."""
        with alone(self._busy):
            self._check([key])
            return write(self._model, path, self._past(key), self._state(key))

    def load(self, source: str | Path | bytes) -> int:
        """The key of a new stream that goes on where the saved one stopped. Raises StateError for another model's."""
        with alone(self._busy):
            self._check_open()
            return self._join(*read(self._model, source))

    def close(self) -> None:
        """Let all streams go; twice is once."""
        with alone(self._busy):
            self._open = False
            for table in (self._held, self._steps, self._groups, self._lost):
                table.clear()

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _join(self, past: Past, state: Any = None) -> int:
        key = next(self._numbers)
        if state is not None:
            self._groups[key] = Group([key], state)
        self._held[key], self._steps[key] = past.held, past.steps
        return key

    def _past(self, key: int) -> Past:
        return Past(self._held[key], self._steps[key])

    def _state(self, key: int) -> Any:
        """A copy of that stream's."""
        group = self._groups.get(key)
        session = self._model.session
        return session.start(1) if group is None else session.fork(group.state, [group.places[key]])

    def _run(self, pieces: Sequence[Mapping[int, Floats]], held: Mapping[int, Doubles]) -> list[Floats]:
        """The model's numbers for each stream of `held`, given its piece of each round, if it has one."""
        model, found = self._model, {key: list[Any]() for key in held}
        moved = list[int]()
        try:
            for piece in pieces:
                for keys in self._sets(piece):
                    group = self._together(keys)
                    batch = model.ingest.batch([piece[key] for key in group.keys])
                    outputs, group.state = model.session.run(batch.feeds, group.state)
                    moved += group.keys
                    own = {RESULTS: outputs[RESULTS].copy()}  # the next run writes over the session's
                    for key, y in zip(group.keys, model.head.numbers(own, batch, model.settings), strict=True):
                        found[key].append(y)
            self._held.update(held)
            for piece in pieces:
                for key, x in piece.items():
                    self._steps[key] += len(x)
        except BaseException as error:
            self._lost |= set(moved) if isinstance(error, EdgeKitError) else held.keys()
            raise
        return [model.joined(each) for each in found.values()]

    def _sets(self, pieces: Mapping[int, Floats]) -> Iterator[list[int]]:
        """Which streams are run together: those that were before, and as long a piece each unless the graph counts."""
        ingest, group = self._model.ingest, self._groups.get(next(iter(pieces)))
        length = {key: 0 if ingest.counted else len(x) for key, x in pieces.items()}
        if group is not None and len(set(length.values())) == 1 and self._is_of(group, pieces):
            yield list(group.keys)
            return
        most = TOGETHER if ingest.batched else 1
        for _, alike in groupby(sorted(pieces, key=lambda key: (length[key], *self._place(key))), length.__getitem__):
            keys = list(alike)
            yield from (keys[first : first + most] for first in range(0, len(keys), most))

    def _is_of(self, group: Group, keys: Mapping[int, Any]) -> bool:
        """Whether it is of just these streams, in any order: as it is while nobody joins or leaves."""
        return keys.keys() == group.places.keys() and all(self._groups.get(key) is group for key in keys)

    def _place(self, key: int) -> tuple[int, int]:
        group = self._groups.get(key)
        return (-1, key) if group is None else (id(group), group.places[key])

    def _together(self, keys: Sequence[int]) -> Group:
        """The group of just these streams, in this order: the one that there is, or a new one."""
        session, parts, chosen = self._model.session, list[Any](), set(keys)
        alike = [(group, list(of)) for group, of in groupby(keys, self._groups.get)]
        old = [group for group, _ in alike if group is not None]
        if len(alike) == len(old) == 1 and list(old[0].keys) == list(keys):
            return old[0]
        for group, of in alike:
            places = [] if group is None else [group.places[key] for key in of]
            parts.append(session.start(len(of)) if group is None else session.fork(group.state, places))
        made = [Group(keys, session.join(parts) if len(parts) > 1 else parts[0])]
        for group in old:
            stay = [key for key in group.keys if self._groups.get(key) is group and key not in chosen]
            if stay:
                made.append(Group(stay, session.fork(group.state, [group.places[key] for key in stay])))
        for group in made:
            self._groups.update(dict.fromkeys(group.keys, group))
        return made[0]

    def _check(self, keys: Collection[int], *, lost: bool = False) -> None:
        """Raises StateError for a stream that is not there and, unless `lost`, for one whose state nobody knows."""
        self._check_open()
        for key in keys:
            if key not in self._steps:
                raise StateError(f"there is no stream {key!r}", hint="add() gives the keys; remove() ends them")
            if key in self._lost and not lost:
                raise StateError(f"stream {key} was interrupted in the middle of a run", hint="reset() or remove() it")

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError("these streams are closed", hint="streams() opens others")
