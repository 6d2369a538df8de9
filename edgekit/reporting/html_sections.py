"""A bundle on the page: its tables, what is to be said of its rows, its plots and what it answers.

A table for each scenario; a column that no row has is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from edgekit.reporting import html_parts, number_text, svg, tables
from edgekit.reporting.html_parts import Cell, Head, Line, cell, prose, text
from edgekit.reporting.plots import plots
from edgekit.reporting.record import Example, Figure
from edgekit.reporting.row_groups import Entry, Group

EXAMPLES, NOTES = 12, 12  # of a bundle, at most
Column = tuple[Head, Callable[[Entry], Cell]]
TITLES = {
    "single-stream": "One at a time",
    "offline": "Many at a time",
    "llm": "Text generation",
    "stream": "As a stream, step by step",
}


def section(key: str, group: Group) -> Iterator[str]:
    """All of one bundle. `key` makes ids unique on the page."""
    told = group.subject
    yield f'<section aria-labelledby="{key}-h"><h2 id="{key}-h">{text(group.bundle)}</h2>'
    if told:
        yield f"<p>{prose(told.what)}</p>"
    yield f'<p class="soft">{text(_facts(group))}</p>'
    for scenario in group.scenarios:
        entries = group.of(scenario)
        yield f"<h3>{TITLES[scenario]}</h3>"
        yield from _table(group, scenario, entries)
        yield from _notes(entries)
    yield '<div class="plots">'
    yield from plots(key, group)
    yield "</div>"
    yield from _examples(group)
    yield "</section>"


def _facts(group: Group) -> str:
    row = group.entries[0].row
    parts = [row.source, row.task, "random weights: its answers mean nothing" if row.random else ""]
    met = next((entry.accuracy for entry in group.entries if entry.accuracy), None)
    if met:
        trained = f"; the trained weights have {number_text.share(met.trained)}" if met.trained is not None else ""
        parts.append(f"{met.metric.replace('_', ' ')} on {number_text.whole(met.items)} held-out inputs{trained}")
    return ", ".join(filter(None, parts)) + "."


def _table(group: Group, scenario: str, entries: Sequence[Entry]) -> Iterator[str]:
    """What a reader compares, and, folded away, the rest of what was measured."""
    title = f"{TITLES[scenario]}: {group.bundle}"
    telling = list(_telling(group, entries))
    shown = entries[: html_parts.MOST_ROWS]
    yield from html_parts.table(title, *_lines([*telling, _metric(group), *MIDDLE[scenario], *MAIN], shown))
    yield html_parts.more(len(entries) - len(shown), "row")
    rest = _lines([*telling, *REST], shown)
    if any(not found.empty for line in rest[1] for found in line.cells[1 + len(telling) :]):
        yield f"<details><summary>Memory, start and checks, {TITLES[scenario].lower()}</summary>"
        yield from html_parts.table(f"{title}, the rest", *rest)
        yield "</details>"


def _lines(columns: Sequence[Column], entries: Sequence[Entry]) -> tuple[list[Head], list[Line]]:
    heads = [Head("Variant", number=False), *(head for head, _ in columns)]
    return heads, [
        Line((_name(entry), *(find(entry) for _, find in columns)), "ship" if entry.shipped else "")
        for entry in entries
    ]


def _telling(group: Group, entries: Sequence[Entry]) -> Iterator[Column]:
    """What tells rows apart, where it does."""
    if len({entry.device for entry in group.entries}) > 1:
        yield Head("Device", "file", number=False), lambda entry: _named(entry.device)
    if len({number_text.setting(entry.row) for entry in entries}) > 1:
        yield Head("Test", number=False), lambda entry: _named(number_text.setting(entry.row))


def _named(name: str) -> Cell:
    return cell(svg.clip(name, 40), svg.clip(name, 40))


def _metric(group: Group) -> Column:
    metric = next((entry.accuracy.metric for entry in group.entries if entry.accuracy), "")
    return Head("Accuracy", "" if metric == "accuracy" else svg.clip(metric.replace("_", " "))), _accuracy


def _name(entry: Entry) -> Cell:
    """The variant, struck where its figures may not be used, with a sign where they must be used with care."""
    row = entry.row
    name = text(svg.clip(row.variant, 48))
    marks = [f"<s>{name}</s>" if row.invalid else name]
    if row.invalid:
        marks.append('<small class="bad">invalid</small>')
    elif row.disturbed:
        marks.append('<small class="warn">⚠ disturbed</small>')
    if entry.shipped:
        marks.append('<small class="good">ship</small>')
    return Cell(svg.swatch(entry.series, entry.hollow) + " ".join(marks), svg.clip(row.variant, 48))


def _accuracy(entry: Entry) -> Cell:
    met = entry.accuracy
    return cell(number_text.share(met.value), met.value) if met else Cell(number_text.DASH)


def _stat(quantity: str, statistic: str = "median") -> Callable[[Entry], Cell]:
    def find(entry: Entry) -> Cell:
        found = entry.figure(quantity)
        value = getattr(found, statistic) if found else None
        unit = "" if found and found.unit == "tokens/s" else (found.unit if found else "")
        return cell(number_text.quantity(value, unit), value)

    return find


def _interval(quantity: str) -> Callable[[Entry], Cell]:
    return lambda entry: cell(number_text.interval(entry.figure(quantity)))


def _runs(quantity: str) -> Callable[[Entry], Cell]:
    def find(entry: Entry) -> Cell:
        found: Figure | None = entry.figure(quantity)
        return cell(number_text.whole(found.n), found.n) if found else Cell(number_text.DASH)

    return find


def _peak(entry: Entry) -> Cell:
    peak = entry.row.memory.peak_rss if entry.row.memory else None
    return cell(number_text.size(peak), peak)


def _forecast(entry: Entry) -> Cell:
    """What was expected, and how far that is from what came."""
    memory = entry.row.memory
    if memory is None or memory.forecast is None:
        return Cell(number_text.DASH)
    total = memory.forecast.total
    off = f"<br><small>{number_text.change(total / memory.peak_rss)}</small>" if memory.peak_rss else ""
    return Cell(text(number_text.size(total)) + off, total)


def _slope(entry: Entry) -> Cell:
    memory = entry.row.memory
    slope = memory.slope if memory else None
    return cell(number_text.size(slope), slope)


def _device_memory(entry: Entry) -> Cell:
    size = entry.row.memory.device if entry.row.memory else None
    return cell(number_text.size(size), size)


def _energy(entry: Entry) -> Cell:
    found = entry.row.energy
    if found is None or found.each is None:
        return Cell(number_text.DASH)
    return cell(f"{number_text.figure(found.each)} J a {found.per}", found.each)


def _size(entry: Entry) -> Cell:
    return cell(number_text.size(entry.row.bytes), entry.row.bytes)


def _right(entry: Entry) -> Cell:
    if entry.row.invalid:
        return Cell('<span class="bad">no</span>', 0)
    if entry.row.check is None:
        return Cell(number_text.DASH)
    return Cell('<span class="good">yes</span>' if entry.row.check.ok else '<span class="bad">no</span>', 1)


def _agreement(entry: Entry) -> Cell:
    check = entry.row.check
    if check is None or not math.isfinite(check.agreement.value):
        return Cell(number_text.DASH)
    return Cell(
        f"{check.agreement.value:.4f}<br><small>{text(svg.clip(check.agreement.metric))}</small>", check.agreement.value
    )


def _difference(entry: Entry) -> Cell:
    check = entry.row.check
    if check is None:
        return Cell(number_text.DASH)
    difference = f"{check.difference:.2g}" if math.isfinite(check.difference) else "∞"
    return Cell(
        f"{difference} of {check.tolerance:.2g}", check.difference if math.isfinite(check.difference) else 1e308
    )


def _threads(entry: Entry) -> Cell:
    return cell(number_text.whole(entry.row.threads), entry.row.threads)


# Of each scenario, what tells its rows.
MIDDLE: dict[str, Sequence[Column]] = {
    "single-stream": (
        (Head("Median", "an input"), _stat("latency")),
        (Head("p90", "of runs"), _stat("latency", "p90")),
        (Head("p99", "of runs"), _stat("latency", "p99")),
        (Head("95 % interval", "of the median"), _interval("latency")),
        (Head("Runs"), _runs("latency")),
    ),
    "offline": (
        (Head("Items/s", "median"), _stat("throughput")),
        (Head("95 % interval", "of the median"), _interval("throughput")),
        (Head("Batches"), _runs("throughput")),
    ),
    "llm": (
        (Head("TTFT", "median"), _stat("ttft")),
        (Head("TPOT", "median"), _stat("tpot")),
        (Head("Decode", "tokens/s"), _stat("decode")),
        (Head("Prefill", "tokens/s"), _stat("prefill")),
        (Head("ITL p99", "of gaps"), _stat("itl", "p99")),
        (Head("95 % interval", "of TPOT"), _interval("tpot")),
        (Head("Runs"), _runs("tpot")),
    ),
    "stream": (
        (Head("Median", "a step"), _stat("step")),
        (Head("p99", "of steps"), _stat("step", "p99")),
        (Head("Real-time factor", "below 1 keeps up"), _stat("rtf")),
        (Head("95 % interval", "of the median"), _interval("step")),
        (Head("Steps"), _runs("step")),
    ),
}
MAIN: Sequence[Column] = (
    (Head("Peak memory", "RSS"), _peak),
    (Head("Size", "on disk"), _size),
    (Head("Right"), _right),
)
REST: Sequence[Column] = (
    (Head("Peak memory", "RSS"), _peak),
    (Head("Forecast", "of the peak"), _forecast),
    (Head("Growth", "in 100 runs"), _slope),
    (Head("Device memory"), _device_memory),
    (Head("Load", "warm"), _stat("load")),
    (Head("Load", "cold"), _stat("load_cold")),
    (Head("First run"), _stat("first")),
    (Head("Start to result", "a new process"), _stat("start")),
    (Head("Energy"), _energy),
    (Head("Agreement", "with the reference"), _agreement),
    (Head("Difference", "of what is allowed"), _difference),
    (Head("Threads"), _threads),
)


def _notes(entries: Sequence[Entry]) -> Iterator[str]:
    """What is to be said of rows, below their table."""
    found = []
    for entry in entries:
        where = " ".join(filter(None, (entry.device, entry.row.variant, number_text.setting(entry.row))))
        if notes := list(tables.notes_of(entry.row)):
            found.append(f"<li>{text(where)}: {prose('; '.join(notes))}</li>")
    if found:
        yield f'<ul class="remarks">{"".join(found[:NOTES])}</ul>'
        yield html_parts.more(len(found) - NOTES, "remark")


def _examples(group: Group) -> Iterator[str]:
    told = group.subject
    if told is None or not told.examples:
        return
    known = told.wrong is not None and told.asked is not None
    wrong = f", {number_text.whole(told.wrong)} of {number_text.whole(told.asked)} answered wrongly" if known else ""
    line = f"{told.answered_by} on texts that training never saw{wrong}."
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Text", "Expected", "Got"))
    yield f'<h3>What it answers</h3><p class="soft">{text(line)}</p>'
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="Answers of {text(group.bundle)}">'
    yield f'<table class="examples"><thead><tr>{heads}</tr></thead><tbody>'
    for each in told.examples[:EXAMPLES]:
        style, word, sign = ("good", "right", "✓") if each.right else ("bad", "wrong", "✗")
        verdict = f'<span class="{style}" role="img" aria-label="{word}">{sign}</span>'
        yield f"<tr><td>{_marked(each)}</td><td>{text(each.expected)}</td><td>{verdict} {text(each.got)}</td></tr>"
    yield "</tbody></table></div>"


def _marked(example: Example) -> str:
    """The text with what the model found in it marked; without marks where it had to be cut or cleaned."""
    found, at = [], 0
    if number_text.cut(example.text) != example.text:
        return text(example.text)
    for start, end in sorted(example.marks):
        if at <= start < end <= len(example.text):
            found.append(f"{escape(example.text[at:start])}<mark>{escape(example.text[start:end])}</mark>")
            at = end
    return "".join(found) + escape(example.text[at:])
