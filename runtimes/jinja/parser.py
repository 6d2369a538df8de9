"""Tokens to a syntax tree. The grammar is that of jinja2.parser, without templates that load others."""

from __future__ import annotations

from edgekit import limits

from . import nodes
from .expressions import Expressions
from .faults import SyntaxFault
from .lexer import tokens
from .nodes import Node

LOADERS = ("include", "import", "from", "extends")


def parse(source: str) -> list[Node]:
    """The template's statements. Raises SyntaxFault, also for what nests deeper than limits.TEMPLATE_DEPTH."""
    parser = Parser(tokens(source))
    try:
        body, _ = parser.body(())
    except RecursionError as error:  # brackets nest, or the caller has left few frames
        raise SyntaxFault("it nests too deep", parser.line) from error
    return body


class Parser(Expressions):
    """The statements."""

    loops = 0  # around the current statement

    def body(self, ends: tuple[str, ...]) -> tuple[list[Node], str]:
        """The statements up to a tag of these names, and its name; the tag's other tokens are still to be read."""
        parts: list[Node] = []
        self.descend()
        while self.current.kind:
            token = self.next()
            if token.kind == "data":
                parts.append(nodes.Text(token.line, token.text))
            elif token.kind == "{{":
                parts.append(nodes.Output(token.line, self.tuple_or_one()))
                self.end_of_tag()
            elif self.current.kind == "name" and self.current.text in ends:
                self.ascend()
                return parts, self.next().text
            else:
                parts.append(self._statement())
        self.ascend()
        if ends:
            raise SyntaxFault(f"{ends[-1]} is missing", self.line)
        return parts, ""

    def inner(self, end: str) -> list[Node]:
        """The body of a tag up to its end."""
        self.end_of_tag()
        body, _ = self.body((end,))
        self.end_of_tag()
        return body

    def _statement(self) -> Node:
        word = self.expect("name").text
        if word in LOADERS:
            raise SyntaxFault(f"{word}: a chat template cannot load another file", self.line)
        read = getattr(self, f"_{word}_statement", None)
        if read is None:
            raise SyntaxFault(f"unknown tag {word!r}", self.line)
        statement: Node = read(self.line)
        return statement

    def _if_statement(self, line: int) -> Node:
        branches: list[tuple[Node | None, list[Node]]] = []
        word: str = "if"
        while word != "endif":
            test = None if word == "else" else self.tuple_or_one(conditions=False)
            self.end_of_tag()
            body, word = self.body(("endif",) if test is None else ("elif", "else", "endif"))
            branches.append((test, body))
            if len(branches) > limits.TEMPLATE_BRANCHES:
                raise SyntaxFault("too many branches of one `if`", line)
        self.end_of_tag()
        return nodes.If(line, branches)

    def _for_statement(self, line: int) -> Node:
        target = self.target(("in",))
        self.expect("name", "in")
        items = self.tuple_or_one(conditions=False, ends=("recursive", "if"))
        test = self.expression() if self.skip("name", "if") else None
        recursive = self.skip("name", "recursive")
        self.end_of_tag()
        self.loops += 1
        body, word = self.body(("else", "endfor"))
        self.loops -= 1
        other: list[Node] = []
        if word == "else":
            self.end_of_tag()
            other, _ = self.body(("endfor",))
        self.end_of_tag()
        return nodes.For(line, target, items, test, recursive, body, other)

    def _break_statement(self, line: int) -> Node:
        return self._loop_control(line, "break")

    def _continue_statement(self, line: int) -> Node:
        return self._loop_control(line, "continue")

    def _loop_control(self, line: int, word: str) -> Node:
        if not self.loops:
            raise SyntaxFault(f"{word} is not in a loop", line)
        self.end_of_tag()
        return nodes.LoopControl(line, word)

    def _set_statement(self, line: int) -> Node:
        target = self.target((), attributes=True)
        if self.skip("operator", "="):
            value = self.tuple_or_one()
            self.end_of_tag()
            return nodes.Set(line, target, value, [])
        filters = self.filters(None)
        return nodes.Set(line, target, None, self._outside_loops("endset"), filters)

    def _outside_loops(self, end: str) -> list[Node]:
        """A body in which no `break` reaches a loop outside."""
        self.loops, around = 0, self.loops
        body = self.inner(end)
        self.loops = around
        return body

    def _macro_statement(self, line: int) -> Node:
        name = self.expect("name").text
        parameters = self._parameters()
        return nodes.Macro(line, name, parameters, self._outside_loops("endmacro"))

    def _parameters(self) -> list[tuple[str, Node | None]]:
        parameters: list[tuple[str, Node | None]] = []
        self.expect("operator", "(")
        while not self.skip("operator", ")"):
            if parameters:
                self.expect("operator", ",")
            name = self.expect("name").text
            default = self.expression() if self.skip("operator", "=") else None
            if default is None and parameters and parameters[-1][1] is not None:
                raise SyntaxFault("a parameter without a default follows one with a default", self.line)
            parameters.append((name, default))
        return parameters

    def _call_statement(self, line: int) -> Node:
        parameters = self._parameters() if self.current.text == "(" else []
        call = self.unary()
        if not isinstance(call, nodes.Call):
            raise SyntaxFault("`call` needs a call", line)
        return nodes.CallBlock(line, call, nodes.Macro(line, "caller", parameters, self._outside_loops("endcall")))

    def _filter_statement(self, line: int) -> Node:
        filters = self.filters(None, first=True)
        return nodes.Block(line, [], self._outside_loops("endfilter"), filters)

    def _with_statement(self, line: int) -> Node:
        assignments: list[tuple[nodes.Target, Node]] = []
        while self.current.kind != "end":
            if assignments:
                self.expect("operator", ",")
            target = self.target(("=",))
            self.expect("operator", "=")
            assignments.append((target, self.expression()))
        return nodes.Block(line, assignments, self.inner("endwith"))

    def _generation_statement(self, line: int) -> Node:
        """transformers marks what the assistant says with it, for training; here it only has a scope."""
        return nodes.Block(line, [], self._outside_loops("endgeneration"))

    def _autoescape_statement(self, line: int) -> Node:
        if self.expression() != nodes.Const(line, False):
            raise SyntaxFault("autoescape is for HTML", line)
        return nodes.Block(line, [], self.inner("endautoescape"))

    def _block_statement(self, line: int) -> Node:
        name = self.expect("name").text
        self.end_of_tag()
        body, _ = self.body(("endblock",))
        self.skip("name", name)
        self.end_of_tag()
        return nodes.Block(line, [], body)
