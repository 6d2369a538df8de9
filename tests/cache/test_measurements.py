"""What was measured is remembered for this device and engine only, whatever lies in the file, and by two at once."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import measured_rows
import msgspec
import pytest
from measured_rows import WHEN, figure, row

from edgekit.cache import measurements
from edgekit.machine import device
from edgekit.measuring.environment import describe
from edgekit.reporting.record import Environment, Figure, Memory


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgekit" / "measured.json"


@pytest.fixture(scope="module")
def here() -> Environment:
    return describe(0.0, None)


def test_a_row_comes_back(here: Environment) -> None:
    measured_rows.remember(here, row(memory=Memory(peak_rss=1000)))
    (entry,) = measurements.recall("d")
    assert (entry.variant, entry.seconds, entry.peak_rss, entry.when) == ("cpu/fp32", 0.25, 1000, WHEN)
    assert (entry.engine, entry.same, entry.wrong) == (here.engines["cpu"], ("single-stream", "single", 2), "")
    assert measurements.recall("another") == []


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
    measured_rows.remember(here, row(figures=figures))
    assert measurements.recall("d")[0].seconds == pytest.approx(seconds)


def test_what_says_nothing_is_not_kept(here: Environment, home: Path) -> None:
    measured_rows.remember(here, row(figures={"load": figure(1)}), row("gone/fp32"), row(disturbed=("load 9",)))
    assert not home.exists()


def test_a_wrong_row_is_kept_as_wrong(here: Environment) -> None:
    measured_rows.remember(here, row(invalid="outputs moved by 3", disturbed=("load 9",)))
    assert measurements.recall("d")[0].wrong == "outputs moved by 3"


def test_replicates_are_one_and_a_later_time_replaces(here: Environment) -> None:
    rows = [row(figures={"latency": figure(seconds)}, replicate=n) for n, seconds in enumerate((3.0, 1.0, 2.0))]
    measured_rows.remember(here, *rows)
    assert [entry.seconds for entry in measurements.recall("d")] == [2.0]
    measured_rows.remember(here, row(figures={"latency": figure(9.0)}), made="2026-11-23T00:00:00Z")
    assert [entry.seconds for entry in measurements.recall("d")] == [9.0]


def test_another_engine_or_processor_does_not_count(here: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_rows.remember(replace(here, engines={"cpu": "ONNX Runtime 1.0.0"}), row())
    assert measurements.recall("d") == []
    measured_rows.remember(here, row())
    assert len(measurements.recall("d")) == 1
    monkeypatch.setattr(device, "affinity", lambda: 77)
    assert measurements.recall("d") == []


@pytest.mark.parametrize("content", [b'{"format":1,"entri', b"[1,2]", b"\xff\xfe", b'{"format":2,"entries":[]}', b""])
def test_a_file_that_is_not_ours_is_set_aside(
    here: Environment, home: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    home.parent.mkdir()
    home.write_bytes(content)
    with caplog.at_level(logging.WARNING, "edgekit"):
        assert measurements.recall("d") == []
    assert "measured.unreadable" in caplog.text
    assert home.with_suffix(".unreadable").read_bytes() == content
    measured_rows.remember(here, row())
    assert len(measurements.recall("d")) == 1


def test_a_file_that_is_too_large_is_set_aside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.parent.mkdir()
    home.write_bytes(b'{"format":1,"entries":[]}' + b" " * 100)
    assert measurements.recall("d") == []
    assert home.exists()
    monkeypatch.setattr(measurements, "MOST_BYTES", 50)
    assert measurements.recall("d") == []
    assert not home.exists()


def test_the_oldest_go(here: Environment, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "MOST", 3)
    for number in range(5):
        measured_rows.remember(here, row(digest=f"d{number}"))
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
    measured_rows.remember(here, row())
    assert measurements.recall("d") == []


WRITER = """
import sys
sys.path.insert(0, {tests!r})
import measured_rows
from measured_rows import row

from edgekit.measuring.environment import describe
here = describe(0.0, None)
for number in range({times}):
    measured_rows.remember(here, row(digest=sys.argv[1] + str(number)))
"""


def test_two_writers_at_once_lose_nothing(home: Path) -> None:
    code = WRITER.format(tests=str(Path(__file__).parents[1] / "fixtures"), times=20)
    writers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b")]
    assert [writer.wait(300) for writer in writers] == [0, 0]
    kept = {entry["digest"] for entry in msgspec.json.decode(home.read_bytes())["entries"]}
    assert kept == {f"{name}{number}" for name in ("a", "b") for number in range(20)}
