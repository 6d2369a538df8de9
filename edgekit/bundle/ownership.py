"""Tell whether a folder holds a bundle and nothing else, so that it may be replaced.

A bundle that is damaged, or of another format, may be replaced too: only names are compared. Knows nothing of what
the files hold.
"""

from __future__ import annotations

from pathlib import Path

from edgekit import limits
from edgekit.bundle import safe_files, strict_json
from edgekit.bundle.manifest import MANIFEST, OWN
from edgekit.errors import BundleError


def other_files(folder: Path) -> list[str] | None:
    """The files in a bundle's folder that the bundle does not list; None for a folder that is not a bundle."""
    try:
        with safe_files.open_regular(folder, MANIFEST) as file:
            manifest = strict_json.parse(file.read(limits.MANIFEST_BYTES), MANIFEST)
        files = manifest.get("files")
        if "format" not in manifest or not isinstance(files, dict):
            return None
        return sorted(name for name in safe_files.walk(folder) if name not in files and name not in OWN)
    except BundleError:
        return None
