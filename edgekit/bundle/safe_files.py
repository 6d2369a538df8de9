"""Open files of untrusted folders safely, and write files that survive a crash.

A path that was read from a file goes through `safe_join` or `open_regular`, nothing else: a relative name that means
the same on every system, walked one folder at a time without following a symbolic link, to a regular file. Knows
nothing of what the files hold.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import tempfile
import unicodedata
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO

from edgekit import limits
from edgekit.errors import BundleError, EdgeKitError, UsageError
from edgekit.machine import system_calls
from edgekit.machine.shortage import resource_error

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KINDS = {
    stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a disk", stat.S_IFSOCK: "a socket",
}  # fmt: skip
_COPY = "copy the folder with its links followed: cp -rL FROM TO"


def path_of(value: object, name: str) -> Path:
    """The path that a caller gave as the argument `name`. Raises UsageError for what cannot be one."""
    hint = "give a str or a pathlib.Path" + ("; os.fsdecode makes one of bytes" if isinstance(value, bytes) else "")
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise UsageError(f"{name} is {value!r:.60}, not a path", hint=hint)
    path = Path(value)
    if "\0" in str(path) or not str(value):
        raise UsageError(f"{name} is {str(value)!r:.60}, not a path", hint="give the name of a file or folder")
    check_unicode(path)
    return path


def check_unicode(path: Path) -> None:
    """Raise UsageError for a path, made absolute, that is not UTF-8: engines and readers of weights cannot open it."""
    try:
        os.path.abspath(path).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{str(path)!r:.200} is not UTF-8", hint="rename the file or folder") from None


def parts(relative: str) -> tuple[str, ...]:
    """The folders and the name in a safe relative path with forward slashes. Raises BundleError for any other.

    Refused is whatever two systems could read in two ways: absolute paths, `..`, `.`, empty parts, backslashes,
    drives and URIs, control characters, a dot or space at a part's end, names not in NFC, names too long.
    """
    try:
        size = len(relative.encode("utf-8"))
    except UnicodeEncodeError:
        raise _unsafe(relative, "is not Unicode text") from None
    names = tuple(relative.split("/"))
    if not relative or size > limits.PATH_BYTES:
        raise _unsafe(relative, f"has {size} bytes; 1 to {limits.PATH_BYTES} are allowed")
    if _CONTROL.search(relative) or "\\" in relative or ":" in relative:
        raise _unsafe(relative, "holds a backslash, a colon or a control character")
    if unicodedata.normalize("NFC", relative) != relative:
        raise _unsafe(relative, "is not in Unicode's normal form NFC")
    for name in names:
        if name in ("", ".", ".."):
            raise _unsafe(relative, "is not a plain relative path")
        if name[-1] in ". " or len(name.encode("utf-8")) > limits.PATH_PART_BYTES:
            raise _unsafe(relative, "has a part that is too long, or that ends in a dot or a space")
    return names


def safe_join(root: Path, relative: str) -> Path:
    """The path of a regular file that really lies under `root`. Raises BundleError.

    `root` itself may be reached through a link; nothing below it may. A hard link is let through: what is opened by
    path has been checked against a digest before.
    """
    with open_regular(root, relative, hard_links=True):
        return root.joinpath(*parts(relative))


def open_regular(root: Path, relative: str, *, hard_links: bool = False) -> BufferedReader:
    """The regular file `relative` under `root`, opened for reading. Raises BundleError.

    `hard_links`: accept a file that has a second name. Only for a caller that compares the content with a digest:
    a second name may lie outside the folder, and then a stranger's file would be read as a part of the bundle.
    """
    *folders, name = parts(relative)
    try:
        descriptor = system_calls.open_below(root, folders, name)
    except OSError as error:
        raise _cannot_open(root, relative, error) from None
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and (hard_links or found.st_nlink == 1):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise BundleError(f"{relative} has another name on this disk (a hard link)", hint=_COPY, file=relative)
    raise BundleError(f"{relative} is {kind(found.st_mode)}, not a regular file", file=relative)


def open_file(path: Path) -> BufferedReader:
    """A regular file that the user or a program of ours named, opened for reading; a link to one is followed.

    A pipe or a device is refused at once: waiting for what nobody writes has no end. Raises BundleError, which says
    what the path is; FileNotFoundError and other OSErrors as they come.
    """
    mode = os.stat(path).st_mode if system_calls.may_wait() else stat.S_IFREG
    if stat.S_ISREG(mode):
        descriptor = os.open(path, system_calls.flags("O_RDONLY", "O_NONBLOCK", "O_NOCTTY"))
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
    raise BundleError(f"{path.name} is {kind(mode)}, not a regular file", hint="name a file", file=str(path))


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file, as `open_file`. Raises BundleError for one of more than `limit` bytes too."""
    with open_file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise BundleError(f"{path.name} has more than the {size_text(limit)} that are allowed", file=str(path))
    return data


def walk(root: Path) -> Iterator[str]:
    """The name of everything under `root` that is not a folder, relative to it. Links are named, not followed.

    The names are as the disk has them, which need not be safe. Raises BundleError above `limits.FILES` entries.
    """
    todo, count = [""], 0
    while todo:
        folder = todo.pop()
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            if resource := resource_error(error, f"{root / folder} cannot be listed"):
                raise resource from None
            raise BundleError(f"{root / folder} cannot be listed: {error.strerror}") from None
        count += len(entries)
        if count > limits.FILES:
            raise BundleError(f"{root.name} holds more than {limits.FILES} files and folders")
        for entry in entries:
            name = folder + entry.name
            if entry.is_dir(follow_symlinks=False) and not system_calls.is_link(entry.stat(follow_symlinks=False)):
                todo.append(name + "/")
            else:
                yield name


def sha256(file: BufferedReader) -> str:
    """The SHA-256 of what is left to read, as 64 hex digits; read in pieces."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, data: bytes) -> None:
    """Write a new or emptied file and wait until the disk has its content; its name needs `sync_folder`."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file to write to, which takes the place of `path` when the block ends, and is gone if it raises.

    It is closed before it is renamed: Windows renames no open file. Raises OSError.
    """
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "r+b") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that any reader, and a crash, finds the old content or the new, never a part.

    A file that is replaced keeps its permissions. Raises OSError also where anything but a regular file is there.
    """
    fresh = path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:200])}.{secrets.token_hex(8)}")
    try:
        if (old := _regular(path)) is not None:
            fresh.touch(0o600, exist_ok=False)
            fresh.chmod(stat.S_IMODE(old.st_mode))
        write_file(fresh, data)
        _regular(path)  # what came there meanwhile
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    system_calls.sync_folder(path.parent)


def kind(mode: int) -> str:
    """What a file is, in words, by its mode."""
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


def size_text(size: int) -> str:
    """A size for people, in powers of ten: `950 bytes`, `1.5 MB`."""
    if size < 1000:
        return f"{size} bytes"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def _regular(path: Path) -> os.stat_result | None:
    """What is known of the regular file at the path, None for a new name. Raises FileExistsError for anything else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise FileExistsError(errno.EEXIST, f"it is {kind(found.st_mode)}", os.fspath(path))
    return found


def _unsafe(relative: str, why: str) -> BundleError:
    shown = ascii(relative[:80])
    return BundleError(f"unsafe path {shown}: it {why}", hint="do not use this bundle unless you know who made it")


def _kind_there(root: Path, relative: str) -> str:
    try:
        return kind(root.joinpath(*parts(relative)).lstat().st_mode)
    except OSError:
        return "no file any more"


def _cannot_open(root: Path, relative: str, error: OSError) -> EdgeKitError:
    """Says which part of the path is a link, missing or closed; by name, so only to explain a refusal."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        path = root
        for name in parts(relative):
            path = path / name
            if path.is_symlink():
                which = path.relative_to(root).as_posix()
                return BundleError(f"{which} is a symbolic link, and a bundle must not hold one", hint=_COPY)
    if error.errno == errno.ENOENT:
        return BundleError(f"{relative} is missing from {root.name}", file=relative)
    if error.errno == errno.ENXIO:
        return BundleError(f"{relative} is {_kind_there(root, relative)}, not a regular file", file=relative)
    if resource := resource_error(error, f"{relative} cannot be opened"):
        return resource
    return BundleError(f"{relative} cannot be opened: {os.strerror(error.errno or 0)}", file=relative)
