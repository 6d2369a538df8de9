"""The syntax tree of a template. Chains of one precedence are flat, so that long ones do not nest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Node:
    line: int


# Expressions


@dataclass(slots=True)
class Const(Node):
    value: Any


@dataclass(slots=True)
class Name(Node):
    name: str


@dataclass(slots=True)
class Sequence(Node):
    """A list or, with `is_tuple`, a tuple."""

    items: list[Node]
    is_tuple: bool


@dataclass(slots=True)
class Mapping(Node):
    pairs: list[tuple[Node, Node]]


@dataclass(slots=True)
class Unary(Node):
    sign: str  # "-", "+" or "not"
    value: Node


@dataclass(slots=True)
class Arithmetic(Node):
    """`first`, then each sign with its right side, from left to right."""

    first: Node
    rest: list[tuple[str, Node]]


@dataclass(slots=True)
class Concat(Node):
    items: list[Node]


@dataclass(slots=True)
class Compare(Node):
    first: Node
    rest: list[tuple[str, Node]]


@dataclass(slots=True)
class Logic(Node):
    """`and` or `or` of two or more."""

    word: str
    items: list[Node]


@dataclass(slots=True)
class Condition(Node):
    """`then if test else other`; without `other`, undefined."""

    test: Node
    then: Node
    other: Node | None


@dataclass(slots=True)
class Attribute(Node):
    value: Node
    name: str


@dataclass(slots=True)
class Item(Node):
    value: Node
    key: Node


@dataclass(slots=True)
class Slice(Node):
    start: Node | None
    stop: Node | None
    step: Node | None


@dataclass(slots=True)
class Arguments(Node):
    positional: list[Node] = field(default_factory=list)
    named: list[tuple[str, Node]] = field(default_factory=list)
    spread: Node | None = None  # *x
    spread_named: Node | None = None  # **x


@dataclass(slots=True)
class Call(Node):
    function: Node
    arguments: Arguments


@dataclass(slots=True)
class Filter(Node):
    """`value`: None at the start of a filter block."""

    value: Node | None
    name: str
    arguments: Arguments


@dataclass(slots=True)
class Test(Node):
    value: Node
    name: str
    arguments: Arguments
    negated: bool


# Statements


@dataclass(slots=True)
class Text(Node):
    text: str


@dataclass(slots=True)
class Output(Node):
    value: Node


@dataclass(slots=True)
class If(Node):
    """Each test with its body; None: else."""

    branches: list[tuple[Node | None, list[Node]]]


@dataclass(slots=True)
class Target(Node):
    """What is assigned to: a name, an attribute of a namespace, or several."""

    name: str = ""
    attribute: str = ""
    parts: list[Target] | None = None


@dataclass(slots=True)
class For(Node):
    target: Target
    items: Node
    test: Node | None
    recursive: bool
    body: list[Node]
    other: list[Node]


@dataclass(slots=True)
class Set(Node):
    """An assignment of a value, or of what the body writes, through filters."""

    target: Target
    value: Node | None
    body: list[Node]
    filter: Node | None = None


@dataclass(slots=True)
class Macro(Node):
    name: str
    parameters: list[tuple[str, Node | None]]
    body: list[Node]


@dataclass(slots=True)
class CallBlock(Node):
    call: Call
    caller: Macro


@dataclass(slots=True)
class Block(Node):
    """A body with a scope of its own: `with` (its assignments first), `filter`, `generation`, `block`."""

    assignments: list[tuple[Target, Node]]
    body: list[Node]
    filter: Node | None = None


@dataclass(slots=True)
class LoopControl(Node):
    word: str  # "break" or "continue"
