"""Check one untrusted safetensors file byte by byte, and list its tensors without loading them.

Nothing here allocates what a file claims: lengths are held against the file's own size first. The rules are those of
the format's reference reader (safetensors' `tensor.rs`), and stricter where readers are known to disagree: a key that
appears twice is refused. Knows nothing of other files, shards and indexes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edgekit.bundle import safe_files, strict_json
from edgekit.errors import BundleError

MAX_HEADER = 100_000_000  # bytes; the reference reader's limit
CHUNK = 16 << 20  # bytes read at a time while looking for NaN

# fmt: off
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}
# A number is NaN or infinite where `bits & mask == equal`: all ones in the exponent, by IEEE 754 and OCP FP8.
NONFINITE = {
    "F64": ("<u8", 0x7FF0000000000000, 0x7FF0000000000000),
    "F32": ("<u4", 0x7F800000, 0x7F800000),
    "C64": ("<u4", 0x7F800000, 0x7F800000),
    "F16": ("<u2", 0x7C00, 0x7C00),
    "BF16": ("<u2", 0x7F80, 0x7F80),
    "F8_E5M2": ("<u1", 0x7C, 0x7C),
    "F8_E4M3": ("<u1", 0x7F, 0x7F),
    "F8_E8M0": ("<u1", 0xFF, 0xFF),
    "F8_E4M3FNUZ": ("<u1", 0xFF, 0x80),
    "F8_E5M2FNUZ": ("<u1", 0xFF, 0x80),
}
# fmt: on
# What a file that is not safetensors begins with -> what it is. Torch saves a zip or, long ago, a bare pickle.
DISGUISES = {b"PK\x03\x04": "a zip or torch pickle", b"\x80\x02": "a pickle", b"\x80\x04": "a pickle", b"GGUF": "GGUF"}
POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Tensor:
    """One entry of a header; `begin` and `end` are bytes from the start of the file."""

    name: str
    dtype: str  # safetensors' name: "F32", "BF16"
    shape: tuple[int, ...]
    begin: int
    end: int


def header(path: Path) -> list[Tensor]:
    """The tensors of one safetensors file, in the order of their bytes. Raises BundleError; never trusts a length."""
    try:
        with safe_files.open_file(path) as file:
            size, length, entries = _entries(path, file)
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror}") from None
    _check_metadata(path, entries.pop("__metadata__", {}))
    tensors = [_tensor(path, name, entry, 8 + length, size) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_cover(path, tensors, 8 + length, size)
    return tensors


def _entries(path: Path, file: BinaryIO) -> tuple[int, int, dict[str, Any]]:
    """The sizes of the file and of its header in bytes, and the header's content."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(len(POINTER))
    length = int.from_bytes(start[:8], "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise _no_safetensors(path, start, size, length)
    file.seek(8)
    return size, length, strict_json.parse(file.read(length), f"the header of {path.name}", file=str(path))


def _no_safetensors(path: Path, start: bytes, size: int, length: int) -> BundleError:
    if start.startswith(POINTER):
        return BundleError(
            f"{path.name} is a git-lfs pointer, not the weights", hint="run `git lfs pull` there", file=str(path)
        )
    for magic, kind in DISGUISES.items():
        if start.startswith(magic):
            return _bad(path, f"is {kind}, not safetensors")
    if size < 8:
        return _bad(path, f"is {size} bytes long, too short for a header")
    return _bad(path, f"claims a header of {length} bytes; it has {size} itself, and {MAX_HEADER} are allowed")


def _check_metadata(path: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad(path, "has metadata that does not map names to text")


def _tensor(path: Path, name: str, entry: Any, data: int, size: int) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end], **rest} if not rest:
            pass
        case _:
            raise _bad(path, f"describes {name!r} in a way that the format does not allow")
    if dtype not in BITS:
        raise _bad(path, f"holds {name!r} as {dtype!r}, which is not a dtype of the format")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)) or begin > end:
        raise _bad(path, f"gives {name!r} an impossible shape or place: {shape[:8]}, {begin} to {end}")
    if end > size - data:
        raise _bad(path, f"places {name!r} beyond the end of the file")
    bits = _product(shape, BITS[dtype], limit=8 * (end - begin))
    if bits != 8 * (end - begin):
        raise _bad(path, f"gives {name!r} {end - begin} bytes, which is not what {dtype} {shape[:8]} needs")
    return Tensor(name, dtype, tuple(shape), data + begin, data + end)


def _product(shape: list[int], bits: int, limit: int) -> int:
    """The product, or the first partial one above `limit`: a long list of huge numbers must not cost a minute."""
    if 0 in shape:
        return 0
    for length in shape:
        bits *= length
        if bits > limit:
            break
    return bits


def _check_cover(path: Path, tensors: list[Tensor], start: int, size: int) -> None:
    """Every byte behind the header belongs to exactly one tensor."""
    at = start
    for tensor in tensors:
        if tensor.begin != at:
            what = "a hole before" if tensor.begin > at else "an overlap at"
            raise _bad(path, f"has {what} {tensor.name!r} (byte {tensor.begin})")
        at = tensor.end
    if at != size:
        raise _bad(path, f"should end at byte {at} and ends at {size}")


def is_nonfinite(path: Path, tensor: Tensor) -> bool:
    """Whether the tensor holds a NaN or an infinity. Reads it once, 16 MiB at a time."""
    import numpy as np

    if tensor.dtype not in NONFINITE:
        return False
    kind, mask, equal = NONFINITE[tensor.dtype]
    dtype = np.dtype(kind)
    with safe_files.open_file(path) as file:
        file.seek(tensor.begin)
        for begin in range(tensor.begin, tensor.end, CHUNK):
            wanted = min(CHUNK, tensor.end - begin)
            data = file.read(wanted)
            if len(data) < wanted:
                raise _bad(path, "became shorter while it was read")
            bits = np.frombuffer(data, dtype)
            if bool(np.any((bits & dtype.type(mask)) == dtype.type(equal))):
                return True
    return False


def _bad(path: Path, what: str) -> BundleError:
    return BundleError(f"{path.name} {what}", hint="download or save the model again", file=str(path))
