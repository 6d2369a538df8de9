"""Read CSV lines as rows of numbers, one line at a time without reading ahead.

A header names the columns, in any order; without one all cells of the first line are numbers, and the columns are the
model's. Knows nothing of the model but the names of its columns.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from edgekit.errors import InputError

TIMES = ("time", "timestamp")  # what a column of times is called
NOTHING = ("", "nan", "na", "n/a", "null", "none")  # a cell without a number, in lower case


class Table:
    """An iterator over (time or None, row): seconds, and a number a column in the model's order, NaN where it is empty.

    `header`: whether there is one. `ignored`: columns that the model does not take and nobody asked for. Blank lines
    are skipped; of the last row, `line` is its line, `number` its place among the rows, from 1, `time` its time as it
    was written ("" without such a column), and `kept` the cells of the columns `keep`. An error spoils one row: the
    next call goes on behind it.
    """

    def __init__(
        self,
        lines: Iterator[str],
        columns: Sequence[str],
        *,
        timed: bool = False,
        keep: Sequence[str] = (),
        bad_cell: Callable[[InputError], float] | None = None,
    ) -> None:
        """`timed`: a column named time or timestamp is one. `bad_cell`: what a cell that is not a number is taken for.

        The first line is read now. Raises InputError for a header that lacks a column.
        """
        self._lines, self._bad_cell = lines, bad_cell
        self._columns, self._keep = tuple(columns), tuple(keep)
        self._first: list[str] | None = None  # of a line that is not a header
        self.header, self.ignored, self.line, self.number = False, tuple[str, ...](), 0, 0
        self.time, self.kept = "", tuple[str, ...]()
        self._timed, self._time_place, self._kept_places = False, -1, tuple[int, ...]()
        self._names: list[str] = []
        self._places, self._width = tuple(range(len(columns))), len(columns)
        line = self._next_line()
        if line is not None:
            cells = _cells(line.removeprefix("\ufeff"), self.line)
            if all(map(_is_number, cells)):
                self._first = cells
            else:
                self._head([cell.strip() for cell in cells], self.line, timed)
        if keep and not self.header:
            raise InputError("--keep needs a header that names the columns", hint="write one, or leave --keep out")

    @property
    def timed(self) -> bool:
        """Whether rows have times, in seconds."""
        return self._timed

    @property
    def has_time(self) -> bool:
        """Whether there is a column of times, read or not."""
        return self._time_place >= 0

    def __iter__(self) -> Iterator[tuple[float | None, list[float]]]:
        return self

    def __next__(self) -> tuple[float | None, list[float]]:
        """Raises InputError naming the line that is malformed."""
        if self._first is not None:
            cells, self._first, self.number = self._first, None, 1
        else:
            self.number += 1  # a line that cannot be read is a row, too
            line = self._next_line()
            if line is None:
                raise StopIteration
            cells = _cells(line, self.line)
        self.time, self.kept = "", ("",) * len(self._keep)
        cells = self._whole(cells)
        self.kept = tuple(cells[place].strip() for place in self._kept_places)
        if self.has_time:
            self.time = cells[self._time_place].strip()
        row = [self._cell(cells[place], name) for place, name in zip(self._places, self._columns)]
        return _time(self.time, self.line) if self._timed else None, row

    def _next_line(self) -> str | None:
        """The next line that is not blank; None at the end."""
        while True:
            self.line += 1
            line = next(self._lines, None)
            if line is None or line.strip():
                return line

    def _whole(self, cells: list[str]) -> list[str]:
        """The cells of a row, filled up where the line was cut and bad cells are forgiven. Raises InputError."""
        if self._names and [cell.strip() for cell in cells] == self._names:
            raise InputError(f"line {self.line} is the header again", hint="--on-error skip goes on behind it")
        if len(cells) == self._width:
            return cells
        error = InputError(
            f"line {self.line} has {len(cells)} cells, not {self._width}", hint=f"columns: {', '.join(self._columns)}"
        )
        if self._bad_cell is None or len(cells) > self._width:
            raise error
        self._bad_cell(error)
        return [*cells, *[""] * (self._width - len(cells))]

    def _cell(self, cell: str, column: str) -> float:
        try:
            return _number(cell, self.line, column)
        except InputError as error:
            if self._bad_cell is None:
                raise
            return self._bad_cell(error)

    def _head(self, names: list[str], number: int, timed: bool) -> None:
        self.header, self._width, self._names = True, len(names), names
        for name in (*self._columns, *self._keep):
            if names.count(name) != 1:
                what = "twice" if name in names else "not there"
                raise InputError(
                    f"line {number}: the column {name!r} is {what}", hint=f"the columns are: {', '.join(names)}"
                )
        self._places, self._kept_places = tuple(map(names.index, self._columns)), tuple(map(names.index, self._keep))
        times = [place for place, name in enumerate(names) if name.lower() in TIMES and name not in self._columns]
        self._time_place = times[0] if times else -1
        self._timed = timed and bool(times)
        used = {*self._places, self._time_place, *self._kept_places}
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
