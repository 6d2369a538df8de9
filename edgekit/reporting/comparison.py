"""Files of several devices or days held against the first: which rows belong together, and what changed.

    found = compare(records, names)
    found.changes[0].ratio, found.changes[0].p      # of one quantity of one row of one file to the first's

Rows belong together by bundle (its name, else its digest), variant and test; repetitions are taken together. Compares
figures, and does not say what to do about them: that is `edgekit.reporting.fail_if`' and the reader's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from edgekit.reporting import advice, number_text
from edgekit.reporting.record import QUANTITIES, Record, Row
from edgekit.reporting.significance import FEWEST, corrected, differ

# What is compared of a row: quantities, which have samples, and what it has once: (name, unit, less is better, where).
COMPARED = {"single-stream": ("latency",), "offline": ("throughput",), "llm": ("ttft", "tpot"), "stream": ("step",)}
ONCE: tuple[tuple[str, str, bool, Callable[[Row], float | None]], ...] = (
    ("peak memory", "bytes", True, lambda row: row.memory.peak_rss if row.memory else None),
    ("size", "bytes", True, lambda row: row.bytes),
    ("accuracy", "share", False, lambda row: row.accuracy.value if row.accuracy else None),
)
CERTAIN = 0.05  # p below which a change is more than chance
METHOD = (
    "Ratios are of medians, to the first file; sizes, peak memory and accuracy are listed where they differ. Whether "
    "a change is more than chance is told by the two-sided Mann-Whitney test on the values as measured (on the medians "
    f"of the repetitions, where both files have at least {FEWEST}), corrected for all changes on this page after Holm, "
    "at 5 %. Runs of one process resemble each other more than runs of two do, so a change below 5 % is called small, "
    "however certain it is: measure with --replicate to be sure of those."
)
ALIKE = 1.1  # bandwidths that are so near are one: they are measured, too
NOT_COMPARED = ("load_before", "load_after", "frequencies")  # of the environment: they are never twice the same


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
    """One row in all files: its repetitions in each, none where that file does not have it."""

    key: Key
    rows: tuple[tuple[Row, ...], ...]

    def invalid(self, file: int) -> str:
        return next((row.invalid for row in self.rows[file] if row.invalid), "")

    def median(self, file: int, quantity: str) -> float | None:
        return advice.middle(self.rows[file], lambda row: advice.median(row, quantity))

    def sample(self, file: int, quantity: str) -> list[float]:
        """Each of the values, file by file; see METHOD for when it is the medians."""
        found = [row.figures[quantity] for row in self.rows[file] if quantity in row.figures]
        if all(len(rows) >= FEWEST for rows in self.rows if rows):
            return [figure.median for figure in found]
        return [value for figure in found for value in figure.values]


@dataclass(frozen=True)
class Change:
    """One figure of one row, from the first file to another. `p` is None where there were too few values."""

    key: Key
    file: int  # which one, the first being 0
    name: str  # "TPOT", "peak memory"
    unit: str
    less: bool  # is better
    before: float
    after: float
    p: float | None
    valid: bool
    sampled: bool = True  # a median of many runs, and not one figure

    @property
    def ratio(self) -> float | None:
        return self.after / self.before if self.before else None

    @property
    def certain(self) -> bool:
        """More than chance; a figure that a row has once is taken as it is."""
        return self.p < CERTAIN if self.p is not None else not self.sampled

    @property
    def better(self) -> bool:
        return (self.after < self.before) == self.less

    @property
    def notable(self) -> bool:
        """More than chance, and more than the noise of the machine, or than an accuracy may lose."""
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
            return "too few runs to tell"
        if not self.certain:
            return "within chance"
        if self.notable:
            return "better" if self.better else "worse"
        return "small"

    def shown(self, value: float) -> str:
        """One of its two values, with its unit."""
        if self.unit == "bytes":
            return number_text.size(value)
        return number_text.share(value) if self.unit == "share" else number_text.quantity(value, self.unit)


@dataclass(frozen=True)
class Comparison:
    """`differences`: (fact, its value in each file) where the environments are not the same."""

    names: tuple[str, ...]
    matches: tuple[Match, ...]
    changes: tuple[Change, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]  # what is not the same about rows that belong together

    @property
    def alone(self) -> list[tuple[Match, list[str]]]:
        """Rows that not every file has, with the names of the files that do."""
        return [
            (match, [name for name, rows in zip(self.names, match.rows) if rows])
            for match in self.matches
            if not all(match.rows)
        ]


def compare(records: Sequence[Record], names: Sequence[str]) -> Comparison:
    """Every record against the first, in the order of its rows."""
    matches = _matches(records)
    found = [change for match in matches for file in range(1, len(records)) for change in _changes(match, file)]
    tests = corrected([change.p for change in found])
    told = tuple(replace(change, p=p) for change, p in zip(found, tests))
    notes = tuple(note for match in matches for note in _notes(match))
    return Comparison(tuple(names), tuple(matches), told, tuple(_differences(records)), notes)


def summary(found: Comparison) -> list[str]:
    """What changed, a sentence or two for each file after the first."""
    said = []
    for file, name in enumerate(found.names[1:], start=1):
        changes = [change for change in found.changes if change.file == file and change.valid]
        worse = [change for change in changes if change.notable and not change.better]
        better = [change for change in changes if change.notable and change.better]
        rest = len(changes) - len(worse) - len(better)
        figures = number_text.count(len(changes), "figure")
        head = f"{name} against {found.names[0]}: {figures} of valid rows that both have."
        parts = [_told("Worse", worse), _told("Better", better)]
        if rest:
            alike = "are the same within chance or 5 %, or have too few runs to tell"
            parts.append(f"{'All' if rest == len(changes) else 'The other'} {rest} {alike}.")
        broken = [m.key.name for m in found.matches if m.invalid(file) and m.rows[0] and not m.invalid(0)]
        if broken:
            parts.append(f"Invalid now: {_few(broken)}.")
        for holder, other, who in ((0, file, found.names[0]), (file, 0, name)):
            alone = [match.key.name for match in found.matches if match.rows[holder] and not match.rows[other]]
            parts.append(f"Only in {who}: {_few(alone)}." if alone else "")
        said.append(" ".join(filter(None, (head, *parts))))
    return said


def table(found: Comparison) -> str:
    """The changes, for a terminal."""
    from edgekit import text_table

    heads = ("row", "file", "", found.names[0], "", "change", "p", "")
    rows = (
        (
            *(number_text.cut(change.key.name, 80), found.names[change.file], change.name),
            *(change.shown(change.before), change.shown(change.after)),
            *(number_text.change(change.ratio), chance(change.p), change.verdict),
        )
        for change in found.changes
    )
    listed = [
        f"{name}: {' / '.join(value or number_text.DASH for value in values)}" for name, values in found.differences
    ]
    differing = (
        "\n".join(text_table.one_line(number_text.cut(line)) for line in ["the environments differ:", *listed])
        if listed
        else ""
    )
    said = "\n".join(
        text_table.one_line(number_text.cut(line, number_text.PROSE)) for line in (*summary(found), *found.notes)
    )
    return "\n\n".join(filter(None, (text_table.table(heads, rows), differing, said)))


def flat(change: Change, names: Sequence[str]) -> dict[str, str | float | None]:
    """A change for a program."""
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


def chance(p: float | None) -> str:
    return number_text.DASH if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _told(word: str, changes: Sequence[Change]) -> str:
    """The largest few by name."""
    if not changes:
        return ""
    largest = sorted(changes, key=lambda change: -_apart(change.before, change.after))[:3]
    more = f", and {len(changes) - len(largest)} more" if len(changes) > len(largest) else ""
    few = "; ".join(f"{change.name} of {change.key.name} {number_text.change(change.ratio)}" for change in largest)
    return f"{word}: {few}{more}."


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _apart(before: float, after: float) -> float:
    """How many times the smaller goes into the greater."""
    low, high = sorted((before, after))
    return high / low if low > 0 else math.inf if high > low else 1.0


def _matches(records: Sequence[Record]) -> list[Match]:
    """By the first file's name of a bundle; a later file may call the same digest otherwise."""
    called = {row.digest: row.bundle for row in reversed(records[0].rows) if row.digest}
    known = {row.bundle for row in records[0].rows}
    found: dict[Key, list[list[Row]]] = {}
    for file, record in enumerate(records):
        for row in record.rows:
            bundle = row.bundle if row.bundle in known else called.get(row.digest, row.bundle)
            key = Key(bundle, row.variant, row.scenario, row.test)
            found.setdefault(key, [[] for _ in records])[file].append(row)
    return [Match(key, tuple(map(tuple, rows))) for key, rows in found.items()]


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
    for name, unit, less, find in ONCE:
        first, now = (advice.middle(match.rows[at], find) for at in (0, file))
        if first is not None and now is not None and first != now:
            yield Change(match.key, file, name, unit, less, first, now, None, valid, sampled=False)


def _differences(records: Sequence[Record]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """By field; of the engines and the software each by itself."""
    for each in fields(records[0].environment):
        values = [getattr(record.environment, each.name) for record in records]
        if each.name in NOT_COMPARED or len({str(value) for value in values}) == 1:
            continue
        if isinstance(values[0], dict):
            for name in dict.fromkeys(name for value in values for name in value):
                said = tuple(str(value.get(name, "")) for value in values)
                if len(set(said)) > 1:
                    yield f"{each.name} {name}", said
        elif each.name != "bandwidth" or _apart(*_ends(values)) > ALIKE:
            yield each.name.replace("_", " "), tuple(_said(each.name, value) for value in values)


def _ends(values: Sequence[float | None]) -> tuple[float, float]:
    known = [value or 0.0 for value in values]
    return min(known), max(known)


def _said(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in ("memory", "memory_limit"):
        return number_text.size(value)
    if name == "bandwidth":
        return f"{number_text.size(value)}/s"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _notes(match: Match) -> list[str]:
    """What a reader should know of rows that bear one name and were not measured alike."""
    first = [rows[0] for rows in match.rows if rows]
    told = []
    for name, what in (("digest", "another export"), ("threads", "other threads"), ("options", "other engine options")):
        if len({str(getattr(row, name)) for row in first}) > 1:
            told.append(what)
    if len({str(sorted(row.parameters.items())) for row in first}) > 1:
        told.append("other parameters")
    return [f"{match.key.name}: the files have {number_text.joined(told)}."] if told else []
