"""Which names a template takes from its caller."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from . import nodes
from .nodes import Node


def free_names(body: list[Node]) -> set[str]:
    """Names that are read where nothing has set them on every way there."""
    return set(_body(body, set()))


def _body(body: list[Node], known: set[str]) -> Iterator[str]:
    """`known` gains what the statements set."""
    for node in body:
        yield from _statement(node, known)


def _statement(node: Node, known: set[str]) -> Iterator[str]:
    if isinstance(node, nodes.If):
        yield from _branches(node, known)
    elif isinstance(node, nodes.For):
        yield from _read(node.items, known)
        inner = known | {"loop", *_targets(node.target)}
        yield from _read(node.test, inner)
        yield from _body(node.body, inner)
        yield from _body(node.other, {*known})
    elif isinstance(node, nodes.Set):
        yield from _read(node.value, known)
        yield from _read(node.filter, known)
        yield from _body(node.body, {*known})
        known |= _targets(node.target)
    elif isinstance(node, nodes.Macro):
        known.add(node.name)
        yield from _macro(node, known)
    elif isinstance(node, nodes.CallBlock):
        yield from _read(node.call, known)
        yield from _macro(node.caller, known)
    elif isinstance(node, nodes.Block):
        inner = {*known}
        for target, value in node.assignments:
            yield from _read(value, known)
            inner |= _targets(target)
        yield from _read(node.filter, known)
        yield from _body(node.body, inner)
    elif isinstance(node, nodes.Output):
        yield from _read(node.value, known)


def _branches(node: nodes.If, known: set[str]) -> Iterator[str]:
    """What every branch sets is known after it; without an `else` one branch sets nothing."""
    ends = [] if node.branches[-1][0] is None else [{*known}]
    for test, body in node.branches:
        yield from _read(test, known)
        inner = {*known}
        yield from _body(body, inner)
        ends.append(inner)
    known |= set.intersection(*ends)


def _macro(node: nodes.Macro, known: set[str]) -> Iterator[str]:
    for _, default in node.parameters:
        yield from _read(default, known)
    names = {name for name, _ in node.parameters}
    yield from _body(node.body, known | names | {"varargs", "kwargs", "caller"})


def _targets(target: nodes.Target) -> set[str]:
    if target.parts is not None:
        return set().union(*map(_targets, target.parts))
    return set() if target.attribute else {target.name}


def _read(value: Any, known: set[str]) -> Iterator[str]:
    """The free names of an expression, or of what a field of one holds."""
    if isinstance(value, nodes.Name):
        yield from () if value.name in known else (value.name,)
    elif isinstance(value, Node):
        for field in fields(value):
            yield from _read(getattr(value, field.name), known)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _read(part, known)
