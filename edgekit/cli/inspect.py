"""`edgekit inspect`: a bundle's manifest as text or JSON. Never runs the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.bundle.safe_files import size_text
from edgekit.cli.console import Console
from edgekit.cli.options import BUNDLE, VERIFY, Command, output_switches
from edgekit.text_table import clean, pairs, table

if TYPE_CHECKING:
    from edgekit.bundle.manifest import Verify
    from edgekit.core import Bundle, Variant


@click.command(cls=Command)
@BUNDLE
@VERIFY
@output_switches
@click.pass_obj
def inspect(console: Console, /, bundle: Path, verify: Verify) -> None:
    """Show what a bundle contains. Never runs the model.

    $ edgekit inspect minilm.ek
    $ edgekit inspect minilm.ek -v --verify always

    Shows the source, the settings, the variants with their measured figures, and the goldens; with -v also the files.
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
    """The bundle for a person, from its `bundle_facts`; with `files` also each file with its digest."""
    source, goldens = bundle.source, bundle.goldens
    head = {
        "bundle": bundle.folder,
        "source": f"{source.id} ({source.arch})",
        "revision": source.revision,
        "weights": "random weights: speed only" if source.random else None,
        "task": ", ".join(bundle.tasks),
        "settings": ", ".join(f"{name} {_short(value)}" for name, value in bundle.settings.items()),
        "goldens": f"{len(goldens.inputs)} inputs with expected outputs" if goldens else "none",
        "size": size_text(facts["bytes"]),
        "made by": f"edgekit {facts['edgekit']}",
    }
    parts = [pairs(head), _variant_table(bundle.variants)]
    if files:
        rows = ((name, size_text(file["size"]), file["sha256"]) for name, file in facts["files"].items())
        parts.append(table(("file", "size", "sha256"), rows))
    return "\n\n".join(filter(None, parts))


def _variant_table(variants: Sequence[Variant]) -> str:
    """One row a variant: every figure that any variant has, and the engine options where one has any."""
    figures = list(dict.fromkeys(name for variant in variants for name in variant.measured))
    options = ("engine options",) if any(variant.options for variant in variants) else ()
    rows = (
        (
            variant.name,
            *(_figure(name, variant.measured.get(name, "")) for name in figures),
            *(" ".join(f"{name}={value}" for name, value in variant.options.items()) for _ in options),
        )
        for variant in variants
    )
    return table(("variant", *figures, *options), rows)


def _figure(name: str, value: object) -> str:
    return size_text(value) if name.endswith("bytes") and isinstance(value, int) else _short(value)


def _short(value: object) -> str:
    """A float to four digits, a long list or mapping by its length."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple, dict)) and len(value) > 4:
        return f"({len(value)})"
    return clean(str(value))
