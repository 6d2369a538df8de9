"""Jinja source to tokens, with the whitespace rules that transformers sets (`trim_blocks`, `lstrip_blocks`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .faults import SyntaxFault

NEWLINE = re.compile(r"\r\n|\r|\n")
TAG = re.compile(r"\{\{|\{%|\{#")
RAW = re.compile(r"\{%[-+]?\s*raw\s*(-?)%\}")
END_OF_RAW = re.compile(r"\{%([-+]?)\s*endraw\s*([-+]?)%\}")
TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<float>(?<!\.)\d+(?:_\d+)*(?:\.\d+(?:_\d+)*)?(?:e[+\-]?\d+(?:_\d+)*)|(?<!\.)\d+(?:_\d+)*\.\d+(?:_\d+)*)
    |(?P<integer>0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*)
    |(?P<name>[^\W\d]\w*)
    |(?P<string>'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")
    |(?P<operator>//|\*\*|==|!=|>=|<=|[+\-/*%~\[\](){}><=.:|,;])""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
ESCAPE = re.compile(r"\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL)
LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\n": ""} | {
    sign: sign for sign in "\\'\""
}
CLOSES = {"(": ")", "[": "]", "{": "}"}
INTEGER_DIGITS = 300


class Token(NamedTuple):
    """`kind`: data, begin and end of a tag (`{{`, `}}`, `{%`, `%}`), name, string, integer, float, operator."""

    kind: str
    text: str
    line: int


def tokens(source: str) -> list[Token]:
    """The template's tokens. Raises SyntaxFault."""
    lines = NEWLINE.split(source)
    if lines[-1] == "":
        del lines[-1]  # Jinja drops the last newline
    return list(Lexer("\n".join(lines)).all())


class Lexer:
    """One pass over a source. `_strips`: what the last tag takes from the text behind it ("-": all whitespace)."""

    def __init__(self, source: str) -> None:
        self._source, self._at, self._line = source, 0, 1
        self._strips = ""

    def all(self) -> Iterator[Token]:
        while tag := TAG.search(self._source, self._at):
            raw = RAW.match(self._source, tag.start())
            sign = self._source[tag.end() : tag.end() + 1].strip()
            yield from self._data(tag.start(), sign, tag[0] != "{{")
            if tag[0] == "{#":
                self._comment(tag.end() + (sign in ("-", "+")))
            elif raw:
                yield from self._raw(raw)
            else:
                self._at = tag.end() + (sign in ("-", "+"))
                yield from self._inside(tag[0])
        yield from self._data(len(self._source), "", block=False)

    def _data(self, end: int, sign: str, block: bool) -> Iterator[Token]:
        """The text up to `end`, without what the tags on its sides take."""
        text = self._source[self._at : end]
        if self._strips == "-":
            text = text.lstrip()
        elif self._strips and text.startswith("\n"):
            text = text[1:]
        taken = self._at + len(self._source[self._at : end]) - len(text)
        starts = self._source[taken - 1 : taken] in ("", "\n")
        if sign == "-":
            text = text.rstrip()
        elif sign != "+" and block and end < len(self._source):
            begin = text.rfind("\n") + 1
            if (begin or starts) and text[begin:].isspace():
                text = text[:begin]
        if text:
            yield Token("data", text, self._line)
        self._move(end)
        self._strips = ""

    def _move(self, at: int) -> None:
        self._line += self._source.count("\n", self._at, at)
        self._at = at

    def _comment(self, begin: int) -> None:
        end = self._source.find("#}", begin)
        if end < 0:
            raise SyntaxFault("a comment has no end", self._line)
        sign = self._source[end - 1] if end > begin else ""
        self._strips = "-" if sign == "-" else "" if sign == "+" else "\n"
        self._move(end + 2)

    def _raw(self, begin: re.Match[str]) -> Iterator[Token]:
        self._move(begin.end())
        end = END_OF_RAW.search(self._source, self._at)
        if end is None:
            raise SyntaxFault("raw has no endraw", self._line)
        self._strips = begin[1]
        yield from self._data(end.start(), end[1], block=True)
        self._strips = "-" if end[2] == "-" else "" if end[2] == "+" else "\n"
        self._move(end.end())

    def _inside(self, begin: str) -> Iterator[Token]:
        """The tokens of one tag, its ends with them."""
        yield Token(begin, begin, self._line)
        close = re.compile(r"(-?)\}\}" if begin == "{{" else r"([-+]?)%\}")
        open_brackets: list[str] = []
        while True:
            end = None if open_brackets else close.match(self._source, self._at)
            if end:
                self._strips = "-" if end[1] == "-" else "\n" if begin == "{%" and not end[1] else ""
                yield Token("end", end[0], self._line)
                self._move(end.end())
                return
            token = TOKEN.match(self._source, self._at)
            if token is None:
                what = self._source[self._at : self._at + 1]
                raise SyntaxFault(f"unexpected {what!r}" if what else "a tag has no end", self._line)
            if token.lastgroup == "operator":
                self._balance(open_brackets, token[0])
            if token.lastgroup != "space":
                yield Token(str(token.lastgroup), token[0], self._line)
            self._move(token.end())

    def _balance(self, open_brackets: list[str], sign: str) -> None:
        if sign in CLOSES:
            open_brackets.append(CLOSES[sign])
        elif sign in CLOSES.values() and (not open_brackets or open_brackets.pop() != sign):
            raise SyntaxFault(f"unexpected {sign!r}", self._line)


def value(token: Token) -> str | int | float:
    """What a string or a number stands for. Raises SyntaxFault."""
    if token.kind == "string":
        try:
            return ESCAPE.sub(_letter, token.text[1:-1])
        except (ValueError, OverflowError) as error:
            raise SyntaxFault("a string has a bad escape", token.line) from error
    if token.kind == "float":
        return float(token.text.replace("_", ""))
    if len(token.text) > INTEGER_DIGITS:
        raise SyntaxFault("a number has too many digits", token.line)
    return int(token.text.replace("_", ""), 0)


def _letter(escape: re.Match[str]) -> str:
    """What an escape in a string stands for; one that Python does not know stays as it is. Raises ValueError."""
    two, four, eight, octal, other = escape.groups()
    if other is None:
        return chr(int(octal, 8) if octal else int(two or four or eight, 16))
    if other in "xuUN":
        raise ValueError(escape[0])
    return LETTERS.get(other, escape[0])
