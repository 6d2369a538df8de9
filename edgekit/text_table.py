"""The nouns as text for a person: tables without colours, wide lines not cut, so that a pipe gets what a screen shows.

Each function returns text and writes nothing. What a model answers is shown by `edgekit.cli.text_run`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.bundle.safe_files import size_text
from edgekit.cli.console import clean
from edgekit.core import Availability, Bundle, Check, Variant

if TYPE_CHECKING:
    from edgekit.doctor import Diagnosis
    from edgekit.workbench.plan import Plan


# Behind the architectures that have an exporter of their own.
OTHERS = "and any other decoder-only language model that transformers knows: traced, and proved before it is published"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their widest cell; numbers to the right. Empty where there are no rows."""
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    if not cells:
        return ""
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    right = [all(cell[:1].isdigit() or not cell for cell in column) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) if flush else cell.ljust(width) for cell, width, flush in zip(row, widths, right))
        for row in (heads, *cells)
    ]
    return "\n".join(line.rstrip() for line in lines)


def pairs(facts: Mapping[str, object]) -> str:
    """`name  value` lines; a fact that is empty or None is left out."""
    shown = {name: clean(str(value)) for name, value in facts.items() if value not in (None, "", ())}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown.items())


def facts(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is, for a program: its manifest without the model's config, and sizes."""
    from edgekit.bundle.manifest import MANIFEST, file_bytes

    manifest = json.loads((bundle.folder / MANIFEST).read_bytes())
    del manifest["source"]["config"]
    for row, variant in zip(manifest["variants"], bundle.variants, strict=True):
        row["name"] = variant.name
    return {"folder": bundle.folder, "bytes": file_bytes(bundle), **manifest}


def bundle(found: Bundle, known: Mapping[str, Any], *, files: bool = False) -> str:
    """A bundle for a person; `known` are its `facts`. `files`: also each file with its digest."""
    source, goldens = found.source, found.goldens
    head = {
        "bundle": found.folder,
        "source": f"{source.id} ({source.arch})",
        "revision": source.revision,
        "weights": "random weights: speed only" if source.random else None,
        "task": f"{found.task}: {found.ingest} > {found.loop} > {found.head}",
        "settings": ", ".join(f"{name} {_brief(value)}" for name, value in found.settings.items()),
        "goldens": f"{len(goldens.inputs)} inputs with known answers" if goldens else "none",
        "size": size_text(known["bytes"]),
        "made by": f"edgekit {known['edgekit']}",
    }
    parts = [pairs(head), _variants(found.variants)]
    if files:
        listed = known["files"].items()
        parts.append(
            table(("file", "size", "sha256"), ((name, size_text(f["size"]), f["sha256"]) for name, f in listed))
        )
    return "\n\n".join(filter(None, parts))


def _variants(variants: Sequence[Variant]) -> str:
    """One row each; the columns are whatever was measured of any of them, and the engine's options if one has any."""
    measured = list(dict.fromkeys(name for variant in variants for name in variant.measured))
    told = ("engine options",) if any(variant.options for variant in variants) else ()
    rows = (
        (
            v.name,
            *(_figure(name, v.measured.get(name, "")) for name in measured),
            *(" ".join(f"{name}={value}" for name, value in v.options.items()) for _ in told),
        )
        for v in variants
    )
    return table(("variant", *measured, *told), rows)


def plan(planned: Plan) -> str:
    """What an export would do."""
    source = planned.source
    head = {
        "source": f"{source.id} ({source.arch})",
        "revision": source.revision,
        "task": f"{planned.task}: {planned.ingest} > {planned.loop} > {planned.head}",
        "left out": "; ".join(planned.left_out),
        "memory needed": size_text(planned.memory_needed),
        "disk needed": size_text(planned.disk_needed),
    }
    return pairs(head) + "\n\n" + table(("variant", "why"), planned.variants)


def checks(found: Sequence[Check]) -> str:
    """The variants held against their goldens."""
    heads = ("variant", "", "difference", "allowed", "agreement", "loss", "allowed", "seconds", "")
    rows = (
        (
            *(check.variant, "ok" if check.ok else "FAILED", f"{check.difference:.2g}", f"{check.tolerance:.2g}"),
            *(f"{check.agreement.metric} {check.agreement.value:.4f}", f"{check.agreement.loss:.2g}"),
            *(f"{check.allowed_loss:.2g}", f"{check.seconds:.2f}", check.why),
        )
        for check in found
    )
    return table(heads, rows)


def targets(found: Iterable[Availability]) -> str:
    """What this machine can run on, and why not."""
    rows = [
        (
            t.target,
            "yes" if t.available else "no",
            f"{t.engine} {t.version}".strip(),
            "; ".join(filter(None, (t.why, t.hint))),
        )
        for t in found
    ]
    return table(("target", "here", "engine", ""), rows)


def lists(found: Mapping[str, Sequence[Any]]) -> str:
    """Lists by their kind; the kind is a heading where there are several."""
    shown = {}
    for kind, rows in found.items():
        if kind == "targets":
            shown[kind] = targets(rows)
        elif kind == "tasks":
            shown[kind] = table(
                ("task", "", "also called"), ((t.name, t.description, ", ".join(t.aliases)) for t in rows)
            )
        elif kind == "architectures":
            shown[kind] = "\n".join([*rows, OTHERS])
        else:
            shown[kind] = "\n".join(rows)
    if len(shown) == 1:
        return next(iter(shown.values()))
    return "\n\n".join(f"{kind.upper()}\n{text}" for kind, text in shown.items())


def diagnosis(found: Diagnosis) -> str:
    """The machine, what is installed, and what to do about the rest."""
    device = found.device
    limits = {"cores": f"{device.cores}, this process may use {device.affinity}", "quota": device.quota}
    head = {
        "edgekit": found.version,
        "python": found.python,
        "system": f"{device.system} {device.kernel} {device.machine} {device.libc}".strip(),
        "cpu": device.cpu,
        "features": " ".join(device.features) or device.features_why,
        **limits,
        "threads": device.threads,
        "memory": device.memory and size_text(device.memory),
        "memory limit": device.memory_limit and size_text(device.memory_limit),
        "memory free": device.available and size_text(device.available),
        **{c.holds: f"{c.folder}, {'unknown' if c.free is None else size_text(c.free)} free" for c in found.caches},
    }
    rows = ((p.name, p.version or "-", p.wanted, p.extra) for p in found.packages)
    findings = "\n".join(f"{f.level}: {f.problem}\n  {f.remedy}" for f in found.findings)
    packages = table(("package", "installed", "wanted", "extra"), rows)
    return "\n\n".join(filter(None, (pairs(head), targets(found.targets), packages, findings or "no problem found")))


def one_line(text: str) -> str:
    """`text` safe for a terminal and without line feeds."""
    return " ".join(clean(text).split())


def _figure(name: str, value: object) -> str:
    return size_text(value) if name.endswith("bytes") and isinstance(value, int) else _brief(value)


def _brief(value: object) -> str:
    """A figure to four digits; a long list or text by its length."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple, dict)) and len(value) > 4:
        return f"({len(value)})"
    return clean(str(value))
