"""Read untrusted .npy and .npz files: every size is checked before memory is taken, and nothing is unpickled.

EdgeKit writes these files uncompressed, so a compressed entry is refused: then no array is larger than its file, and a
small file cannot fill the memory. Knows nothing of what the arrays mean.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgekit import limits
from edgekit.bundle import safe_files
from edgekit.errors import BundleError

if TYPE_CHECKING:
    from edgekit.core import Array

HINT = "copy the file again, or make it again"
_END = b"PK\x05\x06"  # the record at the end of an archive without a comment, 22 bytes
# What a damaged archive makes zipfile raise; RuntimeError: encrypted, NotImplementedError: of a newer version.
DAMAGED = (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError, NotImplementedError, RuntimeError)
_KINDS = "biuf"  # of dtypes: booleans, integers, floats


def read_npz(source: Path | bytes, names: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays of these names in an .npz file, or in its bytes, or all of them.

    Raises BundleError for what is not such a file or lacks an array.
    """
    name = f"{len(source)} bytes" if isinstance(source, bytes) else source.name
    with io.BytesIO(source) if isinstance(source, bytes) else safe_files.open_file(source) as opened:
        try:
            return _arrays(opened, name, names)
        except DAMAGED as error:
            raise _bad(name, f"it is damaged: {error}") from None


def read_npy(file: Path) -> Array:
    """The array in an .npy file. Raises BundleError."""
    with safe_files.open_file(file) as opened:
        try:
            return _array(opened, os.fstat(opened.fileno()).st_size, file.name)
        except DAMAGED as error:
            raise _bad(file.name, f"it is damaged: {error}") from None


def _arrays(opened: IO[bytes], name: str, wanted: Collection[str] | None) -> dict[str, Array]:
    size = opened.seek(0, os.SEEK_END)
    if size > limits.ARRAYS_BYTES:
        raise _bad(name, f"{size} bytes; {limits.ARRAYS_BYTES} are allowed")
    opened.seek(max(0, size - 22))
    if not opened.read(4) == _END:
        raise _bad(name, "it is cut, or something follows its end")
    opened.seek(0)
    with zipfile.ZipFile(opened) as archive:
        entries = archive.infolist()
        if len(entries) > limits.ARRAYS:
            raise _bad(name, f"{len(entries)} arrays; {limits.ARRAYS} are allowed")
        if sum(entry.file_size for entry in entries) > size:
            raise _bad(name, "its entries are larger than the file")
        inside = {entry.filename.removesuffix(".npy"): entry for entry in entries}
        if len(inside) != len(entries):
            raise _bad(name, "two of its entries have one name")
        found: dict[str, Array] = {}
        for each in inside if wanted is None else wanted:
            if each not in inside:
                raise _bad(name, f"it has no array {each!r:.80}")
            if inside[each].compress_type != zipfile.ZIP_STORED:
                raise _bad(name, f"its entry {each!r:.80} is compressed")
            with archive.open(inside[each]) as entry:
                found[each] = _array(entry, inside[each].file_size, name)
        return found


def _array(file: IO[bytes], size: int, name: str) -> Array:
    """The array in the next `size` bytes, which must be all that there is. Raises ValueError, BundleError."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise _bad(name, f"an array has version {version}, not (1, 0)")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=limits.ARRAY_HEADER_BYTES)
    if dtype.kind not in _KINDS or dtype.hasobject or dtype.names is not None:
        raise _bad(name, f"an array is of {dtype!s:.80}, not of numbers")
    if len(shape) > limits.TENSOR_RANK or any(type(axis) is not int or axis < 0 for axis in shape):
        raise _bad(name, "an array has a shape that does not exist")
    expected = math.prod(shape) * dtype.itemsize
    if expected > size:
        raise _bad(name, f"an array of {expected} bytes stands in {size}")
    data = file.read(expected)
    if len(data) != expected or file.read(1):
        raise _bad(name, "an array is shorter or longer than its shape")
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order="F" if fortran else "C")


def _bad(name: str, why: str) -> BundleError:
    return BundleError(f"{name} is not a file of arrays: {why}", hint=HINT, file=name)
