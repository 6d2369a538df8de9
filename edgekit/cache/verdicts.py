"""Verdicts in the user's cache: whether a variant gave its known answers on this device.

A verdict holds for one bundle, variant, engine version and processor; another of any of these has none. One small file
for each, written whole. A file that is missing or not ours means that nothing is known; where none can be written the
next load proves again.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

import edgekit
from edgekit.bundle import manifest, safe_files
from edgekit.cache import digests, here
from edgekit.core import Bundle, Variant

log = logging.getLogger("edgekit")

MOST_BYTES = 64 << 10
FORMAT = 1


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`why`: what was wrong with the answers; empty where they were right."""

    bundle: str
    variant: str
    engine: str
    why: str
    format: int = FORMAT

    @property
    def right(self) -> bool:
        return not self.why


def recall(bundle: Bundle, variant: Variant) -> Verdict | None:
    """What is known of the variant on this device; None if nothing is."""
    path = _path(bundle, variant)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            verdict = msgspec.json.decode(file.read(MOST_BYTES), type=Verdict)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.debug("%s cannot be read: %s", path, error)
        return None
    return verdict if verdict.format == FORMAT else None


def remember(bundle: Bundle, variant: Variant, why: str) -> None:
    """Keep a verdict. Where it cannot be written, the next load proves again."""
    path = _path(bundle, variant)
    if path is None:
        return
    verdict = Verdict(bundle.name, variant.name, here.engine(variant.target), why)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        safe_files.replace_file(path, msgspec.json.encode(verdict))
    except OSError as error:
        log.debug("the verdict on %s cannot be kept: %s", variant.name, error)


def _path(bundle: Bundle, variant: Variant) -> Path | None:
    home = digests.cache_folder()
    if home is None:
        return None
    key = manifest.fingerprint(bundle), variant.name, here.engine(variant.target), here.processor(), edgekit.__version__
    return home / "proven" / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.json"
