"""Finds an exporter, loop, head, ingest, scheduler or target by its file's name.

The folder says the kind, the file says the instance. Listing reads a folder and imports nothing.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import edgekit
from edgekit.errors import UnsupportedError

GIVEN = "onnx"  # the architecture of an ONNX file, which no config.json can name
# kind -> (package under edgekit, what to call one of them)
KINDS = {
    "exporters": ("exporters", "architecture"),
    "targets": ("targets", "target"),
    "ingest": ("runtimes.ingest", "ingest"),
    "loops": ("runtimes.loops", "loop"),
    "heads": ("runtimes.heads", "head"),
    "schedulers": ("runtimes.schedulers", "scheduler"),
}


def names(kind: str) -> list[str]:
    """Every file of that kind, without importing any; private files (`_trace.py`) are not listed."""
    inside = KINDS[kind][0].replace(".", "/")
    files = (file for home in edgekit.__path__ for file in (Path(home) / inside).glob("*.py"))
    return sorted({file.stem for file in files if not file.stem.startswith("_")})


def find(kind: str, name: str) -> ModuleType:
    """The module of that name. Raises UnsupportedError with the nearest name if there is none."""
    package, noun = KINDS[kind]
    known = names(kind)
    if name not in known:
        raise UnsupportedError(f"no {noun} named {name!r}", hint=suggest(name, known) or f"known: {', '.join(known)}")
    return import_module(f"edgekit.{package}.{name}")


def exporter(arch: str) -> Any:
    """The exporter of an architecture: its own file's, else the one that traces whatever decoder transformers knows;
    of an ONNX file, the one that takes it over.

    Raises UnsupportedError with the nearest name if there is none.
    """
    if arch == GIVEN:
        return import_module("edgekit.exporters._onnx_file.exporter").EXPORTER
    found = import_module("edgekit.exporters._any_decoder.exporter") if is_traced(arch) else find("exporters", arch)
    return found.EXPORTER


def is_traced(arch: str) -> bool:
    """Whether an architecture without a file of its own can be tried: transformers has such a decoder."""
    if arch in names("exporters"):
        return False
    known: bool = import_module("edgekit.exporters._any_decoder.exporter").EXPORTER.knows(arch)
    return known


def suggest(name: str, known: list[str]) -> str:
    """`did you mean 'x'?` for the nearest of the known names, or the empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""
