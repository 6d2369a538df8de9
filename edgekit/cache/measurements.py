"""Measured speeds of bundles' variants in the user's cache; `--target auto` chooses by them.

A measurement is valid for the same bundle, processor, core count and engine version. A file that is missing, damaged
or not ours means that nothing was measured.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgekit import registry
from edgekit.bundle import safe_files
from edgekit.cache import digests, here
from edgekit.errors import BundleError
from edgekit.machine import system_calls

log = logging.getLogger("edgekit")

NAME = "measured.json"
FORMAT = 1
MOST = 500  # entries: the newest are kept
MOST_BYTES = 1 << 20


class Measurement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The speed of one variant in one test."""

    engine: str  # "ONNX Runtime 1.31.1"
    digest: str  # the bundle's fingerprint
    variant: str
    scenario: str
    test: str
    threads: int
    seconds: float  # for one input, one step of a stream, or an answer of fixed length
    peak_rss: int | None
    when: str  # UTC, as 2026-11-22T18:59:49Z
    wrong: str  # why its outputs are wrong; "" if they are right

    @property
    def same(self) -> tuple[str, str, int]:
        """What measurements must share to be compared."""
        return self.scenario, self.test, self.threads


class Entry(Measurement, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measurement in the cache file. `device`: a digest of what speed depends on."""

    device: str

    @property
    def key(self) -> tuple[str, ...]:
        """Of the entries with the same key only the newest counts."""
        return self.device, self.digest, self.variant, self.scenario, self.test, str(self.threads)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    entries: list[Entry]


def remember(measurements: Sequence[Measurement]) -> None:
    """Add measurements to the cache file. Where it cannot be written nothing happens, and no error is raised."""
    path, device_digest = _path(), here.processor_and_cores()
    new = [Entry(device=device_digest, **msgspec.structs.asdict(each)) for each in measurements]
    if path is None or not new:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(path):
            replaced = {entry.key for entry in new}
            entries = [entry for entry in _read(path) if entry.key not in replaced] + new
            safe_files.replace_file(path, msgspec.json.encode(_File(FORMAT, entries[-MOST:])))
    except OSError as error:
        log.debug("measurements cannot be stored: %s", error)


def recall(digest: str) -> list[Entry]:
    """The valid entries of the bundle with this fingerprint, the oldest first."""
    path = _path()
    machine, engines = here.processor_and_cores(), {name: here.engine(name) for name in registry.names("targets")}
    return [
        entry
        for entry in (_read(path) if path is not None else ())
        if (entry.digest, entry.device) == (digest, machine)
        and entry.engine == engines.get(entry.variant.partition("/")[0])
    ]


def _path() -> Path | None:
    home = digests.cache_folder()
    return None if home is None else home / NAME


def _read(path: Path) -> list[Entry]:
    """The entries in the file. A file that this version cannot read is moved aside."""
    try:
        with safe_files.open_file(path) as file:
            data = file.read(MOST_BYTES + 1)
        content = msgspec.json.decode(data, type=_File)
        if content.format == FORMAT and len(data) <= MOST_BYTES:
            return content.entries
    except FileNotFoundError:
        return []
    except (OSError, BundleError) as error:
        log.debug("%s cannot be read: %s", path, error)
        return []
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.debug("%s: %s", path, error)
    aside = path.with_suffix(".unreadable")
    log.warning("%s is not a file of measurements; it was renamed to %s", path, aside.name)
    try:
        path.replace(aside)
    except OSError as error:
        log.debug("%s cannot be renamed: %s", path, error)
    return []


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock between reading and writing. Raises OSError where the file system has no locks."""
    descriptor = os.open(path.with_suffix(".lock"), system_calls.flags("O_RDWR", "O_CREAT", "O_NOFOLLOW"), 0o600)
    try:
        system_calls.lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)
