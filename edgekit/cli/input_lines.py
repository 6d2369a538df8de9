"""Read the lines of a text file or of stdin, each of bounded length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from edgekit.errors import InputError


class Lines:
    """The lines of a file as text, with their ends. An error spoils one line: the next call goes on behind it."""

    def __init__(self, file: IO[bytes], name: str, limit: int, hint: str) -> None:
        """`limit`: bytes of a line; `hint`: for one that has more."""
        self._file, self._name, self._limit, self._hint = file, name, limit, hint
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Raises InputError naming the line that is too long or not UTF-8."""
        line = self._read()
        if not line:
            raise StopIteration
        self._number += 1
        if len(line) > self._limit:
            while not line.endswith(b"\n") and line:
                line = self._read()
            raise InputError(f"line {self._number} of {self._name} has more than {self._limit} bytes", hint=self._hint)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(
                f"line {self._number} of {self._name} is not UTF-8", hint="convert it: iconv -t UTF-8"
            ) from None

    def _read(self) -> bytes:
        try:
            return self._file.readline(self._limit + 1)
        except OSError as error:
            hint = "name a file, or pipe text in"
            raise InputError(f"cannot read {self._name}: {error.strerror}", hint=hint) from error
