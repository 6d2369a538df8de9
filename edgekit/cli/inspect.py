"""`edgekit inspect`: a bundle's manifest as text or JSON. Never runs the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.bundle.safe_files import size_text
from edgekit.cli.console import Console
from edgekit.cli.options import BUNDLE, VERIFY, Command, output_switches
from edgekit.cli.variant_table import settings_table, settings_text, variant_table
from edgekit.text_table import pairs, table

if TYPE_CHECKING:
    from edgekit.bundle.manifest import Verify
    from edgekit.core import Bundle


@click.command(cls=Command)
@BUNDLE
@VERIFY
@output_switches
@click.pass_obj
def inspect(console: Console, /, bundle: Path, verify: Verify) -> None:
    """Show what a bundle contains. Never runs the model.

    $ edgekit inspect minilm.ek
    $ edgekit inspect minilm.ek -v --verify always

    Shows the source, the settings, the variants with their measured figures, and the goldens; with -v also all
    settings and the files.
    """
    from edgekit.bundle import manifest

    opened = manifest.read(bundle, verify=verify)
    facts = bundle_facts(opened)
    console.answer(facts, bundle_text(opened, facts, files=console.verbose))


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """The bundle as a JSON object: its manifest without the model's config, its folder and its size in bytes."""
    from edgekit.bundle.manifest import MANIFEST, file_bytes

    manifest = json.loads((bundle.folder / MANIFEST).read_bytes())
    del manifest["source"]["config"]
    for row, variant in zip(manifest["variants"], bundle.variants, strict=True):
        row["name"] = variant.name
    return {"folder": bundle.folder, "bytes": file_bytes(bundle), **manifest}


def bundle_text(bundle: Bundle, facts: Mapping[str, Any], *, files: bool = False) -> str:
    """The bundle for a person, from its `bundle_facts`; `files`: also all settings and each file's digest."""
    source, goldens = bundle.source, bundle.goldens
    head = {
        "bundle": bundle.folder,
        "source": f"{source.id} ({source.arch})",
        "revision": source.revision,
        "weights": "random weights: speed only" if source.random else None,
        "task": ", ".join(bundle.tasks),
        "settings": settings_text(bundle.settings),
        "goldens": f"{len(goldens.inputs)} inputs with expected outputs" if goldens else "none",
        "size": size_text(facts["bytes"]),
        "made by": f"edgekit {facts['edgekit']}",
    }
    parts = [pairs(head), variant_table(bundle.variants, all_figures=files)]
    if files:
        parts.append(settings_table(bundle.settings))
        rows = ((name, size_text(file["size"]), file["sha256"]) for name, file in facts["files"].items())
        parts.append(table(("file", "size", "sha256"), rows))
    return "\n\n".join(filter(None, parts))
