"""The report on made-up figures: what it recommends, and that its page is safe, whole and readable anywhere."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgekit import page, report, svg
from edgekit.core import Check, Measure
from edgekit.report import Example, Report, Row, Subject, advice, percentile

VOID = {"meta", "br"}
EMPTY_IN_SVG = {"path", "circle", "rect"}
HOSTILE = "</title></style></svg><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&\x00\ud800"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def check(variant: str, *, ok: bool = True, why: str = "") -> Check:
    return Check(variant, ok, 1e-4, 2e-2, Measure("label agreement", 0.998, 0.002), 0.01, 0.1, why)


def row(variant: str = "cpu/fp32", ms: float = 1.0, accuracy: float | None = 0.98, **changed: object) -> Row:
    rng = random.Random(len(variant))
    made = Row(
        variant=variant,
        bytes=400_000,
        accuracy=accuracy,
        agreement=Measure("label agreement", 0.9987, 0.0013),
        latencies=(*(ms * rng.lognormvariate(0.2, 0.15) for _ in range(350)), *[ms] * 350),
        per_second=1234.5,
        check=check(variant),
    )
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def subject(*rows: Row, **changed: object) -> Subject:
    made = Subject("m.ek", "zoo:m", "text-classification", "Tells things apart.", "accuracy", 1000, 0.98, rows)
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def whole(*subjects: Subject, **changed: object) -> Report:
    made = Report("EdgeKit demo", "2026-11-22", 61.4, subjects, (("processor", "A CPU"),), ("So.",), ("edgekit demo",))
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def typical() -> Report:
    rows = (
        row("cpu/fp32", 0.8),
        row("openvino/fp32", 1.3),
        row("cpu/int8-dynamic", 0.4, 0.978, bytes=120_000),
        row("openvino/int8-dynamic", 0.6, 0.979, bytes=121_000),
    )
    examples = (
        Example("ninety-two goats", "ninety-two", "ninety", False, ((0, 6),)),
        Example("a", "none", "none", True),
    )
    told = subject(*rows, examples=examples, answered_by="cpu/int8-dynamic", asked=1000, wrong=22)
    return whole(told, dataclasses.replace(told, bundle="n.ek"))


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
        if self.open[-1:] != ["style"]:
            self.text += data


# What the figures say


@pytest.mark.parametrize(("rank", "needed"), [(50, 1), (90, 64), (99, 662)])
def test_a_percentile_wants_enough_runs(rank: int, needed: int) -> None:
    runs = [float(number) for number in range(1, needed + 1)]
    assert percentile(runs[1:], rank) is None
    assert percentile(runs[::-1], rank) == runs[math.ceil(needed * rank / 100) - 1]
    assert percentile([*runs, math.nan], rank) is None


def test_ships_the_fastest_that_is_verified_and_keeps_the_accuracy() -> None:
    slow, quick = row("cpu/fp32", 2.0), row("cpu/int8-dynamic", 1.0, 0.976)
    wrong = row("openvino/fp32", 0.1, check=check("openvino/fp32", ok=False))
    worse = row("openvino/int8-dynamic", 0.1, 0.97)
    unknown = (row("a/fp32", 0.1, None), row("b/fp32", 0.1, check=None), row("c/fp32", latencies=()))
    assert subject(slow, quick, wrong, worse, *unknown).pick() is quick
    assert subject(wrong, worse, *unknown).pick() is None
    assert subject(slow, quick, trained=None).pick() is None
    assert subject().pick() is None


def test_of_equally_fast_ones_ships_the_smallest() -> None:
    one, small = row("cpu/fp32", latencies=(1.0,)), row("cpu/int8-dynamic", latencies=(1.04,), bytes=100)
    assert subject(one, small).pick() is small
    assert subject(one, dataclasses.replace(small, latencies=(1.06,))).pick() is one


def test_advice_says_why() -> None:
    full, small = row("cpu/fp32", latencies=(2.0,)), row("cpu/int8-dynamic", latencies=(1.0,), bytes=100_000)
    said = advice(subject(full, small, row("openvino/fp32", accuracy=0.5)))
    assert "1.00 ms per text, 98.0 % accuracy" in said
    assert "Against cpu/fp32 it is 4.0 times smaller and 2.0 times faster." in said
    assert "Left out, as not verified or less accurate: openvino/fp32." in said
    said = advice(subject(full, dataclasses.replace(small, latencies=(3.0,))))
    assert "Where size matters more than speed: cpu/int8-dynamic (100.0 kB, 3.00 ms, 98.0 %)." in said
    assert "ship none of them" in advice(subject(row(accuracy=0.1)))


def test_rows_are_flat_and_failures_are_named() -> None:
    failing = row("openvino/fp32", check=check("openvino/fp32", ok=False, why="outputs moved"))
    made = whole(subject(row(latencies=(1.0, 3.0, 2.0)), failing, row("x/int8", check=None)))
    assert made.failed == ["m.ek openvino/fp32"]
    first, second, third = made.rows()
    assert first["milliseconds"] == {"p50": 2.0, "p90": None, "p99": None}
    assert [line["recommended"] for line in (first, second, third)] == [True, False, False]
    assert [line["verified"] for line in (first, second, third)] == [True, False, None]
    text = report.table(made.rows())
    assert re.search(r"m\.ek +cpu/fp32 +400\.0 kB +98\.0 % +2\.00 +1,234 +yes +ship this", text)
    assert re.search(r"openvino/fp32 .* NO$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (0.0, "0"),
        (0.2134, "0.213"),
        (12.34, "12.3"),
        (1420.4, "1420"),
    ],
)
def test_figures_have_three_digits_or_are_a_dash(value: float | None, shown: str) -> None:
    assert report.figure(value) == shown


# The page


def test_page_is_whole_and_says_all_that_matters() -> None:
    made = typical()
    found = Balanced(page.html(made))
    for words in (
        "ship cpu/int8-dynamic",
        "8 of 8 gave their known answers again",
        "120.0 kB",
        "A CPU",
        "edgekit demo",
    ):
        assert words in found.text, words
    assert found.tags.count("table") == 4
    ids = [value for name, value in found.attributes if name == "id"]
    labels = [each for name, value in found.attributes if name == "aria-labelledby" for each in (value or "").split()]
    assert len(ids) == len(set(ids))
    assert set(labels) <= set(ids)
    assert "<mark>ninety</mark>-two goats" in page.html(made)


def test_page_asks_for_nothing() -> None:
    text = page.html(typical())
    found = Balanced(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    assert not {"src", "href", "style", "action", "srcset"} & {name for name, _ in found.attributes}
    assert not re.search(r"https?:|url\(|@import|//[a-z]", text)
    assert "default-src 'none'" in text


def test_nothing_hostile_gets_through() -> None:
    evil = row(f"cpu/{HOSTILE}", check=check(HOSTILE, ok=False, why=HOSTILE), agreement=Measure(HOSTILE, 0.9, 0.1))
    example = Example(HOSTILE, HOSTILE, HOSTILE, False, ((3, 9),))
    told = subject(evil, row(), examples=(example,), answered_by=HOSTILE, bundle=HOSTILE, source=HOSTILE, task=HOSTILE)
    told = dataclasses.replace(told, what=HOSTILE, metric=HOSTILE)
    made = whole(told, title=HOSTILE, made=HOSTILE, environment=((HOSTILE, HOSTILE),), method=(HOSTILE,), about=HOSTILE)
    text = page.html(dataclasses.replace(made, commands=(HOSTILE,), warnings=(HOSTILE,)))
    found = Balanced(text)
    assert not {"script", "img"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert text.count("<title>") + text.count("<title ") == text.count("</title>")
    assert text.encode(errors="replace")


def test_what_was_not_measured_is_a_dash() -> None:
    nothing = Row("cpu/fp32")
    odd = row("x/int8", math.nan, math.nan, per_second=math.inf, agreement=Measure("cosine", math.nan, math.nan))
    text = page.html(whole(subject(nothing, odd, trained=None), seconds=None))
    found = Balanced(text)
    assert not re.search(r"\b(nan|inf|None)\b", found.text)
    assert found.text.count("–") >= 14
    assert "plot" not in [value for name, value in found.attributes if name == "class"]
    Balanced(page.html(whole()))


def test_failures_come_first() -> None:
    bad = row("openvino/fp32", check=check("openvino/fp32", ok=False, why="outputs moved by 3"))
    text = Balanced(page.html(whole(subject(row(), bad)))).text
    assert "1 of 2 did not give their known answers on this device: m.ek openvino/fp32." in text
    assert "outputs moved by 3" in text


def test_one_run_of_one_row_is_enough_for_plots() -> None:
    found = Balanced(page.html(whole(subject(row(latencies=(1.5,), bytes=0)))))
    assert [value for name, value in found.attributes if name == "class"].count("plot") == 2


def test_page_stays_small_whatever_it_is_given() -> None:
    long = '"' * 20_000
    failing = check(long, ok=False, why=long)
    rows = tuple(row(f"{long}{number}/int8-{long}", latencies=(1.0,) * 700, check=failing) for number in range(300))
    many = subject(*rows, bundle=long, what=long, examples=(Example(long, long, long, True),) * 100)
    text = page.html(
        whole(*[many] * 30, environment=((long, long),) * 300, method=(long,) * 300, commands=(long,) * 300)
    )
    assert len(text.encode()) < 2_000_000
    found = Balanced(text)
    assert "270 more variants are not shown." in found.text
    assert "22 more models are not shown." in found.text


# The plots


def test_scale_maps_its_ends_and_ticks_lie_inside() -> None:
    rng = random.Random(7)
    for log in (False, True):
        for _ in range(300):
            low = 10 ** rng.uniform(-4, 4)
            scale = svg.Scale(low, low * (1 + 10 ** rng.uniform(-1, 6)), 50, 350, log=log)
            assert scale.at(scale.low) == pytest.approx(50)
            assert scale.at(scale.high) == pytest.approx(350)
            ticks = scale.ticks()
            assert len(ticks) <= 8
            assert all(50 - 1e-6 <= scale.at(tick) <= 350 + 1e-6 for tick in ticks)
            assert ticks == sorted(set(ticks))


@pytest.mark.parametrize("seed", range(40))
def test_labels_keep_apart(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 6)
    near = rng.choice((0.01, 0.3, 3.0))
    dots = [
        svg.Dot(
            f"target{number}/int8-dyn", "400.0 kB", 1 + near * rng.random(), 98 + near * rng.random(), 4, number, False
        )
        for number in range(count)
    ]
    text = svg.scatter("k", "t", "a", dots, "ms", "%", y_most=100)
    boxes = [_box(*found) for found in re.findall(r'<text class="name( end| mid)?" x="([\d.]+)" y="([\d.]+)">', text)]
    assert len(boxes) == count
    for (left, top, right, bottom), (others_left, others_top, others_right, others_bottom) in itertools.combinations(
        boxes, 2
    ):
        apart = right <= others_left or others_right <= left or bottom <= others_top or others_bottom <= top
        assert apart
    assert all(left >= svg.LEFT - 1 and right <= svg.WIDTH for left, _, right, _ in boxes)


def _box(side: str, x: str, y: str) -> tuple[float, float, float, float]:
    """Where a label's two lines are, by what the plot itself takes a letter to be wide."""
    width = len("target0/int8-dyn") * svg.LETTER - 0.2  # what the rounding of coordinates may cost
    left = float(x) - {"": 0.0, " mid": width / 2, " end": width}[side]
    return left, float(y) - 9, left + width, float(y) + svg.LINE


def test_a_strip_keeps_the_slowest_run_and_draws_so_many() -> None:
    values = [1.0 + number / 1000 for number in range(5000)] + [900.0]
    text = svg.strips("k", "t", "a", [svg.Strip("a", "", values, None, 0, False)], "ms")
    path = re.search(r'dots" d="([^"]+)"', text)
    assert path is not None
    places = [float(x) for x in re.findall(r"M([\d.]+) ", path[1])]
    assert len(places) == svg.SHOWN
    assert max(places) > max(sorted(places)[:-1]) + 100


# In a browser


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [400, 1400])
def test_page_never_scrolls_sideways_and_runs_no_script(tmp_path: Path, width: int) -> None:
    long = "unbreakable" * 20
    made = typical()
    wide = subject(*made.subjects[0].rows, bundle=long, what=long, examples=(Example(long, long, long, True),))
    text = page.html(dataclasses.replace(made, subjects=(*made.subjects, wide), commands=(long * 3,)))
    smuggled = text.replace("</body>", "<script>document.title = 'owned'</script></body>")
    title, inner, scroll, tables = _in_browser(tmp_path, smuggled, width)
    assert title == made.title
    assert int(inner) == width
    assert int(scroll) <= width
    assert int(tables) == 6


def _in_browser(folder: Path, text: str, width: int) -> list[str]:
    """A page's title, inner and scrolled width, number of tables; in a frame, as no window is narrower than 500."""
    file = folder / "frame.html"
    script = """
        const frame = document.querySelector('iframe'), out = document.querySelector('pre')
        frame.onload = () => { const page = frame.contentDocument
          out.textContent = [page.title, frame.contentWindow.innerWidth, page.scrollingElement.scrollWidth,
            page.querySelectorAll('table').length].join('|') }
        frame.srcdoc = document.querySelector('textarea').value"""
    frame = f'<iframe style="border: 0; width: {width}px; height: 3000px"></iframe>'
    file.write_text(
        f"<!doctype html><body>{frame}<pre></pre><textarea>{escape(text)}</textarea><script>{script}</script>",
        encoding="utf-8",
    )
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    found = subprocess.run(
        [
            *(str(CHROMIUM), *options.split(), "--disable-component-update", f"--user-data-dir={folder / 'profile'}"),
            *("--window-size=1600,3200", "--hide-scrollbars", "--dump-dom", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    told = re.search(r"<pre>(.*?)</pre>", found.stdout)
    assert told is not None
    return told[1].split("|")
