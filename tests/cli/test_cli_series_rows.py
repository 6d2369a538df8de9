"""`edgekit run` on a live series: bad rows, and what goes with each result: row, time, columns to keep."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import series_bundles
from cli_calls import Call, Ended, bundles, call, vectors

import edgekit

__all__ = ["bundles", "call", "vectors"]
HEAD = b"speed,load\n"
# The line of each bad row, what is said of it, and whether its other cells can be used.
BAD = [
    (b"ERR,2\n", "line 3: 'ERR' in column 'speed' is not a number", True),
    (b"3\n", "line 3 has 1 cells, not 2", True),
    (b"inf,2\n", "line 3: inf in column 'speed' is not a finite float32", True),
    (b"1e39,2\n", "line 3: 1e+39 in column 'speed' is not a finite float32", True),
    (b"1,2,3\n", "line 3 has 3 cells, not 2", False),
    (b"speed,load\n", "line 3 is the header again", False),
    (b"ERR,?\n", "line 3 has no number", False),
    (b'"1,2\n', "line 3 is not valid CSV", False),
    (b"\xff,2\n", "line 3 of stdin is not UTF-8", False),
    (b"1" * (1 << 20) + b"1,2\n", "line 3 of stdin has more than 1048576 bytes", False),
]


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    def make(head: str = "values", **form: Any) -> Path:
        return series_bundles.make(tmp_path / f"{head}.ek", head, **form)

    return make


def table(ended: Ended) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(ended.out)))


def values(rows: list[dict[str, str]]) -> Any:
    return np.array([[row[name] for name in "abc"] for row in rows], np.float32)


def streamed(folder: Path, rows: Any) -> Any:
    with edgekit.load(folder) as model:
        return np.stack(list(model.stream(rows)))


@pytest.mark.parametrize(("line", "said", "usable"), BAD)
def test_a_bad_row(call: Call, made: Callable[..., Path], line: bytes, said: str, usable: bool) -> None:
    folder, stdin = made(), HEAD + b"1,2\n" + line + b"3,1\n"
    failed = call("run", folder, stdin=stdin)
    assert failed.code == 2
    skipped = call("run", folder, "--on-error", "skip", stdin=stdin)
    assert (skipped.code, [row["row"] for row in table(skipped)]) == (0, ["1", "3"])
    np.testing.assert_array_equal(values(table(skipped)), streamed(folder, [[1, 2], [3, 1]]))
    if "no number" not in said:
        assert f"warning: {said}" in skipped.err
    missing = call("run", folder, "--on-error", "missing", stdin=stdin)
    assert missing.code == 0
    assert f"warning: {said}" in missing.err
    if usable:
        assert [row["row"] for row in table(missing)] == ["1", "2", "3"]
        second = [3, None] if b"," not in line else [None, 2]
        np.testing.assert_array_equal(values(table(missing)), streamed(folder, [[1, 2], second, [3, 1]]))
    else:
        assert missing.out == skipped.out
    assert call("run", folder, "-q", "--on-error", "skip", stdin=stdin).err == ""


def test_a_model_without_gaps_leaves_rows_with_gaps_out(call: Call, made: Callable[..., Path]) -> None:
    folder, stdin = made(missing="refuse"), b"1,2\nx,2\n,2\n3,1\n"
    assert call("run", folder, stdin=b"1,2\n,2\n").code == 2
    for choice in ("skip", "missing"):
        ended = call("run", folder, "--on-error", choice, stdin=stdin)
        assert [line.split(",")[0] for line in ended.out.splitlines()] == ["1", "4"]
        assert "line 3 has an empty cell, which this model does not take" in ended.err


def test_a_bad_time_leaves_a_row_out(call: Call, made: Callable[..., Path]) -> None:
    folder = made(rate=10)
    good = b"time,speed,load\n0,1,2\n0.1,3,1\n"
    bad = b"time,speed,load\n0,1,2\nx2,1,2\n0,1,2\n0.1,3,1\ninf,1,2\n"
    assert call("run", folder, stdin=bad).code == 2
    for choice in ("skip", "missing"):
        ended = call("run", folder, "--on-error", choice, stdin=bad)
        wanted = table(call("run", folder, stdin=good))
        assert values(table(ended)).tolist() == values(wanted).tolist()
        assert [row["row"] for row in table(ended)] == ["1", "4"]
        assert "'x2' is not a time" in ended.err
        assert "the time 0 is not after the one before" in ended.err


def test_time_and_columns_go_with_each_result(call: Call, made: Callable[..., Path]) -> None:
    """The time of a model without a rate is passed on as it is written."""
    stdin = b"speed,Time,load,machine,note\n1,08:15,2,m1,\n3,late,1,m2,\xc3\xa9\n"
    ended = call("run", made(), "--keep", "machine", "--keep", "note", stdin=stdin)
    rows = table(ended)
    assert list(rows[0]) == ["row", "time", "machine", "note", "a", "b", "c"]
    assert [(row["row"], row["time"], row["machine"], row["note"]) for row in rows] == [
        ("1", "08:15", "m1", ""),
        ("2", "late", "m2", "é"),
    ]
    assert ended.err == ""
    told = [json.loads(line) for line in call("run", made("labels"), "--json", stdin=stdin).out.splitlines()]
    assert [(line["row"], line["time"]) for line in told] == [(1, "08:15"), (2, "late")]
    assert "label" in told[0]


def test_a_column_to_keep_must_be_there(call: Call, made: Callable[..., Path], vectors: Path) -> None:
    folder = made()
    absent = call("run", folder, "--keep", "machine", stdin=HEAD + b"1,2\n")
    assert (absent.code, "the column 'machine' is not there" in absent.err) == (2, True)
    headless = call("run", folder, "--keep", "machine", stdin=b"1,2\n")
    assert (headless.code, "--keep needs a header" in headless.err) == (2, True)
    assert "has no --keep" in call("run", vectors, "a", "--keep", "b").err
    assert "did you mean 'skip'?" in call("run", folder, "--on-error", "skp", stdin=b"").err


@pytest.mark.parametrize("form", [{}, {"bidirectional": True}])
@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        (("0", "0.2", "0.35"), ["0", "0.1", "0.2", "0.3"]),
        (("1700000000.5", "1700000000.7"), ["1700000000.5", "1700000000.6", "1700000000.7"]),
        (
            ("2026-01-31T12:00:00", "2026-01-31T12:00:00.2"),
            ["2026-01-31T12:00:00+00:00", "2026-01-31T12:00:00.100000+00:00", "2026-01-31T12:00:00.200000+00:00"],
        ),
    ],
)
def test_what_is_resampled_has_its_own_times(
    call: Call, made: Callable[..., Path], form: dict[str, Any], times: tuple[str, ...], wanted: list[str]
) -> None:
    """And the row that completed it."""
    lines = "".join(f"{time},{number},2\n" for number, time in enumerate(times))
    ended = call("run", made(rate=10, **form), stdin=b"time,speed,load\n" + lines.encode())
    assert [row["time"] for row in table(ended)] == wanted
    assert [row["row"] for row in table(ended)] == ["1", "2", "2", "3"][: len(wanted)]


def test_a_series_typed_on_a_terminal_is_asked_for(made: Callable[..., Path]) -> None:
    folder, (host, terminal) = made(), pty.openpty()
    pipes: dict[str, Any] = {"stdin": terminal, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-m", "edgekit", "run", folder], **pipes) as process:
        os.close(terminal)
        assert process.stderr
        assert process.stdout
        assert process.stderr.readline() == b"note: type speed,load, a line per sample; Ctrl-D ends\n"
        os.write(host, b"1,2\n")
        assert process.stdout.readline().count(b",") == 3
        os.write(host, b"\x04")
        assert process.wait(300) == 0
    os.close(host)


def test_files_of_inputs(
    call: Call, made: Callable[..., Path], vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a note where the name of a file is taken for a text."""
    (tmp_path / "texts.txt").write_text("a\nb\n")
    (tmp_path / "rows.csv").write_bytes(HEAD + b"1,2\n")
    monkeypatch.chdir(tmp_path)
    file = Path("texts.txt")  # as a text it fits the model
    assert call("run", vectors, "-f", file).out == call("run", vectors, "a", "b").out
    assert call("run", vectors, "c", "-f", file).out == call("run", vectors, "c", "a", "b").out
    taken = call("run", vectors, file)
    assert taken.out.count("\n") == 1
    assert f"note: '{file}' is read as a text, and there is a file of this name: -f {file} reads its lines" in taken.err
    assert call("run", made(), "-f", tmp_path / "rows.csv").out.startswith("row,a,b,c\n1,")
    assert "cannot read" in call("run", vectors, "-f", tmp_path / "absent.txt").err
    (tmp_path / "latin.txt").write_bytes(b"\xe9\n")
    assert "latin.txt is not UTF-8" in call("run", vectors, "-f", tmp_path / "latin.txt").err
