"""The answers of `edgekit run` to series: a line for each sample as it comes, or for a whole series at its end.

Each file, and stdin, is a stream of its own. Knows the Model and the console; reads no file and parses no option.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from edgekit.cli import sample_rows
from edgekit.cli.inputs import STDIN, Samples, title
from edgekit.errors import InputError, UsageError

if TYPE_CHECKING:
    from edgekit.cli.console import Console
    from edgekit.cli.method_options import Call


def answers(console: Console, model: Any, call: Call, inputs: Iterable[Samples], *, keep: bool) -> list[Any]:
    """Write each result to stdout, as a CSV line or JSON object; with `keep`, return all results instead.

    Raises UsageError for a rate that makes no sense, InputError for an input without samples.
    """
    rate = call.options.get("rate")
    if rate is not None and not 0 < rate < math.inf:
        raise UsageError(f"rate is {rate:g}", hint="give samples per second, above 0")
    kept: list[Any] = []
    for samples in inputs:
        if samples.ignored:
            console.say(f"note: columns that the model does not take: {', '.join(samples.ignored)}")
        first = next(samples.rows, None)
        if first is None:
            raise InputError(f"{title(samples.name)} has no samples", hint="write one line of numbers per sample")
        rows: Iterator[Any] = chain([first], samples.rows)
        if rate is not None and samples.name != STDIN:
            rows = replayed(rows, rate)
        results = _results(model, call, rows, samples.timed)
        if keep:
            kept += results
        else:
            _write(console, results, model.bundle.settings, header=samples.header)
    return kept


def _write(console: Console, results: Iterable[Any], settings: dict[str, Any], *, header: bool) -> None:
    for number, result in enumerate(results):
        if console.json:
            console.write(json.dumps(sample_rows.record(result, settings), allow_nan=False) + "\n")
            continue
        if header and number == 0:
            console.write(sample_rows.csv_line(sample_rows.columns(result, settings)))
        console.write(sample_rows.csv_line(sample_rows.cells(result)))


def _results(model: Any, call: Call, rows: Iterator[Any], timed: bool) -> Iterator[Any]:
    """Results as samples come where the method is `stream`; else those of the whole series, once it has ended."""
    settings = model.bundle.settings
    if call.method.name == "stream":
        rate = None if timed or settings.get("rate") is None else call.options.get("rate")
        yield from model.stream(rows if timed else (row for _, row in rows), rate=rate, timed=timed)
        return
    series = list(rows)
    times = {"timestamps": [time for time, _ in series]} if timed else {}
    result = getattr(model, call.method.name)([row for _, row in series], **call.options, **times)
    several = settings["per"] == "step" and (isinstance(result, list) or hasattr(result, "tolist"))
    yield from result if several else [result]


def replayed(rows: Iterator[Any], rate: float) -> Iterator[Any]:
    """Rows at the pace of a live source with `rate` rows per second; late rows at once."""
    start = time.monotonic()
    for number, row in enumerate(rows):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        yield row
