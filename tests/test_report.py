"""`edgekit report`: files in, a table or a page out, and an exit code for CI."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from made_records import record, row, typical

from edgekit import report
from edgekit.errors import RecordError, UsageError


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Before and after: everything takes a fifth longer."""
    for name, slower in (("before", 1.0), ("after", 1.2)):
        report.write(typical(slower), tmp_path / f"{name}.json")
    return [tmp_path / "before.json", tmp_path / "after.json"]


def edgekit(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", "report", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_one_file_is_a_table_and_a_page(files: list[Path]) -> None:
    result = report.from_files(files[:1], files[0].with_name("page.html"))
    assert "SINGLE-STREAM" in str(result)
    assert str(result).endswith("page.html")
    assert result.error is None
    assert not result.changes
    assert ">EdgeKit benchmark</p><h1>minilm.ek, qwen3-0.6b.ek and spotter-stream.ek on Example Xeon" in files[
        0
    ].with_name("page.html").read_text(encoding="utf-8")


def test_several_files_are_one_report(files: list[Path]) -> None:
    result = report.from_files(files, files[0].with_name("page.html"))
    assert str(result).startswith("before\n\nminilm.ek: ship cpu/int8-dynamic")
    assert not result.changes
    text = files[0].with_name("page.html").read_text(encoding="utf-8")
    assert "What changed" not in text
    assert "after: Ship cuda · int4" in text
    assert any(line.startswith("after: minilm.ek: ship cpu/int8-dynamic") for line in result.summary)


def test_bounds_fail_by_name_after_the_page_is_written(files: list[Path]) -> None:
    page = files[0].with_name("page.html")
    result = report.from_files(files, page, bounds=["tpot_p50>+5%", "tpot_p50>+50%"])
    assert len(result.failures) == 5, "the five variants of the language model, and the wider bound lets them through"
    assert result.error is not None
    assert result.error.exit_code == 5
    assert "and 4 more" in result.error.message
    assert "5 rows fail a bound" in page.read_text(encoding="utf-8")
    assert report.from_files(files, bounds=["tpot_p50>+50%"]).error is None


def test_the_command_for_ci(files: list[Path]) -> None:
    done = edgekit("--compare", *files, "--fail-if", "tpot_p50>+5%", "-o", files[0].with_name("page.html"))
    assert done.returncode == 5, done.stderr
    assert "FAILED: qwen3-0.6b.ek cpu/int8 pp512+tg128 in after" in done.stdout
    assert "error: qwen3-0.6b.ek cpu/int8 pp512+tg128 in after: 40." in done.stderr
    assert "page.html has the figures" in done.stderr
    assert files[0].with_name("page.html").is_file()


def test_an_exceeded_bound_that_is_noise_does_not_fail_and_says_why(tmp_path: Path) -> None:
    busy = ("other programs used 1.6 cores",)
    for name, milliseconds, disturbed in (("before", 1.0, ()), ("after", 1.3, busy)):
        report.write(record(row("cpu/fp32", milliseconds, disturbed=disturbed)), tmp_path / f"{name}.json")
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    done = edgekit("--compare", *paths, "--fail-if", "latency_p50>+5%", "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert "UNDECIDED: minilm.ek cpu/fp32 single in after: " in done.stdout
    assert "not failed: after was disturbed (other programs used 1.6 cores)" in done.stdout
    assert "other programs used 1.6 cores" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert json.loads(edgekit(*paths, "--fail-if", "latency>+5%", "--json").stdout)["undecided"]
    assert edgekit(*paths, "--fail-if", "latency_p50>+5%!").returncode == 5


def test_the_command_in_json(files: list[Path]) -> None:
    done = edgekit("--compare", *files, "--fail-if", "ttft<-1%", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["files"] == ["before", "after"]
    change = next(each for each in found["changes"] if each["figure"] == "TPOT")
    assert change["verdict"] == "worse"
    assert change["ratio"] == pytest.approx(1.2)
    done = edgekit(*files, "--fail-if", "ttft>+1%", "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["error"]["failures"][0].startswith("qwen3-0.6b.ek cpu/int8")


def test_a_file_that_is_none_is_refused_by_its_name(files: list[Path]) -> None:
    files[1].write_text('{"schema": "edgekit.bench/1", "rows": [3]}')
    done = edgekit(*files)
    assert done.returncode == 6
    assert "error: after.json: " in done.stderr
    with pytest.raises(RecordError, match=r"after\.json"):
        report.from_files(files)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.json", "--compare"], "--compare needs a second file"),
        (["a.json", "--fail-if", "tpot>+5%"], "'tpot>+5%' needs a second file"),
        (["a.json", "b.json", "--fail-if", "tpt>+5%"], "did you mean 'tpot'?"),
        (["a.json", "-o", "page.pdf"], "does not end in .html"),
        (["a.json", "-o", "no/page.html"], "there is no folder no"),
        ([f"{n}.json" for n in range(9)], "9 files; a report takes 1 to 8"),
        ([], "missing argument"),
    ],
)
def test_what_makes_no_sense_is_said_before_a_file_is_read(words: list[str], said: str) -> None:
    done = edgekit(*words)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_page_does_not_replace_what_it_is_made_of(tmp_path: Path) -> None:
    path = tmp_path / "bench.html"
    path.write_text("x")
    with pytest.raises(UsageError, match="is one of the files to read"):
        report.from_files([path], path)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("laptop", "board"):
        (tmp_path / folder).mkdir()
        report.write(record(row()), tmp_path / folder / "bench.json")
    paths = [tmp_path / "laptop" / "bench.json", tmp_path / "board" / "bench.json"]
    assert report.from_files(paths).files == ("laptop/bench", "board/bench")
    assert report.from_files([paths[0]] * 2).files == ("1 laptop/bench", "2 laptop/bench")


def test_hostile_names_of_files_and_bundles_do_not_reach_the_terminal(tmp_path: Path) -> None:
    for number, name in enumerate(("a\x1b[2J", "b\u202e")):
        made = record(replace(row(bundle="\x1b]0;x\x07\u202e.ek"), threads=number + 1))
        report.write(made, tmp_path / f"{name}.json")
    result = str(report.from_files(sorted(tmp_path.iterdir()), compare=True))
    assert not {"\x1b", "\x07", "\u202e"} & set(result)
