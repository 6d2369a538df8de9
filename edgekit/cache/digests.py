"""Remembers which files had the digest that their bundle states, so that they are not hashed again.

A note is good as long as the file is the same inode with the same size and times: any change to a file moves its
ctime, which no call can set. Notes live in the user's cache folder. They save time and decide nothing else:
a note that is missing, torn or unwritable only means that the file is read again. Windows has no ctime: no notes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from pathlib import Path

import msgspec

from edgekit.bundle import safe_files
from edgekit.errors import BundleError
from edgekit.machine import system_calls

# A file changed twice within the clock's grain keeps its ctime, so one that changed just now is not noted.
SETTLED_NS = 2_000_000_000
_NOTES_BYTES = 4 << 20

_log = logging.getLogger("edgekit")


class Note(msgspec.Struct, frozen=True, array_like=True):
    identity: tuple[int, ...]
    sha256: str


class Memory:
    """The notes on one bundle's files."""

    def __init__(self, root: Path) -> None:
        cache = cache_folder() if system_calls.has_change_times() else None
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
        self._path = None if cache is None else cache / "verified" / f"{name}.json"
        self._notes = _load(self._path)
        self._fresh = False

    def knows(self, name: str, found: os.stat_result, sha256: str) -> bool:
        return self._notes.get(name) == Note(_identity(found), sha256)

    def note(self, name: str, found: os.stat_result, sha256: str) -> None:
        """The file that `found` described before it was read has this digest."""
        if time.time_ns() - found.st_ctime_ns >= SETTLED_NS:
            self._notes[name] = Note(_identity(found), sha256)
            self._fresh = True

    def save(self) -> None:
        if self._path is None or not self._fresh:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            safe_files.replace_file(self._path, msgspec.json.encode(self._notes))
        except OSError as error:
            _log.debug("what was verified cannot be remembered: %s", error)


def cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/edgekit, else ~/.cache/edgekit; None where there is no home. It need not exist."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # the XDG specification says to ignore a relative one
        return Path(named, "edgekit")
    with contextlib.suppress(RuntimeError):
        return Path.home() / ".cache" / "edgekit"
    return None


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _load(path: Path | None) -> dict[str, Note]:
    if path is None:
        return {}
    try:
        with safe_files.open_regular(path.parent, path.name) as file:
            return msgspec.json.decode(file.read(_NOTES_BYTES), type=dict[str, Note])
    except (BundleError, msgspec.DecodeError):  # not there yet, or torn
        return {}
