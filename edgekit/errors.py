"""Every error that a user can meet, with its exit code and its next step.

    EdgeKitError
    ├── UsageError             2   the call or its options make no sense
    │   └── InputError         2   the data given to a model does not fit it
    ├── SourceError            3   model not found, gated, or out of reach
    ├── UnsupportedError       4   a model, op, option or version that EdgeKit does not do
    │   └── NoSuchMethodError  4   a method of another task (an AttributeError, too)
    ├── VerificationError      5   outputs differ from the reference, or a gate failed
    ├── BundleError            6   a bundle or a model file is bad
    │   ├── TokenizerError     6   tokenizer.json is bad, or the tokenizer gave up
    │   └── TemplateError      6   a chat template is bad, or does too much
    ├── RecordError            6   a file of measurements is bad
    ├── ResourceError          7   out of memory, disk or time
    ├── DeviceError            8   a device or an engine is missing
    ├── BusyError              9   the output is being written by somebody else
    ├── StateError             1   an object was used in a way its state does not allow
    │   ├── ClosedError        1   use after close
    │   ├── SessionBusyError   1   one session, two threads
    │   └── ForkedSessionError 1   an engine's session was used in a forked child
    └── CrashError             1   a worker process died: our bug, or a native one

Knows nothing of how errors are shown; `edgekit.cli.main` prints `error: …` and `hint: …`.
"""

from __future__ import annotations

from typing import ClassVar


class EdgeKitError(Exception):
    """What happened, why, and what to do next.

    `hint` is the next step, `cause` the raw text of an engine or of a worker, `details` facts for a program
    (file, expected, actual, …) that `--json` shows.
    """

    code: ClassVar[str] = "EK-ERROR"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", cause: str = "", **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.cause = cause
        self.details = details
        if hint:
            self.add_note(f"hint: {hint}")  # a traceback, and so an application's log, shows it

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.cause, self.details)

    def as_dict(self) -> dict[str, object]:
        """The error as `--json` shows it: code, message, hint, cause, and the details."""
        shown = {"code": self.code, "message": self.message, "hint": self.hint, "cause": self.cause, **self.details}
        return {key: value for key, value in shown.items() if value not in ("", None)}


class UsageError(EdgeKitError):
    code, exit_code = "EK-USAGE", 2


class InputError(UsageError):
    code = "EK-INPUT"


class SourceError(EdgeKitError):
    code, exit_code = "EK-SOURCE", 3


class UnsupportedError(EdgeKitError):
    code, exit_code = "EK-UNSUPPORTED", 4


class NoSuchMethodError(UnsupportedError, AttributeError):
    code = "EK-METHOD"


class VerificationError(EdgeKitError):
    code, exit_code = "EK-VERIFY", 5


class BundleError(EdgeKitError):
    code, exit_code = "EK-BUNDLE", 6


class TokenizerError(BundleError):
    code = "EK-TOKENIZER"


class TemplateError(BundleError):
    code = "EK-TEMPLATE"


class RecordError(EdgeKitError):
    code, exit_code = "EK-RECORD", 6


class ResourceError(EdgeKitError):
    code, exit_code = "EK-RESOURCE", 7


class DeviceError(EdgeKitError):
    code, exit_code = "EK-DEVICE", 8


class BusyError(EdgeKitError):
    code, exit_code = "EK-BUSY", 9


class StateError(EdgeKitError):
    code = "EK-STATE"


class ClosedError(StateError):
    code = "EK-CLOSED"


class SessionBusyError(StateError):
    code = "EK-SESSION-BUSY"


class ForkedSessionError(StateError):
    code = "EK-FORKED"


class CrashError(EdgeKitError):
    code = "EK-CRASH"


def _rebuild(kind: type[EdgeKitError], message: str, hint: str, cause: str, details: dict[str, object]) -> EdgeKitError:
    return kind(message, hint=hint, cause=cause, **details)


def from_dict(shown: dict[str, object]) -> EdgeKitError:
    """The error that `as_dict` described, with its own type; used for errors that come from a worker process."""
    rest = dict(shown)
    code, message = str(rest.pop("code", "")), str(rest.pop("message", ""))
    hint, cause = str(rest.pop("hint", "")), str(rest.pop("cause", ""))
    return _rebuild(_by_code().get(code, CrashError), message, hint, cause, rest)


def _by_code() -> dict[str, type[EdgeKitError]]:
    found: dict[str, type[EdgeKitError]] = {}
    todo: list[type[EdgeKitError]] = [EdgeKitError]
    while todo:
        kind = todo.pop()
        found[kind.code] = kind
        todo.extend(kind.__subclasses__())
    return found
