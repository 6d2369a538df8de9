"""Reports of benchmarks: a Record as a file, a table or an HTML page, and several Records compared.

    report = read(Path("bench.json"))                # a Report, or RecordError with the row's number
    report.to_html("report.html")                    # also to_json, to_csv, to_markdown
    result = from_files([a, b], page, compare=True, bounds=["tpot_p50>+5%"])

Measures nothing and knows no engine. The parts are in `edgekit.reporting`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgekit.bundle import user_files
from edgekit.errors import UsageError, VerificationError
from edgekit.reporting import comparison as comparing
from edgekit.reporting import fail_if, number_text, record_file, tables
from edgekit.reporting.comparison import Comparison
from edgekit.reporting.record import Record
from edgekit.reporting.tables import table as table

MOST_FILES = 8  # more columns are hard to read side by side


class Report(Record):
    """A Record that can write itself to a file. `edgekit.bench` and `read` return one."""

    @classmethod
    def of(cls, record: Record) -> Report:
        """A Report with the fields of `record`."""
        return cls(**{field.name: getattr(record, field.name) for field in fields(record)})

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained HTML page.

        Raises UsageError for another suffix or a missing folder, as do the other `to_` methods.
        """
        write(self, Path(path), ".html")

    def to_json(self, path: str | Path) -> None:
        """Write all of the record; `read` reads it back."""
        write(self, Path(path), ".json")

    def to_csv(self, path: str | Path) -> None:
        """Write one CSV line for each row."""
        write(self, Path(path), ".csv")

    def to_markdown(self, path: str | Path) -> None:
        """Write a Markdown table of the quantities that a person compares."""
        write(self, Path(path), ".md")


@dataclass(frozen=True)
class FileReport:
    """What `from_files` returns; `str()` of it is a table.

    `failures`: rows that fail a bound, in words. `undecided`: rows beyond a relative bound that do not fail, and why.
    """

    files: tuple[str, ...]
    output: Path | None
    changes: tuple[dict[str, Any], ...]  # see `edgekit.reporting.comparison.flat`
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    summary: tuple[str, ...]
    failures: tuple[str, ...]
    undecided: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        bounds = [f"FAILED: {failure}" for failure in self.failures] + [f"UNDECIDED: {each}" for each in self.undecided]
        parts = (self.text, "\n".join(bounds), str(self.output or ""))
        return "\n\n".join(filter(None, parts))

    @property
    def error(self) -> VerificationError | None:
        """The error (exit code 5) if a row fails a bound."""
        if not self.failures:
            return None
        more = f", and {len(self.failures) - 1} more" if len(self.failures) > 1 else ""
        hint = f"{self.output} has the figures" if self.output else "write the figures to a page with -o FILE.html"
        return VerificationError(f"{self.failures[0]}{more}", hint=hint, failures=list(self.failures))


def read(path: Path) -> Report:
    """The report in a JSON file. Raises RecordError, with the number and the name of a row that is not valid."""
    return Report.of(record_file.read(path))


def write(record: Record, path: Path, suffix: str | None = None) -> None:
    """Write the record in the format of the file's suffix. `suffix`: the only suffix that the path may have.

    Raises UsageError as `check_path` does, and ResourceError when the disk refuses it; an old file then stays whole.
    """
    check_path(path, suffix)
    user_files.save(path, FORMATS[path.suffix.lower()](record))


def check_path(path: Path, suffix: str | None = None) -> None:
    """Raises UsageError for a path that `write` cannot write. Call it before a long measurement."""
    suffixes = [suffix] if suffix else list(FORMATS)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{path.name} does not end in {' '.join(suffixes)}", hint=f"name it {path.stem}{suffixes[0]}")
    user_files.check_output(path)


def from_files(
    paths: Sequence[Path], output: Path | None = None, *, compare: bool = False, bounds: Sequence[str] = ()
) -> FileReport:
    """One report of several JSON files; with `compare` each is compared with the first. `output`: an .html page.

    `bounds`, see `edgekit.reporting.fail_if`, imply `compare` where there are several files. The page is written even
    when a row fails a bound. Raises UsageError for options that contradict each other, before any file is read, and
    RecordError as `read` does.
    """
    parsed = [fail_if.parse(text) for text in bounds]
    _check_options(paths, output, parsed, compare=compare)
    records, names = [record_file.read(path) for path in paths], _names(paths)
    matched = comparing.compare(records, names)  # of a single file too: absolute bounds are about its rows
    comparison = matched if compare or (parsed and len(paths) > 1) else None
    beyond = [failure for bound in parsed for failure in fail_if.judge(bound, matched)]
    failures = tuple(number_text.cut(failure, 400) for failure in beyond if not failure.excuse)
    undecided = tuple(number_text.cut(failure, 400) for failure in beyond if failure.excuse)
    if output:
        user_files.save(output, _page(records, names, comparison, failures, undecided))
    return FileReport(
        files=tuple(names),
        output=output,
        changes=tuple(comparing.flat(change, names) for change in comparison.changes) if comparison else (),
        differences=matched.differences,
        summary=tuple(_summary(records, names, comparison)),
        failures=failures,
        undecided=undecided,
        text=comparing.table(comparison) if comparison else "\n\n".join(_tables(records, names)),
    )


def _check_options(
    paths: Sequence[Path], output: Path | None, bounds: Sequence[fail_if.Bound], *, compare: bool
) -> None:
    if output:
        check_path(output, ".html")
        if output.exists() and any(path.exists() and path.samefile(output) for path in paths):
            raise UsageError(f"{output} is one of the files to read", hint="choose another name with -o")
    if not 1 <= len(paths) <= MOST_FILES:
        raise UsageError(f"{len(paths)} files; a report takes 1 to {MOST_FILES}", hint="choose some of them")
    relative = [bound.text for bound in bounds if bound.relative]
    if len(paths) < 2 and (compare or relative):
        option = f"--fail-if {relative[0]!r}" if relative else "--compare"
        raise UsageError(f"{option} needs a second file to compare with the first", hint="name two files or more")


def _names(paths: Sequence[Path]) -> list[str]:
    """A short name for each file: its stem, with the folder where stems repeat, with a number where those repeat."""
    names = [number_text.cut(path.stem, 40) for path in paths]
    if len(set(names)) < len(names):
        names = [number_text.cut(f"{path.resolve().parent.name}/{path.stem}", 60) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number} {name}" for number, name in enumerate(names, start=1)]
    return names


def _summary(records: Sequence[Record], names: Sequence[str], comparison: Comparison | None) -> list[str]:
    if comparison:
        return comparing.summary(comparison)
    lines = [(name, *line) for name, record in zip(names, records) for line in tables.recommendations(record)]
    return [f"{name}: {bundle}: {text}" if len(names) > 1 else f"{bundle}: {text}" for name, bundle, text in lines]


def _tables(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    several = len(records) > 1
    return [f"{name}\n\n{table(record)}" if several else table(record) for name, record in zip(names, records)]


def _html(record: Record) -> bytes:
    return _page([record], [""], None)


def _page(
    records: Sequence[Record],
    names: Sequence[str],
    comparison: Comparison | None,
    failures: Sequence[str] = (),
    undecided: Sequence[str] = (),
) -> bytes:
    from edgekit.reporting import html_page

    return html_page.html(records, names, comparison, failures, undecided).encode(errors="replace")


FORMATS: dict[str, Callable[[Record], bytes]] = {
    ".html": _html,
    ".json": record_file.encode,
    ".csv": lambda record: tables.as_csv(record).encode(errors="replace"),
    ".md": lambda record: tables.markdown(record).encode(errors="replace"),
}
