"""A Record as CSV for a spreadsheet, as Markdown for a message, and as a table for a terminal.

What each cell holds is here; how a page shows it is `edgekit.reporting.html_page`'s.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping

from edgekit.reporting import number_text
from edgekit.reporting.advice import judge
from edgekit.reporting.record import PHASES, QUANTITIES, SCENARIOS, Accuracy, Environment, Record, Row

NOTES = 12  # rows of which something is said below the terminal's table
STATISTICS = ("median", "low", "high", "mean", "min", "max", "stdev", "p90", "p95", "p99")
# What a person compares rows of a scenario by.
TOLD = {
    "single-stream": ("latency",),
    "offline": ("throughput",),
    "llm": ("ttft", "tpot", "prefill", "decode"),
    "stream": ("step", "rtf"),
}
NAMED = {"s": "_seconds", "1/s": "_per_second", "tokens/s": "_tokens_per_second", "": ""}  # a unit, in a column's name
# Columns of the CSV, and where in a row they stand: before its figures and after them.
WHAT = {
    **{name: name for name in ("bundle", "digest", "source", "task", "random", "variant", "target", "precision")},
    **{name: name for name in ("recipe", "placement", "threads", "scenario", "test", "replicate", "invalid")},
    **{name: name for name in ("bytes", "bytes_per_token")},
}
MORE = {
    "peak_rss_bytes": "memory.peak_rss",
    "slope_bytes_per_100_runs": "memory.slope",
    "weights_on_disk_bytes": "memory.weights_on_disk",
    "weights_mapped_bytes": "memory.weights_mapped",
    "libraries_bytes": "memory.libraries",
    "states_bytes": "memory.states",
    "states_expected_bytes": "memory.states_expected",
    "device_memory_bytes": "memory.device",
    "forecast_bytes": "memory.forecast.total",
    "check_ok": "check.ok",
    "check_difference": "check.difference",
    "check_tolerance": "check.tolerance",
    "agreement_metric": "check.agreement.metric",
    "agreement": "check.agreement.value",
    "accuracy_metric": "accuracy.metric",
    "accuracy": "accuracy.value",
    "accuracy_trained": "accuracy.trained",
    "accuracy_items": "accuracy.items",
    "energy_joules": "energy.joules",
    "energy_per": "energy.per",
    "energy_each_joules": "energy.each",
    "energy_source": "energy.source",
    "energy_why": "energy.why",
    "sustained_unit": "sustained.unit",
    "sustained_window_seconds": "sustained.seconds",
    "warmup_runs": "warmup.runs",
    "warmup_seconds": "warmup.seconds",
    "warmup_settled": "warmup.settled",
}
Cell = str | int | float | bool | None


def as_csv(record: Record) -> str:
    """A line for each row, always the same columns. A text that a spreadsheet would take for a formula gets a quote."""
    about: dict[str, Cell] = {"schema": record.schema, "made": record.made}
    device = _environment(record.environment)
    lines = [about | _row(row) | device for row in record.rows]
    columns = [*about, *_row(None), *device]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_cell(line[column]) for column in columns] for line in lines])
    return out.getvalue()


def markdown(record: Record) -> str:
    """Model, size, precision, target, threads, test, value and its standard deviation; a line for each quantity."""
    heads = ("model", "size", "precision", "target", "threads", "test", "value ± standard deviation", "right")
    lines = [f"| {' | '.join(heads)} |", "|---|---:|---|---|---:|---|---:|---|"]
    for row in record.rows:
        what = (row.bundle, number_text.size(row.bytes), row.recipe, row.target, row.threads)
        for test, value in _values(row) or [(number_text.setting(row), number_text.DASH)]:
            lines.append(f"| {' | '.join(_escaped(cell) for cell in (*what, test, value, right(row)))} |")
    notes = [f"- {_escaped(row.name)}: {_escaped(note)}" for row in record.rows for note in notes_of(row)]
    head = f"## {_escaped(record.title)}\n\n{_escaped(record.made)}, {_escaped(record.environment.cpu)}"
    said = [f"- {_escaped(bundle)}: {_escaped(text)}" for bundle, text in in_short(record)]
    return "\n\n".join(filter(None, (head, "\n".join(said), "\n".join(lines), "\n".join(notes)))) + "\n"


def table(record: Record) -> str:
    """A table for each scenario, and what is to be said of rows."""
    from edgekit import text_table

    accuracies = {(row.bundle, row.variant): row.accuracy for row in record.rows if row.accuracy}
    parts = []
    for scenario in SCENARIOS:
        heads = ("bundle", "variant", "test", *map(_head, TOLD[scenario]), "peak", "size", "accuracy", "right?")
        rows = [row for row in record.rows if row.scenario == scenario]
        lines = [_line(row, accuracies.get((row.bundle, row.variant))) for row in rows]
        kept = [at for at in range(len(heads)) if any(line[at] != number_text.DASH for line in lines)]
        if lines:
            shown = text_table.table([heads[at] for at in kept], [[line[at] for at in kept] for line in lines])
            parts.append(f"{scenario.upper()}\n{shown}")
    noted = [(row.name, "; ".join(notes)) for row in record.rows if (notes := list(notes_of(row)))]
    notes = [f"{_short(name)}: {number_text.cut(text)}" for name, text in noted[:NOTES]]
    notes += [f"and {number_text.count(len(noted) - NOTES, 'more row')} like these"] if len(noted) > NOTES else []
    said = [f"{_short(bundle)}: {number_text.cut(text, number_text.PROSE)}" for bundle, text in in_short(record)]
    return "\n\n".join(filter(None, (*parts, "\n".join(map(text_table.one_line, [*notes, *said])))))


def _line(row: Row, accuracy: Accuracy | None) -> list[str]:
    """A row of the terminal's table."""
    return [
        *(_short(row.bundle), _short(row.variant), _short(number_text.setting(row))),
        *(number_text.plain(row.figures.get(name)) for name in TOLD[row.scenario]),
        *(number_text.size(row.memory.peak_rss if row.memory else None), number_text.size(row.bytes)),
        *(number_text.share(accuracy.value if accuracy else None), right(row)),
    ]


def in_short(record: Record) -> Iterator[tuple[str, str]]:
    """For each bundle what to ship, in words."""
    for bundle in dict.fromkeys(row.bundle for row in record.rows):
        verdict = judge([row for row in record.rows if row.bundle == bundle])
        ship = f"ship {verdict.best.variant}. " if verdict.best else "ship nothing yet. "
        yield bundle, ship + verdict.words


def right(row: Row) -> str:
    if row.invalid:
        return "NO"
    return "yes" if row.check and row.check.ok else number_text.DASH


def notes_of(row: Row) -> Iterator[str]:
    """What a reader must know before using a row's figures."""
    if row.invalid:
        yield f"invalid: {row.invalid}"
    if row.disturbed:
        yield f"disturbed: {'; '.join(row.disturbed)}"
    if row.warmup and not row.warmup.settled:
        yield f"had not settled after {number_text.count(row.warmup.runs, 'run')} of warm-up"


def _values(row: Row) -> list[tuple[str, str]]:
    """(test, value) for each quantity that tells a row."""
    found = [(name, row.figures[name]) for name in TOLD[row.scenario] if name in row.figures]
    return [
        (f"{number_text.setting(row)} {number_text.QUANTITY[name]}", number_text.spread(figure))
        for name, figure in found
    ]


def _head(name: str) -> str:
    unit = QUANTITIES[name][0]
    return f"{number_text.QUANTITY[name]} {unit}" if unit == "tokens/s" else number_text.QUANTITY[name]


def _short(text: str) -> str:
    return number_text.cut(text, 60)


def _escaped(cell: object) -> str:
    """Text as Markdown shows it: nothing in it ends a cell, opens a tag, a link or a piece of code."""
    text = " ".join(number_text.cut(cell, number_text.PROSE).split())
    return re.sub(r"([\\`*\[\]<>|#!~&])", r"\\\1", text).replace("_", r"\_")


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    text = number_text.cut(value, number_text.PROSE)
    return f"'{text}" if text[:1] in tuple("=+-@\t\r＝＋－＠") else text


def _row(row: Row | None) -> dict[str, Cell]:
    """The cells of a row; of none, they are empty."""
    rates = row.sustained.rates if row and row.sustained else ()
    found = {name: _at(row, path) for name, path in WHAT.items()}
    found |= {name: _listed(getattr(row, name, {})) for name in ("parameters", "options")}
    for name, (unit, _) in QUANTITIES.items():
        figure, named = row.figures.get(name) if row else None, NAMED[unit]
        found |= {f"{name}_{each}{named}": _at(figure, each) for each in STATISTICS}
        found |= {f"{name}_runs": _at(figure, "n"), f"{name}_outliers": _at(figure, "outliers")}
    phases = {phase.name: phase for phase in row.memory.phases} if row and row.memory else {}
    found |= {
        f"{kind}_{name.replace(' ', '_')}_bytes": _at(phases.get(name), kind)
        for name in PHASES
        for kind in ("rss", "pss", "uss", "anonymous")
    }
    found |= {name: _at(row, path) for name, path in MORE.items()}
    found |= {"sustained_first": rates[0] if rates else None, "sustained_last": rates[-1] if rates else None}
    return found | {"sustained_least": min(rates, default=None), "disturbed": "; ".join(row.disturbed) if row else ""}


def _at(found: object, path: str) -> Cell:
    """What stands at `memory.peak_rss`; None where something on the way is."""
    for name in path.split("."):
        found = getattr(found, name, None)
    assert found is None or isinstance(found, (str, int, float)), path
    return found


def _environment(found: Environment) -> dict[str, Cell]:
    return {
        "cpu": found.cpu,
        "machine": found.machine,
        "system": f"{found.system} {found.kernel}".strip(),
        "cores": found.cores,
        "affinity": found.affinity,
        "load_before": found.load_before,
        "load_after": found.load_after,
        "engines": _listed(found.engines),
        "software": _listed(found.software),
    }


def _listed(found: Mapping[str, object]) -> str:
    return "; ".join(f"{name}={value}" for name, value in found.items())
