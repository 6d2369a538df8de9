"""`edgekit bench`: parses its options, checks the output paths, measures, and writes the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.console import Console
from edgekit.cli.options import COUNT, TARGETS, THREADS, Command, Count, complete_bundle, one_of, output_switches, size
from edgekit.core import PRECISIONS, SCENARIOS
from edgekit.errors import EdgeKitError, ResourceError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgekit.report import Report
    from edgekit.reporting.record import Record, Row

TOKENS = Count(0)
PATH = click.Path(path_type=Path)


@click.command(cls=Command)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", shell_complete=complete_bundle)
@click.option(
    "--target", "targets", multiple=True, **one_of("target", TARGETS), help="Engine. Repeat for more.  [all here]"
)
@click.option(
    "--precision", "precisions", multiple=True, **one_of("precision", PRECISIONS), help="Repeat for more.  [all]"
)
@click.option(
    "--scenario", **one_of("scenario", ("auto", *SCENARIOS)), default="auto", help="What to measure.  [by task]"
)
@click.option("-p", "--prompt", multiple=True, type=COUNT, metavar="N", help="Prompt tokens. Repeat for more.  [512]")
@click.option("-n", "--generate", multiple=True, type=COUNT, metavar="N", help="New tokens. Repeat for more.  [128]")
@click.option("--depth", multiple=True, type=TOKENS, default=(0,), metavar="N", help="Tokens in the cache.  [0]")
@click.option("-b", "--batch", multiple=True, type=COUNT, metavar="N", help="Items in one run. Repeat for more.")
@click.option("-r", "--repetitions", type=COUNT, metavar="N", help="Timed runs.  [as many as fit in 10 s]")
@click.option("-t", "--threads", type=THREADS, metavar="N", help="Threads of the engine.  [all available cores]")
@click.option("--quick", is_flag=True, help="One second of runs, no cold starts.")
@click.option(
    "--sustain", type=float, metavar="SECONDS", help="Also run for SECONDS without pause, to show throttling."
)
@click.option("--replicate", type=COUNT, default=1, metavar="N", help="Repeat the whole measurement N times.  [1]")
@click.option("--input", "inputs", type=PATH, metavar="FILE", help="Texts to use, one per line, or series as CSV.")
@click.option(
    "--memory-limit", type=size, metavar="SIZE", help="Skip rows whose memory forecast is above SIZE: 2G, 512MiB."
)
@click.option("--meter", type=PATH, metavar="FILE", help="Log of a power meter: CSV with time and watts.")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Results as .json .md .csv .html. Repeat for more.",
)
@output_switches
@click.pass_obj
def bench(console: Console, /, bundles: tuple[str, ...], outputs: tuple[Path, ...], **choices: Any) -> None:
    """Measure speed, memory and correctness of bundles on this device.

    $ edgekit bench minilm.ek -o report.html
    $ edgekit bench qwen3.ek --target cpu -p 128 -p 2048 -n 64
    $ edgekit bench faults.ek --sustain 600 -o faults.json
    $ edgekit bench random:configs/qwen3-0.6b --precision int4 --quick

    Measures every variant that this machine can run, each test in a fresh process, and checks the outputs in the
    process that is timed. BUNDLE may also be a model, which is exported first. The files of -o are written whenever
    rows are finished: an interrupt keeps what was measured. The exit code is 5 when an output is wrong.
    """
    from edgekit import report
    from edgekit.bench import bench

    for path in outputs:
        report.check_path(path)
    latest: Report | None = None

    def finished(record: Report, rows: Sequence[Row]) -> None:
        nonlocal latest
        latest = record
        for path in outputs:
            report.write(record, path)
        for line in row_lines(record, rows):
            console.say(line)

    try:
        with console.stages() as progress:
            record = bench(bundles, progress=progress, finished=finished, **choices)
    except KeyboardInterrupt:
        if latest is not None:
            console.answer(latest, report.table(latest))
        raise
    finally:
        if latest is not None:
            for path in outputs:
                console.say(f"wrote {path}{_part(latest)}")
    console.answer(record, report.table(record), error(record))


def row_lines(record: Record, rows: Sequence[Row]) -> Iterator[str]:
    """`[3/12] motor.ek cpu/int8 single: latency 344 µs · about 2 min left`, a line for each new row."""
    from edgekit.reporting import number_text
    from edgekit.reporting.tables import COMPARED
    from edgekit.text_table import one_line

    done, planned = len(record.rows), record.planned or len(record.rows)
    for number, row in enumerate(rows, start=done - len(rows) + 1):
        figures = [(name, row.figures[name]) for name in COMPARED[row.scenario] if name in row.figures]
        texts = [
            f"{number_text.QUANTITY[name]} {number_text.quantity(each.median, each.unit)}" for name, each in figures
        ]
        result = f"invalid, {row.invalid}" if row.invalid else ", ".join(texts)
        left = record.seconds / done * (planned - done) if number == done else 0.0
        remaining = f" · about {number_text.duration(left)} left" if left else ""
        yield one_line(number_text.cut(f"[{number}/{planned}] {row.name}: {result}{remaining}"))


def _part(record: Record) -> str:
    return f", with {len(record.rows)} of {record.planned} rows" if record.partial else ""


def error(record: Record) -> EdgeKitError | None:
    """The error that the command ends with, after the report was written: wrong outputs, or no valid row."""
    failures = [row.name for row in record.rows if row.check is not None and not row.check.ok]
    if failures:
        hint = "run another variant (--target, --precision), or export the model again on this machine"
        return VerificationError(f"{failures[0]} differs from its goldens", hint=hint, rows=failures)
    if all(row.invalid for row in record.rows):
        return ResourceError("nothing could be measured", hint=record.rows[0].invalid)
    return None
