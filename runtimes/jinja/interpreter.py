"""Run a syntax tree: statements write texts, expressions give values. Each step is counted.

Scopes are those of Jinja: a loop's body, a macro and a block have their own, `if` has none; what a loop sets is gone
after the turn, a namespace's attributes stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgekit import limits

from . import nodes, operators
from .faults import LimitFault, RenderFault
from .filters import FILTERS, each
from .loops import Loop
from .nodes import Node
from .predicates import TESTS
from .values import Budget, Dict, Function, List, Namespace, Tuple, Undefined, kind, size_of

BREAK, CONTINUE = "break", "continue"


class Scope:
    """Names with their values, and the scope around."""

    __slots__ = ("around", "values")

    def __init__(self, values: dict[str, Any], around: Scope | None = None) -> None:
        self.values, self.around = values, around

    def find(self, name: str) -> Any:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.around
        return Undefined(f"'{name}'")


class Interpreter:
    """One rendering."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.line = self._depth = 0

    # What filters use

    def filter(self, name: Any, value: Any, *arguments: Any, **named: Any) -> Any:
        return self._apply(FILTERS, "filter", name, value, *arguments, **named)

    def test(self, name: Any, value: Any, *arguments: Any, **named: Any) -> bool:
        return bool(self._apply(TESTS, "test", name, value, *arguments, **named))

    def _apply(self, table: Mapping[str, Any], what: str, name: Any, value: Any, *arguments: Any, **named: Any) -> Any:
        if name not in table:
            raise RenderFault(f"there is no {what} {name!r:.40}")
        self.budget.step()
        self.budget.spend(size_of(value) if isinstance(value, str) else 0)
        return table[name](self, value, *arguments, **named)

    def arithmetic(self, sign: str, left: Any, right: Any) -> Any:
        return operators.arithmetic(self.budget, sign, left, right)

    def compare(self, sign: str, left: Any, right: Any) -> bool:
        return operators.compare(self.budget, sign, left, right)

    # Statements

    def run(self, body: list[Node], scope: Scope, out: list[str]) -> str:
        """Execute the statements; the result says whether a loop is to break or to continue."""
        for node in body:
            self.budget.step()
            self.line = node.line
            signal = RUN[type(node)](self, node, scope, out)
            if signal:
                return str(signal)
        return ""

    def written(self, body: list[Node], scope: Scope) -> str:
        """What the statements write."""
        out: list[str] = []
        self._descend()
        self.run(body, scope, out)
        self._depth -= 1
        return "".join(out)

    def _write(self, text: str, out: list[str]) -> None:
        self.budget.spend(len(text))
        out.append(text)

    def _text(self, node: nodes.Text, scope: Scope, out: list[str]) -> None:
        self._write(node.text, out)

    def _output(self, node: nodes.Output, scope: Scope, out: list[str]) -> None:
        self._write(self.budget.text(self.value(node.value, scope)), out)

    def _if(self, node: nodes.If, scope: Scope, out: list[str]) -> str:
        for test, body in node.branches:
            if test is None or self.value(test, scope):
                return self.run(body, scope, out)
        return ""

    def _for(self, node: nodes.For, scope: Scope, out: list[str]) -> None:
        self._loop(node, self.value(node.items, scope), scope, out, 1)

    def _loop(self, node: nodes.For, items: Any, scope: Scope, out: list[str], depth: int) -> None:
        parts = each(self, items)
        if node.test is not None:
            parts = [part for part in parts if self._passes(node, part, scope)]
        loop = Loop(parts, depth, self._again(node, scope, depth) if node.recursive else None)
        for part in parts:
            inner = Scope({"loop": loop}, scope)
            self.assign(node.target, part, inner)
            if self.run(node.body, inner, out) == BREAK:
                break
            loop.at += 1
        if not parts:
            self.run(node.other, Scope({}, scope), out)

    def _passes(self, node: nodes.For, part: Any, scope: Scope) -> bool:
        assert node.test is not None
        inner = Scope({}, scope)
        self.assign(node.target, part, inner)
        return bool(self.value(node.test, inner))

    def _again(self, node: nodes.For, scope: Scope, depth: int) -> Callable[[Any], str]:
        """`loop(items)` in a recursive loop."""

        def call(items: Any) -> str:
            out: list[str] = []
            self._descend()
            self._loop(node, items, scope, out, depth + 1)
            self._depth -= 1
            return "".join(out)

        return call

    def _set(self, node: nodes.Set, scope: Scope, out: list[str]) -> None:
        if node.value is not None:
            value = self.value(node.value, scope)
        else:
            value = self._filtered(node.filter, self.written(node.body, Scope({}, scope)), scope)
        self.assign(node.target, value, scope)

    def _filtered(self, filters: Node | None, text: str, scope: Scope) -> Any:
        if filters is None:
            return text
        assert isinstance(filters, nodes.Filter)
        value = text if filters.value is None else self._filtered(filters.value, text, scope)
        positional, named = self._arguments(filters.arguments, scope)
        return self.filter(filters.name, value, *positional, **named)

    def assign(self, target: nodes.Target, value: Any, scope: Scope) -> None:
        """Raises RenderFault for an attribute of what is not a namespace, and where the number of parts differs."""
        if target.parts is not None:
            parts = each(self, value)
            if len(parts) != len(target.parts):
                raise RenderFault(f"{len(parts)} values for {len(target.parts)} names")
            for each_target, part in zip(target.parts, parts):
                self.assign(each_target, part, scope)
        elif target.attribute:
            namespace = scope.find(target.name)
            if not isinstance(namespace, Namespace):
                raise RenderFault(f"'{target.name}' is not a namespace")
            namespace.set(target.attribute, value)
        else:
            scope.values[target.name] = value

    def _macro(self, node: nodes.Macro, scope: Scope, out: list[str]) -> None:
        scope.values[node.name] = self._function(node, scope)

    def _function(self, node: nodes.Macro, scope: Scope) -> Function:
        """A macro as what a template can call; it sees the names around its definition."""
        names = [name for name, _ in node.parameters]

        def call(*positional: Any, caller: Any = None, **named: Any) -> str:
            values: dict[str, Any] = {"varargs": self.budget.new_tuple(positional[len(names) :])}
            values |= dict(zip(names, positional))
            if twice := [name for name in named if name in values]:
                raise RenderFault(f"{node.name}() has two values for {twice[0]!r}")
            inner = Scope(values, scope)
            for name, default in node.parameters:
                if name not in values:
                    values[name] = named.pop(name) if name in named else self._default(default, name, inner)
            values |= {"kwargs": self.budget.new_dict(named)} | ({} if caller is None else {"caller": caller})
            return self.written(node.body, inner)

        return Function(node.name, call)

    def _default(self, default: Node | None, name: str, scope: Scope) -> Any:
        return Undefined(f"parameter '{name}'") if default is None else self.value(default, scope)

    def _call_block(self, node: nodes.CallBlock, scope: Scope, out: list[str]) -> None:
        caller = self._function(node.caller, scope)
        self._write(self.budget.text(self._call(node.call, scope, caller=caller)), out)

    def _block(self, node: nodes.Block, scope: Scope, out: list[str]) -> str:
        inner = Scope({}, scope)
        for target, value in node.assignments:
            self.assign(target, self.value(value, scope), inner)
        if node.filter is None:
            return self.run(node.body, inner, out)
        self._write(self.budget.text(self._filtered(node.filter, self.written(node.body, inner), scope)), out)
        return ""

    def _control(self, node: nodes.LoopControl, scope: Scope, out: list[str]) -> str:
        return node.word

    # Expressions

    def value(self, node: Node, scope: Scope) -> Any:
        """The expression's value."""
        self.budget.step()
        self._descend()
        value = VALUE[type(node)](self, node, scope)
        self._depth -= 1
        return value

    def _descend(self) -> None:
        self._depth += 1
        if self._depth > limits.TEMPLATE_DEPTH:
            raise LimitFault("it nests too deep")

    def _const(self, node: nodes.Const, scope: Scope) -> Any:
        return node.value

    def _name(self, node: nodes.Name, scope: Scope) -> Any:
        return scope.find(node.name)

    def _sequence(self, node: nodes.Sequence, scope: Scope) -> List | Tuple:
        items = [self.value(item, scope) for item in node.items]
        return self.budget.new_tuple(items) if node.is_tuple else self.budget.new_list(items)

    def _mapping(self, node: nodes.Mapping, scope: Scope) -> Dict:
        return self.budget.new_dict({self._key(key, scope): self.value(value, scope) for key, value in node.pairs})

    def _key(self, node: Node, scope: Scope) -> Any:
        key = self.value(node, scope)
        if not isinstance(key, str | int | float | None):
            raise RenderFault(f"a key is {kind(key)}")
        return key

    def _unary(self, node: nodes.Unary, scope: Scope) -> Any:
        value = self.value(node.value, scope)
        if node.sign == "not":
            return not value
        if not isinstance(value, int | float):
            raise RenderFault(f"{node.sign!r} is not for {kind(value)}")
        return -value if node.sign == "-" else +value

    def _arithmetic(self, node: nodes.Arithmetic, scope: Scope) -> Any:
        left = self.value(node.first, scope)
        for sign, right in node.rest:
            left = self.arithmetic(sign, left, self.value(right, scope))
        return left

    def _concat(self, node: nodes.Concat, scope: Scope) -> str:
        texts = [self.budget.text(self.value(item, scope)) for item in node.items]
        self.budget.spend(sum(map(len, texts)))
        return "".join(texts)

    def _compare(self, node: nodes.Compare, scope: Scope) -> bool:
        left = self.value(node.first, scope)
        for sign, node_right in node.rest:
            right = self.value(node_right, scope)
            if not self.compare(sign, left, right):
                return False
            left = right
        return True

    def _logic(self, node: nodes.Logic, scope: Scope) -> Any:
        value = None
        for item in node.items:
            value = self.value(item, scope)
            if bool(value) is (node.word == "or"):
                break
        return value

    def _condition(self, node: nodes.Condition, scope: Scope) -> Any:
        if self.value(node.test, scope):
            return self.value(node.then, scope)
        return Undefined("an `if` without `else`") if node.other is None else self.value(node.other, scope)

    def _attribute(self, node: nodes.Attribute, scope: Scope) -> Any:
        value = self.value(node.value, scope)
        return (
            value.attribute(node.name)
            if isinstance(value, Loop)
            else operators.attribute(self.budget, value, node.name)
        )

    def _item(self, node: nodes.Item, scope: Scope) -> Any:
        value, key = self.value(node.value, scope), self.value(node.key, scope)
        return value.attribute(key) if isinstance(value, Loop) else operators.item(self.budget, value, key)

    def _slice(self, node: nodes.Slice, scope: Scope) -> slice:
        ends = [None if end is None else self.value(end, scope) for end in (node.start, node.stop, node.step)]
        return slice(*ends)

    def _call(self, node: nodes.Call, scope: Scope, **extra: Any) -> Any:
        function = self.value(node.function, scope)
        positional, named = self._arguments(node.arguments, scope)
        if isinstance(function, Loop):
            return function.call(*positional)
        if isinstance(function, Undefined):
            raise function.fail()
        if not isinstance(function, Function):
            raise RenderFault(f"{kind(function)} cannot be called")
        return function.call(*positional, **named, **extra)

    def _arguments(self, arguments: nodes.Arguments, scope: Scope) -> tuple[list[Any], dict[str, Any]]:
        positional = [self.value(node, scope) for node in arguments.positional]
        named = {name: self.value(node, scope) for name, node in arguments.named}
        if arguments.spread is not None:
            positional += each(self, self.value(arguments.spread, scope))
        if arguments.spread_named is not None:
            named |= {str(name): value for name, value in self.value(arguments.spread_named, scope).items()}
        return positional, named

    def _filter(self, node: nodes.Filter, scope: Scope) -> Any:
        assert node.value is not None
        value = self.value(node.value, scope)
        positional, named = self._arguments(node.arguments, scope)
        return self.filter(node.name, value, *positional, **named)

    def _test(self, node: nodes.Test, scope: Scope) -> bool:
        value = self.value(node.value, scope)
        positional, named = self._arguments(node.arguments, scope)
        return self.test(node.name, value, *positional, **named) is not node.negated


Handler = Callable[..., Any]
RUN: dict[type[Node], Handler] = {
    nodes.Text: Interpreter._text,
    nodes.Output: Interpreter._output,
    nodes.If: Interpreter._if,
    nodes.For: Interpreter._for,
    nodes.Set: Interpreter._set,
    nodes.Macro: Interpreter._macro,
    nodes.CallBlock: Interpreter._call_block,
    nodes.Block: Interpreter._block,
    nodes.LoopControl: Interpreter._control,
}
VALUE: dict[type[Node], Handler] = {
    nodes.Const: Interpreter._const,
    nodes.Name: Interpreter._name,
    nodes.Sequence: Interpreter._sequence,
    nodes.Mapping: Interpreter._mapping,
    nodes.Unary: Interpreter._unary,
    nodes.Arithmetic: Interpreter._arithmetic,
    nodes.Concat: Interpreter._concat,
    nodes.Compare: Interpreter._compare,
    nodes.Logic: Interpreter._logic,
    nodes.Condition: Interpreter._condition,
    nodes.Attribute: Interpreter._attribute,
    nodes.Item: Interpreter._item,
    nodes.Slice: Interpreter._slice,
    nodes.Call: Interpreter._call,
    nodes.Filter: Interpreter._filter,
    nodes.Test: Interpreter._test,
}
