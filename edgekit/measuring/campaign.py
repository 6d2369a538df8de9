"""Run a whole benchmark: check the settings, measure every row of every bundle, return the Record.

Knows the order of things; what one row takes is `weighing`'s.
"""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import limits, registry
from edgekit.bundle import manifest
from edgekit.bundle.safe_files import size_text
from edgekit.core import Bundle, Precision, Progress, Target, Variant
from edgekit.errors import UsageError
from edgekit.machine import device
from edgekit.measuring import configuration, surroundings, turns
from edgekit.measuring.bandwidth import read_bandwidth
from edgekit.measuring.configuration import Test
from edgekit.measuring.environment import describe
from edgekit.measuring.prepare import prepared
from edgekit.measuring.row import Way, Weighing
from edgekit.registry import suggest
from edgekit.reporting import record as records
from edgekit.reporting.record import SCENARIOS, Environment, Record, Row
from edgekit.variants import probe
from edgekit.workbench import worker

SECONDS, QUICK = 1.0, 0.2  # of reading memory
STARTS = 2  # more fresh processes of a variant, only for how long it takes to start
DAY = 86_400
METHOD = (
    "Each row was measured in its own process. The variants of a bundle took turns in blocks of runs; the others were "
    "stopped meanwhile. Warm-up runs do not count: they lasted until the last five varied by less than 5 %, or for ten "
    "seconds.",
    "A percentile is given only if the sample supports it: 64 values for p90, 130 for p95, 662 for p99. The interval "
    "of a median is its 95 % bootstrap interval. Outliers are beyond Tukey's outer fences; they are not removed.",
    "TTFT is the time from the prompt's text to the first token, with template and tokenizing; each run has another "
    "prompt. TPOT is (end - first token) / (tokens - 1). For a cold load the compile cache was empty and the kernel "
    "was asked to drop the files from memory.",
    "Memory is the kernel's count for the process: RSS, PSS and USS after each phase, and its peak. In a test with a "
    "depth it includes the tokens in the cache before each run. Outputs were checked in the process that was timed: "
    "goldens, and the zoo's metric on held-out inputs.",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of `edgekit.bench`. Raises UsageError for a value that makes no sense."""

    bundles: Sequence[str | Path]
    targets: tuple[Target, ...] = ()
    precisions: tuple[Precision, ...] = ()
    scenario: str = "auto"
    prompt: tuple[int, ...] = ()
    generate: tuple[int, ...] = ()
    depth: tuple[int, ...] = (0,)
    batch: tuple[int, ...] = ()
    repetitions: int | None = None
    threads: int | None = None
    quick: bool = False
    sustain: float | None = None
    replicate: int = 1
    inputs: Path | None = None
    memory_limit: int | None = None
    meter: Path | None = None

    def __post_init__(self) -> None:
        if self.scenario not in ("auto", *SCENARIOS):
            hint = suggest(self.scenario, list(SCENARIOS)) or f"known: auto, {', '.join(SCENARIOS)}"
            raise UsageError(f"no scenario named {self.scenario!r}", hint=hint)
        for name in ("prompt", "generate", "depth", "batch", "repetitions", "threads", "replicate"):
            given, least = getattr(self, name), 0 if name == "depth" else 1
            most = limits.THREADS if name == "threads" else limits.REPEATS
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None and (type(value) is not int or not least <= value <= most):
                    raise UsageError(f"{name} is {value!r}", hint=f"give a whole number from {least} to {most}")
        if self.sustain is not None and not 1 <= self.sustain <= DAY:
            raise UsageError(f"sustain is {self.sustain}", hint=f"give seconds, from 1 to {DAY} (a day)")

    def tests(self, bundle: Bundle) -> tuple[list[Test], list[str]]:
        """Of a bundle, and what should be said of them. Raises as `configuration.plan`."""
        return configuration.plan(
            bundle, self.scenario, prompt=self.prompt, generate=self.generate, depth=self.depth, batch=self.batch
        )

    @property
    def command(self) -> str:
        """What makes it again on a command line; files by their names, as nobody else has the same folders."""
        options = {
            "--target": self.targets,
            "--precision": self.precisions,
            "--scenario": self.scenario if self.scenario != "auto" else None,
            "-p": self.prompt,
            "-n": self.generate,
            "--depth": self.depth if self.depth != (0,) else (),
            "-b": self.batch,
            "-r": self.repetitions,
            "-t": self.threads,
            "--sustain": self.sustain,
            "--replicate": self.replicate if self.replicate > 1 else None,
            "--input": self.inputs and self.inputs.name,
            "--memory-limit": self.memory_limit,
            "--meter": self.meter and self.meter.name,
        }
        words = ["edgekit", "bench", *map(_portable, self.bundles), *(["--quick"] if self.quick else [])]
        for option, given in options.items():
            for value in given if isinstance(given, tuple) else (given,):
                words += [] if value is None else [option, str(value)]
        return shlex.join(words)


Finished = Callable[[Record, Sequence[Row]], None]  # is given the record so far, and its new rows


def run(settings: Settings, say: Progress, finished: Finished = lambda record, rows: None) -> Record:
    """Measure everything. `finished` is called whenever rows are finished.

    Raises UsageError, BundleError, DeviceError where nothing can be measured, and what an export raises.
    """
    worker.check_system()
    begun, load, threads = time.monotonic(), os.getloadavg()[0], settings.threads or device.threads()
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as place:
        subjects = _subjects(settings, Path(place), say)
        plans = [settings.tests(each.bundle) for each in subjects]
        chosen = [_variants(each.bundle, settings) for each in subjects]
        say("bench", "measuring the memory bandwidth")
        bandwidth = read_bandwidth(threads, QUICK if settings.quick else SECONDS)
        way = Way(
            threads=threads,
            place=Path(place),
            quick=settings.quick,
            repetitions=settings.repetitions,
            sustain=settings.sustain,
            file=settings.inputs,
            meter=settings.meter,
            say=say,
        )
        said = [line for _, lines in (*plans, *chosen) for line in lines]
        order = _order(subjects, [tests for tests, _ in plans], [variants for variants, _ in chosen])
        planned = settings.replicate * len(order)
        rows: list[Row] = []

        def record() -> Record:
            rows.sort(key=lambda row: (order[row.bundle, row.variant, row.test], row.replicate))
            seconds = time.monotonic() - begun
            return _record(settings, subjects, rows, planned, describe(load, bandwidth), seconds, said)

        for subject, (tests, _), (variants, _) in zip(subjects, plans, chosen, strict=True):
            for new in _rows(subject, tests, variants, way, settings):
                rows += new
                finished(record(), new)
        return record()


@dataclass(frozen=True)
class Subject:
    """A bundle to be measured, and what the record calls it."""

    bundle: Bundle
    name: str
    digest: str


def _subjects(settings: Settings, place: Path, say: Progress) -> list[Subject]:
    """The bundles, each read and its files checked; what is none is exported first, into `place`."""
    if not settings.bundles:
        raise UsageError("no bundle to measure", hint="name one or more folders that edgekit export wrote")
    folders = [
        prepared(str(model), targets=settings.targets, precisions=settings.precisions, folder=place, progress=say)
        for model in settings.bundles
    ]
    found = [manifest.read(folder) for folder in folders]
    names = [bundle.name for bundle in found]
    if len(set(names)) < len(names):  # the folder above tells them apart
        names = [f"{bundle.folder.parent.name}/{bundle.name}" for bundle in found]
    if len(set(names)) < len(names):
        raise UsageError("the same bundle is named twice", hint="to repeat the measurement, use --replicate N")
    return [Subject(bundle, name, manifest.fingerprint(bundle)) for bundle, name in zip(found, names)]


def _variants(bundle: Bundle, settings: Settings) -> tuple[list[tuple[Variant, str]], list[str]]:
    """The variants to measure, each with why it cannot be ("" if it can), and what should be said of the others.

    Raises UsageError where the bundle has none of those that were asked for, DeviceError where none can run here.
    """
    wanted = [
        variant
        for variant in bundle.variants
        if (not settings.targets or variant.target in settings.targets)
        and (not settings.precisions or {variant.recipe.weights, variant.recipe.name} & set(settings.precisions))
    ]
    if not wanted:
        have = ", ".join(variant.name for variant in bundle.variants)
        raise UsageError(f"{bundle.name} has no such variant", hint=f"it has {have}; export again for another")
    why = {variant.target: probe(variant.target) for variant in wanted}
    missing = [error for error in why.values() if error is not None]
    if len(missing) == len(why):
        raise missing[0]
    found: list[tuple[Variant, str]] = []
    said: list[str] = []
    for variant in wanted:
        error = why[variant.target]
        if error is None or settings.targets:
            found.append((variant, "" if error is None else error.message))
        else:
            said.append(f"{bundle.name} {variant.name} was left out: {error.message}")
    return found, said


def _rows(
    subject: Subject, tests: Sequence[Test], variants: Sequence[tuple[Variant, str]], way: Way, settings: Settings
) -> Iterator[list[Row]]:
    """The rows of a bundle as they are finished: variants that took turns together."""
    for replicate in range(settings.replicate):
        for place, test in enumerate(tests):
            weighings = [
                _weighing(Weighing(subject.bundle, subject.name, subject.digest, variant, test, way, why), settings)
                for variant, why in variants
            ]
            for each in weighings:
                each.replicate = replicate
                each.starts = STARTS if replicate == place == 0 and not settings.quick else 0
            yield from turns.measure(weighings)


def _order(
    subjects: Sequence[Subject],
    tests: Sequence[Sequence[Test]],
    variants: Sequence[Sequence[tuple[Variant, str]]],
) -> dict[tuple[str, str, str], int]:
    """(bundle, variant, test) -> its place in the record."""
    names = [
        (subject.name, variant.name, test.name)
        for subject, its_tests, its_variants in zip(subjects, tests, variants, strict=True)
        for variant, _ in its_variants
        for test in its_tests
    ]
    return {name: place for place, name in enumerate(names)}


def _weighing(made: Weighing, settings: Settings) -> Weighing:
    """With what it is expected to take; failed before it was opened where that is more than is allowed."""
    if made.failed:
        return made
    made.forecast = forecast = surroundings.forecast(made.bundle, made.variant, made.test, made.way.threads)
    limit = settings.memory_limit
    if forecast is None:
        if limit is not None:
            made.failed = f"there is no memory forecast for {made.variant.target}, so --memory-limit cannot apply"
        return made
    allowed = f", and {size_text(limit)} are allowed" if limit is not None else ""
    made.way.say(made.label, f"memory forecast {size_text(forecast.total)}{allowed}")
    if limit is not None and forecast.total > limit:
        made.failed = surroundings.too_large(made.bundle, made.variant, made.test, limit)
    return made


def _record(
    settings: Settings,
    subjects: Sequence[Subject],
    rows: Sequence[Row],
    planned: int,
    environment: Environment,
    seconds: float,
    said: Sequence[str],
) -> Record:
    return Record(
        schema=records.SCHEMA,
        title=records.TITLE,
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seconds=seconds,
        commands=(settings.command,),
        environment=environment,
        rows=tuple(rows),
        subjects=tuple(
            records.Subject(bundle=each.name, what=registry.described(each.bundle.task).description)
            for each in subjects
        ),
        method=METHOD,
        warnings=(*said, *_warnings(subjects, rows, planned)),
        planned=planned,
    )


def _warnings(subjects: Sequence[Subject], rows: Sequence[Row], planned: int) -> Iterator[str]:
    """What a reader of all rows should know."""
    if len(rows) < planned:
        yield f"The measurement was interrupted: {len(rows)} of {planned} rows were measured."
    for each in subjects:
        if each.bundle.source.random:
            yield f"{each.name} has random weights: only its speed and memory have a meaning."
        if each.bundle.goldens is None:
            yield f"{each.name} has no goldens: its outputs are not checked."


def _portable(model: str | Path) -> str:
    """A model's name without the folders of this machine."""
    kind, colon, path = str(model).rpartition(":")
    return kind + colon + (Path(path).name if kind in ("", "random") else path)
