"""A bundle's section of the page: a table for each scenario, notes on rows, plots and example outputs.

A column that no row has is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from html import escape

from edgekit.checks import invariance
from edgekit.reporting import html_parts, number_text, svg, tables
from edgekit.reporting.html_hero import hero
from edgekit.reporting.html_parts import Cell, Head, Line, cell, prose, text
from edgekit.reporting.plots import lead, plots
from edgekit.reporting.record import NEEDED, Example, Figure
from edgekit.reporting.row_groups import Entry, Group

EXAMPLES, NOTES = 12, 12  # of a bundle, at most
EDGE = 64  # of an example picture, in CSS pixels
PICTURE = re.compile(r"data:image/(png|jpeg|webp);base64,[A-Za-z0-9+/=]{1,20000}")
RANKS = {f"p{rank}": rank for rank in NEEDED if rank != 95}  # the percentiles that the tables have
Column = tuple[Head, Callable[[Entry], Cell]]
TITLES = {
    "single-stream": "Single input",
    "offline": "Batches",
    "llm": "Text generation",
    "stream": "Stream, step by step",
}


def section(key: str, group: Group) -> Iterator[str]:
    """The section of one bundle. `key` makes ids unique on the page."""
    subject = group.subject
    yield f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{text(group.bundle)}</h2>'
    if subject:
        yield f"<p>{prose(subject.what)}</p>"
    yield f'<p class="soft">{text(_facts(group))}</p>'
    picture = lead(f"{key}-lead", group)
    yield f'<div class="lead"><div>{"".join(hero(group))}</div>{picture}</div>'
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
    parts = [row.source, row.task, "random weights: its outputs have no meaning" if row.random else ""]
    accuracy = next((entry.accuracy for entry in group.entries if entry.accuracy), None)
    if accuracy:
        trained = f", {number_text.share(accuracy.trained)} before the export" if accuracy.trained is not None else ""
        metric, items = accuracy.metric.replace("_", " "), number_text.whole(accuracy.items)
        parts.append(f"{metric} on {items} held-out inputs{trained}")
    return ", ".join(filter(None, parts)) + "."


def _table(group: Group, scenario: str, entries: Sequence[Entry]) -> Iterator[str]:
    """The main table, and a folded one with the other figures."""
    title = f"{TITLES[scenario]}: {group.bundle}"
    names = list(_name_columns(group, entries))
    first = entries[: html_parts.MOST_ROWS]
    main = _lines([*names, *_quality_columns(group), *MIDDLE[scenario], *MAIN], first)
    yield from html_parts.table(title, *main)
    yield _few_runs(*main)
    yield html_parts.more(len(entries) - len(first), "row")
    rest = _lines([*names, *REST], first)
    if any(not each.empty for line in rest[1] for each in line.cells[1 + len(names) :]):
        yield f"<details><summary>Memory, start and checks, {TITLES[scenario].lower()}</summary>"
        yield from html_parts.table(f"{title}, the rest", *rest)
        yield "</details>"


def _few_runs(heads: Sequence[Head], lines: Sequence[Line]) -> str:
    """A sentence about dashes in the columns of percentiles."""
    ranks = [at for at, head in enumerate(heads) if head.name.rpartition(" ")[2] in RANKS]
    shown = [at for at in ranks if any(not line.cells[at].empty for line in lines)]
    if all(not line.cells[at].empty for line in lines for at in shown):
        return ""
    needed = number_text.joined([f"{name} needs {NEEDED[rank]} runs" for name, rank in RANKS.items()])
    return f'<p class="soft">{number_text.DASH} too few runs for this percentile: {needed}.</p>'


def _lines(columns: Sequence[Column], entries: Sequence[Entry]) -> tuple[list[Head], list[Line]]:
    heads = [Head("Variant", number=False), *(head for head, _ in columns)]
    return heads, [
        Line((_name(entry), *(find(entry) for _, find in columns)), "ship" if entry.shipped else "")
        for entry in entries
    ]


def _name_columns(group: Group, entries: Sequence[Entry]) -> Iterator[Column]:
    """The columns Device and Test, where rows differ in them."""
    if len({entry.device for entry in group.entries}) > 1:
        yield Head("Device", "file", number=False), lambda entry: _named(entry.device)
    if len({number_text.setting(entry.row) for entry in entries}) > 1:
        yield Head("Test", number=False), lambda entry: _named(number_text.setting(entry.row))


def _named(name: str) -> Cell:
    return cell(svg.clip(name, 40), svg.clip(name, 40))


def _quality_columns(group: Group) -> Iterator[Column]:
    """The task's metric, where there are held-out inputs, and how near the outputs are to the reference."""
    metric = next((entry.accuracy.metric for entry in group.entries if entry.accuracy), "")
    yield Head("Accuracy", "" if metric == "accuracy" else svg.clip(metric.replace("_", " "))), _accuracy
    names = [entry.row.check.agreement.metric for entry in group.entries if entry.row.check]
    errors = bool(names) and number_text.compares_errors(names[0])
    yield Head("Error" if errors else "Agreement", "with the reference"), _agreement


def _name(entry: Entry) -> Cell:
    """The variant with a mark: correct, invalid (and struck through), not checked; and whether it was disturbed."""
    row = entry.row
    name = text(svg.clip(row.variant, 48))
    marks = [_mark(entry), f"<s>{name}</s>" if row.invalid else name]
    if row.invalid:
        marks.append('<small class="bad">invalid</small>')
    elif row.disturbed:
        marks.append('<small class="warn">⚠ disturbed</small>')
    if entry.shipped:
        marks.append('<small class="good">ship</small>')
    return Cell(svg.swatch(entry.series, entry.hollow) + " ".join(marks), svg.clip(row.variant, 48))


def _mark(entry: Entry) -> str:
    """Whether the outputs were correct, as a sign."""
    check = entry.row.check
    if entry.row.invalid or (check and not check.ok):
        style, word, sign = "bad", "wrong", "✗"
    else:
        style, word, sign = ("good", "correct", "✓") if check else ("soft", "not checked", "?")
    return f'<span class="{style}" role="img" aria-label="{word}" title="{word}">{sign}</span>'


def _accuracy(entry: Entry) -> Cell:
    accuracy = entry.accuracy
    return cell(number_text.share(accuracy.value), accuracy.value) if accuracy else Cell(number_text.DASH)


def _stat(quantity: str, statistic: str = "median") -> Callable[[Entry], Cell]:
    def find(entry: Entry) -> Cell:
        figure = entry.figure(quantity)
        value = getattr(figure, statistic) if figure else None
        unit = "" if figure is None or figure.unit == "tokens/s" else figure.unit
        return cell(number_text.quantity(value, unit), value)

    return find


def _median(quantity: str, noun: str) -> Callable[[Entry], Cell]:
    """The median, with its 95 % interval and the number of runs under it."""

    def find(entry: Entry) -> Cell:
        figure: Figure | None = entry.figure(quantity)
        if figure is None:
            return Cell(number_text.DASH)
        unit = "" if figure.unit == "tokens/s" else figure.unit
        interval = number_text.interval(figure)
        notes = [interval] if interval != number_text.DASH else []
        notes.append(number_text.count(figure.n, noun))
        under = f"<small>{text(' · '.join(notes))}</small>"
        return Cell(f"{text(number_text.quantity(figure.median, unit))}<br>{under}", _key(figure.median))

    return find


def _key(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _peak(entry: Entry) -> Cell:
    peak = entry.row.memory.peak_rss if entry.row.memory else None
    return cell(number_text.size(peak), peak)


def _forecast(entry: Entry) -> Cell:
    """The forecast of the peak memory, and its error."""
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
    energy = entry.row.energy
    if energy is None or energy.each is None:
        return Cell(number_text.DASH)
    return cell(f"{number_text.figure(energy.each)} J per {energy.per}", energy.each)


def _size(entry: Entry) -> Cell:
    return cell(number_text.size(entry.row.bytes), entry.row.bytes)


def _agreement(entry: Entry) -> Cell:
    check = entry.row.check
    if check is None or not math.isfinite(check.agreement.value):
        return Cell(number_text.DASH)
    small = text(svg.clip(check.agreement.metric))
    if check.batch_invariant is False:  # what an item is answered depends on the others of its batch
        small += f"<br>in a batch: {text(invariance.words(check.batch_invariant, check.batch_difference))}"
    value = text(number_text.near(check.agreement.value))
    return Cell(f"{value}<br><small>{small}</small>", check.agreement.value)


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


# The main columns of each scenario.
MIDDLE: dict[str, Sequence[Column]] = {
    "single-stream": (
        (Head("Median", "per input, 95 % interval"), _median("latency", "run")),
        (Head("p90", "of runs"), _stat("latency", "p90")),
        (Head("p99", "of runs"), _stat("latency", "p99")),
    ),
    "offline": ((Head("Items/s", "median, 95 % interval"), _median("throughput", "run")),),
    "llm": (
        (Head("TTFT", "median"), _stat("ttft")),
        (Head("TPOT", "median, 95 % interval"), _median("tpot", "run")),
        (Head("Decode", "tokens/s"), _stat("decode")),
        (Head("Prefill", "tokens/s"), _stat("prefill")),
        (Head("ITL p99", "of gaps"), _stat("itl", "p99")),
    ),
    "stream": (
        (Head("Median", "per step, 95 % interval"), _median("step", "step")),
        (Head("p99", "of steps"), _stat("step", "p99")),
        (Head("Real-time factor", "below 1: real time"), _stat("rtf")),
    ),
}
MAIN: Sequence[Column] = (
    (Head("Peak memory", "RSS"), _peak),
    (Head("Size", "on disk"), _size),
)
REST: Sequence[Column] = (
    (Head("Peak memory", "RSS"), _peak),
    (Head("Forecast", "of the peak"), _forecast),
    (Head("Growth", "in 100 runs"), _slope),
    (Head("Device memory"), _device_memory),
    (Head("Load", "warm"), _stat("load")),
    (Head("Load", "cold"), _stat("load_cold")),
    (Head("First run"), _stat("first")),
    (Head("Start to result", "new process"), _stat("start")),
    (Head("Energy"), _energy),
    (Head("Difference", "of tolerance"), _difference),
    (Head("Threads"), _threads),
)


def _notes(entries: Sequence[Entry]) -> Iterator[str]:
    """The notes on rows below their table."""
    items = []
    for entry in entries:
        where = " ".join(filter(None, (entry.device, entry.row.variant, number_text.setting(entry.row))))
        if notes := list(tables.faults_of(entry.row)):
            items.append(f"<li>{text(where)}: {prose('; '.join(notes))}</li>")
    if items:
        yield f'<ul class="remarks">{"".join(items[:NOTES])}</ul>'
        yield html_parts.more(len(items) - NOTES, "remark")


def _examples(group: Group) -> Iterator[str]:
    subject = group.subject
    if subject is None or not subject.examples:
        return
    counted = subject.wrong is not None and subject.asked is not None
    wrong = f"; {number_text.whole(subject.wrong)} of {number_text.whole(subject.asked)} wrong" if counted else ""
    line = f"Outputs of {subject.answered_by} on held-out inputs{wrong}."
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Input", "Expected", "Output"))
    yield f'<h3>Example outputs</h3><p class="soft">{text(line)}</p>'
    yield f'<div class="frame" role="region" aria-label="Outputs of {text(group.bundle)}">'
    yield f'<table class="examples"><thead><tr>{heads}</tr></thead><tbody>'
    for each in subject.examples[:EXAMPLES]:
        style, word, sign = ("good", "right", "✓") if each.right else ("bad", "wrong", "✗")
        verdict = f'<span class="{style}" role="img" aria-label="{word}">{sign}</span>'
        yield f'<tr><td>{_marked(each)}</td><td data-l="Expected"><span>{text(each.expected)}</span></td>'
        yield f'<td data-l="Output"><span>{verdict} {text(each.got)}</span></td></tr>'
    yield "</tbody></table></div>"


def _marked(example: Example) -> str:
    """The picture, or the text with the model's spans marked; without marks where it is cut or has odd characters."""
    if PICTURE.fullmatch(example.text):
        return f'<img src="{example.text}" alt="held-out picture" width="{EDGE}" height="{EDGE}">'
    parts, at = [], 0
    if number_text.cut(example.text) != example.text:
        return text(example.text)
    for start, end in sorted(example.marks):
        if at <= start < end <= len(example.text):
            parts.append(f"{escape(example.text[at:start])}<mark>{escape(example.text[start:end])}</mark>")
            at = end
    return "".join(parts) + escape(example.text[at:])
