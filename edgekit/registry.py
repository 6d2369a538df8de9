"""Finds an exporter, target, task, loop, head, ingest or scheduler by its file's name.

The folder says the kind, the file says the instance. Listing reads a folder and imports nothing.
"""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import edgekit
from edgekit.errors import UnsupportedError

# The architectures of ONNX files, with and without states, which no config.json can name.
ONNX_FILE, ONNX_NETWORK = "onnx", "onnx-network"
# kind -> (package under edgekit, what to call one of them)
KINDS = {
    "exporters": ("exporters", "architecture"),
    "targets": ("targets", "target"),
    "tasks": ("runtimes.tasks", "task"),
    "ingest": ("runtimes.ingest", "ingest"),
    "loops": ("runtimes.loops", "loop"),
    "heads": ("runtimes.heads", "head"),
    "schedulers": ("runtimes.schedulers", "scheduler"),
}


@dataclass(frozen=True)
class TaskFile:
    """What a task's file says of it without being imported: its docstring's first line and `ALIASES`."""

    name: str  # Hugging Face's: the file's name with dashes
    description: str
    aliases: tuple[str, ...]


def files(kind: str) -> dict[str, Path]:
    """Every public file of that kind by its name, without importing any."""
    inside = KINDS[kind][0].replace(".", "/")
    paths = (file for home in edgekit.__path__ for file in (Path(home) / inside).glob("*.py"))
    return {file.stem: file for file in sorted(paths, key=lambda file: file.stem) if not file.stem.startswith("_")}


def names(kind: str) -> list[str]:
    """Every name of that kind; private files (`_texts.py`) are not listed."""
    return list(files(kind))


def find(kind: str, name: str) -> ModuleType:
    """The module of that name. Raises UnsupportedError with the nearest name if there is none."""
    package, noun = KINDS[kind]
    known = names(kind)
    if name not in known:
        raise UnsupportedError(f"no {noun} named {name!r}", hint=suggest(name, known) or f"known: {', '.join(known)}")
    return import_module(f"edgekit.{package}.{name}")


def tasks() -> list[TaskFile]:
    """Every task, by its file."""
    return [_described(stem, file) for stem, file in files("tasks").items()]


def described(task: str) -> TaskFile:
    """What a task's file says of it. Raises UnsupportedError."""
    name = task_name(task)
    return next(each for each in tasks() if each.name == name)


def task_name(name: str) -> str:
    """The task of that name or alias. Raises UnsupportedError with the nearest name if there is none."""
    by_name = {known: task.name for task in tasks() for known in (task.name, *task.aliases)}
    if name not in by_name:
        hint = suggest(name, list(by_name)) or f"known: {', '.join(dict.fromkeys(by_name.values()))}"
        raise UnsupportedError(f"no task named {name!r}", hint=hint)
    return by_name[name]


def task(name: str) -> Any:
    """The class of a task: `TextClassification` in runtimes/tasks/text_classification.py. Raises UnsupportedError."""
    stem = name.replace("-", "_")
    if stem not in names("tasks"):
        known = [task.name for task in tasks()]
        raise UnsupportedError(f"no task named {name!r}", hint=suggest(name, known) or f"known: {', '.join(known)}")
    return getattr(find("tasks", stem), class_name(stem))


def class_name(stem: str) -> str:
    """What the class in a task's file is called."""
    return "".join(part.capitalize() for part in stem.split("_"))


def task_of(kind: type) -> str:
    """The task that a class serves, from the name of its file."""
    return kind.__module__.rpartition(".")[2].replace("_", "-")


def task_methods() -> frozenset[str]:
    """The names of the methods of all tasks."""
    return frozenset(method for each in tasks() for method in task(each.name).METHODS)


def _described(stem: str, file: Path) -> TaskFile:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    aliases: tuple[str, ...] = ()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ALIASES":
            aliases = tuple(ast.literal_eval(node.value))
    return TaskFile(stem.replace("_", "-"), (first.partition(": ")[2] or first).rstrip("."), aliases)


def exporter(arch: str) -> Any:
    """The exporter of an architecture: its own file's, else the one that traces whatever decoder transformers knows;
    of an ONNX file, the one that takes it over.

    Raises UnsupportedError with the nearest name if there is none.
    """
    if arch == ONNX_FILE:
        return import_module("edgekit.exporters._onnx_file.exporter").EXPORTER
    if arch == ONNX_NETWORK:
        return import_module("edgekit.exporters._onnx_file.network").EXPORTER
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
