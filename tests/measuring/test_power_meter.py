"""Energy from the log of a meter: right by hand on logs made for it, and a reason or an error for all others."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgekit.errors import InputError, UsageError
from edgekit.measuring import power_meter
from edgekit.measuring.power_meter import Interval, joules_of


def log(folder: Path, *lines: str, end: str = "\n") -> Path:
    file = folder / "meter.csv"
    file.write_text("\n".join(lines) + end, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("run", "joules"),
    [
        (Interval(100, 102), 2 * 10 + 10 / 2),  # 10 W, then a rise to 20 W within the second second
        (Interval(101.5, 102), (15 + 20) / 2 * 0.5),
        (Interval(101, 101), 0.0),
        (Interval(99, 100), 10.0),  # before the first sample it counts
        (Interval(102, 104), 40.0),  # behind the last, too
        (Interval(101.25, 101.75), 15 * 0.5),  # between two samples
    ],
)
def test_trapezoids(tmp_path: Path, run: Interval, joules: float) -> None:
    found, why = joules_of(log(tmp_path, "time,watts", "100,10", "101,10", "102,20"), run)
    assert why == ""
    assert found == pytest.approx(joules)


def test_columns_are_found_by_name_and_others_passed_over(tmp_path: Path) -> None:
    file = log(tmp_path, 'Watts,note,"Time"', '5,"a, b",100', "5,,104")
    assert joules_of(file, Interval(100, 104)) == (20.0, "")


def test_iso_times_and_seconds_say_the_same(tmp_path: Path) -> None:
    begin = datetime(2026, 11, 22, 19, 0, tzinfo=UTC).timestamp()
    run = Interval(begin, begin + 2)
    for first, second in (
        ("2026-11-22T19:00:00Z", "2026-11-22T21:00:02+02:00"),
        (str(begin), str(begin + 2)),
        (datetime.fromtimestamp(begin).isoformat(), datetime.fromtimestamp(begin + 2).isoformat(" ")),
    ):
        assert joules_of(log(tmp_path, "time,watts", f"{first},3", f"{second},3"), run) == (pytest.approx(6.0), "")


def test_two_samples_of_one_time(tmp_path: Path) -> None:
    file = log(tmp_path, "time,watts", "100,10", "101,10", "101,20", "102,20")
    assert joules_of(file, Interval(100, 102)) == (pytest.approx(30.0), "")


def test_the_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    file = log(tmp_path, "time,watts", "100,10", "101,10", "102,1", end="")
    assert power_meter.read(file) == [(100.0, 10.0), (101.0, 10.0)]


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (Interval(200, 201), "no sample of the time"),
        (Interval(50, 60), "no sample of the time"),
        (Interval(100, 130), "gap of 20 seconds"),
        (Interval(90, 101), "gap of 10 seconds"),
        (Interval(121, 140), "gap of 19 seconds"),
    ],
)
def test_what_the_log_cannot_tell_is_said(tmp_path: Path, run: Interval, why: str) -> None:
    found, said = joules_of(log(tmp_path, "time,watts", "100,10", "101,10", "121,10"), run)
    assert found is None
    assert why in said


def test_no_samples(tmp_path: Path) -> None:
    assert joules_of(log(tmp_path, "time,watts"), Interval(0, 1))[0] is None


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["when,watts", "1,2"], "no columns 'time' and 'watts'"),
        ([""], "no columns"),
        (["time,watts", "1,2", "2"], "line 3 of meter.csv: 1 columns"),
        (["time,watts", "1,2", "2,x"], "line 3 of meter.csv: '2' and 'x'"),
        (["time,watts", "noon,2"], "line 2 of meter.csv: 'noon' and '2'"),
        (["time,watts", "1,-2"], "not a time and a power"),
        (["time,watts", "1,inf"], "not a time and a power"),
        (["time,watts", "1,nan"], "not a time and a power"),
        (["time,watts", "2,1", "1,1"], "line 3 of meter.csv: its time is before"),
        (["time,watts", f"1,{'9' * 200_000}"], "line 2 of meter.csv"),
    ],
)
def test_what_is_no_log_is_refused_by_line(tmp_path: Path, lines: list[str], match: str) -> None:
    with pytest.raises(InputError, match=match):
        joules_of(log(tmp_path, *lines), Interval(0, 10))


def test_a_file_that_is_no_text_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "meter.csv"
    with pytest.raises(UsageError, match="cannot read"):
        power_meter.read(file)
    file.write_bytes(b"time,watts\n\xff\n")
    with pytest.raises(InputError, match="cannot be read"):
        power_meter.read(file)
    monkeypatch.setattr(power_meter, "MOST_BYTES", 20)
    with pytest.raises(UsageError, match="more than "):
        power_meter.read(log(tmp_path, "time,watts", "1,2", "3,4", "5,6"))
