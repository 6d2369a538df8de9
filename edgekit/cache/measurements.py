"""What was measured on this device, kept in the user's cache for whoever must choose between a bundle's variants.

A measurement counts for the same bundle on the same processor with as many cores and the same engine version, and for
nothing else. The file saves a guess and decides nothing more: one that is missing, torn or somebody else's only means
that nothing is known.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit import device, registry
from edgekit.bundle import safe_files
from edgekit.cache import digests

if TYPE_CHECKING:
    from edgekit.reporting.record import Record, Row

log = logging.getLogger("edgekit")

NAME = "measured.json"
FORMAT = 1
MOST = 500  # entries, the newest of them
MOST_BYTES = 1 << 20
ANSWER = 100  # tokens of the answer that variants of a language model are compared by


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variant in one test. `seconds`: for one input, one sample of a stream, or an answer of ANSWER tokens."""

    device: str
    engine: str  # "ONNX Runtime 1.31.1"
    digest: str  # the bundle's fingerprint
    variant: str
    scenario: str
    test: str
    threads: int
    seconds: float
    peak_rss: int | None
    when: str  # UTC, as 2026-11-22T18:59:49Z
    wrong: str  # why what it gave there is wrong; empty where it is right

    @property
    def same(self) -> tuple[str, str, int]:
        """What entries must share to be compared."""
        return self.scenario, self.test, self.threads

    @property
    def key(self) -> tuple[str, ...]:
        """What entries share of which only the newest counts."""
        return self.device, self.digest, self.variant, self.scenario, self.test, str(self.threads)


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    entries: list[Entry]


def remember(record: Record) -> None:
    """Keep the speed of each row that nothing disturbed. Where nothing can be kept nothing is, without an error.

    A row that gave wrong answers is kept as well: it is not to be chosen.
    """
    path = _path()
    new = list(_entries(record))
    if path is None or not new:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(path):
            fresh = {entry.key for entry in new}
            entries = [entry for entry in _read(path) if entry.key not in fresh] + new
            safe_files.replace_file(path, msgspec.json.encode(_Kept(FORMAT, entries[-MOST:])))
    except OSError as error:
        log.debug("what was measured cannot be remembered: %s", error)


def recall(digest: str) -> list[Entry]:
    """What counts now of the bundle with this fingerprint, the oldest first."""
    path = _path()
    here, engines = _device(), _engines()
    return [
        entry
        for entry in (_read(path) if path is not None else ())
        if (entry.digest, entry.device) == (digest, here)
        and entry.engine == engines.get(entry.variant.partition("/")[0])
    ]


def _entries(record: Record) -> Iterator[Entry]:
    """One for all replicates of a row: their median."""

    def of(row: Row) -> tuple[str, ...]:
        return row.digest, row.variant, row.scenario, row.test, str(row.threads)

    here, engines = _device(), record.environment.engines
    known = [row for row in record.rows if _seconds(row) is not None and row.target in engines]
    for _, rows in groupby(sorted(known, key=of), of):
        alike = list(rows)
        calm = [row for row in alike if not row.disturbed]
        wrong = next((row.invalid for row in alike if row.invalid), "")
        if not calm and not wrong:
            continue
        yield _entry(record, here, calm or alike, wrong)


def _entry(record: Record, here: str, alike: Sequence[Row], wrong: str) -> Entry:
    first = alike[0]
    peaks = [row.memory.peak_rss for row in alike if row.memory and row.memory.peak_rss is not None]
    return Entry(
        device=here,
        engine=record.environment.engines[first.target],
        digest=first.digest,
        variant=first.variant,
        scenario=first.scenario,
        test=first.test,
        threads=first.threads,
        seconds=statistics.median(seconds for row in alike if (seconds := _seconds(row)) is not None),
        peak_rss=max(peaks, default=None),
        when=record.made,
        wrong=wrong,
    )


def _seconds(row: Row) -> float | None:
    """The figure that variants are compared by; None where the row has none."""
    found = {name: figure.median for name, figure in row.figures.items()}
    if "ttft" in found and "tpot" in found:
        return found["ttft"] + (ANSWER - 1) * found["tpot"]
    if found.get("throughput"):
        found.setdefault("latency", 1 / found["throughput"])
    return found.get("latency", found.get("step"))


def _device() -> str:
    """What speed depends on, but for the engines, as a digest."""
    facts = device.cpu_model(), sorted(device.cpu_features()), os.cpu_count(), device.affinity(), device.cpu_quota()
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _engines() -> Mapping[str, str]:
    found = (registry.find("targets", name).probe() for name in registry.names("targets"))
    return {each.target: f"{each.engine} {each.version}" for each in found}


def _path() -> Path | None:
    home = digests.cache_folder()
    return None if home is None else home / NAME


def _read(path: Path) -> list[Entry]:
    """What is there. A file that this version did not write is moved out of the way."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        kept = msgspec.json.decode(data, type=_Kept)
        if kept.format == FORMAT and len(data) <= MOST_BYTES:
            return kept.entries
    except FileNotFoundError:
        return []
    except OSError as error:
        log.debug("%s cannot be read: %s", path, error)
        return []
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.debug("%s: %s", path, error)
    aside = path.with_suffix(".unreadable")
    log.warning("%s is not what was kept there; it is %s now, and nothing is known", path, aside.name)
    try:
        path.replace(aside)
    except OSError as error:
        log.debug("%s stays: %s", path, error)
    return []


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Between reading and writing nobody else writes. Raises OSError where the file system has no locks."""
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
