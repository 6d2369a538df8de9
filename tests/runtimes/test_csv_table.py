from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from edgekit.errors import InputError
from edgekit.runtimes.ingest.series import Table

COLUMNS = ("speed", "load")


def rows(text: str, *, timed: bool = False) -> list[tuple[float | None, list[float]]]:
    return list(Table(iter(text.splitlines(keepends=True)), COLUMNS, timed=timed))


def test_numbers_without_a_header() -> None:
    table = Table(iter(["1,2\n", "\n", "3.5,-4e-1\r\n"]), COLUMNS)
    assert (table.header, table.timed, table.ignored) == (False, False, ())
    assert list(table) == [(None, [1, 2]), (None, [3.5, -0.4])]


def test_a_header_names_columns_in_any_order() -> None:
    table = Table(iter(['\ufeffload, when ,"speed"\n', "1,x,2\n"]), COLUMNS)
    assert (table.header, table.ignored) == (True, ("when",))
    assert list(table) == [(None, [2, 1])]


@pytest.mark.parametrize("cell", ["", " ", "NaN", "nan", "NA", "n/a", "null", "None", '""'])
def test_an_empty_cell_is_missing(cell: str) -> None:
    ((_, row),) = rows(f"1,{cell}\n")
    assert row[0] == 1
    assert math.isnan(row[1])


def test_times_are_seconds_or_iso() -> None:
    text = "Timestamp,speed,load\n5.5,1,2\n2026-01-31T12:00:00.5,1,2\n2026-01-31T13:00:00.5+01:00,1,2\n"
    assert [time for time, _ in rows(text, timed=True)] == [5.5, 1769860800.5, 1769860800.5]
    assert [time for time, _ in rows(text)] == [None] * 3
    own = Table(iter(["time,load\n"]), ("time", "load"), timed=True)
    assert not own.timed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed,lod\n1,2\n", "line 1: the column 'load' is not there"),
        ("speed,load,load\n", "line 1: the column 'load' is twice"),
        ("1,2\n\n1,2,3\n", "line 3 has 3 cells, not 2"),
        ("1\n", "line 1 has 1 cells, not 2"),
        ("1,2\n1,fast\n", "line 2: 'fast' in column 'load' is not a number"),
        ("1,1_000\n3,4\n", "line 1: the column 'speed' is not there"),
        ("1,2\n1,1_000\n", "line 2: '1_000' in column 'load'"),
        ('1,2\n1,"3\n', "line 2 is not valid CSV"),
    ],
)
def test_a_malformed_line_is_named(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        rows(text)


def test_a_malformed_time_is_named() -> None:
    with pytest.raises(InputError, match="line 2: 'noon' is not a time"):
        rows("time,speed,load\nnoon,1,2\n", timed=True)


def test_no_line_is_read_ahead() -> None:
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for number in range(5):
            read += 1
            yield f"{number},0\n"

    table = Table(lines(), COLUMNS)
    assert read == 1
    next(table)
    assert read == 1
    next(table)
    assert read == 2


def test_nothing_at_all() -> None:
    assert rows("") == rows("\n\n") == []
