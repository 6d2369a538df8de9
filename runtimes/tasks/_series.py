"""Base class of tasks on series with a recurrent model: whole series, sample by sample, or many at once."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import InputError, UnsupportedError
from edgekit.model import Model

from ..asyncio_wait import wait_for
from ..ingest import series
from ..loops import once
from ..loops import stream as loop
from ..samples import series as samples
from ..stream import Recurrent, Stream
from ..streams import Streams

if TYPE_CHECKING:
    from edgekit.core import Array, Bundle, Measure

LONG = samples.STEPS
STREAMED = ("step", "stream", "astream", "session", "streams")


class SeriesModel(Model):
    """Base of the tasks of recurrent models.

    A series is an array of floats (time, features), or (time,) of a model with one feature, or a list of numbers or
    rows; NaN is missing. A list of arrays is several series, and gets a list of results.
    """

    INPUT = "series"
    SETTINGS = (series.Settings,)
    SCENARIOS = ("stream", "single-stream")
    MORE_SCENARIOS = ("offline",)

    def prepare(self) -> None:
        self._settings: dict[str, Any] = self.head.open(self.bundle.folder, self.settings)
        graph = self.graph()
        fed = {"inputs": list(graph.fed), "batched": graph.batched}
        self._ingest = series.open(self.bundle.folder, {**fed, **self.settings})
        self._streams = graph.kind == "stream"  # else it reads each series in both directions
        self._first_step = threading.Lock()
        self._own: Stream | None = None  # the stream that step() is on

    @property
    def methods(self) -> tuple[str, ...]:
        return self.METHODS if self._streams else tuple(name for name in self.METHODS if name not in STREAMED)

    def step(self, x: Any) -> Any:
        """Feed one sample to the model's own stream, and return the result; `session()` opens a separate stream.

        `x`: float (features,), or a number. Raises InputError, and what the session raises.
        """
        with self._first_step:
            self._own = self._own or self._recurrent("step").open()
        return self._own.step(x)

    def stream(self, source: Iterable[Any], *, rate: float | None = None, timed: bool = False) -> Iterator[Any]:
        """Yield a result for each sample of a new stream as it comes: nothing is read ahead, nothing is kept.

        `rate`: how many samples come a second; `timed`: each comes as a pair of its time in seconds and itself. Either
        resamples the stream to the model's own rate. Closing the iterator cancels.
        """
        return self._recurrent("stream").results(source, rate, timed)

    async def astream(
        self, source: AsyncIterable[Any], *, rate: float | None = None, timed: bool = False
    ) -> AsyncIterator[Any]:
        """`stream` for asyncio: samples from an async iterator, each step in a thread."""
        if not hasattr(source, "__aiter__"):
            raise InputError("astream takes an async iterator", hint="stream() takes any other")
        recurrent = self._recurrent("astream")
        reader = recurrent.ingest.reader(rate, timed=timed)
        with recurrent.open() as own:
            async for item in source:
                for sample in reader.push(item):
                    yield await wait_for(partial(own.step, sample))

    def session(self) -> Stream:
        """Open a separate stream for one caller: `step`, `feed`, `reset`, `fork`, `save`, `load`."""
        return self._recurrent("session").open()

    def streams(self) -> Streams:
        """Open many streams that are computed as one batch, and may be added and removed at any time."""
        return Streams(self._recurrent("streams"))

    def run(self, items: Any, **options: Any) -> Iterator[Any]:
        own: Callable[..., Any] = getattr(self, self.METHODS[0])
        yield from own([items] if self._ingest.alone(items) else items, **options)

    @classmethod
    def samples(cls, bundle: Bundle, file: Path | None = None, option: str = "--calibration") -> list[Any]:
        """A few short series, then long ones: errors add up in a state."""
        settings = bundle.settings
        return list(samples.read(file, settings["features"], option) if file else samples.waves(settings))

    @staticmethod
    def item(sample: Any) -> Any:
        """A series float64 (time, features); None is a missing number."""
        return np.array(sample, np.float64)

    @classmethod
    def workload(cls, samples: Sequence[Any]) -> list[Any]:
        """The long ones."""
        return [series for series in samples if len(series) >= LONG] or list(samples)

    def encode(self, samples: Sequence[Any]) -> list[Array]:
        """Each series' normalized samples as bits, int64."""
        return [one.ids for one in self._ingest.encode(samples)]

    def outputs(self, samples: Sequence[Any]) -> list[Array]:
        """Results as the graph gives them, float32 (time or 1, n); of a stream, the end comes sample by sample."""
        return self._gather(self._ingest.encode(samples), loop.gather)

    def together(self, samples: Sequence[Any]) -> list[Array]:
        """Results as `outputs` has them; of streams, many in a batch, whose rows end one after the other."""
        return self._gather(self._ingest.encode(samples), loop.whole)

    @classmethod
    def compare(
        cls,
        reference: Sequence[Array],
        candidate: Sequence[Array],
        settings: Mapping[str, Any],
        samples: Sequence[Any] = (),
    ) -> Measure:
        """By what comes late in long series, where errors have added up; by all results where no series is long."""
        if samples:
            reference, candidate = late(samples, reference), late(samples, candidate)
        return super().compare(reference, candidate, settings)

    def _gather(self, encodings: Sequence[Any], streamed: Callable[..., list[Array]]) -> list[Array]:
        session = self.session_of()
        if self._streams:
            return streamed(session, self._ingest, self.head, self._settings, encodings)
        batches = once.batches(session, self._ingest, encodings)
        return once.gather(session, batches, self.head, self._settings, len(encodings))

    def _read(self, series: Any, timestamps: Any, **options: Any) -> Any:
        """The head's answer to one series, or a list of them to several."""
        if alone := self._ingest.alone(series):
            series, timestamps = [series], None if timestamps is None else [timestamps]
        encodings = self._ingest.encode(series, timestamps=timestamps)
        answers = self.head.answers(self._gather(encodings, loop.whole), encodings, self._settings, **options)
        return answers[0] if alone else answers

    def _recurrent(self, method: str) -> Recurrent:
        """Raises UnsupportedError where the model cannot go on from a state, saying why."""
        if not self._streams:
            why = self.settings.get("why_not") or "its graph has no state"
            hint = f"it has: {', '.join(self.methods)}"
            raise UnsupportedError(f"{self.bundle.name} has no {method}(): {why}", hint=hint)
        return Recurrent(self.session_of(), self._ingest, self.head, self._settings, self._state_name())


def late(series: Sequence[Any], outputs: Sequence[Array]) -> list[Array]:
    """The last results of the series that are long; all results where no series is."""
    found = [output[-samples.LATE :] for one, output in zip(series, outputs) if len(one) >= samples.STEPS]
    return found or list(outputs)
