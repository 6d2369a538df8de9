"""Folders in the user's cache for what engines compile: one for each graph of a variant.

What was kept for bundles that are gone goes when something new is kept. An unfinished bundle keeps nothing: it will
lie elsewhere. Knows nothing of what is kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import limits
from edgekit.bundle import publish, safe_files
from edgekit.cache import digests
from edgekit.errors import BundleError

if TYPE_CHECKING:
    from edgekit.core import Bundle, Graph, Variant

log = logging.getLogger("edgekit")

NOTE = ".path"  # behind a folder's name: a file beside it that says where its bundle lies


def folder(bundle: Bundle, variant: Variant, graph: Graph) -> Path | None:
    """The graph's own folder, which need not exist yet; None where nothing can be kept."""
    home, lies = digests.cache_folder(), bundle.folder.resolve()
    if home is None or publish.is_ours(lies.name):
        return None
    found = home / "compiled" / _key(lies, variant, graph)
    if not found.with_suffix(NOTE).exists():
        try:
            found.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            tidy(found.parent)
            found.with_suffix(NOTE).write_bytes(os.fsencode(lies))
        except OSError as error:
            log.debug("nothing that is compiled can be kept in %s: %s", found.parent, error)
            return None
    return found


def _key(lies: Path, variant: Variant, graph: Graph) -> str:
    """A graph's name is the bundle's to choose: it must not lead to the folder of another."""
    names = (os.fsencode(lies), variant.name.encode(), graph.name.encode())
    return hashlib.sha256(b"".join(hashlib.sha256(name).digest() for name in names)).hexdigest()[:32]


def _content(note: Path) -> bytes:
    """What a note says; nothing where it is not a file. Raises OSError."""
    try:
        return safe_files.read_file(note, limits.PATH_BYTES * 4)
    except BundleError:
        return b""


def tidy(home: Path) -> None:
    """Remove what belongs to no bundle that is still there. Raises OSError."""
    for note in home.glob(f"*{NOTE}"):
        if not os.path.isdir(os.fsdecode(_content(note))):
            note.unlink(missing_ok=True)
    for kept in home.iterdir():
        if kept.is_dir() and not kept.with_suffix(NOTE).exists():
            shutil.rmtree(kept, ignore_errors=True)
