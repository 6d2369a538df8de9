"""A Record as CSV, as Markdown, and as tables for a terminal.

The HTML page is `edgekit.reporting.html_page`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence

from edgekit.reporting import number_text
from edgekit.reporting.advice import judge
from edgekit.reporting.record import PHASES, QUANTITIES, SCENARIOS, Accuracy, Environment, Record, Row

NOTES = 12  # notes on rows below the terminal's tables, at most
LAST_HEADS = ("quality", "correct")
STATISTICS = ("median", "low", "high", "mean", "min", "max", "stdev", "p90", "p95", "p99")
# The quantities of a scenario that a person compares.
COMPARED = {
    "single-stream": ("latency",),
    "offline": ("throughput",),
    "llm": ("ttft", "tpot", "prefill", "decode"),
    "stream": ("step", "rtf"),
}
COLUMN_SUFFIX = {
    "s": "_seconds",
    "1/s": "_per_second",
    "tokens/s": "_tokens_per_second",
    "": "",
}  # unit -> suffix of the column's name
# CSV columns -> path of the value in a row: those before its figures, and those after them.
FIRST_COLUMNS = {
    **{name: name for name in ("bundle", "digest", "source", "task", "random", "variant", "target", "precision")},
    **{name: name for name in ("recipe", "placement", "threads", "scenario", "test", "replicate", "invalid")},
    **{name: name for name in ("bytes", "bytes_per_token")},
}
LAST_COLUMNS = {
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
    "batch_invariant": "check.batch_invariant",
    "batch_difference": "check.batch_difference",
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
    """One line for each row, always with the same columns. Text that a spreadsheet would run as a formula is quoted."""
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
    """A Markdown table of model, size, precision, target, threads, test and value ± deviation: a line a quantity."""
    heads = ("model", "size", "precision", "target", "threads", "test", "median ± standard deviation", "vs. reference")
    lines = [f"| {' | '.join((*heads, 'correct'))} |", "|---|---:|---|---|---:|---|---:|---|---|"]
    for row in record.rows:
        setup = (row.bundle, number_text.size(row.bytes), row.recipe, row.target, row.threads)
        for test, value in _values(row) or [(number_text.setting(row), number_text.DASH)]:
            cells = (*setup, test, value, agreement(row), correct(row))
            lines.append(f"| {' | '.join(_escaped(cell) for cell in cells)} |")
    notes = [f"- {_escaped(row.name)}: {_escaped(note)}" for row in record.rows for note in notes_of(row)]
    head = f"## {_escaped(record.title)}\n\n{_escaped(record.made)}, {_escaped(record.environment.cpu)}"
    advice = [f"- {_escaped(bundle)}: {_escaped(text)}" for bundle, text in recommendations(record)]
    return "\n\n".join(filter(None, (head, "\n".join(advice), "\n".join(lines), "\n".join(notes)))) + "\n"


def table(record: Record) -> str:
    """What to ship of each bundle, a table for each scenario, then notes on rows."""
    from edgekit import text_table

    advice = [
        f"{_short(bundle)}: {number_text.cut(text, number_text.PROSE)}" for bundle, text in recommendations(record)
    ]
    if record.partial:
        advice.insert(0, f"Interrupted: {len(record.rows)} of {record.planned} rows were measured.")
    accuracies = {(row.bundle, row.variant): row.accuracy for row in record.rows if row.accuracy}
    parts = []
    for scenario in SCENARIOS:
        heads = ("bundle", "variant", "test", *map(_head, COMPARED[scenario]), "peak memory", "size", *LAST_HEADS)
        rows = [row for row in record.rows if row.scenario == scenario]
        lines = [_line(row, accuracies.get((row.bundle, row.variant))) for row in rows]
        columns = [at for at in range(len(heads)) if any(line[at] != number_text.DASH for line in lines)]
        if lines:
            text = text_table.table([heads[at] for at in columns], [[line[at] for at in columns] for line in lines])
            parts.append(f"{scenario.upper()}\n{text}")
    remarks = [(row.name, "; ".join(notes)) for row in record.rows if (notes := list(faults_of(row)))]
    notes = [disturbances(record.rows)] if any(row.disturbed for row in record.rows) else []
    notes += [f"{_short(name)}: {number_text.cut(text)}" for name, text in remarks[:NOTES]]
    notes += [f"and {number_text.count(len(remarks) - NOTES, 'more row')} with notes"] if len(remarks) > NOTES else []

    def paragraphs(lines: Sequence[str]) -> str:
        return "\n".join(text_table.wrapped(text_table.one_line(line)) for line in lines)

    return "\n\n".join(filter(None, (paragraphs(advice), *parts, paragraphs(notes))))


def _line(row: Row, accuracy: Accuracy | None) -> list[str]:
    """The cells of a row in the terminal's table."""
    known = (number_text.share(accuracy.value if accuracy else None), agreement(row))
    return [
        *(_short(row.bundle), _short(row.variant), _short(number_text.setting(row))),
        *(number_text.plain(row.figures.get(name)) for name in COMPARED[row.scenario]),
        *(number_text.size(row.memory.peak_rss if row.memory else None), number_text.size(row.bytes)),
        ", ".join(each for each in known if each != number_text.DASH) or number_text.DASH,
        f"{correct(row)}, disturbed" if row.disturbed else correct(row),
    ]


def recommendations(record: Record) -> Iterator[tuple[str, str]]:
    """(bundle, which variant to ship and why) for each bundle."""
    for bundle in dict.fromkeys(row.bundle for row in record.rows):
        verdict = judge([row for row in record.rows if row.bundle == bundle])
        ship = f"ship {verdict.best.variant}. " if verdict.best else "ship no variant yet. "
        yield bundle, ship + verdict.words


def correct(row: Row) -> str:
    """Whether a row's outputs were correct: "yes", "NO" or a dash."""
    if row.invalid:
        return "NO"
    return "yes" if row.check and row.check.ok else number_text.DASH


def agreement(row: Row) -> str:
    """How near a row's outputs are to the reference: `cosine 0.9959`, `relative error 0.0031`; a dash if unknown."""
    return number_text.measure(row.check.agreement.metric, row.check.agreement.value) if row.check else number_text.DASH


def disturbances(rows: Sequence[Row]) -> str:
    """One sentence about all disturbed rows, with the first one as an example."""
    disturbed = [row for row in rows if row.disturbed]
    every = f"All {len(rows)} measurements were" if len(disturbed) == len(rows) > 1 else ""
    some = (
        f"{len(disturbed)} of {number_text.count(len(rows), 'measurement')} {'was' if len(disturbed) == 1 else 'were'}"
    )
    example = f"{disturbed[0].name} ({'; '.join(disturbed[0].disturbed)})"
    return number_text.cut(f"{every or some} disturbed, such as {example}. Measure again on an idle machine.", 400)


def notes_of(row: Row) -> Iterator[str]:
    """Warnings about a row's figures."""
    if row.disturbed:
        yield f"disturbed: {'; '.join(row.disturbed)}"
    yield from faults_of(row)


def faults_of(row: Row) -> Iterator[str]:
    """Warnings about a row's figures that are not about other programs."""
    if row.invalid:
        yield f"invalid: {row.invalid}"
    if row.warmup and not row.warmup.settled:
        yield f"did not reach a steady state after {number_text.count(row.warmup.runs, 'warm-up run')}"


def _values(row: Row) -> list[tuple[str, str]]:
    """(test, value) for each quantity of COMPARED that the row has."""
    figures = [(name, row.figures[name]) for name in COMPARED[row.scenario] if name in row.figures]
    return [
        (f"{number_text.setting(row)} {number_text.QUANTITY[name]}", number_text.spread(figure))
        for name, figure in figures
    ]


def _head(name: str) -> str:
    unit = QUANTITIES[name][0]
    return f"{number_text.QUANTITY[name]} {unit}" if unit == "tokens/s" else number_text.QUANTITY[name]


def _short(text: str) -> str:
    return number_text.cut(text, 60)


def _escaped(cell: object) -> str:
    """Text with Markdown's special characters escaped: it cannot end a cell or open a tag, a link or code."""
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
    """The CSV cells of a row by column name; all None without a row."""
    rates = row.sustained.rates if row and row.sustained else ()
    cells = {name: _at(row, path) for name, path in FIRST_COLUMNS.items()}
    cells |= {name: _listed(getattr(row, name, {})) for name in ("parameters", "options")}
    for name, (unit, _) in QUANTITIES.items():
        figure, suffix = row.figures.get(name) if row else None, COLUMN_SUFFIX[unit]
        cells |= {f"{name}_{each}{suffix}": _at(figure, each) for each in STATISTICS}
        cells |= {f"{name}_runs": _at(figure, "n"), f"{name}_outliers": _at(figure, "outliers")}
    phases = {phase.name: phase for phase in row.memory.phases} if row and row.memory else {}
    cells |= {
        f"{kind}_{name.replace(' ', '_')}_bytes": _at(phases.get(name), kind)
        for name in PHASES
        for kind in ("rss", "pss", "uss", "anonymous")
    }
    cells |= {name: _at(row, path) for name, path in LAST_COLUMNS.items()}
    cells |= {"sustained_first": rates[0] if rates else None, "sustained_last": rates[-1] if rates else None}
    return cells | {"sustained_least": min(rates, default=None), "disturbed": "; ".join(row.disturbed) if row else ""}


def _at(value: object, path: str) -> Cell:
    """The attribute at a path as `memory.peak_rss`; None if a part of the path is None."""
    for name in path.split("."):
        value = getattr(value, name, None)
    assert value is None or isinstance(value, (str, int, float)), path
    return value


def _environment(environment: Environment) -> dict[str, Cell]:
    return {
        "cpu": environment.cpu,
        "machine": environment.machine,
        "system": f"{environment.system} {environment.kernel}".strip(),
        "cores": environment.cores,
        "affinity": environment.affinity,
        "load_before": environment.load_before,
        "load_after": environment.load_after,
        "engines": _listed(environment.engines),
        "software": _listed(environment.software),
    }


def _listed(values: Mapping[str, object]) -> str:
    return "; ".join(f"{name}={value}" for name, value in values.items())
