"""What `edgekit run` does with a recurrent model: rows of numbers in, a line out for each as it comes.

A file, like stdin, is a stream of its own that begins anew. Knows the results of the heads by their fields; parses no
option.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from edgekit import limits, registry
from edgekit.cli.console import plain
from edgekit.cli.text_run import STDIN
from edgekit.errors import InputError, UsageError

if TYPE_CHECKING:
    from edgekit.cli.console import Console
    from edgekit.model import Model


@dataclass(frozen=True)
class Steps:
    """What a model answers to one input: a result a step, each computed when it is asked for."""

    header: bool  # whether the input names its columns: the output does as well, then
    results: Iterator[Any]


def tell(console: Console, model: Model, inputs: Sequence[str], rate: float | None, *, keep: bool) -> Any:
    """The answers to all inputs as lines on stdout, CSV or JSON; with `keep` all together instead, numbers as an array.

    Raises InputError for an input that cannot be read or holds no samples.
    """
    found, settings = list[Any](), model.bundle.settings
    for steps in followed(console, model, inputs, rate):
        if steps.header and not (keep or console.json):
            console.write(_line(columns(settings, model.methods[0])))
        for result in steps.results:
            if keep:
                found.append(result)
            elif console.json:
                console.write(json.dumps(plain(record(result, settings)), allow_nan=False) + "\n")
            else:
                console.write(_line(cells(result)))
    return np.stack(found) if keep and model.methods[0] == "predict" else found


def followed(console: Console, model: Model, inputs: Sequence[str], rate: float | None) -> Iterator[Steps]:
    """Each input in turn, opened when the one before has ended; stdin where there is none."""
    if rate is not None and not 0 < rate < float("inf"):
        raise UsageError(f"a rate of {rate:g}", hint="give samples a second, more than 0")
    table_of = registry.find("ingest", model.bundle.ingest).Table
    settings = model.bundle.settings
    for name in inputs or [STDIN]:
        with _opened(name) as file:
            table = table_of(_lines(file, name), settings["features"], timed=settings.get("rate") is not None)
            if table.ignored:
                console.say(f"note: columns that the model does not take: {', '.join(table.ignored)}")
            rows = iter(table) if rate is None or name == STDIN else _paced(table, rate)
            first = next(rows, None)
            if first is None:
                raise InputError(f"{_said(name)} holds no samples", hint="write a line of numbers a sample")
            yield Steps(table.header, _results(model, chain([first], rows), table.timed, rate))


def _results(model: Model, rows: Iterator[Any], timed: bool, rate: float | None) -> Iterator[Any]:
    """As they come where the model can; else those of the whole series, once it has ended."""
    if "stream" in model.methods:
        stated = None if timed or model.bundle.settings.get("rate") is None else rate
        yield from model.stream(rows if timed else (row for _, row in rows), rate=stated, timed=timed)
        return
    held = list(rows)
    times = [time for time, _ in held] if timed else None
    found = getattr(model, model.methods[0])([row for _, row in held], timestamps=times)
    several = model.bundle.settings["per"] == "step" and model.methods[0] != "forecast"
    yield from found if several else [found]


def columns(settings: dict[str, Any], method: str) -> list[str]:
    """What `cells` are called."""
    if method == "classify":
        return ["label", "score"]
    if method == "detect_anomalies":
        return ["score", "flagged"]
    names: list[str] = settings["outputs"]
    if method == "predict":
        return names
    horizon, ranged = settings.get("horizon") or 1, len(settings.get("quantiles") or []) > 1
    ahead = [name if horizon == 1 else f"{name}+{step}" for step in range(1, horizon + 1) for name in names]
    return [f"{name}{part}" for name in ahead for part in ("", ".low", ".high")[: 3 if ranged else 1]]


def cells(result: Any) -> list[str]:
    """A result as a row of CSV; of labels the best."""
    if hasattr(result, "flagged"):
        return [f"{result.score:.7g}", str(result.flagged).lower()]
    if hasattr(result, "quantiles"):
        parts = [result.values] if result.low is None else [result.values, result.low, result.high]
        return [str(number) for row in zip(*(part.ravel() for part in parts)) for number in row]
    if isinstance(result, list):
        return [result[0].label, f"{result[0].score:.7g}"]
    return [str(number) for number in result]


def record(result: Any, settings: dict[str, Any]) -> Any:
    """A result as a JSON object."""
    if isinstance(result, list):
        return {"label": result[0].label, "score": result[0].score, "labels": result}
    if hasattr(result, "tolist"):
        return dict(zip(settings["outputs"], result.tolist()))
    return result


def _paced(rows: Iterator[Any], rate: float) -> Iterator[Any]:
    """Each when it would come live; late ones at once."""
    begun = time.monotonic()
    for number, row in enumerate(rows):
        time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        yield row


def _line(row: Sequence[str]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerow(row)
    return written.getvalue()


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    """Raises InputError."""
    if name == STDIN:
        if sys.stdin is None:
            raise UsageError("no input: stdin is closed", hint="name a CSV file")
        yield sys.stdin.buffer
        return
    with ExitStack() as opened:
        try:
            file = opened.enter_context(Path(name).open("rb"))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise InputError(f"cannot read {name!a}: {why}", hint="name a CSV file, or - for stdin") from error
        yield file


def _lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Raises InputError naming the line that is too long or not UTF-8."""
    number = 0
    while line := _read(file, name):
        number += 1
        if len(line) > limits.LINE_BYTES:
            raise InputError(
                f"line {number} of {_said(name)} has more than {limits.LINE_BYTES} bytes", hint="is it CSV?"
            )
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(
                f"line {number} of {_said(name)} is not UTF-8", hint="convert it: iconv -t UTF-8"
            ) from None


def _read(file: IO[bytes], name: str) -> bytes:
    try:
        return file.readline(limits.LINE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {_said(name)}: {error.strerror}", hint="name a CSV file") from error


def _said(name: str) -> str:
    return "stdin" if name == STDIN else name
