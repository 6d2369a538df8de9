"""The answers of `edgekit run` to series: a line for each sample as it comes, or for a whole series at its end.

Each file, and stdin, is a stream of its own. Knows the Model and the console; reads no file and parses no option.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from edgekit.cli import sample_rows
from edgekit.cli.inputs import STDIN, Samples, title
from edgekit.cli.sample_source import Row, Rows
from edgekit.errors import InputError, UsageError

NEAR = 1e-3  # of a step: a time that is rounded still falls on the grid

if TYPE_CHECKING:
    from edgekit.cli.console import Console
    from edgekit.cli.method_options import Call


@dataclass(frozen=True)
class Place:
    """Where a result belongs: the row that it came with, and its time as text, "" without times."""

    row: Row
    time: str


def answers(console: Console, model: Any, call: Call, inputs: Iterable[Samples], *, keep: bool) -> list[Any]:
    """Write each result to stdout, as a CSV line or JSON object; with `keep`, return all results instead.

    Raises UsageError for a rate that makes no sense, InputError for an input without samples.
    """
    rate = call.options.get("rate")
    if rate is not None and not 0 < rate < math.inf:
        raise UsageError(f"rate is {rate:g}", hint="give samples per second, above 0")
    kept: list[Any] = []
    for samples in inputs:
        _say_what_is_read(console, model, samples)
        source = samples.rows
        first = next(source, None)
        if first is None:
            raise InputError(f"{title(samples.name)} has no samples", hint="write one line of numbers per sample")
        rows: Iterator[Row] = chain([first], source)
        if rate is not None and samples.name != STDIN:
            rows = replayed(rows, rate)
        results = _results(model, call, rows, source)
        if keep:
            kept += [result for _, result in results]
        else:
            _write(console, results, model.bundle.settings, source)
    return kept


def _say_what_is_read(console: Console, model: Any, samples: Samples) -> None:
    if samples.rows.ignored:
        console.say(f"note: columns that the model does not take: {', '.join(samples.rows.ignored)}")


def _write(console: Console, results: Iterable[tuple[Place, Any]], settings: dict[str, Any], source: Rows) -> None:
    """Each result behind its row, its time where the input has times, and the columns to keep."""
    timed = source.has_time
    for number, (place, result) in enumerate(results):
        before = {"row": place.row.number} | ({"time": place.time} if timed else {})
        before |= dict(zip(source.keep, place.row.kept))
        if console.json:
            record = sample_rows.record(result, settings)
            console.write(json.dumps({**before, **record}, allow_nan=False) + "\n")
            continue
        if source.header and number == 0:
            console.write(sample_rows.csv_line([*before, *sample_rows.columns(result, settings)]))
        console.write(sample_rows.csv_line([*map(str, before.values()), *sample_rows.cells(result)]))


def _results(model: Any, call: Call, rows: Iterator[Row], source: Rows) -> Iterator[tuple[Place, Any]]:
    """Results as samples come where the method is `stream`; else those of the whole series, once it has ended."""
    settings = model.bundle.settings
    if call.method.name == "stream":
        rate = None if source.timed or settings.get("rate") is None else call.options.get("rate")
        yield from _placed(model, rows, rate, timed=source.timed)
        return
    series = list(rows)
    times = {"timestamps": [row.seconds for row in series]} if source.timed else {}
    result = getattr(model, call.method.name)([row.values for row in series], **call.options, **times)
    several = settings["per"] == "step" and (isinstance(result, list) or hasattr(result, "tolist"))
    if not several:
        yield Place(series[-1], series[-1].time), result
    elif not source.timed:
        yield from ((Place(row, row.time), each) for row, each in zip(series, result, strict=True))
    else:
        clock, row = Clock(settings["rate"]), iter(series)
        clock.read(next(row))
        for each in result:
            while clock.is_behind() and (later := next(row, None)) is not None:
                clock.read(later)
            yield clock.place(), each


def _placed(model: Any, rows: Iterator[Row], rate: float | None, *, timed: bool) -> Iterator[tuple[Place, Any]]:
    """The results of a new stream with their places: nothing is read ahead."""
    clock = Clock(model.bundle.settings["rate"] if timed else None)

    def read() -> Iterator[Any]:
        for row in rows:
            clock.read(row)
            yield (row.seconds, row.values) if timed else row.values

    for result in model.stream(read(), rate=rate, timed=timed):
        yield clock.place(), result


class Clock:
    """The places of results: each belongs to the row that was read last. At a rate, results have times of their own."""

    def __init__(self, rate: float | None) -> None:
        self._rate, self._start, self._count, self._iso = rate, 0.0, 0, False
        self._row: Row | None = None

    def read(self, row: Row) -> None:
        """A row has come."""
        if self._row is None:
            self._start, self._iso = row.seconds or 0.0, not _is_number(row.time)
        self._row = row

    def is_behind(self) -> bool:
        """Whether the next result comes after the row that was read last."""
        assert self._row is not None
        assert self._rate is not None
        return self._start + self._count / self._rate > (self._row.seconds or 0.0) + NEAR / self._rate

    def place(self) -> Place:
        """Of the next result."""
        assert self._row is not None
        if self._rate is None:
            return Place(self._row, self._row.time)
        seconds = self._start + self._count / self._rate
        self._count += 1
        text = (
            datetime.fromtimestamp(seconds, UTC).isoformat() if self._iso else f"{seconds:.6f}".rstrip("0").rstrip(".")
        )
        return Place(self._row, text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def replayed(rows: Iterator[Any], rate: float) -> Iterator[Any]:
    """Rows at the pace of a live source with `rate` rows per second; late rows at once."""
    start = time.monotonic()
    for number, row in enumerate(rows):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        yield row
