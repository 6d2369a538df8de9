"""Publish a folder atomically: write it beside its place, sync it to the disk, then rename it.

    with publish.into(Path("minilm.ek")) as work:
        ...                                           # write everything into `work`

For a target `name` the parent folder holds meanwhile `.name.ek-lock` (who writes; the kernel frees it when its owner
dies), `.name.ek-tmp-…` (the work, or the replaced bundle on its way out) and, only on file systems that cannot
exchange two folders, `.name.ek-old-…`. Whoever holds the lock next sweeps what a killed writer left. Nothing else
is touched before the one rename. Knows nothing of what a bundle holds, but will not replace a folder that is none.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgekit.bundle import ownership, safe_files, user_files
from edgekit.errors import BusyError, EdgeKitError, ResourceError, UsageError
from edgekit.machine import system_calls

_log = logging.getLogger("edgekit")
_NAME_BYTES = 255 - len("..ek-tmp-0123456789abcdef")
_OURS = re.compile(r"\..+\.ek-(lock|(tmp|old)-[0-9a-f]{16})", re.DOTALL)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK)
_AT_FDCWD, _NOREPLACE, _EXCHANGE = -100, 1, 2  # linux/fs.h, renameat2(2)
_NO_RENAMEAT2 = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)  # the kernel's or the file system's way to say so


@contextlib.contextmanager
def into(target: Path, *, force: bool = False) -> Iterator[Path]:
    """An empty folder to fill; it becomes `target` when the block ends, and vanishes if the block raises.

    `force`: replace an older bundle in a folder that holds nothing else, or an empty folder; nothing else is ever
    replaced. Raises UsageError for a target that cannot or must not be written, BusyError while another process writes
    it, and ResourceError when the disk is full.
    """
    target = _place(target)
    work = _sibling(target, "tmp")
    with _explained(target):
        _check_takes_files(target)
    with _explained(target), _lock(target):
        _sweep(target)
        _check_vacant(target, force)
        try:
            work.mkdir(mode=0o755)
            mode = stat.S_IMODE(work.stat().st_mode)  # what the umask leaves of it
            work.chmod(mode & ~0o077)
            yield work
            _settle(work, mode)
            _swap(work, target, force)
        finally:
            _remove(work)


def check(target: Path, *, force: bool = False) -> None:
    """Raise what `into` would raise of the target before anything is computed, a lock aside."""
    place = _place(target)
    with _explained(place):
        _check_vacant(place, force)
        _check_takes_files(place)


def is_ours(name: str) -> bool:
    """Whether a folder of this name is unfinished work, a lock, or on its way out."""
    return _OURS.fullmatch(name) is not None


def need(folder: Path, size: int) -> None:
    """Raise ResourceError unless the file system of `folder` has room for `size` bytes."""
    free = _free(folder)
    if free < size:
        raise ResourceError(
            f"{folder} needs {safe_files.size_text(size)} of free space and has {safe_files.size_text(free)}",
            hint="free some space, or choose an output on another disk", needed=size, free=free,
        )  # fmt: skip


# 1. The place


def _place(target: Path) -> Path:
    """The target with its parent resolved; its last part may be anything but a link to somewhere else."""
    parent = Path(os.path.realpath(target.parent))
    place = parent / target.name
    if target.name in ("", "..") or place in (Path.cwd(), Path(os.path.realpath(os.path.expanduser("~")))):
        raise UsageError(f"{target} cannot be the name of a bundle", hint="name a new folder, like model.ek")
    if is_ours(target.name) or len(os.fsencode(target.name)) > _NAME_BYTES:
        raise UsageError(f"the name {target.name!r} is too long, or used by edgekit itself", hint="choose another name")
    user_files.check_name(place)
    if not parent.is_dir():
        raise UsageError(f"the folder {parent} does not exist", hint=f"mkdir -p {parent}")
    return place


def _check_vacant(target: Path, force: bool) -> None:
    """Raises UsageError if the target is there and must not be replaced."""
    if not os.path.lexists(target):
        return
    _check_replaceable(target, target)
    if not force:
        raise UsageError(f"{target} exists", hint="use --force to replace it", target=str(target))


def _check_replaceable(folder: Path, target: Path) -> None:
    """Only a bundle, whole and alone, or an empty folder may go: a link, a file or somebody's work never does."""
    hint = "choose another name; edgekit replaces only its own bundles and empty folders"
    if folder.is_symlink() or not folder.is_dir():
        what = "a symbolic link" if folder.is_symlink() else "a file"
        raise UsageError(f"{target} is {what}", hint=hint, target=str(target))
    if os.path.ismount(folder):
        raise UsageError(f"{target} is a mount point", hint=hint, target=str(target))
    if not os.listdir(folder):
        return
    others = ownership.other_files(folder)
    if others is None:
        raise UsageError(f"{target} is a folder, but not a bundle", hint=hint, target=str(target))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UsageError(
            f"{target} holds files that do not belong to the bundle: {others[0]!a}{more}",
            hint="move them to another folder, or choose another name", target=str(target), files=others[:20],
        )  # fmt: skip


def _check_takes_files(target: Path) -> None:
    """Raises UsageError, OSError. Only a write shows it: root passes every permission check, and /proc has a folder's
    mode."""
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except FileNotFoundError as error:
        what = f"{target} was not written: {target.parent} takes no new files"
        raise UsageError(what, hint="choose another folder") from error


# 2. The lock


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    path = target.with_name(f".{target.name}.ek-lock")
    descriptor = _acquire(path, target)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        # While the lock is still held: whoever opened this file before gets the lock, and sees that it is gone.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path, target: Path) -> int:
    while True:
        descriptor = os.open(path, system_calls.flags("O_RDWR", "O_CREAT", "O_NOFOLLOW"), 0o600)
        try:
            system_calls.lock(descriptor, wait=False)
        except BlockingIOError:
            owner = system_calls.read_at(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f"process {owner}" if owner else "another process"
            raise BusyError(f"{target} is being written by {who}", hint="wait for it, or choose another name") from None
        except OSError:  # this file system has no locks
            path.unlink()
            os.close(descriptor)
            raise
        if _same(descriptor, path):
            return descriptor
        os.close(descriptor)  # its last owner removed it between our open and our lock


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


# 3. What a killed writer left


def _sweep(target: Path) -> None:
    """Under the lock every such folder is a dead writer's. An old bundle that was moved away, not replaced, returns."""
    pattern = re.compile(re.escape(f".{target.name}.ek-") + "(tmp|old)-[0-9a-f]{16}")
    for name in sorted(os.listdir(target.parent)):
        found = pattern.fullmatch(name)
        if found is None:
            continue
        left = target.with_name(name)
        if found[1] == "old" and not os.path.lexists(target):
            left.rename(target)
            system_calls.sync_folder(target.parent)
            _log.warning("%s was being replaced when its writer died; it is back", target.name)
        else:
            _remove(left)


# 4. To the disk, and into place


def _settle(work: Path, mode: int) -> None:
    """Give every file and folder its permissions and wait until the disk has them all; `work` itself is the last."""
    folders = {work}
    for name in safe_files.walk(work):
        with safe_files.open_regular(work, name, hard_links=True) as file:
            system_calls.set_mode(file.fileno(), mode & 0o644)
            os.fsync(file.fileno())
        folders.update((work / name).parents[: name.count("/")])
    for folder in sorted(folders, reverse=True):
        folder.chmod(mode)
        system_calls.sync_folder(folder)


def _swap(work: Path, target: Path, force: bool) -> None:
    """After this the target is the work, on the disk; what was there before lies at `work` or is gone."""
    try:
        _rename(work, target, _NOREPLACE)
    except FileExistsError:
        _check_vacant(target, force)
        _rename(work, target, _EXCHANGE)
        try:
            _check_replaceable(work, target)  # what came out may have been put there a moment ago
        except UsageError:
            _rename(work, target, _EXCHANGE)
            raise
    system_calls.sync_folder(target.parent)


def _rename(work: Path, target: Path, how: int) -> None:
    try:
        _renameat2(work, target, how)
    except OSError as error:
        if error.errno not in _NO_RENAMEAT2:
            raise
        (_rename_new if how == _NOREPLACE else _rename_by_two)(work, target)


def _renameat2(old: Path, new: Path, flags: int) -> None:
    call = system_calls.c_function("renameat2")  # glibc has it since 2.28
    if call is None:
        raise OSError(errno.ENOSYS, "no renameat2")
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(old), None, str(new))


def _rename_new(work: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    work.rename(target)


def _rename_by_two(work: Path, target: Path) -> None:
    """For a moment nothing is at the target; if we die then, the next writer's sweep brings the old one back."""
    old = _sibling(target, "old")
    target.rename(old)
    try:
        work.rename(target)
    except BaseException:
        old.rename(target)
        raise
    old.rename(work)


# What goes wrong, and what is left then


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Around everything: when an error comes here, the work is gone and what is free then was not enough."""
    try:
        yield
    except OSError as error:
        explained = _explanation(error, target)
        if explained is None:
            raise
        raise explained from error


def _explanation(error: OSError, target: Path) -> EdgeKitError | None:
    what = f"{error.filename or target}: {error.strerror}"
    if error.errno in _NO_SPACE:
        free = _free(target.parent)
        return ResourceError(
            f"{target} was not written: it needs more than the {safe_files.size_text(free)} of free space. {what}",
            hint="free some space, or choose an output on another disk", free=free,
        )  # fmt: skip
    if error.errno == errno.EIO:
        return ResourceError(f"{target} was not written: a disk error. {what}", hint="look at the output of dmesg")
    if error.errno in _NOT_ALLOWED:
        return UsageError(f"{target} was not written. {what}", hint="choose a folder that you may write to")
    return None


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _remove(folder: Path) -> None:
    """Delete a folder if it is there. What cannot be deleted is left for the next sweep: the first error matters."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("%s could not be removed: %s", folder, error)


def _sibling(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.ek-{kind}-{secrets.token_hex(8)}")
