"""Records as one HTML file that needs nothing else: no font, no picture, and no script but its own that sorts tables.

Made to be read on a telephone, on a wide screen, in the dark and on paper. Every value is escaped where it is put in
(`edgekit.reporting.html_parts`), and the page forbids itself (Content-Security-Policy) to load anything, or to run
anything but that one script, which is known by its hash. What is long is cut and says so. Its style is page.css, its
script page.js, beside this file.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekit.reporting import comparison as comparing
from edgekit.reporting import html_parts, number_text
from edgekit.reporting.comparison import Change, Comparison
from edgekit.reporting.html_parts import Cell, Head, Line, cell, prose, text
from edgekit.reporting.html_sections import section
from edgekit.reporting.record import Record
from edgekit.reporting.row_groups import Group, grouped

BUNDLES, FACTS = 12, 20  # what a page shows at most
BYTES = 1_900_000  # that its parts may have together
SEVERITY = {"invalid": 0, "worse": 1, "better": 2}  # what comes first
GENERATOR = '<meta name="generator" content="edgekit">'


def html(
    records: Sequence[Record],
    names: Sequence[str] = ("",),
    compared: Comparison | None = None,
    failures: Sequence[str] = (),
) -> str:
    """The page; under 2 MB whatever the records hold. `names`: what to call the files, where there are several.

    With `compared` it begins with what changed; `failures` are rows that a bound did not let through.
    """
    labels = list(names) if len(records) > 1 else [""]
    groups = grouped(records, labels)
    title = "EdgeKit comparison" if compared else records[0].title
    head = "\n".join(f'<p class="soft">{text(_line(record, name))}</p>' for record, name in zip(records, labels))
    parts = [
        _summary(records, labels, groups, compared, failures),
        _about(records, labels, compared),
        _compared(compared) if compared else (),
        *(section(f"m{number}", group) for number, group in enumerate(groups[:BUNDLES])),
    ]
    summary, about, *sections = _fitting(["\n".join(filter(None, part)) for part in parts])
    body = (
        *(f"<header><h1>{text(title)}</h1>{head}</header>", summary, *sections),
        *(html_parts.more(len(groups) - BUNDLES, "bundle"), about),
    )
    return _document(text(title), "\n".join(filter(None, body)))


def _fitting(parts: Sequence[str]) -> list[str]:
    """Of these, as far as they go in `BYTES`, whole: only names that somebody made to be long are longer."""
    left, found = BYTES, []
    for part in parts:
        size = len(part.encode(errors="replace"))
        fits = size <= left
        found.append(part if fits else '<p class="warning">A part of this page is too long to be shown.</p>')
        left -= size if fits else 0
    return found


def _document(title: str, body: str) -> str:
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    style, script = f"\n{style}", f"\n{script}"
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{GENERATOR}<meta name="referrer" content="no-referrer">'
        f"<title>{title}</title><style>{style}</style></head>\n<body>\n{body}\n"
        "<footer>One file: it loads nothing and sends nothing. A click on a column's head sorts by it.</footer>\n"
        f"<script>{script}</script></body></html>\n"
    )


def _hash(inline: str) -> str:
    """By which a policy knows what it lets run: the SHA-256 of what stands between the tags."""
    return f"sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}"


def _line(record: Record, name: str) -> str:
    """The day, how long it took, and on what."""
    day = record.made.replace("T", " ").removesuffix("Z") + (" UTC" if record.made.endswith("Z") else "")
    took = f"in {number_text.count(round(record.seconds), 'second')}" if number_text.is_number(record.seconds) else ""
    said = ", ".join(filter(None, [f"{day} {took}".strip(), record.environment.cpu]))
    return f"{name}: {said}" if name else said


def _summary(
    records: Sequence[Record],
    names: Sequence[str],
    groups: Sequence[Group],
    compared: Comparison | None,
    failures: Sequence[str],
) -> Iterator[str]:
    yield '<section class="summary"><h2>In short</h2>'
    if failures:
        broke = text(f"{number_text.count(len(failures), 'row')} broke a bound.")
        yield f'<p class="warning"><strong class="bad">{broke}</strong></p>'
        yield f"<ul>{''.join(f'<li>{prose(failure)}</li>' for failure in failures[:FACTS])}</ul>"
        yield html_parts.more(len(failures) - FACTS, "broken bound")
    if compared:
        yield from (f"<p>{prose(line)}</p>" for line in comparing.summary(compared))
    yield from _counted(records, names)
    for warning in [warning for record in records for warning in record.warnings][:FACTS]:
        yield f'<p class="warning">{prose(warning)}</p>'
    yield "<dl>"
    for group in groups[:BUNDLES]:
        for device, verdict in group.verdicts:
            where = f" on {text(device)}" if device else ""
            ship = f"ship {text(verdict.best.variant)}" if verdict.best else "ship nothing yet"
            yield f"<dt>{text(group.bundle)}{where}: {ship}</dt><dd>{prose(verdict.words)}</dd>"
    yield "</dl></section>"


def _counted(records: Sequence[Record], names: Sequence[str]) -> Iterator[str]:
    """How much was measured, and how much of it may be used."""
    rows = [row for record in records for row in record.rows]
    variants = {(number, row.bundle, row.variant) for number, record in enumerate(records) for row in record.rows}
    right = [row for row in rows if row.check and row.check.ok and not row.invalid]
    wrong = [
        f"{number_text.cut(row.name, 100)}{name and f' in {name}'}"
        for record, name in zip(records, names)
        for row in record.rows
        if row.invalid
    ]
    noisy = [row for row in rows if row.disturbed]
    bundles = number_text.count(len({bundle for _, bundle, _ in variants}), "bundle")
    head = f"{bundles}, {number_text.count(len(variants), 'variant')}, {number_text.count(len(rows), 'row')}:"
    found = [f"{len(right)} gave their known answers again in the process that was timed"]
    found += [f"{len(noisy)} {'was' if len(noisy) == 1 else 'were'} disturbed"] if noisy else []
    yield f"<p>{text(head)} {text(number_text.joined(found))}.</p>"
    if wrong:
        named = number_text.joined(wrong[:6])
        rest = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        yield f'<p class="warning"><strong class="bad">Invalid: {prose(named)}{rest}.</strong></p>'


def _compared(found: Comparison) -> Iterator[str]:
    yield '<section aria-labelledby="compared-h"><h2 id="compared-h">What changed</h2>'
    heads = [Head("Row", number=False), Head("Figure", number=False)]
    heads += [Head("Change", f"to {name}") for name in found.names[1:]]
    heads += [Head("Median", name) for name in found.names]
    figures: dict[tuple[object, str], list[Change]] = {}
    for change in found.changes:
        figures.setdefault((change.key, change.name), []).append(change)
    ordered = sorted(figures.values(), key=lambda same: min(SEVERITY.get(each.verdict, 3) for each in same))
    yield from html_parts.table("What changed", heads, [_changes(same, found) for same in ordered], most=200)
    if found.alone:
        yield '<h3>Not in every file</h3><ul class="remarks">'
        for match, holders in found.alone[:FACTS]:
            yield f"<li>{text(match.key.name)}: only in {text(number_text.joined(holders))}</li>"
        yield f"</ul>{html_parts.more(len(found.alone) - FACTS, 'row')}"
    if found.notes:
        yield "<h3>Not measured alike</h3>"
        yield f'<ul class="remarks">{"".join(f"<li>{prose(note)}</li>" for note in found.notes[:FACTS])}</ul>'
        yield html_parts.more(len(found.notes) - FACTS, "remark")
    if found.differences:
        yield "<h3>The environments differ</h3>"
        columns = [Head("", number=False), *(Head(name, number=False) for name in found.names)]
        rows = [Line((cell(name), *(cell(value or None) for value in said))) for name, said in found.differences]
        yield from html_parts.table("Differing environments", columns, rows)
    yield "</section>"


def _changes(same: Sequence[Change], found: Comparison) -> Line:
    """One figure of one row, in the first file and in all others."""
    one, by_file = same[0], {change.file: change for change in same}
    ratios, values = [], [cell(one.shown(one.before), one.before)]
    for file in range(1, len(found.names)):
        change = by_file.get(file)
        ratios.append(_ratio(change) if change else Cell(number_text.DASH))
        values.append(cell(change.shown(change.after), change.after) if change else Cell(number_text.DASH))
    return Line((cell(one.key.name, one.key.name), cell(one.name, one.name), *ratios, *values))


def _ratio(change: Change) -> Cell:
    colour = {"better": "good", "worse": "bad", "invalid": "bad"}.get(change.verdict, "soft")
    chance = f", p {comparing.chance(change.p)}" if change.p is not None else ""
    said = f"<small>{text(change.verdict)}{text(chance)}</small>"
    return Cell(f'<span class="{colour}">{text(number_text.change(change.ratio))}</span><br>{said}', change.ratio)


def _about(records: Sequence[Record], names: Sequence[str], compared: Comparison | None) -> Iterator[str]:
    method = list(dict.fromkeys(each for record in records for each in record.method))[:FACTS]
    method += [comparing.METHOD] if compared else []
    if method:
        yield '<section><h2>How it was measured</h2><div class="notes">'
        yield "".join(f"<p>{prose(each)}</p>" for each in method) + "</div></section>"
    yield f"<section><h2>{'The machines' if len(records) > 1 else 'The machine'}</h2>"
    for record, name in zip(records, names):
        heading = f"<h3>{text(name)}</h3>" if name else ""
        yield heading + html_parts.facts(list(number_text.facts(record.environment).items()))
    yield "</section>"
    commands = list(dict.fromkeys(line for record in records for line in record.commands))
    if commands:
        lines = "\n".join(prose(line) for line in commands[:FACTS])
        yield f"<section><h2>Do it again</h2><pre>{lines}</pre></section>"
