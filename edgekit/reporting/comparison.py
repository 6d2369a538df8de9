"""Compares the records of several files with the first: matches their rows and lists the changes.

    comparison = compare(records, names)
    comparison.changes[0].ratio, comparison.changes[0].p      # one quantity of one row, against the first file

Rows match by bundle (its name, else its digest), variant and test; replicates are taken together. Bounds on the
changes are in `edgekit.reporting.fail_if`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from edgekit.reporting import advice, number_text
from edgekit.reporting.record import QUANTITIES, Record, Row
from edgekit.reporting.significance import FEWEST, corrected, differ

# The figures of a row that are compared: sampled quantities, and single values (name, unit, less is better, getter).
COMPARED = {"single-stream": ("latency",), "offline": ("throughput",), "llm": ("ttft", "tpot"), "stream": ("step",)}
SINGLE: tuple[tuple[str, str, bool, Callable[[Row], float | None]], ...] = (
    ("peak memory", "bytes", True, lambda row: row.memory.peak_rss if row.memory else None),
    ("size", "bytes", True, lambda row: row.bytes),
    ("accuracy", "share", False, lambda row: row.accuracy.value if row.accuracy else None),
)
CERTAIN = 0.05  # p below which a change is significant
METHOD = (
    "Ratios are of medians, relative to the first file; sizes, peak memory and accuracy are listed where they differ. "
    "Significance is the two-sided Mann-Whitney test on the measured values (on the medians of the replicates, where "
    f"both files have at least {FEWEST}), with Holm's correction for all changes on this page, at 5 %. Runs of one "
    "process vary less than runs of two processes, so a significant change below 5 % is called small: measure with "
    "--replicate to confirm it."
)
ALIKE = 1.1  # bandwidths within this ratio count as equal: they are measured values
NOT_COMPARED = ("load_before", "load_after", "frequencies")  # environment fields that differ in every run


@dataclass(frozen=True)
class Key:
    bundle: str
    variant: str
    scenario: str
    test: str

    @property
    def name(self) -> str:
        return f"{self.bundle} {self.variant} {self.test}"


@dataclass(frozen=True)
class Match:
    """One row in all files: its replicates in each file, an empty tuple where a file lacks it."""

    key: Key
    rows: tuple[tuple[Row, ...], ...]

    def invalid(self, file: int) -> str:
        """Why the row is invalid in that file; "" if it is valid."""
        return next((row.invalid for row in self.rows[file] if row.invalid), "")

    def disturbed(self, file: int) -> bool:
        """Whether at least half of its replicates were disturbed: their median holds as long as fewer were."""
        rows = self.rows[file]
        return bool(rows) and 2 * sum(bool(row.disturbed) for row in rows) >= len(rows)

    def median(self, file: int, quantity: str) -> float | None:
        return advice.middle(self.rows[file], lambda row: advice.median(row, quantity))

    def sample(self, file: int, quantity: str) -> list[float]:
        """The values of one file, or the medians of its replicates; see METHOD."""
        figures = [row.figures[quantity] for row in self.rows[file] if quantity in row.figures]
        if all(len(rows) >= FEWEST for rows in self.rows if rows):
            return [figure.median for figure in figures]
        return [value for figure in figures for value in figure.values]


@dataclass(frozen=True)
class Change:
    """One figure of one row in the first file and in another. `p` is None with too few values."""

    key: Key
    file: int  # index; the first file is 0
    name: str  # "TPOT", "peak memory"
    unit: str
    less: bool  # is better
    before: float
    after: float
    p: float | None
    valid: bool
    sampled: bool = True  # the median of many runs; False for a single value

    @property
    def ratio(self) -> float | None:
        return self.after / self.before if self.before else None

    @property
    def certain(self) -> bool:
        """Whether it is significant; a single value always is."""
        return self.p < CERTAIN if self.p is not None else not self.sampled

    @property
    def better(self) -> bool:
        return (self.after < self.before) == self.less

    @property
    def notable(self) -> bool:
        """Whether it is significant, and larger than the machine's noise or the accuracy tolerance."""
        if not self.valid or not self.certain:
            return False
        if self.unit == "share":
            return abs(self.after - self.before) > advice.KEEPS
        return _apart(self.before, self.after) >= advice.LEVEL

    @property
    def verdict(self) -> str:
        if not self.valid:
            return "invalid"
        if self.sampled and self.p is None:
            return "too few runs"
        if not self.certain:
            return "not significant"
        if self.notable:
            return "better" if self.better else "worse"
        return "small"

    def text(self, value: float) -> str:
        """`before` or `after` as text, with its unit."""
        if self.unit == "bytes":
            return number_text.size(value)
        return number_text.share(value) if self.unit == "share" else number_text.quantity(value, self.unit)


@dataclass(frozen=True)
class Comparison:
    """`differences`: (field, its value in each file) where the environments differ."""

    names: tuple[str, ...]
    matches: tuple[Match, ...]
    changes: tuple[Change, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]  # matched rows that were measured in different ways

    def change(self, key: Key, file: int, name: str) -> Change | None:
        """The change of one figure of one row in a file; None if it is not among the changes."""
        return next((each for each in self.changes if (each.key, each.file, each.name) == (key, file, name)), None)

    @property
    def missing(self) -> list[tuple[Match, list[str]]]:
        """Rows that some files lack, with the names of the files that have them."""
        return [
            (match, [name for name, rows in zip(self.names, match.rows) if rows])
            for match in self.matches
            if not all(match.rows)
        ]


def compare(records: Sequence[Record], names: Sequence[str]) -> Comparison:
    """Compare every record with the first, in the order of its rows."""
    matches = _matches(records)
    changes = [change for match in matches for file in range(1, len(records)) for change in _changes(match, file)]
    p_values = corrected([change.p for change in changes])
    corrected_changes = tuple(replace(change, p=p) for change, p in zip(changes, p_values))
    notes = tuple(note for match in matches for note in _notes(match))
    return Comparison(tuple(names), tuple(matches), corrected_changes, tuple(_differences(records)), notes)


def summary(comparison: Comparison) -> list[str]:
    """A few sentences about the changes in each file after the first."""
    sentences = []
    for file, name in enumerate(comparison.names[1:], start=1):
        changes = [change for change in comparison.changes if change.file == file and change.valid]
        worse = [change for change in changes if change.notable and not change.better]
        better = [change for change in changes if change.notable and change.better]
        rest = len(changes) - len(worse) - len(better)
        figures = number_text.count(len(changes), "figure")
        head = f"{name} compared with {comparison.names[0]}: {figures} of valid rows that both have."
        parts = [_largest("Worse", worse), _largest("Better", better)]
        if rest:
            same = "did not change significantly or by 5 %, or have too few runs"
            parts.append(f"{'All' if rest == len(changes) else 'The other'} {rest} {same}.")
        broken = [m.key.name for m in comparison.matches if m.invalid(file) and m.rows[0] and not m.invalid(0)]
        if broken:
            parts.append(f"Invalid now: {_few(broken)}.")
        for one, other, title in ((0, file, comparison.names[0]), (file, 0, name)):
            unmatched = [match.key.name for match in comparison.matches if match.rows[one] and not match.rows[other]]
            parts.append(f"Only in {title}: {_few(unmatched)}." if unmatched else "")
        sentences.append(" ".join(filter(None, (head, *parts))))
    return sentences


def table(comparison: Comparison) -> str:
    """The changes as a table for a terminal, with the differences of the environments and the summary."""
    from edgekit import text_table

    several = len(comparison.names) > 2
    last = "the other" if several else comparison.names[-1]
    heads = ("row", *(("file",) if several else ()), "figure", comparison.names[0], last, "change", "p", "verdict")
    rows = (
        (
            number_text.cut(change.key.name, 80),
            *((comparison.names[change.file],) if several else ()),
            *(change.name, change.text(change.before), change.text(change.after)),
            *(number_text.change(change.ratio), p_text(change.p), change.verdict),
        )
        for change in comparison.changes
    )
    differences = [
        f"{name}: {' / '.join(value or number_text.DASH for value in values)}"
        for name, values in comparison.differences
    ]
    differing = (
        "\n".join(text_table.one_line(number_text.cut(line)) for line in ["the environments differ:", *differences])
        if differences
        else ""
    )
    sentences = "\n".join(
        text_table.wrapped(text_table.one_line(number_text.cut(line, number_text.PROSE)))
        for line in (*summary(comparison), *comparison.notes)
    )
    return "\n\n".join(filter(None, (text_table.table(heads, rows), differing, sentences)))


def flat(change: Change, names: Sequence[str]) -> dict[str, str | float | None]:
    """A change as a JSON object."""
    return {
        "row": change.key.name,
        "file": names[change.file],
        "figure": change.name,
        "unit": change.unit,
        "before": change.before,
        "after": change.after,
        "ratio": change.ratio,
        "p": change.p,
        "verdict": change.verdict,
    }


def p_text(p: float | None) -> str:
    """A p value as text: `0.012`, `<0.001`."""
    return number_text.DASH if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _largest(word: str, changes: Sequence[Change]) -> str:
    """A sentence with the three largest changes."""
    if not changes:
        return ""
    largest = sorted(changes, key=lambda change: -_apart(change.before, change.after))[:3]
    more = f", and {len(changes) - len(largest)} more" if len(changes) > len(largest) else ""
    few = "; ".join(f"{change.name} of {change.key.name} {number_text.change(change.ratio)}" for change in largest)
    return f"{word}: {few}{more}."


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _apart(before: float, after: float) -> float:
    """The ratio of the larger to the smaller value."""
    low, high = sorted((before, after))
    return high / low if low > 0 else math.inf if high > low else 1.0


def _matches(records: Sequence[Record]) -> list[Match]:
    """Rows by key; where a later file has another name for the same digest, the first file's name counts."""
    names = {row.digest: row.bundle for row in reversed(records[0].rows) if row.digest}
    bundles = {row.bundle for row in records[0].rows}
    matches: dict[Key, list[list[Row]]] = {}
    for file, record in enumerate(records):
        for row in record.rows:
            bundle = row.bundle if row.bundle in bundles else names.get(row.digest, row.bundle)
            key = Key(bundle, row.variant, row.scenario, row.test)
            matches.setdefault(key, [[] for _ in records])[file].append(row)
    return [Match(key, tuple(map(tuple, rows))) for key, rows in matches.items()]


def _changes(match: Match, file: int) -> Iterator[Change]:
    if not match.rows[0] or not match.rows[file]:
        return
    valid = not match.invalid(0) and not match.invalid(file)
    for quantity in COMPARED[match.key.scenario]:
        before, after = match.median(0, quantity), match.median(file, quantity)
        if before is not None and after is not None:
            p = differ(match.sample(0, quantity), match.sample(file, quantity)) if valid else None
            unit, less = QUANTITIES[quantity]
            yield Change(match.key, file, number_text.QUANTITY[quantity], unit, less, before, after, p, valid)
    for name, unit, less, find in SINGLE:
        first, now = (advice.middle(match.rows[at], find) for at in (0, file))
        if first is not None and now is not None and first != now:
            yield Change(match.key, file, name, unit, less, first, now, None, valid, sampled=False)


def _differences(records: Sequence[Record]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Fields that differ; engines and software one by one."""
    for each in fields(records[0].environment):
        values = [getattr(record.environment, each.name) for record in records]
        if each.name in NOT_COMPARED or len({str(value) for value in values}) == 1:
            continue
        if isinstance(values[0], dict):
            for name in dict.fromkeys(name for value in values for name in value):
                texts = tuple(str(value.get(name, "")) for value in values)
                if len(set(texts)) > 1:
                    yield f"{each.name} {name}", texts
        elif each.name != "bandwidth" or _apart(*_ends(values)) > ALIKE:
            yield each.name.replace("_", " "), tuple(_value_text(each.name, value) for value in values)


def _ends(values: Sequence[float | None]) -> tuple[float, float]:
    numbers = [value or 0.0 for value in values]
    return min(numbers), max(numbers)


def _value_text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in ("memory", "memory_limit"):
        return number_text.size(value)
    if name == "bandwidth":
        return f"{number_text.size(value)}/s"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _notes(match: Match) -> list[str]:
    """A sentence where matched rows were measured in different ways."""
    first = [rows[0] for rows in match.rows if rows]
    notes = []
    for name, what in (
        ("digest", "different exports"),
        ("threads", "different threads"),
        ("options", "different engine options"),
    ):
        if len({str(getattr(row, name)) for row in first}) > 1:
            notes.append(what)
    if len({str(sorted(row.parameters.items())) for row in first}) > 1:
        notes.append("different parameters")
    return [f"{match.key.name}: the files have {number_text.joined(notes)}."] if notes else []
