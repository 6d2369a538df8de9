"""The expressions of the grammar, by descent. Each kind of chain is read in a loop, so that only brackets nest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edgekit import limits

from . import nodes
from .faults import SyntaxFault
from .lexer import Token, value
from .nodes import Arguments, Node

T = TypeVar("T")

COMPARISONS = ("==", "!=", "<", ">", "<=", ">=")
WORDS = {"true": True, "True": True, "false": False, "False": False, "none": None, "None": None}
LAST = Token("", "", 0)


class Expressions:
    """A reader of tokens, with one method for each level of precedence, the loosest first."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens, self._at, self._depth = tokens, 0, 0

    @property
    def current(self) -> Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else LAST

    @property
    def line(self) -> int:
        return self._tokens[min(self._at, len(self._tokens) - 1)].line if self._tokens else 0

    def next(self) -> Token:
        token = self.current
        self._at += 1
        return token

    def skip(self, kind: str, text: str) -> bool:
        """Whether such a token comes; it is read."""
        matches = self.current.kind == kind and self.current.text == text
        self._at += matches
        return matches

    def expect(self, kind: str, text: str = "") -> Token:
        """The next token, of this kind. Raises SyntaxFault for another."""
        token = self.current
        if token.kind != kind or (text and token.text != text):
            raise SyntaxFault(f"unexpected {token.text or 'end'!r}, expected {text or kind}", self.line)
        return self.next()

    def end_of_tag(self) -> None:
        self.expect("end")

    def descend(self) -> None:
        self._depth += 1
        if self._depth > limits.TEMPLATE_DEPTH:
            raise SyntaxFault("it nests too deep", self.line)

    def ascend(self) -> None:
        self._depth -= 1

    def tuple_or_one(self, conditions: bool = True, ends: tuple[str, ...] = (), empty: bool = False) -> Node:
        """An expression, or several with commas between them. `ends`: words that may follow a last comma."""
        line, items, several = self.line, list[Node](), False
        while not self._tuple_ends(ends):
            items.append(self.expression() if conditions else self.logic_or())
            if not self.skip("operator", ","):
                break
            several = True
        if not items and not (empty or several):
            raise SyntaxFault(f"unexpected {self.current.text!r}, expected an expression", self.line)
        return items[0] if len(items) == 1 and not several else nodes.Sequence(line, items, is_tuple=True)

    def _tuple_ends(self, ends: tuple[str, ...]) -> bool:
        token = self.current
        return token.kind in ("end", "") or token.text == ")" or (token.kind == "name" and token.text in ends)

    def expression(self) -> Node:
        """`then if test else other`, and all that binds closer."""
        self.descend()
        line, then = self.line, self.logic_or()
        while self.skip("name", "if"):
            test = self.logic_or()
            other = self.expression() if self.skip("name", "else") else None
            then = nodes.Condition(line, test, then, other)
        self.ascend()
        return then

    def logic_or(self) -> Node:
        return self._logic("or", lambda: self._logic("and", self._not))

    def _logic(self, word: str, closer: Callable[[], Node]) -> Node:
        line, items = self.line, [closer()]
        while self.skip("name", word):
            items.append(closer())
        return items[0] if len(items) == 1 else nodes.Logic(line, word, items)

    def _not(self) -> Node:
        line, count = self.line, 0
        while self.skip("name", "not"):
            count += 1
        compared = self._compare()
        for _ in range(min(count, 2 - count % 2)):  # not not not x is not x
            compared = nodes.Unary(line, "not", compared)
        return compared

    def _compare(self) -> Node:
        line, first, rest = self.line, self._sum(), list[tuple[str, Node]]()
        while True:
            token, after = self.current, self._tokens[self._at + 1 : self._at + 2]
            if token.kind == "operator" and token.text in COMPARISONS:
                self.next()
                rest.append((token.text, self._sum()))
            elif self.skip("name", "in"):
                rest.append(("in", self._sum()))
            elif token.kind == "name" and token.text == "not" and after and after[0].text == "in":
                self._at += 2
                rest.append(("not in", self._sum()))
            else:
                return nodes.Compare(line, first, rest) if rest else first

    def _sum(self) -> Node:
        return self._arithmetic(("+", "-"), self._concat)

    def _concat(self) -> Node:
        line, items = self.line, [self._product()]
        while self.skip("operator", "~"):
            items.append(self._product())
        return items[0] if len(items) == 1 else nodes.Concat(line, items)

    def _product(self) -> Node:
        return self._arithmetic(("*", "/", "//", "%"), lambda: self._arithmetic(("**",), self.unary))

    def _arithmetic(self, signs: tuple[str, ...], closer: Callable[[], Node]) -> Node:
        line, first, rest = self.line, closer(), list[tuple[str, Node]]()
        while self.current.kind == "operator" and self.current.text in signs:
            rest.append((self.next().text, closer()))
        return nodes.Arithmetic(line, first, rest) if rest else first

    def unary(self, with_filters: bool = True) -> Node:
        line = self.line
        if self.current.kind == "operator" and self.current.text in ("-", "+"):
            self.descend()
            node: Node = nodes.Unary(line, self.next().text, self.unary(with_filters=False))
            self.ascend()
        else:
            node = self.primary()
        node = self._postfix(node)
        return self._filters_and_tests(node) if with_filters else node

    def primary(self) -> Node:
        token = self.next()
        if token.kind == "name":
            known = token.text in WORDS
            return nodes.Const(token.line, WORDS[token.text]) if known else nodes.Name(token.line, token.text)
        if token.kind == "string":
            texts = [str(value(token))]
            while self.current.kind == "string":
                texts.append(str(value(self.next())))
            return nodes.Const(token.line, "".join(texts))
        if token.kind in ("integer", "float"):
            return nodes.Const(token.line, value(token))
        self.descend()
        node = self._bracket(token)
        self.ascend()
        return node

    def _bracket(self, token: Token) -> Node:
        if token.text == "(" and token.kind == "operator":
            node = self.tuple_or_one(empty=True)
            self.expect("operator", ")")
            return node
        if token.text == "[" and token.kind == "operator":
            return nodes.Sequence(token.line, self._listed("]", self.expression), is_tuple=False)
        if token.text == "{" and token.kind == "operator":
            return nodes.Mapping(token.line, self._listed("}", self._pair))
        raise SyntaxFault(f"unexpected {token.text or 'end'!r}", token.line or self.line)

    def _listed(self, end: str, read: Callable[[], T]) -> list[T]:
        items: list[T] = []
        while not self.skip("operator", end):
            if items:
                self.expect("operator", ",")
                if self.skip("operator", end):
                    break
            items.append(read())
        return items

    def _pair(self) -> tuple[Node, Node]:
        key = self.expression()
        self.expect("operator", ":")
        return key, self.expression()

    def _postfix(self, node: Node) -> Node:
        links = 0
        while self.current.kind == "operator":
            if self.skip("operator", "."):
                node = self._attribute(node)
            elif self.skip("operator", "["):
                node = nodes.Item(node.line, node, self._key())
            elif self.current.text == "(":
                node = nodes.Call(self.line, node, self.arguments())
            else:
                break
            links = self._link(links)
        self._depth -= links
        return node

    def _link(self, links: int) -> int:
        self.descend()  # each link is a level of the tree
        return links + 1

    def _attribute(self, node: Node) -> Node:
        token = self.next()
        if token.kind == "integer":
            return nodes.Item(token.line, node, nodes.Const(token.line, value(token)))
        if token.kind != "name":
            raise SyntaxFault(f"unexpected {token.text!r}, expected a name", token.line or self.line)
        return nodes.Attribute(token.line, node, token.text)

    def _key(self) -> Node:
        line, start = self.line, None if self._is_one_of(":") else self.expression()
        if not self.skip("operator", ":"):
            self.expect("operator", "]")
            assert start is not None
            return start
        stop = None if self._is_one_of(":", "]") else self.expression()
        step = None if not self.skip("operator", ":") or self._is_one_of("]") else self.expression()
        self.expect("operator", "]")
        return nodes.Slice(line, start, stop, step)

    def _is_one_of(self, *signs: str) -> bool:
        return self.current.kind == "operator" and self.current.text in signs

    def _filters_and_tests(self, node: Node) -> Node:
        links = 0
        while True:
            if self._is_one_of("|"):
                node = self._filter(node)
            elif self.current.kind == "name" and self.current.text == "is":
                node = self._test(node)
            elif self._is_one_of("("):
                node = nodes.Call(self.line, node, self.arguments())
            else:
                break
            links = self._link(links)
        self._depth -= links
        return node

    def _filter(self, node: Node | None, bar: bool = True) -> Node:
        if bar:
            self.expect("operator", "|")
        line, name = self.line, self.expect("name").text
        while self.skip("operator", "."):
            name += "." + self.expect("name").text
        has_arguments = self._is_one_of("(")
        return nodes.Filter(line, node, name, self.arguments() if has_arguments else Arguments(line))

    def filters(self, node: Node | None, first: bool = False) -> Node | None:
        """Filters of a block. `first`: the first has no bar before it."""
        if first:
            node = self._filter(node, bar=False)
        links = 0
        while self._is_one_of("|"):
            node, links = self._filter(node), self._link(links)
        self._depth -= links
        return node

    def _test(self, node: Node) -> Node:
        line = self.next().line
        negated, name = self.skip("name", "not"), self.expect("name").text
        arguments = Arguments(line)
        if self._is_one_of("("):
            arguments = self.arguments()
        elif self._begins_value():
            arguments.positional.append(self._postfix(self.primary()))
        return nodes.Test(line, node, name, arguments, negated)

    def _begins_value(self) -> bool:
        token = self.current
        if token.kind == "name":
            return token.text not in ("else", "or", "and", "is", "not", "if", "in", "recursive")
        return token.kind in ("string", "integer", "float") or self._is_one_of("[", "{")

    def arguments(self) -> Arguments:
        """What stands in the brackets of a call."""
        arguments = Arguments(self.expect("operator", "(").line)
        self.descend()
        while not self.skip("operator", ")"):
            if arguments != Arguments(arguments.line):
                self.expect("operator", ",")
                if self.skip("operator", ")"):
                    break
            self._argument(arguments)
        self.ascend()
        return arguments

    def _argument(self, arguments: Arguments) -> None:
        after = self._tokens[self._at + 1 : self._at + 2]
        if self.skip("operator", "*"):
            arguments.spread = self.expression()
        elif self.skip("operator", "**"):
            arguments.spread_named = self.expression()
        elif self.current.kind == "name" and after and after[0].text == "=" and after[0].kind == "operator":
            name = self.next().text
            self.next()
            arguments.named.append((name, self.expression()))
        elif arguments.named or arguments.spread:
            raise SyntaxFault("an argument follows one with a name", self.line)
        else:
            arguments.positional.append(self.expression())

    def target(self, ends: tuple[str, ...], attributes: bool = False) -> nodes.Target:
        """What is assigned to, up to one of the words."""
        line, parts, several = self.line, list[nodes.Target](), False
        while True:
            if self.skip("operator", "("):
                parts.append(self.target((")",)))
                self.expect("operator", ")")
            else:
                parts.append(self._name(attributes))
            if not self.skip("operator", ","):
                break
            several = True
            if self.current.text in ends:
                break
        return nodes.Target(line, parts=parts) if several else parts[0]

    def _name(self, attributes: bool) -> nodes.Target:
        token = self.expect("name")
        if token.text in WORDS:
            raise SyntaxFault(f"{token.text} cannot be assigned to", token.line)
        attribute = self.expect("name").text if attributes and self.skip("operator", ".") else ""
        return nodes.Target(token.line, token.text, attribute)
