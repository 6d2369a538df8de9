"""CSV, Markdown and the terminal's table: the same columns always, and nothing in a name breaks out of its cell."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest
from made_records import HOSTILE, encoder, record, row, typical

from edgekit.reporting import tables
from edgekit.reporting.record import Row


def lines(*rows: Row) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(tables.as_csv(record(*rows)))))


def test_csv_has_a_line_for_each_row_and_always_the_same_columns() -> None:
    made = typical()
    found = list(csv.reader(io.StringIO(tables.as_csv(made))))
    assert len(found) == 1 + len(made.rows)
    assert len({len(line) for line in found}) == 1
    assert len(set(found[0])) == len(found[0])
    bare = replace(row(), figures={}, memory=None, check=None, energy=None, warmup=None)
    assert next(csv.reader(io.StringIO(tables.as_csv(record(bare))))) == found[0]


def test_csv_figures_are_exact_with_units_in_their_names() -> None:
    one = encoder()[0]
    (found,) = lines(one)
    assert float(found["latency_median_seconds"]) == one.figures["latency"].median
    assert found["latency_runs"] == "700"
    assert found["throughput_median_per_second"] == ""
    assert one.memory is not None
    assert int(found["peak_rss_bytes"]) == one.memory.peak_rss
    assert int(found["uss_first_run_bytes"]) == one.memory.phases[2].uss
    assert one.memory.forecast is not None
    assert int(found["forecast_bytes"]) == one.memory.forecast.total
    assert found["check_ok"] == "yes"
    assert found["accuracy"] == "0.982"
    assert found["engines"] == "cpu=onnxruntime 1.31.1; openvino=openvino 2026.4.1"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\tx", "＝x"])
def test_a_spreadsheet_takes_no_text_for_a_formula(name: str) -> None:
    (found,) = lines(row(bundle=name, variant="cpu/fp32", disturbed=(name,)))
    assert found["bundle"] == f"'{name}"
    assert found["disturbed"] == f"'{name}"


def test_negative_numbers_stay_numbers() -> None:
    one = row()
    assert one.memory is not None
    (found,) = lines(replace(one, memory=replace(one.memory, slope=-12.5)))
    assert found["slope_bytes_per_100_runs"] == "-12.5"


def test_csv_of_hostile_names_has_its_columns() -> None:
    name = f'{HOSTILE},"\n;\r'
    (found,) = lines(row(bundle=name, source=name))
    assert found["target"] == "cpu"
    assert "\x00" not in found["bundle"]
    assert "\u202e" not in found["source"]


def test_a_record_without_rows_is_a_head_alone() -> None:
    assert tables.as_csv(record()) == tables.as_csv(record(row())).splitlines()[0] + "\n"
    assert tables.table(record()) == ""
    assert "| model | size |" in tables.markdown(record())


def test_markdown_is_a_table_of_values_with_their_spread() -> None:
    text = tables.markdown(typical())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    heads = (
        "| model | size | precision | target | threads | test | median ± standard deviation | vs. reference | correct |"
    )
    assert rows[0] == heads
    figures = r"single latency \| [\d.]+ ± [\d.]+ ms \| label agreement 0\.9980 \| yes"
    assert re.search(rf"^\| minilm\.ek \| 90\.9 MB \| fp32 \| cpu \| 2 \| {figures}", text, re.M)
    assert re.search(r"^\| qwen3-0\.6b\.ek .* pp512\+tg128 decode \| [\d.]+ ± [\d.]+ tokens/s \| .* \| yes", text, re.M)
    assert "- minilm.ek openvino/int8-dynamic single: invalid: outputs moved by 0.8" in text
    assert "ship cpu/int8-dynamic" in text


def test_nothing_in_a_name_ends_a_cell_of_markdown() -> None:
    name = "a|b\n\n# c <script> [x](y) `z` ![i](j) \\"
    text = tables.markdown(record(row(bundle=name), title=name))
    (line,) = [line for line in text.splitlines() if line.startswith("| a")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 10
    assert "<script" not in text.replace("\\<", "")
    assert not re.search(r"(?<!\\)`", text)
    assert "## a\\|b \\# c" in text


def test_a_row_without_figures_is_still_told() -> None:
    dead = row(figures={}, memory=None, check=None, invalid="out of memory")
    assert "| single | – | – | NO |" in tables.markdown(record(dead))
    text = tables.table(record(dead))
    assert re.search(r"single +90\.9 MB +NO", text)
    assert "invalid: out of memory" in text
    assert "ship no variant yet" in text


def test_the_terminal_has_a_table_for_each_scenario() -> None:
    text = tables.table(typical())
    assert [line for line in text.splitlines() if line.isupper()] == ["LLM", "STREAM", "SINGLE-STREAM", "OFFLINE"]
    assert re.search(
        r"cpu/int8-dynamic +single +3\.\d+ ms +104\.7 MB +23\.1 MB +97\.9 %, label agreement 0\.9980 +yes", text
    )
    assert re.search(r"openvino/int8-dynamic +single .* NO$", text, re.M)
    assert re.search(r"cpu/fp32 +batch 32 .* yes, disturbed$", text, re.M)
    assert text.splitlines()[0].startswith("minilm.ek: ship cpu/int8-dynamic"), "the verdict comes first"
    said = (
        "1 of 15 measurements was disturbed, such as minilm.ek cpu/fp32 batch 32 (others used 0.8 cores of 2 meanwhile)"
    )
    assert said in text


def test_what_is_said_of_rows_does_not_push_the_table_away() -> None:
    rows = [row(replicate=number, disturbed=("x",), invalid="y") for number in range(tables.NOTES + 3)]
    text = tables.table(record(*rows))
    assert text.count("invalid: y") == tables.NOTES
    assert text.count("such as minilm.ek cpu/fp32 single (x)") == 1
    assert f"All {len(rows)} measurements were disturbed" in text
    assert "and 3 more rows with notes" in text


def test_an_unsettled_warm_up_is_said() -> None:
    one = row()
    assert one.warmup is not None
    noted = list(tables.notes_of(replace(one, warmup=replace(one.warmup, settled=False))))
    assert noted == ["did not reach a steady state after 12 warm-up runs"]


def test_names_of_any_length_and_kind_leave_the_terminal_whole() -> None:
    text = tables.table(
        record(row(bundle="\x1b[2J" + "x" * 1_000_000, variant="cpu/\u202ex", disturbed=("y" * 100_000,)))
    )
    assert len(text) < 10_000
    assert not re.search("[\x1b\u202e]", text)
