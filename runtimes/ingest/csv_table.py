"""Read CSV lines as rows of numbers, one line at a time without reading ahead.

A header names the columns, in any order; without one all cells of the first line are numbers, and the columns are the
model's. Knows nothing of the model but the names of its columns.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from edgekit.errors import InputError

TIMES = ("time", "timestamp")  # what a column of times is called
NOTHING = ("", "nan", "na", "n/a", "null", "none")  # a cell without a number, in lower case


class Table:
    """An iterator over (time or None, row): seconds, and a number a column in the model's order, NaN where it is empty.

    `header`: whether there is one. `ignored`: columns that the model does not take. Blank lines are skipped; `line` is
    the number of that which the last row was on.
    """

    def __init__(self, lines: Iterator[str], columns: Sequence[str], *, timed: bool = False) -> None:
        """`timed`: a column named time or timestamp is one. The first line is read now.

        Raises InputError for a header that lacks a column.
        """
        self._lines = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        self._columns = tuple(columns)
        self._kept: list[tuple[int, list[str]]] = []  # a first line that is no header
        self.header, self.ignored, self._time, self.line = False, tuple[str, ...](), -1, 0
        self._places, self._width = tuple(range(len(columns))), len(columns)
        for number, line in self._lines:
            cells = _cells(line.removeprefix("\ufeff"), number)
            if all(map(_is_number, cells)):
                self._kept.append((number, cells))
            else:
                self._head([cell.strip() for cell in cells], number, timed)
            break

    @property
    def timed(self) -> bool:
        """Whether rows have times."""
        return self._time >= 0

    def __iter__(self) -> Iterator[tuple[float | None, list[float]]]:
        return self

    def __next__(self) -> tuple[float | None, list[float]]:
        """Raises InputError naming the line that is malformed."""
        if self._kept:
            number, cells = self._kept.pop()
        else:
            number, line = next(self._lines)
            cells = _cells(line, number)
        if len(cells) != self._width:
            raise InputError(
                f"line {number} has {len(cells)} cells, not {self._width}", hint=f"columns: {', '.join(self._columns)}"
            )
        self.line = number
        row = [_number(cells[place], number, name) for place, name in zip(self._places, self._columns)]
        return _time(cells[self._time], number) if self.timed else None, row

    def _head(self, names: list[str], number: int, timed: bool) -> None:
        self.header, self._width = True, len(names)
        for name in self._columns:
            if names.count(name) != 1:
                what = "twice" if name in names else "not there"
                raise InputError(
                    f"line {number}: the column {name!r} is {what}", hint=f"the columns are: {', '.join(names)}"
                )
        self._places = tuple(map(names.index, self._columns))
        times = [place for place, name in enumerate(names) if name.lower() in TIMES and name not in self._columns]
        self._time = times[0] if timed and times else -1
        used = {*self._places, self._time}
        self.ignored = tuple(name for place, name in enumerate(names) if place not in used)


def _cells(line: str, number: int) -> list[str]:
    if '"' not in line:
        return line.rstrip("\r\n").split(",")
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise InputError(f"line {number} is not valid CSV: {error}", hint='close every " on its line') from error


def _is_number(cell: str) -> bool:
    try:
        _number(cell, 0, "")
    except InputError:
        return False
    return True


def _number(cell: str, number: int, column: str) -> float:
    text = cell.strip()
    if text.lower() in NOTHING:
        return math.nan
    try:
        if "_" in text:  # Python takes 1_000 for a number, and nobody else does
            raise ValueError
        return float(text)
    except ValueError:
        raise InputError(
            f"line {number}: {text[:40]!r} in column {column!r} is not a number",
            hint="write a number with a decimal point, or leave the cell empty",
        ) from None


def _time(cell: str, number: int) -> float:
    """Seconds, or ISO 8601, in UTC where it does not say."""
    try:
        return float(cell)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(cell.strip())
    except ValueError:
        raise InputError(
            f"line {number}: {cell.strip()[:40]!r} is not a time", hint="write seconds, or 2026-01-31T12:00:00.5"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
