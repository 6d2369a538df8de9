"""What was measured is remembered for this device and engine only, whatever lies in the file, and by two at once."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edgekit import measured
from edgekit.measuring.environment import describe
from edgekit.record import SCHEMA, Environment, Figure, Memory, Record, Row

WHEN = "2026-11-22T18:59:49Z"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgekit" / "measured.json"


@pytest.fixture(scope="module")
def here() -> Environment:
    return describe(0.0, None)


def figure(median: float) -> Figure:
    rest = dict.fromkeys(("low", "high", "stdev", "p90", "p95", "p99"))
    return Figure(unit="s", n=5, median=median, mean=median, min=median, max=median, outliers=0, **rest)


def row(variant: str = "cpu/fp32", digest: str = "d", **others: object) -> Row:
    target, _, recipe = variant.partition("/")
    usual = Row(
        bundle="a.ek", digest=digest, source="zoo:a", task="text-classification", random=False, variant=variant,
        target=target, precision=recipe, recipe=recipe, placement="CPU", threads=2, scenario="single-stream",
        test="single", figures={"latency": figure(0.25)},
    )  # fmt: skip
    return replace(usual, **others)


def record(environment: Environment, *rows: Row, made: str = WHEN) -> Record:
    return Record(
        schema=SCHEMA, title="t", made=made, seconds=1.0, commands=(), environment=environment, rows=rows
    )  # fmt: skip


def test_a_row_comes_back(here: Environment) -> None:
    measured.remember(record(here, row(memory=Memory(peak_rss=1000))))
    (entry,) = measured.recall("d")
    assert (entry.variant, entry.seconds, entry.peak_rss, entry.when) == ("cpu/fp32", 0.25, 1000, WHEN)
    assert (entry.engine, entry.same, entry.wrong) == (here.engines["cpu"], ("single-stream", "single", 2), "")
    assert measured.recall("another") == []


@pytest.mark.parametrize(
    ("figures", "seconds"),
    [
        ({"ttft": figure(0.5), "tpot": figure(0.01), "decode": figure(100)}, 0.5 + 99 * 0.01),
        ({"step": figure(0.002)}, 0.002),
        ({"throughput": figure(50)}, 0.02),
        ({"latency": figure(0.1), "throughput": figure(50)}, 0.1),
    ],
)
def test_the_figure_that_counts(here: Environment, figures: dict[str, Figure], seconds: float) -> None:
    measured.remember(record(here, row(figures=figures)))
    assert measured.recall("d")[0].seconds == pytest.approx(seconds)


def test_what_says_nothing_is_not_kept(here: Environment, home: Path) -> None:
    measured.remember(record(here, row(figures={"load": figure(1)}), row("gone/fp32"), row(disturbed=("load 9",))))
    assert not home.exists()


def test_a_wrong_row_is_kept_as_wrong(here: Environment) -> None:
    measured.remember(record(here, row(invalid="outputs moved by 3", disturbed=("load 9",))))
    assert measured.recall("d")[0].wrong == "outputs moved by 3"


def test_replicates_are_one_and_a_later_time_replaces(here: Environment) -> None:
    rows = [row(figures={"latency": figure(seconds)}, replicate=n) for n, seconds in enumerate((3.0, 1.0, 2.0))]
    measured.remember(record(here, *rows))
    assert [entry.seconds for entry in measured.recall("d")] == [2.0]
    measured.remember(record(here, row(figures={"latency": figure(9.0)}), made="2026-11-23T00:00:00Z"))
    assert [entry.seconds for entry in measured.recall("d")] == [9.0]


def test_another_engine_or_processor_does_not_count(here: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    measured.remember(record(replace(here, engines={"cpu": "ONNX Runtime 1.0.0"}), row()))
    assert measured.recall("d") == []
    measured.remember(record(here, row()))
    assert len(measured.recall("d")) == 1
    monkeypatch.setattr(measured.device, "affinity", lambda: 77)
    assert measured.recall("d") == []


@pytest.mark.parametrize("content", [b'{"format":1,"entri', b"[1,2]", b"\xff\xfe", b'{"format":2,"entries":[]}', b""])
def test_a_file_that_is_not_ours_is_set_aside(
    here: Environment, home: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    home.parent.mkdir()
    home.write_bytes(content)
    with caplog.at_level(logging.WARNING, "edgekit"):
        assert measured.recall("d") == []
    assert "measured.unreadable" in caplog.text
    assert home.with_suffix(".unreadable").read_bytes() == content
    measured.remember(record(here, row()))
    assert len(measured.recall("d")) == 1


def test_a_file_that_is_too_large_is_set_aside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.parent.mkdir()
    home.write_bytes(b'{"format":1,"entries":[]}' + b" " * 100)
    assert measured.recall("d") == []
    assert home.exists()
    monkeypatch.setattr(measured, "MOST_BYTES", 50)
    assert measured.recall("d") == []
    assert not home.exists()


def test_the_oldest_go(here: Environment, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "MOST", 3)
    for number in range(5):
        measured.remember(record(here, row(digest=f"d{number}")))
    kept = [entry["digest"] for entry in msgspec.json.decode(home.read_bytes())["entries"]]
    assert kept == ["d2", "d3", "d4"]


@pytest.mark.parametrize("where", ["no folder", "a folder in its place"])
def test_where_nothing_can_be_kept_nothing_is(
    here: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "no folder":
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:
        (tmp_path / "edgekit" / "measured.json").mkdir(parents=True)
    measured.remember(record(here, row()))
    assert measured.recall("d") == []


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_measured import describe, measured, record, row
here = describe(0.0, None)
for number in range({times}):
    measured.remember(record(here, row(digest=sys.argv[1] + str(number))))
"""


def test_two_writers_at_once_lose_nothing(home: Path) -> None:
    code = WRITER.format(tests=str(Path(__file__).parent), times=20)
    writers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    kept = {entry["digest"] for entry in msgspec.json.decode(home.read_bytes())["entries"]}
    assert kept == {f"{name}{number}" for name in ("a", "b") for number in range(20)}
