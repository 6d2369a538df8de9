"""Read the rows of a series from CSV, one at a time, and decide what becomes of a bad one.

    fail      the command ends with an error
    skip      the row is left out
    missing   a cell that is not a number counts as missing; a row that cannot be read at all is left out

What is left out or missing is a warning on stderr. Knows nothing of the model but its settings.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit import registry
from edgekit.errors import InputError

ON_ERROR = ("fail", "skip", "missing")
LARGEST = 3.4028234663852886e38  # of a float32

log = logging.getLogger("edgekit")


@dataclass(frozen=True)
class Row:
    """A sample: its place among the rows of the input, from 1, its time in seconds, its numbers, and cells as text."""

    number: int
    seconds: float | None
    values: list[float]
    time: str
    kept: tuple[str, ...]


class Rows:
    """An iterator over the rows of one input. `header`, `ignored`, `timed`, `has_time`: see `csv_table.Table`."""

    def __init__(
        self, lines: Iterator[str], settings: Mapping[str, Any], on_error: str | None, keep: Sequence[str]
    ) -> None:
        """The first line is read now. Raises InputError for a header that lacks a column."""
        self._on_error, self._last, self.bad = on_error or "fail", -math.inf, 0
        self._features: list[str] = settings["features"]
        self._refuses = settings.get("missing") == "refuse"
        forgives = self._missing if self._on_error == "missing" and not self._refuses else None
        table = registry.find("ingest", "csv_table").Table
        timed = settings.get("rate") is not None
        self._table = table(lines, self._features, timed=timed, keep=keep, bad_cell=forgives)
        self.header, self.ignored = self._table.header, self._table.ignored
        self.timed, self.has_time, self.keep = self._table.timed, self._table.has_time, tuple(keep)

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        """Raises InputError for a bad row where nothing else is to become of one."""
        while True:
            try:
                return self._checked(*next(self._table))
            except InputError as error:
                if self._on_error == "fail":
                    raise
                self.bad += 1
                log.warning("%s; the row is left out", error.message)

    def _checked(self, seconds: float | None, values: list[float]) -> Row:
        """The last row of the table, once the model can take it. Raises InputError."""
        table = self._table
        if self._on_error != "fail":  # else the model says so itself
            values = [self._finite(value, name) for value, name in zip(values, self._features)]
            if all(map(math.isnan, values)):
                raise InputError(f"line {table.line} has no number")
            if self._refuses and any(map(math.isnan, values)):
                raise InputError(f"line {table.line} has an empty cell, which this model does not take")
            if seconds is not None and not self._last < seconds < math.inf:
                raise InputError(f"line {table.line}: the time {table.time} is not after the one before")
        self._last = self._last if seconds is None else seconds
        return Row(table.number, seconds, values, table.time, table.kept)

    def _finite(self, value: float, column: str) -> float:
        if not abs(value) > LARGEST:  # NaN, which is missing, is not
            return value
        error = InputError(f"line {self._table.line}: {value:g} in column {column!r} is not a finite float32")
        if self._on_error == "missing" and not self._refuses:
            return self._missing(error)
        raise error

    def _missing(self, error: InputError) -> float:
        self.bad += 1
        log.warning("%s; it counts as missing", error.message)
        return math.nan
