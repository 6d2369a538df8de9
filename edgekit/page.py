"""A Report as one HTML file that needs nothing else: no script, no font, no picture from anywhere.

Made to be read on a telephone, on a wide screen, in the dark and on paper. Every value is escaped where it is put in,
and the page forbids itself (Content-Security-Policy) to run or to load anything. What is long is cut and says so.
Its style is page.css, beside this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from edgekit import svg
from edgekit.report import (
    DASH,
    Example,
    Report,
    Row,
    Subject,
    advice,
    figure,
    is_number,
    percentile,
    share,
    size,
    whole,
)

SUBJECTS, ROWS, PLOTTED, EXAMPLES, FACTS = 8, 30, 8, 12, 20  # what a page shows at most
LETTERS, PROSE = 200, 1500  # of a value, of a paragraph
GENERATOR = '<meta name="generator" content="edgekit">'
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

HEADS = (
    ("Variant", ""),
    ("Accuracy", "{metric}"),
    ("Median", "ms per text"),
    ("p90", "ms"),
    ("p99", "ms"),
    ("Texts/s", "in batches"),
    ("Size", "on disk"),
    ("Agreement", "{agreement}"),
    ("Verified", "on this device"),
    ("Difference", "of what is allowed"),
)


def html(report: Report) -> str:
    """The page; under 2 MB whatever the report holds."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    shown = report.subjects[:SUBJECTS]
    body = [
        f"<header><h1>{_(report.title)}</h1>",
        f'<p class="soft">{_(_line(report))}</p></header>',
        *_summary(report, shown),
        *(part for number, subject in enumerate(shown) for part in _subject(f"m{number}", subject)),
        _more(len(report.subjects) - len(shown), "models"),
        *_about(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{GENERATOR}<meta name="referrer" content="no-referrer">'
        f"<title>{_(report.title)}</title><style>\n{style}</style></head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n<footer>One file: it loads nothing, runs nothing and sends nothing.</footer>\n</body></html>\n"
    )


def _(value: Any) -> str:
    """A value as the page may hold it: escaped, of bearable length, a dash for what was not measured."""
    text = DASH if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
    return escape(text if len(text) <= LETTERS else f"{text[:LETTERS]}…")


def _prose(text: str) -> str:
    """The same for a paragraph, which may be longer."""
    return escape(text if len(text) <= PROSE else f"{text[:PROSE]}…")


def _line(report: Report) -> str:
    """The day, how long it took, and on what."""
    took = f"in {report.seconds:.0f} seconds" if is_number(report.seconds) else ""
    facts = dict(report.environment)
    return ", ".join(filter(None, [f"{report.made} {took}".strip(), facts.get("processor", "")]))


def _summary(report: Report, shown: Sequence[Subject]) -> Iterator[str]:
    rows = [row for subject in report.subjects for row in subject.rows]
    checked, failed = [row for row in rows if row.check], report.failed
    yield '<section class="summary"><h2>In short</h2>'
    made = f"{_count(len(report.subjects), 'bundle')}, {_count(len(rows), 'variant')} in all:"
    if report.about:
        yield f"<p>{_prose(report.about)}</p>"
    if failed:
        said = f"{len(failed)} of {len(rows)} did not give their known answers on this device:"
        yield f'<p class="warning">{_(made)} <strong class="bad">{_(said)} {_(", ".join(failed))}.</strong></p>'
    else:
        said = f"{len(checked)} of {len(rows)} gave their known answers again on this device."
        yield f"<p>{_(made)} {_(said if checked else 'none was verified on this device.')}</p>"
    for warning in report.warnings[:FACTS]:
        yield f'<p class="warning">{_prose(warning)}</p>'
    yield "<dl>"
    for subject in shown:
        chosen = subject.pick()
        ship = f"ship {chosen.variant}" if chosen else "ship nothing yet"
        yield f"<dt>{_(subject.bundle)}: {_(ship)}</dt><dd>{_prose(advice(subject))}</dd>"
    yield "</dl></section>"


def _subject(key: str, subject: Subject) -> Iterator[str]:
    yield f'<section aria-labelledby="{key}-h"><h2 id="{key}-h">{_(subject.bundle)}</h2><p>{_(subject.what)}</p>'
    trained = f"; the trained weights have {share(subject.trained)} under torch" if is_number(subject.trained) else ""
    facts = f"{subject.source}, {subject.task}: {_metric(subject)} on {whole(subject.texts)} held-out texts{trained}."
    yield f'<p class="soft">{_(facts)}</p>'
    yield from _variants(subject)
    yield '<div class="plots">'
    yield from _plots(key, subject)
    yield "</div>"
    yield from _examples(subject)
    yield "</section>"


def _variants(subject: Subject) -> Iterator[str]:
    chosen = subject.pick()
    agreement = next((row.agreement.metric for row in subject.rows if row.agreement), "")
    metric = "share right" if subject.metric == "accuracy" else _metric(subject)
    metrics = {"metric": metric, "agreement": svg.clip(agreement)}
    heads = "".join(
        f'<th scope="col"{_side(number)}>{name}<br><small>{_(under.format(**metrics))}</small></th>'
        for number, (name, under) in enumerate(HEADS)
    )
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="Variants of {_(subject.bundle)}">'
    yield f'<table class="variants"><thead><tr>{heads}</tr></thead><tbody>'
    for row in subject.rows[:ROWS]:
        colour = svg.swatch(_series(subject, row), not row.quantized)
        ship = "<small>ship</small>" if row is chosen else ""
        cells = "".join(f'<td class="n">{cell}</td>' for cell in _cells(row))
        style = ' class="ship"' if row is chosen else ""
        yield f'<tr{style}><th scope="row">{colour}{_(svg.clip(row.variant, 48))}{ship}</th>{cells}</tr>'
    yield "</tbody></table></div>"
    yield _more(len(subject.rows) - ROWS, "variants")


def _cells(row: Row) -> Iterator[str]:
    """One for each of HEADS but the first; a telephone shows the first few without scrolling."""
    yield _(share(row.accuracy))
    for rank in (50, 90, 99):
        yield _(figure(percentile(row.latencies, rank)))
    yield _(whole(row.per_second))
    yield _(size(row.bytes))
    agreement = row.agreement
    yield _(f"{agreement.value:.4f}" if agreement and is_number(agreement.value) else None)
    check = row.check
    if check is None:
        yield from (DASH, DASH)
        return
    why = f"<br><small>{_(check.why)}</small>" if check.why else ""
    yield '<span class="good">yes</span>' if check.ok else f'<span class="bad">no</span>{why}'
    yield f"{_difference(check.difference)} of {_difference(check.tolerance)}"


def _difference(value: float) -> str:
    return _(f"{value:.2g}" if is_number(value) else None)


def _plots(key: str, subject: Subject) -> Iterator[str]:
    rows = [row for row in subject.rows if is_number(row.median)][:PLOTTED]
    left = _more(sum(is_number(row.median) for row in subject.rows) - PLOTTED, "variants")
    dots = [
        svg.Dot(
            *(row.variant, size(row.bytes), row.median or 0.0, row.accuracy * 100, row.bytes or 0),
            *(_series(subject, row), not row.quantized),
        )
        for row in rows
        if is_number(row.accuracy)
    ]
    if dots:
        about = "; ".join(f"{dot.name}: {figure(dot.x)} ms, {dot.y:.1f} %, {dot.note}" for dot in dots)
        picture = svg.scatter(
            *(f"{key}-a", f"Accuracy against latency of {subject.bundle}"[:LETTERS], about[: LETTERS * 4], dots),
            *("median ms per text", f"{_metric(subject)}, %"),
            y_most=100,
        )
        text = "Up and to the left is better. The area of a dot is the size on disk; hollow dots are not quantized."
        yield f"<figure><h3>Accuracy, latency, size</h3>{picture}<figcaption>{text}</figcaption>{left}</figure>"
    timed = [_strip(subject, row) for row in rows if min(row.latencies) > 0]
    if timed:
        about = "; ".join(f"{strip.name}: {strip.note}" for strip in timed)
        picture = svg.strips(
            f"{key}-b",
            f"Latency of {subject.bundle}"[:LETTERS],
            about[: LETTERS * 4],
            timed,
            "ms per text, by powers of ten",
        )
        text = f"A dot is a run (at most {svg.SHOWN} are drawn); the box holds the middle half, the tick is the median."
        yield f"<figure><h3>Latency, run by run</h3>{picture}<figcaption>{text}</figcaption>{left}</figure>"


def _strip(subject: Subject, row: Row) -> svg.Strip:
    low, high = percentile(row.latencies, 25), percentile(row.latencies, 75)
    middle = (low, high) if low is not None and high is not None else None
    note = f"median {figure(row.median)} ms, {whole(len(row.latencies))} runs"
    return svg.Strip(row.variant, note, row.latencies, middle, _series(subject, row), not row.quantized)


def _examples(subject: Subject) -> Iterator[str]:
    if not subject.examples:
        return
    known = subject.wrong is not None and subject.asked is not None
    wrong = f", {whole(subject.wrong)} of {whole(subject.asked)} answered wrongly" if known else ""
    line = f"{subject.answered_by} on texts that training never saw{wrong}."
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Text", "Expected", "Got"))
    yield f'<h3>What it answers</h3><p class="soft">{_(line)}</p>'
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="Answers of {_(subject.bundle)}">'
    yield f'<table class="examples"><thead><tr>{heads}</tr></thead><tbody>'
    for example in subject.examples[:EXAMPLES]:
        style, word, sign = ("good", "right", "✓") if example.right else ("bad", "wrong", "✗")
        verdict = f'<span class="{style}" role="img" aria-label="{word}">{sign}</span>'
        yield f"<tr><td>{_marked(example)}</td><td>{_(example.expected)}</td><td>{verdict} {_(example.got)}</td></tr>"
    yield "</tbody></table></div>"


def _marked(example: Example) -> str:
    """The text with what the model found in it marked."""
    found, at = [], 0
    if len(example.text) > LETTERS:
        return _(example.text)
    for start, end in sorted(example.marks):
        if at <= start < end <= len(example.text):
            found.append(f"{escape(example.text[at:start])}<mark>{escape(example.text[start:end])}</mark>")
            at = end
    return "".join(found) + escape(example.text[at:])


def _about(report: Report) -> Iterator[str]:
    if report.method:
        yield '<section><h2>How it was measured</h2><div class="notes">'
        yield "".join(f"<p>{_prose(text)}</p>" for text in report.method[:FACTS]) + "</div></section>"
    if report.environment:
        facts = "".join(f"<dt>{_(name)}</dt><dd>{_prose(value)}</dd>" for name, value in report.environment[:FACTS])
        yield f'<section><h2>The machine</h2><dl class="facts">{facts}</dl></section>'
    if report.commands:
        lines = "\n".join(_(line) for line in report.commands[:FACTS])
        yield f"<section><h2>Do it again</h2><pre>{lines}</pre></section>"


def _metric(subject: Subject) -> str:
    return svg.clip(subject.metric.replace("_", " "))


def _side(number: int) -> str:
    return ' class="n"' if number else ""


def _series(subject: Subject, row: Row) -> int:
    """A colour per target, in the order in which targets come."""
    return list(dict.fromkeys(each.target for each in subject.rows)).index(row.target)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _more(number: int, noun: str) -> str:
    return f'<p class="soft">{number} more {noun} are not shown.</p>' if number > 0 else ""
