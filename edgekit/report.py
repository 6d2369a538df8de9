"""The Report: what was measured on a device, with units, percentiles only where the sample carries them, and a verdict.

    report -> page.html(report)      one self-contained HTML file
           -> report.rows()          figures for a program
           -> table(report.rows())   a few of them for a terminal

None is "not measured". Measures nothing, knows no architecture and no engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from edgekit.core import QUANTIZED, Check, Measure
from edgekit.files import size_text

# Percentile -> how many runs it takes before it says more than its own noise.
NEEDED = {25: 8, 50: 1, 75: 8, 90: 64, 99: 662}
KEEPS = 0.005  # a variant keeps the accuracy while it loses no more than half a point of what the weights have
LEVEL = 1.05  # medians within 5 % are one speed: the machine's own noise is of that size
DASH = "–"


@dataclass(frozen=True)
class Row:
    """One variant of a bundle, measured on one device."""

    variant: str  # "cpu/int8-dynamic"
    bytes: int | None = None  # what a device must keep to run it
    accuracy: float | None = None  # 0 to 1, by the subject's metric, on all of its held-out texts
    agreement: Measure | None = None  # with the reference model, when the bundle was made
    latencies: tuple[float, ...] = ()  # milliseconds from text to answer, one text at a time: a number a run
    per_second: float | None = None  # texts a second, many at a time
    check: Check | None = None  # held against its known answers on this device

    @property
    def median(self) -> float | None:
        return percentile(self.latencies, 50)

    @property
    def target(self) -> str:
        return self.variant.partition("/")[0]

    @property
    def quantized(self) -> bool:
        return self.variant.partition("/")[2].startswith(QUANTIZED)


@dataclass(frozen=True)
class Example:
    """One text, what is right and what the model said; `marks` are places in the text, start and end in characters."""

    text: str
    expected: str
    got: str
    right: bool
    marks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Subject:
    """One bundle. `trained` is the metric of the weights it was made from, under torch, on the same texts."""

    bundle: str
    source: str
    task: str
    what: str
    metric: str
    texts: int
    trained: float | None
    rows: tuple[Row, ...]
    examples: tuple[Example, ...] = ()
    answered_by: str = ""  # the variant whose answers the examples are
    asked: int | None = None  # how many questions it answered in all
    wrong: int | None = None  # and how many of them not exactly right

    def keeps(self, row: Row) -> bool:
        """Whether a variant is verified here and as accurate as the weights it was made from, within `KEEPS`."""
        verified = row.check is not None and row.check.ok
        had, has = self.trained, row.accuracy
        return verified and is_number(had) and is_number(has) and has >= had - KEEPS

    def pick(self) -> Row | None:
        """What to ship: the fastest that keeps the accuracy, and of those equally fast the smallest; None for none."""
        able = [row for row in self.rows if self.keeps(row) and is_number(row.median)]
        fastest = min((row.median or 0.0 for row in able), default=0.0)
        level = [row for row in able if (row.median or 0.0) <= fastest * LEVEL]
        return min(level, key=lambda row: (row.bytes or math.inf, row.median), default=None)


@dataclass(frozen=True)
class Report:
    """`environment` and `method` are for people: (name, value) pairs and paragraphs."""

    title: str
    made: str  # the day, as 2026-11-22
    seconds: float | None
    subjects: tuple[Subject, ...]
    environment: tuple[tuple[str, str], ...] = ()
    method: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    about: str = ""  # what was done, in a sentence

    @property
    def failed(self) -> list[str]:
        """Variants that do not give here what they gave when they were made, as `BUNDLE VARIANT`."""
        pairs = ((subject, row) for subject in self.subjects for row in subject.rows)
        return [f"{subject.bundle} {row.variant}" for subject, row in pairs if row.check and not row.check.ok]

    def rows(self) -> list[dict[str, Any]]:
        """Flat figures, a dict per variant; the unit is in the name."""
        return [
            _flat(subject, row, recommended=row is chosen)
            for subject, chosen in ((subject, subject.pick()) for subject in self.subjects)
            for row in subject.rows
        ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A report's `rows`, compact, for a terminal."""
    from edgekit import show

    heads = ("bundle", "variant", "size", "accuracy", "ms per text", "texts/s", "verified", "")
    return show.table(
        heads,
        (
            (
                *(row["bundle"], row["variant"], size(row["bytes"]), share(row["accuracy"])),
                *(figure(row["milliseconds"]["p50"]), whole(row["texts_per_second"]), yes(row["verified"])),
                "ship this" if row["recommended"] else "",
            )
            for row in rows
        ),
    )


def percentile(runs: Sequence[float], rank: int) -> float | None:
    """The nearest-rank percentile; None where the sample is too small to carry it (`NEEDED`), or holds no numbers."""
    if len(runs) < NEEDED[rank] or not all(map(math.isfinite, runs)):
        return None
    return sorted(runs)[max(0, math.ceil(len(runs) * rank / 100) - 1)]


def advice(subject: Subject) -> str:
    """What to ship and why, in a few sentences."""
    chosen = subject.pick()
    if chosen is None:
        return (
            "No variant is verified and keeps the accuracy of the weights it was made from: "
            "ship none of them before you know why."
        )
    parts = [
        f"{figure(chosen.median)} ms per text, {share(chosen.accuracy)} {subject.metric.replace('_', ' ')} "
        f"({share(subject.trained)} before the export, under torch), {size(chosen.bytes)}."
    ]
    plain = next((row for row in subject.rows if row.target == chosen.target and not row.quantized), None)
    if chosen.quantized and plain is not None:
        parts.append(f"Against {plain.variant} it is {_against(chosen, plain)}.")
    smallest = min(subject.rows, key=lambda row: row.bytes or math.inf)
    if (smallest.bytes or math.inf) < (chosen.bytes or 0) and subject.keeps(smallest):
        figures = f"{size(smallest.bytes)}, {figure(smallest.median)} ms, {share(smallest.accuracy)}"
        parts.append(f"Where size matters more than speed: {smallest.variant} ({figures}).")
    dropped = [row.variant for row in subject.rows if not subject.keeps(row)]
    if dropped:
        parts.append(f"Left out, as not verified or less accurate: {', '.join(dropped)}.")
    return " ".join(parts)


def is_number(value: float | None) -> TypeGuard[float]:
    """Measured, and finite."""
    return value is not None and math.isfinite(value)


def figure(value: float | None) -> str:
    """Three significant digits, never in exponents: `0.213`, `12.3`, `1420`."""
    if not is_number(value):
        return DASH
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(digits, 0), 6)}f}"


def share(value: float | None) -> str:
    """A share from 0 to 1 in per cent, to a tenth."""
    return f"{value * 100:.1f} %" if is_number(value) else DASH


def whole(value: float | None) -> str:
    """A count, with its thousands apart."""
    return f"{value:,.0f}" if is_number(value) else DASH


def size(value: int | None) -> str:
    return DASH if value is None else size_text(value)


def yes(ok: bool | None) -> str:
    return {True: "yes", False: "NO", None: DASH}[ok]


def _against(chosen: Row, plain: Row) -> str:
    """How much smaller and faster one variant is than another."""
    found = []
    for ours, theirs, less, more, same in (
        (chosen.bytes, plain.bytes, "smaller", "larger", "as large"),
        (chosen.median, plain.median, "faster", "slower", "about as fast"),
    ):
        if ours and theirs:
            ratio = max(ours, theirs) / min(ours, theirs)
            word = less if ours < theirs else more
            found.append(f"{ratio:.1f} times {word}" if ratio >= LEVEL else same)
    return " and ".join(found)


def _flat(subject: Subject, row: Row, *, recommended: bool) -> dict[str, Any]:
    return {
        "bundle": subject.bundle,
        "task": subject.task,
        "variant": row.variant,
        "bytes": row.bytes,
        "metric": subject.metric,
        "accuracy": row.accuracy,
        "trained_accuracy": subject.trained,
        "agreement": row.agreement,
        "milliseconds": {f"p{rank}": percentile(row.latencies, rank) for rank in (50, 90, 99)},
        "runs": len(row.latencies),
        "texts_per_second": row.per_second,
        "verified": None if row.check is None else row.check.ok,
        "difference": None if row.check is None else row.check.difference,
        "recommended": recommended,
    }
