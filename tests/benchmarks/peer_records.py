"""A benchmark beside peers as a Record of EdgeKit's own: `edgekit report` then tells and compares it like any other.

Each contender is a variant, its library the target. What a round gave is a value of its figures, in the rounds' order,
so that rounds can be compared with one another. Measures nothing.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from _harness import say
from contenders import Contender

if TYPE_CHECKING:
    from edgekit.reporting.record import Record, Row

OTHERS = 0.1  # cores busy with other work, from which on a row says so


@dataclass
class Told:
    """What all rows of one script share, from before the first of them on."""

    model: str
    task: str
    random: bool
    threads: int
    begun: float = field(default_factory=time.monotonic)
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def row(
        self,
        contender: Contender,
        scenario: str,
        test: str,
        parameters: Mapping[str, int],
        values: Mapping[str, Sequence[float]],
        *,
        others: float,
        peak: int | None = None,
        check: str = "",
    ) -> Row:
        """`values`: by the names of `edgekit.reporting.record.QUANTITIES`, one a round. `others`: cores that other work
        kept busy. `check`: why what it answered is wrong."""
        from edgekit.measuring.summaries import figure
        from edgekit.reporting.record import QUANTITIES, Memory, Row

        library, _, form = contender.name.replace(",", "").partition(" ")
        return Row(
            bundle=self.model,
            digest="",
            source=self.model,
            task=self.task,
            random=self.random,
            variant=f"{library}/{form or contender.precision}",
            target=library,
            precision=contender.precision,
            recipe=form or contender.precision,
            placement="",
            threads=self.threads,
            scenario=scenario,
            test=test,
            parameters=dict(parameters),
            figures={name: figure(QUANTITIES[name][0], list(each)) for name, each in values.items() if each},
            memory=None if peak is None else Memory(peak_rss=peak, device_why="it computes in the host's memory"),
            disturbed=(f"other programs used {others:.1f} cores",) if others >= OTHERS else (),
            invalid=check,
        )

    def record(self, title: str, rows: Sequence[Row], method: str, bandwidth: float | None = None) -> Record:
        """`method`: the script's docstring."""
        from edgekit.measuring.environment import describe
        from edgekit.reporting.record import SCHEMA, Record

        script = Path(sys.argv[0]).name
        paragraphs = [" ".join(part.split()) for part in method.split("\n\n")]
        return Record(
            schema=SCHEMA,
            title=title,
            made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            seconds=time.monotonic() - self.begun,
            commands=(shlex.join(["python", f"tests/benchmarks/{script}", *map(_portable, sys.argv[1:])]),),
            environment=describe(self.load, bandwidth),
            rows=tuple(rows),
            method=tuple(part for part in paragraphs if not part.startswith("python ")),
        )


def check_output(output: Path | None) -> None:
    """Before anything is measured. Raises UsageError for a file that `publish` could not write."""
    from edgekit import report

    if output:
        report.check_path(output)


def publish(output: Path | None, text: str, record: Record) -> None:
    """The table to stdout; with `output` the record to a file: .json, .csv, .md or a page, .html."""
    from edgekit import report

    print(text)
    if output:
        report.write(record, output)
        say(f"wrote {output}")


def _portable(word: str) -> str:
    """Files by their names: nobody else has the same folders."""
    return Path(word).name if os.sep in word else word
