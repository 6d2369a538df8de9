"""edgekit.sha256: the digests of the manifest and of every file that it lists, one a line.

The first line is the manifest's: a change of it cannot pass unseen, and a signature over this file covers the bundle.
Its format is that of `sha256sum`, so `sha256sum -c edgekit.sha256` checks a bundle where no EdgeKit is installed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from edgekit import limits
from edgekit.bundle import safe_files
from edgekit.errors import BundleError

FILE = "edgekit.sha256"
HINT = "copy the whole folder or download the bundle again, or export the model again; do not edit edgekit.json"


def lines(manifest: str, data: bytes, digests: Mapping[str, str]) -> bytes:
    """The file's content: the digest of the manifest's `data`, then the digests of the files by name."""
    named = {manifest: hashlib.sha256(data).hexdigest(), **{name: digests[name] for name in sorted(digests)}}
    return "".join(f"{digest}  {name}\n" for name, digest in named.items()).encode(errors="replace")


def check_manifest(root: Path, manifest: str, data: bytes) -> bytes:
    """Raise BundleError unless the first line has the digest of the manifest's `data`; return the file's content."""
    if not os.path.lexists(root / FILE):
        raise BundleError(f"{FILE} is missing from {root.name}: nothing shows that {manifest} is whole", hint=HINT)
    with safe_files.open_regular(root, FILE) as file:
        content = file.read(limits.CHECKSUMS_BYTES + 1)
    expected, actual = content.partition(b"\n")[0], lines(manifest, data, {}).rstrip(b"\n")
    if expected != actual:
        named = ascii(expected[:64].decode("ascii", "replace"))
        raise BundleError(
            f"{manifest} has changed: its SHA-256 in {FILE} is {named}, and in truth {actual[:64].decode()}",
            hint=HINT, file=manifest, expected=named, actual=actual[:64].decode(),
        )  # fmt: skip
    return content


def check_files(manifest: str, data: bytes, digests: Mapping[str, str], content: bytes) -> None:
    """Raise BundleError unless the file's content is exactly what the manifest's digests make."""
    if content != lines(manifest, data, digests):
        raise BundleError(f"{FILE} names other files or digests than {manifest}", hint=HINT, file=FILE)
