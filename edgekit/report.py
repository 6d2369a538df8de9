"""The front of what is told of measurements: a Record into a file and back, on a page, beside others, against bounds.

    write(record, Path("report.html"))               # .json .csv .md .html, whole or not at all
    record = read(Path("bench.json"))                # exactly a Record, or refused with the row's number
    told = tell([a, b], page, compare=True, bounds=["tpot_p50>+5%"])

Measures nothing, knows no engine. How each is made is in `edgekit.reporting`.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle import safe_files
from edgekit.errors import ResourceError, UsageError, VerificationError
from edgekit.reporting import comparison, number_text, tables
from edgekit.reporting import fail_if as bounding
from edgekit.reporting.comparison import Comparison
from edgekit.reporting.record import Record
from edgekit.reporting.record_file import encode
from edgekit.reporting.record_file import read as read
from edgekit.reporting.tables import table as table

COMPARED = 8  # files side by side: more columns nobody reads


@dataclass(frozen=True)
class Told:
    """What `tell` found; as text it is a table. `failures`: rows that a bound did not let through, in words."""

    files: tuple[str, ...]
    output: Path | None
    changes: tuple[dict[str, Any], ...]  # see `edgekit.reporting.comparison.flat`
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    summary: tuple[str, ...]
    failures: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        parts = (self.text, "\n".join(f"FAILED: {failure}" for failure in self.failures), str(self.output or ""))
        return "\n\n".join(filter(None, parts))

    @property
    def error(self) -> VerificationError | None:
        """What it amounts to if a bound was broken: exit code 5."""
        if not self.failures:
            return None
        more = f", and {len(self.failures) - 1} more" if len(self.failures) > 1 else ""
        hint = f"{self.output} has the figures" if self.output else "write the figures to a page with -o FILE.html"
        return VerificationError(f"{self.failures[0]}{more}", hint=hint, failures=list(self.failures))


def write(record: Record, path: Path, suffix: str | None = None) -> None:
    """The record as the file's suffix has it, or as `suffix`, which the file's must then be.

    Raises UsageError as `check_path` does, ResourceError when the disk does not take it; the file is then as before.
    """
    check_path(path, suffix)
    _write(path, FORMS[path.suffix.lower()](record))


def check_path(path: Path, suffix: str | None = None) -> None:
    """Raises UsageError for a file that `write` could not write, so that nobody measures for nothing."""
    wanted = [suffix] if suffix else list(FORMS)
    if path.suffix.lower() not in wanted:
        raise UsageError(f"{path.name} does not end in {' '.join(wanted)}", hint=f"name it {path.stem}{wanted[0]}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint=f"name a file in it: {path / f'report{wanted[0]}'}")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", hint="make it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass  # what may be written is known only from writing: a file system may be read-only, and root all-mighty
    except OSError as error:
        raise UsageError(f"cannot write in {path.parent}: {error.strerror}", hint="choose another folder") from error


def tell(
    paths: Sequence[Path], output: Path | None = None, *, compare: bool = False, bounds: Sequence[str] = ()
) -> Told:
    """Files as one report, or with `compare` held against the first; on a page at `output`, which ends in .html.

    `bounds`, see `edgekit.reporting.fail_if`, compare too where there are several files. The page is written before
    they are judged. Raises UsageError for options that make no sense, before any file is read, and as `read` does.
    """
    asked = [bounding.parse(text) for text in bounds]
    _check_asked(paths, output, asked, compare=compare)
    records, names = [read(path) for path in paths], _names(paths)
    found = comparison.compare(records, names)
    held = compare or (bool(asked) and len(paths) > 1)
    failures = tuple(number_text.cut(failure, 400) for bound in asked for failure in bounding.judge(bound, found))
    if output:
        _write(output, _page(records, names, found if held else None, failures))
    return Told(
        files=tuple(names),
        output=output,
        changes=tuple(comparison.flat(change, names) for change in found.changes) if held else (),
        differences=found.differences,
        summary=tuple(_summary(records, names, found if held else None)),
        failures=failures,
        text=comparison.table(found) if held else "\n\n".join(_tables(records, names)),
    )


def _check_asked(
    paths: Sequence[Path], output: Path | None, bounds: Sequence[bounding.Bound], *, compare: bool
) -> None:
    if output:
        check_path(output, ".html")
        if output.exists() and any(path.exists() and path.samefile(output) for path in paths):
            raise UsageError(f"{output} is one of the files to read", hint="choose another name with -o")
    if not 1 <= len(paths) <= COMPARED:
        raise UsageError(f"{len(paths)} files; 1 to {COMPARED} can be told of", hint="choose some")
    relative = [bound.text for bound in bounds if bound.relative]
    if len(paths) < 2 and (compare or relative):
        what = f"--fail-if {relative[0]!r}" if relative else "--compare"
        raise UsageError(f"{what} wants a second file to hold against the first", hint="name two files or more")


def _names(paths: Sequence[Path]) -> list[str]:
    """What to call the files: by their names, or, where two have one name, with their folders."""
    names = [number_text.cut(path.stem, 40) for path in paths]
    if len(set(names)) < len(names):
        names = [number_text.cut(f"{path.resolve().parent.name}/{path.stem}", 60) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number} {name}" for number, name in enumerate(names, start=1)]
    return names


def _summary(records: Sequence[Record], names: Sequence[str], found: Comparison | None) -> list[str]:
    if found:
        return comparison.summary(found)
    lines = [(name, *line) for name, record in zip(names, records) for line in tables.in_short(record)]
    return [f"{name}: {bundle}: {text}" if len(names) > 1 else f"{bundle}: {text}" for name, bundle, text in lines]


def _tables(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    several = len(records) > 1
    return [f"{name}\n\n{table(record)}" if several else table(record) for name, record in zip(names, records)]


def _html(record: Record) -> bytes:
    return _page([record], [""], None, ())


def _page(records: Sequence[Record], names: Sequence[str], found: Comparison | None, failures: Sequence[str]) -> bytes:
    from edgekit.reporting import html_page

    return html_page.html(records, names, found, failures).encode(errors="replace")


def _write(path: Path, data: bytes) -> None:
    try:
        safe_files.replace_file(path, data)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space" if full else "choose another file"
        raise ResourceError(f"cannot write {path}: {error.strerror}", hint=hint) from error


FORMS: dict[str, Callable[[Record], bytes]] = {
    ".html": _html,
    ".json": encode,
    ".csv": lambda record: tables.as_csv(record).encode(errors="replace"),
    ".md": lambda record: tables.markdown(record).encode(errors="replace"),
}
