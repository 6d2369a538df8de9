"""`edgekit list`: the architectures, tasks, targets and zoo models of EdgeKit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from edgekit import registry
from edgekit.bundle.safe_files import size_text
from edgekit.cli.console import Console
from edgekit.cli.options import Command, one_of, output_switches
from edgekit.core import Availability
from edgekit.text_table import table

KINDS = ("architectures", "tasks", "targets", "zoo")
# The last line of the architectures: those without an exporter of their own.
ANY_DECODER = "and other decoder-only language models of transformers: traced, and compared with transformers"


@click.command("list", cls=Command)
@click.argument("kind", required=False, **one_of("list", KINDS))
@output_switches
@click.pass_obj
def listing(console: Console, /, kind: str | None) -> None:
    """List architectures, tasks, targets and zoo models.

    $ edgekit list
    $ edgekit list targets
    $ edgekit list architectures --json
    """
    from edgekit import doctor, zoo

    sources: dict[str, Callable[[], Sequence[Any]]] = {
        "architectures": lambda: registry.names("exporters"),
        "tasks": registry.tasks,
        "targets": doctor.targets,
        "zoo": zoo.cards,
    }
    lists = {name: sources[name]() for name in ([kind] if kind else KINDS)}
    console.answer(lists, lists_text(lists))


def lists_text(lists: Mapping[str, Sequence[Any]]) -> str:
    """The lists by kind, each under its kind as a heading where there are several."""
    texts = {kind: _list_text(kind, items) for kind, items in lists.items()}
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "\n\n".join(f"{kind.upper()}\n{text}" for kind, text in texts.items())


def _list_text(kind: str, items: Sequence[Any]) -> str:
    if kind == "targets":
        return targets_text(items)
    if kind == "tasks":
        rows = ((task.name, task.description, ", ".join(task.aliases)) for task in items)
        return table(("task", "", "also called"), rows)
    if kind == "zoo":
        return table(("model", "", "size"), ((each.name, each.description, size_text(each.bytes)) for each in items))
    return "\n".join([*items, ANY_DECODER])


def targets_text(targets: Iterable[Availability]) -> str:
    """A table of the targets: whether this machine can run each, on which engine, and why not."""
    rows = [
        (
            target.target,
            "yes" if target.available else "no",
            f"{target.engine} {target.version}".strip(),
            "; ".join(filter(None, (target.why, target.hint))),
        )
        for target in targets
    ]
    return table(("target", "here", "engine", ""), rows)
