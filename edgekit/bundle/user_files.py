"""Read and write the files that a user names: with -o, `save()`, --calibration, --input.

What is not ours is never replaced: only a regular file or a new name is, as a whole. A device or a pipe is written
to, as a shell does it. A link, a disk, a socket or a folder is refused. A file is read only if it is a regular file,
so that no pipe keeps us waiting, and up to a limit. Knows nothing of what the files hold.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import tempfile
from io import BufferedReader
from pathlib import Path

from edgekit.bundle import safe_files
from edgekit.errors import BundleError, EdgeKitError, ResourceError, UsageError
from edgekit.machine import system_calls

_THROUGH = (stat.S_IFIFO, stat.S_IFCHR)  # kinds of files that are written to and never replaced
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHORTAGES = (*_FULL, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPIPE)


def check_output(path: Path) -> None:
    """Raise UsageError where `save` cannot write: call it before anything is computed."""
    try:
        found = _mode(path)
        if found is not None and stat.S_IFMT(found) in _THROUGH:
            return
        _check_kind(path, found)
        with tempfile.TemporaryFile(dir=path.parent):
            pass  # only a write shows it: a file system may be read-only, and root passes every permission check
    except (OSError, ValueError) as error:
        raise _explained(path, error) from error


def save(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all; a device or a pipe gets the data as it is.

    Raises UsageError for a place that cannot be written to or must not be replaced, ResourceError when the disk or the
    reader takes no more.
    """
    try:
        found = _mode(path)
        if found is not None and stat.S_IFMT(found) in _THROUGH:
            _write_through(path, data)
            return
        _check_kind(path, found)
        safe_files.replace_file(path, data)
    except (OSError, ValueError) as error:
        raise _explained(path, error) from error


def check_name(path: Path) -> None:
    """Raise UsageError for a path that is not UTF-8: no engine opens a file there."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"the path {os.fspath(path)!a} is not UTF-8", hint="rename the file or folder") from None


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however few bytes the system takes at a time. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # whoever shares a terminal or a pipe with us may have made it non-blocking
            select.select([], [descriptor], [])


def check_input(path: Path, option: str) -> None:
    """Raise UsageError unless the path is a folder, or a file that can be read. `option`: that it came with."""
    if not path.is_dir():
        _open(path, f"give a file to {option}").close()


def read_input(path: Path, limit: int, hint: str) -> bytes:
    """All bytes of a file that a user named. Raises UsageError where it cannot be read or has more than `limit`."""
    with _open(path, hint) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", hint=hint) from error
    if len(data) > limit:
        raise UsageError(f"{path} has more than {safe_files.size_text(limit)}", hint="use a part of it")
    return data


def _open(path: Path, hint: str) -> BufferedReader:
    try:
        return safe_files.open_file(path)
    except BundleError as error:
        raise UsageError(f"cannot read {path}: {error.message}", hint=hint) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in its name
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}", hint=hint) from error


def _mode(path: Path) -> int | None:
    """Kind and permissions of what is at the path itself; None for a new name."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _check_kind(path: Path, mode: int | None) -> None:
    if mode is None or stat.S_ISREG(mode):
        return
    hint = "choose another name"
    if stat.S_ISLNK(mode):
        hint = f"name the file itself: {os.path.realpath(path)}"
    elif stat.S_ISDIR(mode):
        hint = "name a file in it"
    raise UsageError(f"cannot write {path}: it is {safe_files.kind(mode)}", hint=hint)


def _write_through(path: Path, data: bytes) -> None:
    write = system_calls.flags("O_WRONLY", "O_NONBLOCK", "O_NOCTTY", "O_NOFOLLOW")
    descriptor = os.open(path, write)  # a pipe that nobody reads is an error at once: ENXIO
    try:
        system_calls.set_blocking(descriptor)
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _explained(path: Path, error: OSError | ValueError) -> EdgeKitError:
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        return UsageError(f"cannot write {path}: there is no folder {path.parent}", hint=f"mkdir -p {path.parent}")
    if number == errno.ENXIO:
        return UsageError(f"cannot write {path}: nobody reads the pipe", hint="start its reader first")
    why = getattr(error, "strerror", None) or str(error)
    if number in _SHORTAGES:
        hint = "free some space, or choose a place on another disk" if number in _FULL else "choose another place"
        return ResourceError(f"cannot write {path}: {why}", hint=hint)
    return UsageError(f"cannot write {path}: {why}", hint="choose another place")
