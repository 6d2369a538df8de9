"""Records as one self-contained HTML file: no font, no image file, and one script, which sorts the tables.

It is for telephones, wide screens, dark mode and paper. Every value is escaped where it is inserted
(`edgekit.reporting.html_parts`). The Content-Security-Policy of the page lets it load nothing and run only its own
script, by hash. Long texts are cut and end with …. The style is page.css and the script page.js, beside this file.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekit.reporting import comparison as comparing
from edgekit.reporting import html_hero, html_parts, number_text, record_file, tables
from edgekit.reporting.comparison import Change, Comparison
from edgekit.reporting.html_parts import Cell, Head, Line, cell, prose, text
from edgekit.reporting.html_sections import section
from edgekit.reporting.record import TITLE, Record
from edgekit.reporting.row_groups import Group, grouped

BUNDLES, FACTS = 12, 20  # bundles, and items of a list, that a page shows at most
BYTES = 1_250_000  # of all parts together, at most
EMBEDDED = 600_000  # letters of the records' JSON in base64, all together
CONTENTS = 3  # bundles from which a page has a table of contents
SEVERITY = {"invalid": 0, "worse": 1, "better": 2}  # the order of rows by verdict
GENERATOR = '<meta name="generator" content="edgekit">'


def html(
    records: Sequence[Record],
    names: Sequence[str] = ("",),
    compared: Comparison | None = None,
    failures: Sequence[str] = (),
    undecided: Sequence[str] = (),
) -> str:
    """The page, under 2 MB for any records. `names`: a name for each file, where there are several.

    With `compared` the page begins with the changes. `failures`: rows that fail a bound, in words; `undecided`: rows
    beyond a bound that do not fail, and why.
    """
    labels = list(names) if len(records) > 1 else [""]
    groups = grouped(records, labels)
    title = _title(records, groups, compared)
    parts = [
        _summary(records, labels, groups, compared, failures, undecided),
        _about(records, labels, compared),
        _compared(compared) if compared else (),
        *(section(f"m{number}", group) for number, group in enumerate(groups[:BUNDLES])),
    ]
    summary, about, *sections = _fitting(["\n".join(filter(None, part)) for part in parts])
    body = (
        _header(records, labels, title),
        *([_verdict(compared), sections[0], summary, *sections[1:]] if compared else [summary, *sections]),
        *(html_parts.more(len(groups) - BUNDLES, "bundle"), about, _downloads(records, labels)),
    )
    return _document(text(title), "\n".join(filter(None, body)))


def _title(records: Sequence[Record], groups: Sequence[Group], compared: Comparison | None) -> str:
    """What was measured, and where: `minilm.ek and speaker.ek on AMD EPYC 7B13`."""
    names = [number_text.cut(group.bundle, 40) for group in groups]
    what = number_text.joined(names) if len(names) <= 3 else number_text.count(len(names), "bundle")
    if not what or (records[0].title != TITLE and not compared):
        return number_text.cut(records[0].title)
    machines = list(dict.fromkeys(record.environment.cpu for record in records))
    where = number_text.cut(machines[0], 60) if len(machines) == 1 else f"{len(machines)} machines"
    return f"{what} on {where}{', compared' if compared else ''}"


def _header(records: Sequence[Record], names: Sequence[str], title: str) -> str:
    lines = "\n".join(f'<p class="soft">{text(_line(record, name))}</p>' for record, name in zip(records, names))
    kind = "EdgeKit comparison" if len(records) > 1 else TITLE
    return f'<header><p class="kind">{text(kind)}</p><h1>{text(title)}</h1>{lines}</header>'


def _downloads(records: Sequence[Record], names: Sequence[str]) -> str:
    """A link for each record, which saves its JSON; the data is in the page."""
    links, left = [], EMBEDDED
    for record, name in zip(records, names):
        data = base64.b64encode(record_file.encode(record)).decode()
        if len(data) <= left:
            left -= len(data)
            file = f"{re.sub('[^A-Za-z0-9_-]', '_', name)[:40] or 'bench'}.json"
            link = f'<a download="{file}" href="data:application/json;base64,{data}">{text(name or file)}</a>'
            links.append(link)
    return f'<p class="soft downloads">Save the data of this page as JSON: {", ".join(links)}</p>' if links else ""


def _verdict(comparison: Comparison) -> str:
    """The outcome of a comparison in large letters."""
    worse = sum(change.verdict == "worse" for change in comparison.changes)
    better = sum(change.verdict == "better" for change in comparison.changes)
    broken = sum(
        bool(match.rows[0] and match.invalid(file) and not match.invalid(0))
        for match in comparison.matches
        for file in range(1, len(comparison.names))
    )
    counts = ((worse, "worse"), (better, "better"), (broken, "invalid now"))
    words = [f"{count} {word}" for count, word in counts if count]
    style = "bad" if worse or broken else "good" if better else "soft"
    sign = {"bad": "▼", "good": "▲", "soft": "≈"}[style]
    line = f"{number_text.joined(words)}, of {len(comparison.changes)} figures" if words else "No significant change"
    return f'<p class="verdict {style}">{sign} {text(line)}</p>'


def _fitting(parts: Sequence[str]) -> list[str]:
    """The parts that fit in `BYTES`, with a notice in place of the others. Only hostile names make a part that long."""
    left, fitting = BYTES, []
    for part in parts:
        size = len(part.encode(errors="replace"))
        fits = size <= left
        fitting.append(part if fits else '<p class="warning">A part of this page is too long to show.</p>')
        left -= size if fits else 0
    return fitting


def _document(title: str, body: str) -> str:
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    style, script = f"\n{style}", f"\n{script}"
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{GENERATOR}<meta name="referrer" content="no-referrer">'
        f"<title>{title}</title><style>{style}</style></head>\n<body>\n{body}\n"
        "<footer>This file is complete: it loads nothing and sends nothing.</footer>\n"
        f"<script>{script}</script></body></html>\n"
    )


def _hash(inline: str) -> str:
    """The SHA-256 of an inline style or script, as a Content-Security-Policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}"


def _line(record: Record, name: str) -> str:
    """Date, duration, processor, threads and version of a record."""
    day = record.made.replace("T", " ").removesuffix("Z") + (" UTC" if record.made.endswith("Z") else "")
    duration = (
        f"in {number_text.count(round(record.seconds), 'second')}" if number_text.is_number(record.seconds) else ""
    )
    threads = sorted({row.threads for row in record.rows})
    used = f"{', '.join(map(str, threads))} thread{'' if threads == [1] else 's'}" if threads else ""
    version = record.environment.software.get("edgekit", "")
    edgekit = f"edgekit {version}" if version else ""
    line = ", ".join(filter(None, [f"{day} {duration}".strip(), record.environment.cpu, used, edgekit]))
    return f"{name}: {line}" if name else line


def _summary(
    records: Sequence[Record],
    names: Sequence[str],
    groups: Sequence[Group],
    compared: Comparison | None,
    failures: Sequence[str],
    undecided: Sequence[str],
) -> Iterator[str]:
    yield '<section class="summary"><h2>Summary</h2>'
    if failures:
        line = f"{number_text.count(len(failures), 'row')} {'fails' if len(failures) == 1 else 'fail'} a bound."
        yield f'<div class="error"><p><strong class="bad">{text(line)}</strong></p>{_list(failures)}</div>'
        yield html_parts.more(len(failures) - FACTS, "failure")
    if undecided:
        line = f"{number_text.count(len(undecided), 'row')} beyond a bound that did not fail:"
        yield f'<div class="warning"><p>{text(line)}</p>{_list(undecided)}</div>'
        yield html_parts.more(len(undecided) - FACTS, "row")
    if compared:
        yield from (f"<p>{prose(line)}</p>" for line in comparing.summary(compared))
    yield from _counted(records, names)
    if warnings := [warning for record in records for warning in record.warnings][:FACTS]:
        yield f'<ul class="remarks">{"".join(f"<li>{prose(each)}</li>" for each in warnings)}</ul>'
    if len(groups) >= CONTENTS:
        yield f'<nav aria-label="Bundles"><ul class="contents">{"".join(_contents(groups))}</ul></nav>'
    yield "</section>"


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{prose(item)}</li>' for item in items[:FACTS])}</ul>"


def _contents(groups: Sequence[Group]) -> Iterator[str]:
    """An item of the table of contents for each bundle, with what to ship."""
    for number, group in enumerate(groups[:BUNDLES]):
        lines = [f"{device}: {html_hero.headline(verdict)}".removeprefix(": ") for device, verdict in group.verdicts]
        yield f'<li><a href="#m{number}">{text(group.bundle)}</a> {prose("; ".join(lines))}</li>'


def _counted(records: Sequence[Record], names: Sequence[str]) -> Iterator[str]:
    """How many results were correct; the invalid rows by name, in red; one amber line about all disturbed rows."""
    rows = [row for record in records for row in record.rows]
    correct = [row for row in rows if row.check and row.check.ok and not row.invalid]
    invalid = [
        f"{number_text.cut(row.name, 100)}{name and f' in {name}'}"
        for record, name in zip(records, names)
        for row in record.rows
        if row.invalid
    ]
    measurements = number_text.count(len(rows), "measurement")
    counted = "All" if rows and len(correct) == len(rows) else f"{len(correct)} of"
    yield f"<p>{counted} {text(measurements)} returned correct results.</p>"
    if invalid:
        named = number_text.joined(invalid[:6])
        rest = f" and {len(invalid) - 6} more" if len(invalid) > 6 else ""
        yield f'<p class="error"><strong class="bad">Invalid: {prose(named)}{rest}.</strong></p>'
    if any(row.disturbed for row in rows):
        yield f'<p class="warning">⚠ {prose(tables.disturbances(rows))}</p>'


def _compared(comparison: Comparison) -> Iterator[str]:
    yield '<section class="first" aria-labelledby="compared-h"><h2 id="compared-h">Changes</h2>'
    heads = [Head("Row", number=False), Head("Figure", number=False)]
    heads += [Head("Change", f"to {name}") for name in comparison.names[1:]]
    heads += [Head("Median", name) for name in comparison.names]
    figures: dict[tuple[object, str], list[Change]] = {}
    for change in comparison.changes:
        figures.setdefault((change.key, change.name), []).append(change)
    ordered = sorted(figures.values(), key=lambda same: min(SEVERITY.get(each.verdict, 3) for each in same))
    yield from html_parts.table("Changes", heads, [_changes(same, comparison) for same in ordered], most=200)
    if comparison.missing:
        yield '<h3>Not in every file</h3><ul class="remarks">'
        for match, files in comparison.missing[:FACTS]:
            yield f"<li>{text(match.key.name)}: only in {text(number_text.joined(files))}</li>"
        yield f"</ul>{html_parts.more(len(comparison.missing) - FACTS, 'row')}"
    if comparison.notes:
        yield "<h3>Measured in different ways</h3>"
        yield f'<ul class="remarks">{"".join(f"<li>{prose(note)}</li>" for note in comparison.notes[:FACTS])}</ul>'
        yield html_parts.more(len(comparison.notes) - FACTS, "remark")
    if comparison.differences:
        yield "<h3>The environments differ</h3>"
        columns = [Head("", number=False), *(Head(name, number=False) for name in comparison.names)]
        rows = [Line((cell(name), *(cell(each or None) for each in values))) for name, values in comparison.differences]
        yield from html_parts.table("Different environments", columns, rows)
    yield "</section>"


def _changes(same: Sequence[Change], comparison: Comparison) -> Line:
    """The line of one figure of one row, with its value in each file."""
    one, by_file = same[0], {change.file: change for change in same}
    ratios, values = [], [cell(one.text(one.before), one.before)]
    for file in range(1, len(comparison.names)):
        change = by_file.get(file)
        ratios.append(_ratio(change) if change else Cell(number_text.DASH))
        values.append(cell(change.text(change.after), change.after) if change else Cell(number_text.DASH))
    return Line((cell(one.key.name, one.key.name), cell(one.name, one.name), *ratios, *values))


def _ratio(change: Change) -> Cell:
    style = {"better": "good", "worse": "bad", "invalid": "bad"}.get(change.verdict, "soft")
    sign = {"better": "▲", "worse": "▼", "invalid": "✗"}.get(change.verdict, "≈")
    p = f", p {comparing.p_text(change.p)}" if change.p is not None else ""
    verdict = f"<small>{text(change.verdict)}{text(p)}</small>"
    ratio = text(number_text.change(change.ratio))
    return Cell(
        f'<span class="{style}"><span aria-hidden="true">{sign}</span> {ratio}</span><br>{verdict}', change.ratio
    )


def _about(records: Sequence[Record], names: Sequence[str], compared: Comparison | None) -> Iterator[str]:
    method = list(dict.fromkeys(each for record in records for each in record.method))[:FACTS]
    method += [comparing.METHOD] if compared else []
    if method:
        yield '<section><h2>Method</h2><div class="notes">'
        yield "".join(f"<p>{prose(each)}</p>" for each in method) + "</div></section>"
    yield f"<section><h2>{'The machines' if len(records) > 1 else 'The machine'}</h2>"
    for record, name in zip(records, names):
        heading = f"<h3>{text(name)}</h3>" if name else ""
        yield heading + html_parts.facts(list(number_text.facts(record.environment).items()))
    yield "</section>"
    commands = list(dict.fromkeys(line for record in records for line in record.commands))
    if commands:
        lines = "\n".join(prose(line) for line in commands[:FACTS])
        yield f"<section><h2>Do it again</h2><pre>{lines}</pre>"
        for record, name in zip(records, names):
            versions = "; ".join((*record.environment.engines.values(), *_software(record)))
            yield f'<p class="soft">{text(name)}{": " if name else "With "}{prose(versions)}.</p>'
        yield "</section>"


def _software(record: Record) -> list[str]:
    return [f"{name} {version}" for name, version in record.environment.software.items()]
