"""Say what a path is that is not a bundle, and what to do with it. Reads names only."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgekit.errors import BundleError


def absent(typed: str) -> BundleError:
    """The error for a name, as it was typed, that no folder has."""
    kind, _, name = typed.rpartition(":")
    if kind in ("zoo", "random"):
        stem = Path(name).name.removesuffix(".json")
        return BundleError(
            f"{typed} is a model, not a bundle", hint=f"make a bundle of it: edgekit export {typed} -o {stem}.ek"
        )
    return BundleError(f"{typed} does not exist", hint="make a bundle with: edgekit export MODEL -o NAME.ek")


def other(root: Path, manifest: str) -> BundleError:
    """The error for a path without the file `manifest`: what it is instead, and what to do with that."""
    export = f"edgekit export {root} -o NAME.ek"
    if not os.path.isdir(root):
        return BundleError(f"{root} is a file, not a bundle's folder", hint=export)
    inside = set(os.listdir(root))
    if re.search(r"\.ek-(tmp|old)-[0-9a-f]{16}$", root.name):
        what, hint = "is an unfinished export", "export again; that also removes this folder"
    elif "config.json" in inside:
        what, hint = "is a Hugging Face model, not a bundle", export
    elif any(name.endswith((".onnx", ".xml")) for name in inside):
        what, hint = f"has a graph but no {manifest}, so it is not a bundle", "edgekit export FILE.onnx -o NAME.ek"
    elif inside:
        what, hint = f"has no {manifest}, so it is not a bundle", "name the folder that edgekit export wrote"
    else:
        what, hint = "is empty", "name the folder that edgekit export wrote"
    return BundleError(f"{root} {what}", hint=hint)
