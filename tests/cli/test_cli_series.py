"""`edgekit run` on recurrent models: rows in from stdin and files, a line out for each as it comes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import series_bundles
from cli_calls import Call, bundles, call, vectors

import edgekit

__all__ = ["bundles", "call", "vectors"]
ROWS = [[1.0, 2.0], [None, 2.5], [3.0, 1.0]]
PLAIN = b"1,2\n,2.5\n3,1\n"


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    def make(head: str = "values", **form: Any) -> Path:
        return series_bundles.make(tmp_path / f"{head}.ek", head, **form)

    return make


def without_rows(out: str, more: int = 1) -> list[str]:
    """The lines without the row's number, or more columns in front."""
    lines = [line.split(",", more) for line in out.splitlines()]
    numbers = [line[0] for line in lines if line[0] != "row"]
    assert all(number.isdecimal() for number in numbers)
    return [line[more] for line in lines]


def streamed(folder: Path, rows: Any = ROWS) -> list[Any]:
    with edgekit.load(folder) as model:
        return list(model.stream(rows))


def test_a_line_a_step(call: Call, made: Callable[..., Path]) -> None:
    folder = made()
    wanted = [",".join(map(str, row)) for row in streamed(folder)]
    for words, stdin in (((), PLAIN), (("-",), PLAIN), (("-",), b"\n" + PLAIN.replace(b"\n", b"\r\n\r\n"))):
        ended = call("run", folder, *words, stdin=stdin)
        assert (ended.code, ended.err) == (0, "")
        assert without_rows(ended.out) == wanted
        assert [line.split(",")[0] for line in ended.out.splitlines()] == ["1", "2", "3"]


def test_a_header_names_columns_on_both_sides(call: Call, made: Callable[..., Path]) -> None:
    folder = made()
    ended = call("run", folder, stdin=b"load,when,speed\n2,x,1\n2.5,y,\n1,z,3\n")
    assert without_rows(ended.out) == ["a,b,c", *(",".join(map(str, row)) for row in streamed(folder))]
    assert ended.err == "note: columns that the model does not take: when\n"
    assert call("run", folder, "-q", stdin=b"load,when,speed\n2,x,1\n").err == ""


@pytest.mark.parametrize(
    ("head", "header", "cells"),
    [
        ("forecast", "speed+1,speed+1.low,speed+1.high,speed+2,speed+2.low,speed+2.high", 6),
        ("labels", "label,score", 2),
        ("anomaly", "score,flagged", 2),
    ],
)
def test_every_head_has_its_line(call: Call, made: Callable[..., Path], head: str, header: str, cells: int) -> None:
    import csv

    folder = made(head)
    ended = call("run", folder, stdin=b"speed,load\n" + PLAIN)
    first, *lines = [line[1:] for line in csv.reader(io.StringIO(ended.out))]
    assert ",".join(first) == header
    assert [len(line) for line in lines] == [cells] * 3
    results = streamed(folder)
    for line, result in zip(lines, results, strict=True):
        if head == "labels":
            assert line == [result[0].label, f"{result[0].score:.7g}"]
        elif head == "anomaly":
            assert (float(line[0]), line[1]) == (pytest.approx(result.score), str(result.flagged).lower())
        else:
            parts = np.stack([result.values, result.low, result.high], axis=-1)
            assert np.array_equal(np.array(line, np.float32), parts.ravel())


def test_a_forecast_of_one_step_without_a_range(call: Call, made: Callable[..., Path]) -> None:
    folder = made("forecast", horizon=1, quantiles=None, denormalize=None, outputs=list("uvwxyz"))
    ended = call("run", folder, stdin=b"speed,load\n1,2\n")
    head, line = without_rows(ended.out)
    assert head == "u,v,w,x,y,z"
    assert line == ",".join(map(str, streamed(folder, [[1, 2]])[0].values[0]))


def test_json_is_an_object_a_line(call: Call, made: Callable[..., Path]) -> None:
    lines = [json.loads(line) for line in call("run", made(), "--json", stdin=PLAIN).out.splitlines()]
    assert [list(line) for line in lines] == [["row", "a", "b", "c"]] * 3
    labels = json.loads(call("run", made("labels"), "--json", stdin=b"1,2\n").out)
    assert labels["labels"][0] == {"label": labels["label"], "score": labels["score"]}
    anomaly = json.loads(call("run", made("anomaly"), "--json", stdin=b"1,2\n").out)
    assert set(anomaly) == {"row", "score", "flagged"}
    forecast = json.loads(call("run", made("forecast"), "--json", stdin=b"1,2\n").out)
    assert list(forecast["quantiles"]) == ["0.1", "0.5", "0.9"]


def test_an_error_in_json_comes_behind_what_was_said(call: Call, made: Callable[..., Path]) -> None:
    ended = call("run", made(), "--json", stdin=b"1,2\n1,x\n")
    first, last = map(json.loads, ended.out.splitlines())
    assert ended.code == 2
    assert list(first) == ["row", "a", "b", "c"]
    assert last["error"]["message"] == "line 2: 'x' in column 'load' is not a number"


def test_files_are_streams_of_their_own(call: Call, made: Callable[..., Path], tmp_path: Path) -> None:
    folder = made()
    (tmp_path / "a.csv").write_bytes(PLAIN)
    (tmp_path / "b.csv").write_bytes(b"speed,load\n" + PLAIN)
    once = [",".join(map(str, row)) for row in streamed(folder)]
    ended = call("run", folder, tmp_path / "a.csv", tmp_path / "b.csv")
    assert without_rows(ended.out) == [*once, "a,b,c", *once]


def test_times_and_rates_bring_rows_to_the_models_rate(
    call: Call, made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(rate=10)
    with edgekit.load(folder) as model:
        wanted = [",".join(map(str, row)) for row in model.stream(ROWS, rate=5)]
    timed = b"time,speed,load\n0,1,2\n0.2,,2.5\n0.4,3,1\n"
    assert without_rows(call("run", folder, stdin=timed).out, 2)[1:] == wanted
    assert without_rows(call("run", folder, "--rate", "5", stdin=PLAIN).out) == wanted
    assert call("run", folder, stdin=PLAIN).out.count("\n") == 3
    late = call("run", folder, stdin=b"time,speed,load\n0,1,2\n0,1,2\n")
    assert (late.code, "row 1: the timestamp 0 is not after 0" in late.err) == (2, True)
    (tmp_path / "a.csv").write_bytes(PLAIN)
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 100.0, sleep=slept.append)  # nothing takes any time
    monkeypatch.setattr("edgekit.cli.series_stream.time", clock)
    assert without_rows(call("run", folder, tmp_path / "a.csv", "--rate", "5").out) == wanted
    assert slept == pytest.approx([0.0, 0.2, 0.4])


def test_a_rate_paces_a_model_that_has_none(call: Call, made: Callable[..., Path], tmp_path: Path) -> None:
    folder = made()
    (tmp_path / "a.csv").write_bytes(PLAIN)
    begun = time.monotonic()
    ended = call("run", folder, tmp_path / "a.csv", "--rate", "50")
    assert without_rows(ended.out) == [",".join(map(str, row)) for row in streamed(folder)]
    assert time.monotonic() - begun >= 2 / 50  # a lower bound is what pacing means


def test_a_model_that_reads_from_both_ends_answers_at_the_end(call: Call, made: Callable[..., Path]) -> None:
    folder = made(bidirectional=True, rate=10)
    timed = b"time,speed,load\n0,1,2\n0.2,,2.5\n0.4,3,1\n"
    with edgekit.load(folder) as model:
        wanted = [",".join(map(str, row)) for row in model.predict(ROWS, timestamps=[0, 0.2, 0.4])]
    assert without_rows(call("run", folder, stdin=timed).out, 2)[1:] == wanted
    forecast = made("forecast", bidirectional=True)
    assert call("run", forecast, stdin=PLAIN).out.count("\n") == 1


def test_an_option_of_whole_series_answers_at_the_end(call: Call, made: Callable[..., Path]) -> None:
    folder = made("labels")
    with edgekit.load(folder) as model:
        best = [labels[:2] for labels in model.classify(ROWS)]
    lines = [json.loads(line) for line in call("run", folder, "--top-k", "2", "--json", stdin=PLAIN).out.splitlines()]
    assert [line["labels"] for line in lines] == [
        [{"label": each.label, "score": each.score} for each in labels] for labels in best
    ]


def test_a_rate_needs_a_model_that_streams(call: Call, made: Callable[..., Path]) -> None:
    ended = call("run", made(bidirectional=True, rate=10), "--rate", "5", stdin=PLAIN)
    assert (ended.code, "(time-series-regression) has no --rate" in ended.err) == (2, True)


def test_answers_to_a_file(call: Call, made: Callable[..., Path], tmp_path: Path) -> None:
    folder = made()
    ended = call("run", folder, "-o", tmp_path / "out.npy", stdin=b"speed,load\n" + PLAIN)
    assert (ended.code, ended.out) == (0, "")
    assert np.array_equal(np.load(tmp_path / "out.npy"), np.stack(streamed(folder)))
    told = call("run", folder, "-o", tmp_path / "out.json", "--json", stdin=PLAIN).json
    assert told["output"] == str(tmp_path / "out.json")
    written = np.array(json.loads((tmp_path / "out.json").read_text())["results"], np.float32)
    assert np.array_equal(written, np.stack(streamed(folder)))
    refused = call("run", made("labels"), "-o", tmp_path / "l.npy", stdin=PLAIN)
    assert "are not an array" in refused.err


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        ((), None, "no input"),
        (("-",), None, "stdin is closed"),
        ((), b"", "stdin has no samples"),
        ((), b"speed,load\n", "stdin has no samples"),
        ((), b"speed,lod\n1,2\n", "the column 'load' is not there"),
        ((), b"1,2\n1,2,3\n", "line 2 has 3 cells, not 2"),
        ((), b"1,2\n\xe9,2\n", "line 2 of stdin is not UTF-8"),
        ((), b"1,2\n" + b"1" * (1 << 20) + b",2\n", "line 2 of stdin has more than 1048576 bytes"),
        ((), b"1,inf\n", "load is inf"),
        (("absent.csv",), b"", "cannot read 'absent.csv'"),
        (("a\0b",), b"", "cannot read 'a\\x00b'"),
        (("."), b"", "cannot read '.'"),
        (("--rate", "0"), PLAIN, "rate is 0"),
        (("--top-k", "2"), PLAIN, "values.ek (time-series-regression) has no --top-k"),
        (("--system", "x"), PLAIN, "values.ek (time-series-regression) has no --system"),
    ],
)
def test_what_makes_no_sense(
    call: Call, made: Callable[..., Path], words: tuple[str, ...], stdin: bytes | None, said: str
) -> None:
    ended = call("run", made(), *words, stdin=stdin)
    assert ended.code == 2
    assert said in ended.err


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and cannot be read")
def test_a_file_that_opens_and_cannot_be_read(call: Call, made: Callable[..., Path]) -> None:
    ended = call("run", made(), "/proc/self/mem")
    assert (ended.code, "cannot read /proc/self/mem: Input/output error" in ended.err) == (2, True)


def test_a_rate_means_nothing_to_a_text_model(call: Call, vectors: Path) -> None:
    ended = call("run", vectors, "a", "--rate", "5")
    assert (ended.code, "(feature-extraction) has no --rate" in ended.err) == (2, True)


# In a process of its own


@pytest.fixture
def started(made: Callable[..., Path]) -> Callable[..., subprocess.Popen[bytes]]:
    folder = made()

    def start(*words: str) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-m", "edgekit", "run", folder, *words], **pipes)  # type: ignore[call-overload, no-any-return]

    return start


def test_each_line_is_answered_before_the_next_comes(started: Callable[..., subprocess.Popen[bytes]]) -> None:
    with started() as process:
        assert process.stdin
        assert process.stdout
        for _ in range(3):
            process.stdin.write(b"1,2\n")
            process.stdin.flush()
            assert process.stdout.readline().count(b",") == 3
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(300) == 0


def test_ctrl_c_is_how_a_stream_ends(started: Callable[..., subprocess.Popen[bytes]]) -> None:
    with started() as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"1,2\n")
        process.stdin.flush()
        assert process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(300) == 130
        assert process.stderr.read() == b""


def test_a_reader_that_goes_is_no_error(started: Callable[..., subprocess.Popen[bytes]]) -> None:
    with started() as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"1,2\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"1,2\n")
        process.stdin.flush()
        assert process.wait(300) == 141
        assert process.stderr.read() == b""
