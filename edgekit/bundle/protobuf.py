"""A reader of protobuf's wire format for untrusted files: one pass, front to back.

https://protobuf.dev/programming-guides/encoding/ . Holds a window of 64 kB whatever the file's size, so nothing that
the file claims is ever allocated. Stricter than protobuf: a field of the wrong wire type, a singular field that comes
twice and a group are refused, because two readers may understand them in two ways. Knows no message.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from io import BufferedReader
from typing import NamedTuple

from edgekit import limits
from edgekit.machine import system_calls

WINDOW = 1 << 16
_VARINT_BYTES = 10


class WireError(ValueError):
    """The bytes are not what they should be; the message says how and where."""


class Span(NamedTuple):
    """Positions in the file: from `start` to before `end`."""

    start: int
    end: int


class Field(NamedTuple):
    name: str
    wires: tuple[int, ...]  # 0: a varint, 2: bytes with a length
    repeats: bool


Message = Mapping[int, Field]
_WIRES = {"int": (0,), "ints": (0, 2), "bytes": (2,)}
_NOWHERE = Span(0, 0)


def message(**known: str) -> Message:
    """The fields of a message that are looked at: `graph="7 bytes"`, `version="2 int"`, `node="1 bytes*"`.

    `*`: it may come more than once. `ints`: packed or one by one.
    """
    found = {}
    for name, text in known.items():
        number, kind = text.rstrip("*").split()
        found[int(number)] = Field(name, _WIRES[kind], text.endswith("*"))
    return found


class Reader:
    """An open file as nested messages. What is read must be read in the file's order to be fast."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file.fileno()
        self._window = b""
        self._base = 0  # position of the window's first byte
        self._fields_left = limits.GRAPH_FIELDS
        self.all = Span(0, os.fstat(self._file).st_size)

    def fields(self, span: Span, known: Message) -> Iterator[tuple[str, int, Span]]:
        """The known fields in `span`: name, a varint's value (else 0), where the bytes are. Others are skipped."""
        at, end = span
        seen = 0
        while at < end:
            start = at
            key, at = self._varint(at, end)
            number, wire = key >> 3, key & 7
            value, inside = 0, _NOWHERE
            if wire == 0:
                value, at = self._varint(at, end)
            elif wire == 2:
                size, at = self._varint(at, end)
                inside = Span(at, at + size)
                at += size
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise WireError(f"wire type {wire} at byte {start}")
            if at > end or not 0 < number < 1 << 29:
                raise WireError(f"the field at byte {start} does not fit its message")
            self._fields_left -= 1
            if self._fields_left < 0:
                raise WireError(f"more than {limits.GRAPH_FIELDS} fields")
            field = known.get(number)
            if field is None:
                continue
            if wire not in field.wires or (seen >> number & 1 and not field.repeats):
                raise WireError(f"{field.name} at byte {start} is of the wrong type, or there twice")
            seen |= 1 << number
            yield field.name, value, inside

    def ints(self, value: int, span: Span, most: int) -> list[int]:
        """The values of one `ints` field. Raises WireError above `most` of them."""
        if span is _NOWHERE:
            return [value]
        found, at = list[int](), span.start
        while at < span.end and len(found) <= most:
            value, at = self._varint(at, span.end)
            found.append(value)
        if len(found) > most:
            raise WireError(f"more than {most} numbers at byte {span.start}")
        return found

    def text(self, span: Span) -> str:
        """The UTF-8 text there, of at most `limits.NAME_BYTES`."""
        start, end = span
        if end - start > limits.NAME_BYTES:
            raise WireError(f"a name of {end - start} bytes at byte {start}; {limits.NAME_BYTES} are allowed")
        if not (self._base <= start and end <= self._base + len(self._window)):
            self._load(start)
        data = self._window[start - self._base : end - self._base]
        if len(data) != end - start:
            raise WireError("the file became shorter while it was read")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise WireError(f"the name at byte {start} is not UTF-8") from None

    def _load(self, at: int) -> None:
        self._window, self._base = system_calls.read_at(self._file, WINDOW, at), at

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at `at`, below 2^64, and the position after it."""
        index = at - self._base
        if not 0 <= index <= len(self._window) - _VARINT_BYTES:
            self._load(at)
            index = 0
        window = self._window
        if at < end and index < len(window) and (byte := window[index]) < 0x80:
            return byte, at + 1  # nearly all of them
        result = shift = 0
        for byte in window[index : index + min(_VARINT_BYTES, end - at)]:
            result |= (byte & 0x7F) << shift
            shift += 7
            at += 1
            if byte < 0x80:
                if result >> 64:
                    break
                return result, at
        raise WireError(f"a number at byte {at} does not end")
