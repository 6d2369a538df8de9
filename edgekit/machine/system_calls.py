"""Calls that not every system has, each with what stands in for it.

| call | Linux | macOS | Windows |
|---|---|---|---|
| open below a folder | by descriptor, no link followed | the same | by path, checked before and after |
| lock a file | flock(2) | flock(2) | a byte far behind its end |
| fsync a folder | fsync(2) | fsync(2) | nothing: no call does it |
| read at a position | pread(2) | pread(2) | seek and read |
| allocate a file | posix_fallocate(3) | written zeros | written zeros |
| a file without a name | memfd_create(2) | a deleted file | a file that is deleted when it is closed |
| fchmod | fchmod(2) | fchmod(2) | nothing: the folder's permissions hold |
| C library | madvise, mincore, renameat2 | without renameat2 | none |
| change times | st_ctime, which no call sets | the same | none: st_ctime is when a file was made |
| after a fork | pthread_atfork(3) | pthread_atfork(3) | nothing: no process forks |

What a call needs is looked at when it is called, by the names that Python has, so a test can take them away. No flag
keeps descriptors from other programs: Python does that (PEP 446). Knows nothing of bundles.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ZEROS = bytes(1 << 20)
FAR = 1 << 30  # the byte that Windows locks: a locked byte cannot be read, and nobody reads there
NAME_SURROGATE = 0x20000000  # bit of a reparse tag: another name is meant, as by a link or a junction (winnt.h)
WINDOWS_BUSY = (errno.EACCES, errno.EDEADLK)


def flags(*names: str) -> int:
    """The flags of open(2) with these names, without those that this system lacks; on Windows O_BINARY too.

    Without O_NOFOLLOW or O_NONBLOCK the caller looks at the file before it opens it: `may_wait`, `open_below`.
    """
    value = getattr(os, "O_BINARY", 0)
    for name in names:
        value |= getattr(os, name, 0)
    return int(value)


def may_wait() -> bool:
    """Whether opening a pipe waits for its other end, as no flag forbids it."""
    return not hasattr(os, "O_NONBLOCK")


def open_below(root: Path, folders: Sequence[str], name: str) -> int:
    """A descriptor for reading `name` in `folders` below `root`, with no link followed but to `root`. Raises OSError.

    ELOOP or ENOTDIR for a link, ENXIO for what cannot be opened as a file. What was opened may still not be regular.
    """
    read = flags("O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY")
    if not (os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW") and hasattr(os, "O_DIRECTORY")):
        return _open_by_path(root, folders, name, read)
    with contextlib.ExitStack() as opened:
        at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, at)
        for folder in folders:
            at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            opened.callback(os.close, at)
        return os.open(name, read, dir_fd=at)


def _open_by_path(root: Path, folders: Sequence[str], name: str, read: int) -> int:
    """Every part is looked at before and after: whoever exchanges one meanwhile is noticed, unless it is put back."""
    before = _chain(root, folders, name)
    descriptor = os.open(root.joinpath(*folders, name), read)
    try:
        chain = zip([*_chain(root, folders, name), os.fstat(descriptor)], [*before, before[-1]], strict=True)
        if not all(os.path.samestat(now, then) for now, then in chain):
            raise OSError(errno.ENXIO, "it was exchanged while it was opened", name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _chain(root: Path, folders: Sequence[str], name: str) -> list[os.stat_result]:
    """What each part below `root` is, the file last. Raises OSError for a link and for what is not regular."""
    chain, path = [os.stat(root)], root
    for part in (*folders, name):
        path = path / part
        found = os.lstat(path)
        if is_link(found):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
        if len(chain) <= len(folders) and not stat.S_ISDIR(found.st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
        chain.append(found)
    if not stat.S_ISREG(chain[-1].st_mode):
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), os.fspath(path))
    return chain


def is_link(found: os.stat_result) -> bool:
    """Whether lstat(2) saw a symbolic link, or a junction of Windows, which is a folder otherwise."""
    return stat.S_ISLNK(found.st_mode) or bool(getattr(found, "st_reparse_tag", 0) & NAME_SURROGATE)


def lock(descriptor: int, *, wait: bool) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError where another has it and `wait` is False, OSError
    where the file system has no locks, and on Windows where another has it for ten seconds."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in WINDOWS_BUSY and not wait:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            raise
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where a folder can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_at(descriptor: int, size: int, at: int) -> bytes:
    """At most `size` bytes from `at` on. Where there is no pread(2) the file's position moves."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, at)
    os.lseek(descriptor, at, os.SEEK_SET)
    return os.read(descriptor, size)


def allocate(descriptor: int, size: int) -> None:
    """Give an empty file so many zeros, which the disk has room for. Raises OSError where it has not."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    rest = size
    while rest:
        rest -= os.write(descriptor, ZEROS[: min(rest, len(ZEROS))])


def unnamed_file() -> int:
    """The descriptor of an empty file that no folder has, for reading and writing."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("edgekit")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def set_mode(descriptor: int, mode: int) -> None:
    """fchmod(2)."""
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, mode)


def set_blocking(descriptor: int) -> None:
    """Let writing wait again, where it can be told not to."""
    if hasattr(os, "set_blocking"):
        os.set_blocking(descriptor, True)


def c_function(name: str) -> Any | None:
    """A function of this process's C library; None where it is missing. `ctypes.get_errno()` has its error."""
    if sys.platform == "win32":  # its C library is another one, with none of the functions that are asked for
        return None
    import ctypes

    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


def has_change_times() -> bool:
    """Whether `st_ctime` moves with every change of a file, and cannot be set."""
    return sys.platform != "win32"


def after_fork_in_child(function: Callable[[], None]) -> None:
    """Call it in every child that this process forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def cores() -> int:
    """How many cores the scheduler may put this process on: a cpuset or `taskset` makes it fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
