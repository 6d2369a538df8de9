"""The page: all that matters is on it, nothing hostile gets through, and it stays small whatever it is given."""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_records import HOSTILE, check, environment, figure, language_model, memory, record, row, typical
from property_tests import examples

from edgekit.core import Measure
from edgekit.reporting import html_page, record_file
from edgekit.reporting.comparison import compare
from edgekit.reporting.record import Accuracy, Example, Record, Subject, Sustained

VOID = {"meta", "br"}
LINK = r"#m\d+|data:application/json;base64,[A-Za-z0-9+/]+=*"  # to a section, and to the data in the page itself
EMPTY_IN_SVG = {"path", "circle", "rect"}


class Balanced(HTMLParser):
    """Every element is closed, in order; gathers the tags, attributes and text on the way."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in EMPTY_IN_SVG, tag
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def told(*records: Record) -> str:
    """The page of one record, or the comparison of several."""
    names = [f"file{number}" for number in range(len(records))]
    return html_page.html(records, names, compare(records, names) if len(records) > 1 else None)


def plots(text: str) -> list[str]:
    return re.findall(r"<h4>(.*?)</h4>", text)


# What is on it


def test_page_is_whole_and_says_all_that_matters() -> None:
    text = told(typical())
    found = Balanced(text)
    for words in (
        "Ship cpu · int8 ✓ solid",
        "2.5 times faster than fp32",
        "3.9 times smaller than fp32",
        "98.2 % before the export",
        "Runner-up: openvino/fp32, 2.3 times slower",
        "13 of 15 measurements returned correct results.",
        "1 of 15 measurements was disturbed",
        "edgekit 0.1.0; python 3.11.9",
        "Left out: openvino/int8-dynamic (outputs moved by 0.8",
        "Invalid: minilm.ek openvino/int8-dynamic single and",
        "23.1 MB",
        "Example Xeon",
        "21.5 GB/s read",
        "edgekit bench minilm.ek",
        "random weights: its outputs have no meaning",
    ):
        assert words in found.text, words
    assert "<s>openvino/int8-dynamic</s>" in text
    assert "⚠ disturbed" in text
    assert "<mark>ninety</mark>-two goats" in text
    ids = [value for name, value in found.attributes if name == "id"]
    labels = [each for name, value in found.attributes if name == "aria-labelledby" for each in (value or "").split()]
    assert len(ids) == len(set(ids))
    assert set(labels) <= set(ids)


def test_every_plot_is_drawn_where_there_is_something_to_draw() -> None:
    found = plots(told(typical()))
    assert found[:4] == ["Accuracy, latency, size", "Latency, distribution", "Throughput in batches", "Memory by phase"]
    assert found[4:] == [
        "Size and latency",
        *("Time to first token (TTFT)", "Time per output token (TPOT)", "Decode speed and memory bandwidth (roofline)"),
        *(
            "Inter-token latency (ITL), distribution",
            "Memory by phase",
            "Sustained throughput",
            "Size and latency",
            "Time per step, distribution",
            "Memory by phase",
        ),
    ]


def test_a_gpu_is_not_held_against_the_memory_of_the_host() -> None:
    text = told(typical())
    roof = re.search(r"roofline\)</h4>(.*?)</figure>", text, re.DOTALL)
    assert roof is not None
    assert "openvino/int8" in roof[1]
    assert "cuda" not in roof[1]


def test_what_was_not_measured_is_a_dash_or_is_left_out() -> None:
    nothing = row("cpu/fp32", figures={}, memory=None, check=None, energy=None, warmup=None, bytes=None)
    bad = Measure("cosine", math.nan, math.inf)
    odd = row("x/int8", check=replace(check("x/int8", ok=False), difference=math.inf, agreement=bad), invalid="x")
    text = told(record(nothing, odd, environment=environment(memory=None, bandwidth=None, gpu=("A",))))
    found = Balanced(text)
    assert not re.search(r"\b(nan|inf|None)\b", found.text)
    assert found.text.count("–") >= 8
    assert "Ship no variant yet" in found.text
    assert "∞ of 0.02" in found.text
    assert plots(told(record(nothing))) == []
    assert '<th scope="col">' not in told(record())
    Balanced(told(record()))


def test_repetitions_and_tests_have_a_column_only_where_there_are_several() -> None:
    assert ">Test<" not in told(record(row()))
    text = told(record(row(), row(replicate=1), row(test="long")))
    assert ">Test<" in text
    assert "single #2" in text
    assert ">Device<" not in text


def test_one_run_of_one_row_is_enough_for_plots() -> None:
    met = Accuracy(metric="accuracy", value=0.5, trained=None, items=1)
    one = row(figures={"latency": figure("latency", [1.5])}, bytes=0, accuracy=met, memory=None)
    assert plots(told(record(one))) == ["Latency, distribution"]
    sized = replace(one, bytes=1000)
    assert plots(told(record(sized)))[0] == "Size and latency"
    other = replace(row("cpu/int8", 2.0), accuracy=replace(met, value=0.6))
    assert plots(told(record(sized, other)))[0] == "Accuracy, latency, size"


@pytest.mark.parametrize("value", [0.0, 5e-324, 1e-30, 1e30, 1e300])
def test_figures_beyond_all_reason_are_told_if_not_drawn(value: float) -> None:
    quantities = ("ttft", "tpot", "itl", "decode", "prefill")
    model = language_model("cpu/int8", 1.0, 10**18, figures={name: figure(name, [value] * 9) for name in quantities})
    rates = Sustained(seconds=1e-3, unit="x", rates=(value, value))
    huge = replace(memory(10**17, 10**17), peak_rss=2**62)
    single = row(figures={"latency": figure("latency", [value] * 9)}, sustained=rates, memory=huge, bytes=2**62)
    many = row(scenario="offline", figures={"throughput": figure("throughput", [value] * 9)})
    text = told(record(model, single, many, environment=environment(bandwidth=value or None)))
    drawn = re.findall(r"<(?:path|circle|rect|text)[^>]*>", "".join(re.findall(r"<svg.*?</svg>", text)))
    assert not [tag for tag in drawn if re.search(r"nan|inf|\de[+-]?\d", tag)]
    Balanced(text)


# Comparisons


def test_a_comparison_begins_with_what_changed() -> None:
    slow = typical(1.2)
    slow = replace(slow, environment=environment(cpu="Other CPU"), rows=slow.rows[:-1])
    found = Balanced(told(typical(), slow))
    for words in (
        "EdgeKit comparison",
        "file1 compared with file0:",
        "worse, p 0.00",
        "Not in every file",
        "spotter-stream.ek openvino/fp32 chunk 1: only in file0",
        "The environments differ",
        "Mann-Whitney",
        "worse, of 19 figures",
        "file1: Ship cpu · int8",
        "The machines",
    ):
        assert words in found.text, words
    assert found.text.index("Changes") < found.text.index("Sentence vectors")


def test_a_comparison_without_changes_says_so_first() -> None:
    text = told(typical(), typical())
    assert '<p class="verdict soft">≈ No significant change</p>' in text
    assert text.index("No significant change") < text.index("<table")


def test_only_rows_that_became_invalid_count_in_the_verdict() -> None:
    wrong = row(check=check("cpu/fp32", ok=False), invalid="it moved")
    assert "▼ 1 invalid now" in told(record(row()), record(wrong))
    assert "invalid now" not in told(record(wrong), record(wrong))


def test_rows_beyond_a_bound_that_did_not_fail_are_not_red() -> None:
    text = html_page.html([typical()], undecided=["row x: was disturbed"])
    found = re.search(r'<div class="warning"><p>1 row beyond a bound.*?</div>', text)
    assert found is not None
    assert "row x: was disturbed" in found[0]


def test_a_page_of_several_bundles_has_a_table_of_contents() -> None:
    text = told(typical())
    assert '<a href="#m0">minilm.ek</a> ship cpu · int8: 3.20 ms per input, 23.1 MB' in text
    for number in range(3):
        assert f'<section id="m{number}"' in text
    assert "<nav" not in told(record(row()))


def test_the_data_is_in_the_page() -> None:
    made = record(row())
    (data,) = re.findall(r'<a download="bench.json" href="data:application/json;base64,([^"]+)"', told(made))
    assert base64.b64decode(data) == record_file.encode(made)


def test_agreement_is_shown_without_held_out_inputs() -> None:
    near = replace(check("cpu/int8"), agreement=Measure("cosine", 0.9959, 0.0041))
    found = Balanced(told(record(row("cpu/int8", check=near, goldens=8), row("cpu/fp32", 2.0))))
    assert "Cosine0.9959loss 0.00410 against the reference on 8 known inputs" in found.text
    assert "Agreement" in found.text
    wrong_name = replace(near, agreement=Measure("relative error", 0.003, 0.003))
    text = told(record(row("cpu/int8", check=wrong_name)))
    assert "Agreement" not in Balanced(text).text, "an error is not an agreement"


def test_a_missing_percentile_is_explained() -> None:
    few = row("cpu/int8", figures={"latency": figure("latency", [1.0] * 9)})
    said = "too few runs for this percentile: p90 needs 64 runs and p99 needs 662 runs."
    assert said in told(record(row(), few))
    assert said not in told(record(row()))


def test_several_files_are_one_report_with_a_device_column() -> None:
    text = html_page.html([typical(), typical(1.2)], ["laptop", "board"])
    found = Balanced(text)
    assert "Changes" not in found.text
    assert found.text.count("Device") >= 4
    assert "board: Ship cuda · int4" in found.text
    assert "board cpu/int8-dynamic" in found.text


def test_broken_bounds_come_first() -> None:
    records = [typical(), typical(1.2)]
    found = Balanced(html_page.html(records, ["a", "b"], compare(records, ["a", "b"]), ["row x in b: slow", "row y"]))
    assert "2 rows fail a bound.row x in b: slow" in found.text.replace("\n", "")


# What it lets through


def test_page_asks_for_nothing_and_runs_only_its_own_script() -> None:
    text = told(typical())
    found = Balanced(text)
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    assert not {"src", "style", "action", "srcset"} & {name for name, _ in found.attributes}
    assert all(re.fullmatch(LINK, value or "") for name, value in found.attributes if name == "href")
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import|[^:]//[a-z]", re.sub(LINK, "", text))
    policy = next(value for name, value in found.attributes if name == "content" and "default-src" in (value or ""))
    assert "default-src 'none'" in str(policy)
    for tag in ("script", "style"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in str(policy)


def poisoned(value: Any, poison: str) -> Any:
    """The same with every text in it replaced, but for those that are one of a known few."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = {"schema", "scenario", "unit", "precision"} | ({"name"} if type(value).__name__ == "Phase" else set())
        found = {f.name: getattr(value, f.name) for f in fields(value)}
        return replace(value, **{key: old if key in kept else poisoned(old, poison) for key, old in found.items()})
    if isinstance(value, dict):
        is_figures = all(is_dataclass(item) for item in value.values()) and value
        return {key if is_figures else poison: poisoned(item, poison) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(poisoned(item, poison) for item in value)
    return poison if isinstance(value, str) else value


def assert_harmless(text: str) -> None:
    found = Balanced(text)
    assert found.tags.count("script") == 1
    assert "img" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert not {"src", "style"} & {name for name, _ in found.attributes}
    assert all(re.fullmatch(LINK, value or "") for name, value in found.attributes if name == "href")
    assert text.count("<title>") + text.count("<title ") == text.count("</title>")
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
    assert text.encode(errors="strict")


@pytest.mark.parametrize(
    "poison", [HOSTILE, "\u202e\u2066abc\ud800", "' onload=x \"", "]]>--><svg onload=x>", "&lt;script&gt;"]
)
def test_nothing_hostile_gets_through(poison: str) -> None:
    made = poisoned(typical(), poison)
    assert_harmless(told(made))
    assert_harmless(told(made, replace(made, environment=environment())))


@examples(25)
@given(poison=st.text(st.characters(), min_size=1, max_size=40))
def test_no_text_at_all_gets_through_unescaped(poison: str) -> None:
    one = row(accuracy=Accuracy(metric="m", value=0.5, trained=0.5, items=3), disturbed=("x",))
    subject = Subject(bundle="minilm.ek", what="x", examples=(Example("x", "x", "x", True, ((0, 1),)),))
    text = told(poisoned(record(one, subjects=(subject,)), f"<b {poison}'\"&</b>"))
    assert_harmless(text)
    assert not re.search(r"<b[\s>]", text)


def test_what_is_escaped_is_still_read() -> None:
    assert "a<b>&\"'c" in html.unescape(told(record(row(bundle="a<b>&\"'c"))))


# Its size


def many(names: Sequence[str]) -> Record:
    """More rows than anybody reads, with names that nobody can."""
    rows, single, batch = [], row(), row(scenario="offline")
    for bundle in names:
        named = {"bundle": bundle, "source": bundle}
        rows += [replace(single, **named, variant=f"x/{n}{bundle}", disturbed=(bundle,)) for n in range(60)]
        rows += [replace(batch, **named, test=f"{n}{bundle}") for n in range(60)]
    return record(
        *rows, title=names[0], method=tuple(names) * 30, commands=tuple(names) * 30, warnings=tuple(names) * 30
    )


def test_page_stays_small_whatever_it_is_given() -> None:
    text = told(many([f"{number}{chr(34) * 100_000}" for number in range(14)]))
    assert len(text.encode()) < 2_000_000
    found = Balanced(text)
    assert "20 more rows are not shown" in found.text
    assert "2 more bundles are not shown" in found.text
    assert "A part of this page is too long to show." in found.text
    assert len(told(many(["a.ek", "b.ek"])).encode()) < 500_000


def test_a_name_of_a_million_letters_and_thousands_of_rows() -> None:
    long = "z" * 1_000_000
    assert len(told(record(row(bundle=long, variant=f"cpu/{long}", test=long))).encode()) < 200_000
    one = row(figures={})
    rows = [replace(one, variant=f"cpu/fp32-{number}") for number in range(4000)]
    text = told(record(*rows))
    assert "3,960 more rows are not shown" in text
    assert len(text.encode()) < 400_000
