"""Read the log of an external power meter: a CSV file with the columns `time` and `watts`.

Times are seconds since 1970, or ISO 8601, which without an offset is this machine's local time. Other columns are
passed over. Knows nothing of what was run.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.bundle import user_files
from edgekit.errors import InputError

TIME, WATTS = "time", "watts"
GAP = 5.0  # seconds between two samples; over more nobody knows what was used
MOST_BYTES = 1 << 28  # of a file: a sample a millisecond for a day is half of it


class Interval(NamedTuple):
    """Of a run, in seconds since 1970."""

    begin: float
    end: float


class Sample(NamedTuple):
    time: float
    watts: float


def joules_of(file: Path, run: Interval) -> tuple[float | None, str]:
    """The integral of the power over the run, by trapezoids; or None, and why the file cannot tell.

    Before its first and behind its last sample the nearest one counts, up to GAP. A last line without its end is still
    being written, and left out. Raises InputError naming the line of anything else that is no sample.
    """
    samples = read(file)
    if not samples or samples[-1].time < run.begin or samples[0].time > run.end:
        return None, f"{file.name} has no sample of the time in which it ran"
    times = [sample.time for sample in samples]
    first, last = max(0, bisect_right(times, run.begin) - 1), bisect_left(times, run.end)
    inside = samples[first : last + 1]
    gap = max(later.time - earlier.time for earlier, later in pairwise(inside)) if len(inside) > 1 else 0.0
    gap = max(gap, inside[0].time - run.begin, run.end - inside[-1].time)
    if gap > GAP:
        return None, f"{file.name} has a gap of {gap:.0f} seconds in the time in which it ran"
    within = [sample for sample in inside if run.begin < sample.time < run.end]
    points = [Sample(run.begin, _at(inside, run.begin)), *within, Sample(run.end, _at(inside, run.end))]
    return math.fsum((b.time - a.time) * (a.watts + b.watts) / 2 for a, b in pairwise(points)), ""


def read(file: Path) -> list[Sample]:
    """All samples, in order of time. Raises UsageError for a file that cannot be read, InputError for what it holds."""
    try:
        text = user_files.read_input(file, MOST_BYTES, "give the log of this run only, a CSV in UTF-8").decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{file.name} cannot be read as text", hint="give a CSV in UTF-8", cause=str(error)) from error
    rows = csv.reader(text[: text.rfind("\n") + 1].splitlines())
    try:
        return list(_samples(file.name, rows))
    except csv.Error as error:
        raise _wrong(file.name, rows.line_num, str(error)) from error


def _samples(name: str, rows: Any) -> Iterator[Sample]:
    header = [word.strip().lower() for word in next(rows, [])]
    if TIME not in header or WATTS not in header:
        raise InputError(f"{name} has no columns {TIME!r} and {WATTS!r}", hint="name them in its first line")
    time, watts, before = header.index(TIME), header.index(WATTS), -math.inf
    for row in rows:
        if len(row) != len(header):
            raise _wrong(name, rows.line_num, f"{len(row)} columns, and the header has {len(header)}")
        found = Sample(_seconds(row[time]), _number(row[watts]))
        if not math.isfinite(found.time) or not 0 <= found.watts < math.inf:
            raise _wrong(name, rows.line_num, f"{row[time]!r:.40} and {row[watts]!r:.40} are not a time and a power")
        if found.time < before:
            raise _wrong(name, rows.line_num, "its time is before that of the line before it")
        before = found.time
        yield found


def _seconds(word: str) -> float:
    """Since 1970; NaN for what is no time."""
    found = _number(word)
    if math.isnan(found):
        with suppress(ValueError, OverflowError):
            found = datetime.fromisoformat(word.strip()).timestamp()
    return found


def _number(word: str) -> float:
    with suppress(ValueError):
        return float(word)
    return math.nan


def _at(samples: Sequence[Sample], time: float) -> float:
    """The power then: on the line between the samples around it, beyond them that of the nearest."""
    behind = bisect_left(samples, time, key=lambda sample: sample.time)
    if behind == 0 or behind == len(samples):
        return samples[min(behind, len(samples) - 1)].watts
    (t0, a), (t1, b) = samples[behind - 1], samples[behind]
    return b if t1 == t0 else a + (b - a) * (time - t0) / (t1 - t0)


def _wrong(name: str, line: int, why: str) -> InputError:
    return InputError(f"line {line} of {name}: {why}", hint="every line of the log needs a time and a power")
