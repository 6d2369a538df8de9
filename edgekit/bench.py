"""Measure speed, memory and correctness of every variant of a bundle that this machine can run.

    report = edgekit.bench("minilm.ek", targets=["cpu", "openvino"])
    report.to_html("report.html")

Each row is measured in a fresh process, the variants of a bundle take turns, and the outputs are compared with the
goldens in the process that was timed. The parts are in `edgekit.measuring`; the result is an `edgekit.report.Report`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edgekit.cache.measurements import Measurement
    from edgekit.core import Precision, Progress, Scenario, Target
    from edgekit.report import Report
    from edgekit.reporting.record import Record, Row

ANSWER_TOKENS = 100  # variants of a language model are compared by the time for an answer of this length


def bench(
    bundles: str | Path | Sequence[str | Path],
    *,
    targets: Sequence[Target] = (),
    precisions: Sequence[Precision] = (),
    scenario: Scenario | Literal["auto"] = "auto",
    prompt: Sequence[int] = (),
    generate: Sequence[int] = (),
    depth: Sequence[int] = (0,),
    batch: Sequence[int] = (),
    repetitions: int | None = None,
    threads: int | None = None,
    quick: bool = False,
    sustain: float | None = None,
    replicate: int = 1,
    inputs: str | Path | None = None,
    memory_limit: int | None = None,
    meter: str | Path | None = None,
    progress: Progress | None = None,
    finished: Callable[[Report, Sequence[Row]], None] | None = None,
) -> Report:
    """Measure speed, memory and correctness of bundles on this device.

    `bundles`: folders, or models that are exported first (`random:CONFIG`, `zoo:NAME`). `targets`, `precisions`: the
    variants to measure; none means all that this machine can run. `prompt`, `generate`, `depth`: token counts of a
    language model, every combination is a test; none means 512 and 128, or what the context holds. `batch`: items in
    one run. `repetitions`: runs; None means as many as fit in ten seconds. `sustain`: seconds of continuous running
    after that. `replicate`: how often to repeat the whole measurement. `inputs`: a file of texts, one a line, or of
    series, in CSV. `memory_limit`: bytes that no row may need. `meter`: an external power meter's CSV. `finished` is
    called whenever rows are finished, with the report so far (`Report.partial`) and these rows.

    A variant that fails is a row that says why (`invalid`). Raises UsageError, BundleError or DeviceError where
    nothing can be measured at all.
    """
    from edgekit.bundle import user_files
    from edgekit.cache import measurements
    from edgekit.measuring.campaign import Settings, run
    from edgekit.report import Report

    if inputs is not None:
        user_files.check_input(Path(inputs), "--input")
    settings = Settings(
        bundles=[bundles] if isinstance(bundles, str | Path) else list(bundles),
        targets=tuple(targets),
        precisions=tuple(precisions),
        scenario=scenario,
        prompt=tuple(prompt),
        generate=tuple(generate),
        depth=tuple(depth),
        batch=tuple(batch),
        repetitions=repetitions,
        threads=threads,
        quick=quick,
        sustain=sustain,
        replicate=replicate,
        inputs=None if inputs is None else Path(inputs),
        memory_limit=memory_limit,
        meter=None if meter is None else Path(meter),
    )
    latest: Record | None = None

    def each(record: Record, rows: Sequence[Row]) -> None:
        nonlocal latest
        latest = record
        if finished is not None:
            finished(Report.of(record), rows)

    try:
        return Report.of(run(settings, progress or (lambda stage, what: None), each))
    finally:  # an interrupted measurement has valid rows, too
        if latest is not None:
            measurements.remember(list(cache_entries(latest)))


def cache_entries(record: Record) -> Iterator[Measurement]:
    """One measurement for all replicates of a row, as `--target auto` compares them.

    Disturbed rows do not count. A row with wrong outputs is included, so that it is not chosen.
    """

    def key(row: Row) -> tuple[str, ...]:
        return row.digest, row.variant, row.scenario, row.test, str(row.threads)

    engines = record.environment.engines
    timed = [row for row in record.rows if comparable_seconds(row) is not None and row.target in engines]
    for _, group in groupby(sorted(timed, key=key), key):
        replicates = list(group)
        undisturbed = [row for row in replicates if not row.disturbed]
        wrong = next((row.invalid for row in replicates if row.invalid), "")
        if undisturbed or wrong:
            yield _cache_entry(record, undisturbed or replicates, wrong)


def _cache_entry(record: Record, replicates: Sequence[Row], wrong: str) -> Measurement:
    from edgekit.cache.measurements import Measurement

    first = replicates[0]
    peaks = [row.memory.peak_rss for row in replicates if row.memory and row.memory.peak_rss is not None]
    return Measurement(
        engine=record.environment.engines[first.target],
        digest=first.digest,
        variant=first.variant,
        scenario=first.scenario,
        test=first.test,
        threads=first.threads,
        seconds=statistics.median(seconds for row in replicates if (seconds := comparable_seconds(row)) is not None),
        peak_rss=max(peaks, default=None),
        when=record.made,
        wrong=wrong,
    )


def comparable_seconds(row: Row) -> float | None:
    """Seconds for one input, one step of a stream, or an answer of ANSWER_TOKENS; None if the row has none of them."""
    medians = {name: figure.median for name, figure in row.figures.items()}
    if "ttft" in medians and "tpot" in medians:
        return medians["ttft"] + (ANSWER_TOKENS - 1) * medians["tpot"]
    if medians.get("throughput"):
        medians.setdefault("latency", 1 / medians["throughput"])
    return medians.get("latency", medians.get("step"))
