"""The benchmark for real: small bundles, every test of their loops, and whatever can happen to a process meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import series_bundles
import small_bundles
from cli_calls import Call
from cli_calls import call as call

import edgekit
from edgekit import registry, report
from edgekit.bench import cache_entries
from edgekit.bundle import manifest
from edgekit.cache import measurements
from edgekit.core import Progress
from edgekit.errors import BundleError, DeviceError, UsageError
from edgekit.measuring import configuration, turns
from edgekit.measuring.row import Way, Weighing
from edgekit.report import Report
from edgekit.reporting.record import Row

OPENVINO = registry.find("targets", "openvino").probe().available
pytestmark = pytest.mark.slow  # each row is measured in a process of its own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_bundles.make(tmp_path / "small.ek", goldens=True)


def quick(*folders: Path, progress: Progress | None = None, **options: object) -> Report:
    return edgekit.bench(folders, quick=True, threads=1, progress=progress, **options)  # type: ignore[arg-type]


def on_scales(folder: Path, place: Path, *, repetitions: int = 6, say: Progress | None = None) -> Weighing:
    """The bundle's one variant in the single-stream test."""
    place.mkdir(exist_ok=True)
    bundle = manifest.read(folder)
    way = Way(threads=1, place=place, quick=True, repetitions=repetitions, say=say or (lambda stage, what: None))
    return Weighing(bundle, bundle.name, "digest", bundle.variants[0], configuration.Test("single-stream"), way)


def pid(weighing: Weighing) -> int:
    assert weighing._subject is not None
    return weighing._subject.pid


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# What is measured


def test_a_bench_from_the_command_line_to_a_file(folder: Path, tmp_path: Path, call: Call) -> None:
    file = tmp_path / "small.json"
    ended = call("bench", folder, "--quick", "-t", "1", "-o", file, "-o", tmp_path / "small.html")
    assert ended.code == 0, ended.err
    assert "small.ek" in ended.out
    assert f"wrote {file}" in ended.err
    record = report.read(file)
    assert [row.name for row in record.rows] == ["small.ek cpu/fp32 single", "small.ek cpu/fp32 batch 32"]
    assert (tmp_path / "small.html").stat().st_size > 1000
    single, offline = record.rows
    assert set(single.figures) == {"load", "first", "start", "latency"}
    assert set(offline.figures) == {"load", "first", "start", "throughput"}
    latency = single.figures["latency"]
    assert latency.n == len(latency.values) == 64
    assert latency.p90 is not None
    assert (latency.p95, latency.p99) == (None, None), "64 runs carry no more"
    assert single.figures["first"].min < single.figures["start"].min
    assert single.warmup is not None
    assert single.warmup.runs >= 1
    assert single.memory is not None
    names = [phase.name for phase in single.memory.phases]
    assert names == ["imported", "loaded", "first run", "peak", "after runs", "closed"]
    sizes = {phase.name: phase.rss or 0 for phase in single.memory.phases}
    assert sizes["imported"] < sizes["loaded"] <= sizes["peak"] == single.memory.peak_rss
    assert single.memory.forecast is not None
    assert single.memory.forecast.total >= single.memory.peak_rss, "a forecast guards a limit"
    assert single.check is not None
    assert single.check.ok
    assert (single.invalid, single.accuracy, single.random) == ("", None, False)
    assert record.commands == ("edgekit bench small.ek --quick -t 1",)


def test_a_stream_and_its_state(tmp_path: Path) -> None:
    folder = series_bundles.make(tmp_path / "stream.ek", rate=10.0)
    record = quick(folder, targets=["cpu"], batch=(1, 3), replicate=2, repetitions=120)
    assert [(row.test, row.replicate) for row in record.rows] == [
        *(("stream", number) for number in (0, 1)),
        *(("stream batch 3", number) for number in (0, 1)),
        *(("single", number) for number in (0, 1)),
    ]
    first = record.rows[0]
    assert first.figures["rtf"].median == pytest.approx(10 * first.figures["step"].median)
    assert first.memory is not None
    assert first.memory.states_expected == first.memory.states == 2 * 2 * series_bundles.HIDDEN * 4  # both sides
    assert first.memory.slope_runs == 120
    assert first.memory.slope is not None
    assert record.rows[2].parameters == {"batch": 3}
    assert any("no goldens" in line for line in record.warnings)


def test_a_language_model(exported: Callable[..., Path]) -> None:
    folder = exported("zoo:speaker")
    only = {"targets": ["cpu"], "precisions": ["int4"]}
    record = quick(folder, **only, prompt=(24,), generate=(8,), depth=(0, 40), batch=(1, 2), repetitions=2, sustain=1.0)
    assert [row.test for row in record.rows] == [
        *("pp24+tg8", "pp24+tg8 batch 2", "pp24+tg8 d40", "pp24+tg8 d40 batch 2")
    ]
    for row in record.rows:
        assert not row.invalid
        assert row.figures["itl"].n == 2 * 7
        assert row.figures["ttft"].n == row.figures["tpot"].n == 2
        rows = int(row.parameters["batch"])
        assert row.figures["prefill"].max == pytest.approx(rows * 24 / row.figures["ttft"].min)
        assert row.figures["decode"].max == pytest.approx(rows / row.figures["tpot"].min)
        assert row.memory is not None
        assert row.memory.states_expected == rows * (int(row.parameters["depth"]) + 31) * 3 * 2 * 2 * 32 * 4
        assert row.sustained is not None
        assert row.sustained.unit == "tokens/s"
        assert row.sustained.rates
        assert row.accuracy is not None
        assert (row.accuracy.metric, row.accuracy.items) == ("exact_match", 400)
    assert record.rows[2].bytes_per_token > record.rows[0].bytes_per_token > 0  # type: ignore[operator]


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_variants_take_turns(tmp_path: Path) -> None:
    said: list[str] = []
    folder = series_bundles.make(tmp_path / "two.ek")
    record = quick(
        folder, scenario="single-stream", repetitions=4, progress=lambda stage, what: said.append(f"{stage}: {what}")
    )
    assert [row.variant for row in record.rows] == ["cpu/fp32", "openvino/fp32"]
    runs = [line.partition(" ")[2].partition(" ")[0] + line.partition(":")[2] for line in said if " runs " in line]
    assert runs == [
        "cpu/fp32 runs 1 to 2 of 4",
        "openvino/fp32 runs 1 to 2 of 4",
        "openvino/fp32 runs 3 to 4 of 4",
        "cpu/fp32 runs 3 to 4 of 4",
    ]


def test_start_up_is_measured_warm_and_cold(folder: Path, tmp_path: Path) -> None:
    weighing = on_scales(folder, tmp_path / "place")
    weighing.starts = 1
    ((row,),) = turns.measure([weighing])
    assert {name: row.figures[name].n for name in ("load", "load_cold", "first", "start")} == {
        "load": 2, "load_cold": 1, "first": 2, "start": 2,
    }  # fmt: skip


# What is wrong


def test_wrong_answers_make_a_row_invalid(folder: Path) -> None:
    small_bundles.spoil(folder)
    for row in quick(folder, repetitions=3).rows:
        assert row.check is not None
        assert not row.check.ok
        assert row.invalid.startswith("wrong: outputs moved by")
        assert row.figures


def test_a_worker_that_is_killed_is_a_row_that_says_so_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    victim: list[Weighing] = []

    def say(stage: str, what: str) -> None:
        if what == "runs 4 to 6 of 6" and is_alive(pid(victim[0])):
            os.kill(pid(victim[0]), signal.SIGKILL)

    victim.append(on_scales(folder, tmp_path / "a", say=say))
    (rows,) = turns.measure([victim[0], on_scales(folder, tmp_path / "b")])
    assert "was killed (signal 9)" in rows[0].invalid
    assert rows[0].memory is not None
    assert (rows[1].invalid, rows[1].figures["latency"].n) == ("", 6)


def test_the_command_ends_with_what_went_wrong_after_it_told_everything(folder: Path, call: Call) -> None:
    asked = ("bench", folder, "--quick", "-t", "1", "-r", "3", "--scenario", "single-stream", "--target", "cpu")
    refused = call(*asked, "--memory-limit", "1M")
    assert (refused.code, "small.ek  cpu/fp32" in refused.out) == (7, True)
    assert "error: nothing could be measured" in refused.err
    assert "are allowed" in refused.err
    small_bundles.spoil(folder)
    wrong = call(*asked)
    assert (wrong.code, "invalid: wrong: outputs moved by" in wrong.out) == (5, True)
    assert "error: small.ek cpu/fp32 single differs from its goldens" in wrong.err


def test_a_bundle_that_is_damaged_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes() + b" ")
    with pytest.raises(BundleError, match="has changed"):
        quick(folder)


def test_inputs_that_do_not_fit_are_a_row_that_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (row,) = quick(folder, scenario="single-stream", inputs=tmp_path / "empty.txt").rows
    assert row.invalid.startswith("empty.txt has no samples")
    (tmp_path / "own.txt").write_text("one\ntwo\n")
    assert not quick(folder, scenario="single-stream", inputs=tmp_path / "own.txt", repetitions=3).rows[0].invalid


def test_more_memory_than_is_allowed_is_refused_before_anything_is_started(folder: Path) -> None:
    said: list[str] = []
    record = quick(folder, memory_limit=1 << 20, progress=lambda stage, what: said.append(what))
    assert all("are allowed" in row.invalid for row in record.rows)
    assert "open" not in said
    assert all(row.memory is None for row in record.rows)


def test_an_engine_that_is_missing(folder: Path, tmp_path: Path) -> None:
    if registry.find("targets", "cuda").probe().available:
        pytest.skip("this machine has it")
    bundle = manifest.read(small_bundles.make(tmp_path / "two.ek"))
    (cpu,) = bundle.variants
    manifest.write(replace(bundle, variants=(cpu, replace(cpu, target="cuda"))), bundle.folder, {})
    record = quick(bundle.folder, scenario="single-stream", repetitions=3)
    assert [row.variant for row in record.rows] == ["cpu/fp32"]
    assert any("cuda/fp32 was left out: no cuda on this machine" in line for line in record.warnings)
    asked = quick(bundle.folder, scenario="single-stream", repetitions=3, targets=["cpu", "cuda"])
    assert asked.rows[1].invalid.startswith("no cuda on this machine")
    assert not asked.rows[1].figures
    with pytest.raises(DeviceError, match="no cuda"):
        quick(bundle.folder, targets=["cuda"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scenario": "ofline"}, "no scenario named 'ofline'"),
        ({"scenario": "llm"}, "has no 'llm' test"),
        ({"prompt": (0,)}, "prompt is 0"),
        ({"repetitions": 0}, "repetitions is 0"),
        ({"sustain": 0.5}, "sustain is 0.5"),
        ({"precisions": ["int4"]}, "has no such variant"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        quick(folder, **options)


def test_nothing_and_the_same_twice_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="no bundle"):
        quick()
    with pytest.raises(UsageError, match="named twice"):
        quick(folder, folder)


def test_where_it_is_to_write_is_checked_first(folder: Path, tmp_path: Path, call: Call) -> None:
    for name in ("small.pdf", "nowhere/small.json"):
        ended = call("bench", folder, "-o", tmp_path / name)
        assert ended.code == 2
        assert "memory bandwidth" not in ended.err


def test_bundles_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [small_bundles.make(tmp_path / name / "m.ek") for name in ("a", "b")]
    record = quick(*folders, scenario="single-stream", repetitions=3)
    assert [row.bundle for row in record.rows] == ["a/m.ek", "b/m.ek"]


# What happens meanwhile


def test_a_process_that_is_stopped_is_a_disturbed_row(folder: Path, tmp_path: Path) -> None:
    weighing = on_scales(folder, tmp_path / "place", repetitions=20_000)

    def disturb() -> None:
        time.sleep(0.2)
        os.kill(pid(weighing), signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(pid(weighing), signal.SIGCONT)

    try:
        weighing.open()
        thread = threading.Thread(target=disturb)
        thread.start()
        weighing.block(20_000)
        thread.join()
        weighing.finish()
        row = weighing.row()
    finally:
        weighing.close()
    assert any("its process was stopped for" in line for line in row.disturbed), row.disturbed
    assert not row.invalid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_leaves_nothing(folder: Path, tmp_path: Path, number: int) -> None:
    place, target = tmp_path / "tmp", tmp_path / "out.json"
    place.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "bench", folder, "--quick", "-t", "1", "--sustain", "60", "-v", "-o", target],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(place)},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "without pause" in line:
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == (130 if number == signal.SIGINT else -number), err
    end = time.monotonic() + 300
    while any(is_alive(int(child)) for child in children) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(is_alive(int(child)) for child in children)
    assert [path.name for path in tmp_path.iterdir() if "out.json" in path.name] == []
    if number == signal.SIGINT:
        assert list(place.glob("edgekit*")) == []


def test_an_interrupt_keeps_what_was_measured(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "bench", folder, "--quick", "-t", "1", "-v", "-o", target],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/2]"):
            break
    assert re.match(r"\[1/2\] small\.ek cpu/fp32 single: latency [\d.]+ \S+ · about \d+ \S+ left", line)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "SINGLE-STREAM" in out
    assert f"wrote {target}, with 1 of 2 rows" in err
    record = report.read(target)
    assert record.partial
    assert [row.name for row in record.rows] == ["small.ek cpu/fp32 single"]
    assert "The measurement was interrupted: 1 of 2 rows were measured." in record.warnings
    assert "1 of 2 rows" in str(report.from_files([target]))


def test_rows_are_handed_over_when_they_are_finished(folder: Path) -> None:
    seen: list[tuple[bool, list[str], int]] = []

    def finished(made: Report, rows: Sequence[Row]) -> None:
        seen.append((made.partial, [row.test for row in rows], len(made.rows)))

    made = quick(folder, repetitions=3, replicate=2, finished=finished)
    assert seen == [(True, ["single"], 1), (True, ["batch 32"], 2), (True, ["single"], 3), (False, ["batch 32"], 4)]
    assert [(row.test, row.replicate) for row in made.rows] == [(t, n) for t in ("single", "batch 32") for n in (0, 1)]


def test_a_target_that_nobody_has_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(registry.find("targets", "cpu"), "footprint")
    (row,) = quick(folder, scenario="single-stream", targets=["cpu"], repetitions=3).rows
    assert not row.invalid
    assert row.memory is not None
    assert row.memory.forecast is None
    (row,) = quick(folder, scenario="single-stream", targets=["cpu"], memory_limit=10**12).rows
    assert row.invalid == "there is no memory forecast for cpu, so --memory-limit cannot apply"


def test_what_was_measured_is_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[list[measurements.Measurement]] = []
    monkeypatch.setattr(measurements, "remember", stored.append)
    report = quick(folder, scenario="single-stream", repetitions=3)
    assert stored == [list(cache_entries(report))]
    assert {each.variant for each in stored[0]} == {row.variant for row in report.rows if not row.disturbed}
