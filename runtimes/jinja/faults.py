"""Why a template fails: three kinds, which the caller turns into errors of its own."""

from __future__ import annotations


class Fault(Exception):
    """A template that fails. `line`: in its source, from 1; 0 where none is to blame."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.message, self.line = message, line

    def __str__(self) -> str:
        return f"{self.message} (line {self.line})" if self.line else self.message


class SyntaxFault(Fault):
    """The source is not Jinja, or not the part of it that chat templates use."""


class RenderFault(Fault):
    """An operation does not fit its values."""


class LimitFault(Fault):
    """The template does more work than is allowed."""
