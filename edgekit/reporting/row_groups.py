"""The rows of one or several records, grouped by bundle: one group is one section of the page.

    for group in grouped(records, names):
        group.entries, group.verdicts

Which variant to ship is decided in `edgekit.reporting.advice`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.reporting import advice, number_text
from edgekit.reporting.advice import Verdict
from edgekit.reporting.record import SCENARIOS, Accuracy, Figure, Record, Row, Subject

SERIES = ("cpu", "openvino", "cuda")  # targets with a fixed colour; others come after them


@dataclass(frozen=True)
class Entry:
    """A row with what other rows and the record say about it. `device`: its file's name, "" if there is one file."""

    row: Row
    device: str
    accuracy: Accuracy | None
    bandwidth: float | None  # of its device's memory
    shipped: bool
    series: int

    @property
    def hollow(self) -> bool:
        return not self.row.quantized

    def figure(self, quantity: str) -> Figure | None:
        return self.row.figures.get(quantity)

    def median(self, quantity: str) -> float | None:
        return advice.median(self.row, quantity)


@dataclass(frozen=True)
class Group:
    """One bundle: `verdicts` are (device, what to ship there)."""

    bundle: str
    subject: Subject | None
    entries: tuple[Entry, ...]
    verdicts: tuple[tuple[str, Verdict], ...]

    def of(self, scenario: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.row.scenario == scenario]

    @property
    def scenarios(self) -> list[str]:
        return [name for name in SCENARIOS if self.of(name)]

    def label(self, entry: Entry, *, test: bool = True) -> str:
        """A short unique name: the variant, with device and test only where there are several."""
        same = self.of(entry.row.scenario)
        parts = [entry.device, entry.row.variant]
        if test and len({number_text.setting(each.row) for each in same}) > 1:
            parts.append(number_text.setting(entry.row))
        return " ".join(filter(None, parts))


def grouped(records: Sequence[Record], names: Sequence[str]) -> list[Group]:
    """The groups, in the order of the bundles in the records."""
    targets = list(dict.fromkeys((*SERIES, *(row.target for record in records for row in record.rows))))
    bundles = dict.fromkeys(row.bundle for record in records for row in record.rows)
    return [_group(bundle, records, names, targets) for bundle in bundles]


def _group(bundle: str, records: Sequence[Record], names: Sequence[str], targets: Sequence[str]) -> Group:
    entries, verdicts = [], []
    for record, name in zip(records, names):
        rows = [row for row in record.rows if row.bundle == bundle]
        if not rows:
            continue
        verdict = advice.judge(rows)
        verdicts.append((name, verdict))
        accuracies = {row.variant: row.accuracy for row in rows if row.accuracy}
        best = verdict.best.variant if verdict.best else None
        entries += [
            Entry(
                row=row,
                device=name,
                accuracy=accuracies.get(row.variant),
                bandwidth=record.environment.bandwidth,
                shipped=row.variant == best,
                series=targets.index(row.target),
            )
            for row in rows
        ]
    subjects = (subject for record in records for subject in record.subjects if subject.bundle == bundle)
    return Group(bundle, next(subjects, None), tuple(entries), tuple(verdicts))
