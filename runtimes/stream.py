"""Run a recurrent model on a stream, sample by sample.

Joins ingest, loop and head; knows no architecture and no engine. Many streams at once are in `streams`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import ClosedError, EdgeKitError, StateError
from edgekit.session import free

from . import state_file
from .loops.stream import stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgekit.core import Floats
    from edgekit.session import StreamSession

    from .ingest.series import Series, SeriesBatch

    Doubles = NDArray[np.float64]

WHAT = "stream"  # that a file holds


@dataclass(frozen=True)
class Recurrent:
    """A recurrent model that is open: its session, and what the bundle says of what goes in and comes out."""

    session: StreamSession
    ingest: Series
    head: ModuleType
    settings: Mapping[str, Any]  # as the head opened them
    name: str  # what saved states belong to: one variant of one bundle

    def open(self) -> Stream:
        """A stream that begins here."""
        return Stream(self)

    def results(self, source: Iterable[Any], rate: float | None, timed: bool) -> Iterator[Any]:
        """A result for each sample at the model's rate. Nothing is taken from `source` before it is asked for."""
        reader = self.ingest.reader(rate, timed=timed)

        def each() -> Iterator[Any]:
            with Stream(self) as own:
                for item in source:
                    for sample in reader.push(item):
                        yield own.step(sample)

        return each()

    def joined(self, results: Sequence[Floats]) -> Floats:
        """Those of a chunk's pieces as the chunk's: all of them, or the last where only an end has one."""
        return results[-1] if len(results) == 1 or self.settings["per"] == "end" else np.concatenate(results)


@dataclass(frozen=True, eq=False)
class Past:
    """What is left of the samples that a stream was given: the state aside, which is the session's."""

    held: Doubles  # (F,): the last one, filled
    steps: int = 0


class Stream:
    """One stream of samples, and the state that it left.

    One caller at a time (SessionBusyError); a context manager, as it owns memory. What is wrong with a sample is an
    InputError before anything has changed. After a run that was interrupted, or failed in the middle of a chunk, nobody
    knows what the state holds: StateError, until `reset` or `load`.
    """

    def __init__(self, model: Recurrent) -> None:
        self._model, self._busy, self._open = model, threading.Lock(), True
        self.reset()

    @property
    def steps(self) -> int:
        """How many samples it was given."""
        return self._past.steps

    def step(self, x: Any) -> Any:
        """The result after one more sample: (F,), a number where the model has one feature, or numbers by the features'
        names, `{"current": 6.0, ...}`. NaN and None are missing.

        Raises InputError, and what the session raises.
        """
        with alone(self._busy):
            self._check()
            model = self._model
            batch, held = model.ingest.sample(x, self._past.held)
            return model.head.results(self._single(batch, held), model.settings)[-1]

    def feed(self, chunk: Any) -> Any:
        """The results after each of several samples (n, F), or (n,); of a model that has one at the end, that one.

        The same numbers as `step` on each, and faster. Raises as `step`.
        """
        with alone(self._busy):
            self._check()
            return self._model.head.results(
                self._run(*self._model.ingest.chunk(chunk, self._past.held)), self._model.settings
            )

    def reset(self) -> None:
        """Forget everything."""
        with alone(self._busy):
            self._check_open()
            self._state, self._past = self._model.session.start(1), Past(self._model.ingest.mean)

    def fork(self) -> Stream:
        """An independent copy, from here."""
        with alone(self._busy):
            self._check()
            made = Stream(self._model)
            made._state, made._past = self._model.session.fork(self._state), self._past
            return made

    def save(self, path: str | Path | None = None) -> bytes:
        """The stream's state as bytes; with `path` it is also written into that file, whole or not at all.

        Raises UsageError for a place that cannot be written to, ResourceError when the disk is full.
        """
        with alone(self._busy):
            self._check()
            return write(self._model, path, self._past, self._state)

    def load(self, source: str | Path | bytes) -> None:
        """Go on where a saved stream stopped, from its file or its bytes, in this process or another.

        Raises StateError for another model's.
        """
        with alone(self._busy):
            self._check_open()
            self._past, self._state = read(self._model, source)

    def close(self) -> None:
        """Let go of the state; twice is once. Raises SessionBusyError where another thread is at it."""
        with alone(self._busy):
            self._open, self._state = False, None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _single(self, batch: SeriesBatch, held: Doubles) -> Floats:
        """The model's numbers for one sample, (1, n): what the loop does, without what only several need."""
        model = self._model
        try:
            outputs, _ = model.session.run(batch.feeds, self._state)
            self._past = Past(held, self._past.steps + 1)
        except EdgeKitError:
            raise
        except BaseException:
            self._state = None
            raise
        found: list[Floats] = model.head.numbers(outputs, batch, model.settings)
        return found[0].copy()

    def _run(self, x: Floats, held: Doubles) -> Floats:
        """The model's numbers for samples (n, F), in pieces that it likes; `held` counts from then on."""
        model, found = self._model, list[Any]()
        batches = [model.ingest.batch([piece]) for piece in model.ingest.windows(x)]
        try:
            with closing(stream(model.session, (batch.feeds for batch in batches), self._state)) as steps:
                for batch, (outputs, _) in zip(batches, steps):
                    found += [y.copy() for y in model.head.numbers(outputs, batch, model.settings)]
            self._past = Past(held, self._past.steps + len(x))
        except BaseException as error:
            if found or not isinstance(error, EdgeKitError):
                self._state = None
            raise
        return model.joined(found)

    def _check(self) -> None:
        self._check_open()
        if self._state is None:
            raise StateError(
                "this stream was interrupted in the middle of a run", hint="reset() it, or load() a saved one"
            )

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError("this stream is closed", hint="session() opens another")


def alone(busy: threading.Lock) -> threading.Lock:
    """What a `with` holds while it uses a stream. Raises SessionBusyError if another thread is at it."""
    return free(busy, "another thread is at this stream", hint="wait, or fork() it for another thread")


def write(model: Recurrent, path: str | Path | None, past: Past, engine_state: Any) -> bytes:
    """A stream as bytes, and as a file. Raises UsageError, ResourceError."""
    told = {"made_for": model.name, "steps": past.steps, "held": past.held.tolist()}
    return state_file.write(path, told, model.session.save(engine_state))


def read(model: Recurrent, source: str | Path | bytes) -> tuple[Past, Any]:
    """A stream that `write` wrote. Raises StateError for what holds none, or another model's."""
    told, arrays = state_file.read(source, WHAT, model.name)
    try:
        steps, held = int(told["steps"]), np.array(told["held"], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise state_file.broken(source, WHAT, error) from error
    found = model.session.load(arrays)
    if found.batch != 1 or held.shape != model.ingest.mean.shape or not np.isfinite(held).all() or steps < 0:
        raise StateError(f"{state_file.title(source)} does not hold one stream of this model", hint="save it again")
    return Past(held, steps), found
