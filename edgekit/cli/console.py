"""What scripts may rely on when they call a command: where its words go, and how it ends.

The answer goes to stdout, everything else to stderr; with --json exactly one JSON object goes to stdout, errors too.
Every error becomes `error:`, `hint:` and an exit code. Knows the error tree, and no verb.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import IO, TYPE_CHECKING, Any

from edgekit.cli import signals
from edgekit.core import Progress
from edgekit.errors import DeviceError, EdgeKitError, ResourceError

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

PIPE_CLOSED = 141  # 128 + SIGPIPE: what a shell reports of `cat` in `cat file | head -1`
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.ENOMEM: "out of memory"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class InternalError(EdgeKitError):
    """An exception that nobody foresaw: a bug of ours."""

    code = "EK-INTERNAL"


class InterruptError(EdgeKitError):
    """What is said when a signal ended the command; the exit code is 128 and the signal's number."""

    code, exit_code = "EK-INTERRUPTED", 128 + signal.SIGINT


class OutputClosed(Exception):
    """The reader of stdout has gone: nobody is left to tell."""


@dataclass
class Console:
    """The streams of one command. What its fields say may change once, when the command line has been parsed."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    answered: bool = False  # an answer was begun: a second JSON object must not follow

    def answer(self, data: Any, text: str | None, failed: EdgeKitError | None = None) -> None:
        """The command's result, once: `data` as JSON with --json, else `text`, else nothing.

        `failed` is what the result amounts to if it is a failure: part of the JSON object, and raised.
        Raises also as `write` does.
        """
        if self.json:
            ascii_only = "utf" not in (getattr(sys.stdout, "encoding", "") or "").lower()
            error = {"error": failed.as_dict()} if failed else {}
            text = json.dumps(plain(data) | plain(error), ensure_ascii=ascii_only, allow_nan=False)
        self.answered = True
        if text is not None:
            self.write(text + "\n")
        if failed:
            raise failed

    def write(self, text: str) -> None:
        """Raises OutputClosed when the reader has gone, ResourceError when stdout cannot take it."""
        if sys.stdout is None:
            raise ResourceError("cannot write the result: stdout is closed", hint="send stdout to a file, or use -o")
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            _abandon(sys.stdout)
            raise OutputClosed from None
        except OSError as error:
            _abandon(sys.stdout)
            hint = "free some space, or send stdout elsewhere"
            raise ResourceError(f"cannot write the result to stdout: {error.strerror}", hint=hint) from error

    def say(self, line: str) -> None:
        """A line for a person, on stderr; not with -q."""
        if not self.quiet:
            _complain(line)

    def detail(self, line: str) -> None:
        """A line for a person who asked with -v."""
        if self.verbose:
            _complain(line)

    @contextmanager
    def stages(self) -> Iterator[Progress]:
        """The way to report progress: a spinner on a terminal that has rich, else a line per stage.

        With -v every step, and how many seconds had passed.
        """
        rich = None if self.quiet or self.verbose else _rich()
        if rich is None:
            report = self._line_per_stage()
            yield report
            if self.verbose:
                report("done", "")
            return
        from rich.text import Text

        with rich.status("") as status:
            yield lambda stage, what: status.update(Text(_said(stage, what)))

    def _line_per_stage(self) -> Progress:
        last, begun = "", time.monotonic()

        def report(stage: str, what: str) -> None:
            nonlocal last
            if self.verbose:
                self.say(f"{time.monotonic() - begun:7.1f} s  {_said(stage, what)}")
            elif stage != last:
                self.say(_said(stage, what))
            last = stage

        return report

    def fail(self, error: BaseException) -> int:
        """Say what went wrong, to a person on stderr and with --json to the program on stdout; the exit code."""
        known, status = diagnose(error)
        if self.json and not self.answered:
            # It raises `known` itself, or that stdout is beyond use; stderr tells it either way.
            with suppress(OutputClosed, EdgeKitError):
                self.answer({}, None, known)
        paint = _painter()
        _complain(f"{paint('error:', 31)} {clean(known.message)}")
        if known.hint:
            _complain(f"{paint('hint:', 36)} {clean(known.hint)}")
        if self.verbose and known.cause:
            _complain(f"cause: {clean(known.cause)}")
        if self.verbose and isinstance(known, InternalError):
            _complain("".join(traceback.format_exception(error)).rstrip())
        return status


def run(console: Console, work: Callable[[], None]) -> int:
    """Do the command's work; whatever comes of it is an exit code."""
    _open_streams()
    with _logging(console), signals.raised():
        try:
            work()
        except OutputClosed:
            return PIPE_CLOSED
        except BaseException as error:  # the last frame: no exception of any kind may end in a bare traceback
            return console.fail(error)
    return 0


def diagnose(error: BaseException) -> tuple[EdgeKitError, int]:
    """Any exception as one of ours, with the exit code."""
    if isinstance(error, EdgeKitError):
        return error, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, signals.Interrupted) else signal.SIGINT
        return InterruptError(f"interrupted by {signal.Signals(number).name}"), 128 + number
    shortage = "out of memory" if isinstance(error, MemoryError) else _FULL.get(getattr(error, "errno", None) or 0)
    if shortage:
        what = ResourceError(shortage, hint="free some and try again; `edgekit doctor` shows what there is")
        what.cause = str(error)
        return what, what.exit_code
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("edgekit"):
        hint = f"pip install {error.name}; `edgekit doctor` says what else is missing"
        return DeviceError(f"the Python package {error.name} is not installed", hint=hint), DeviceError.exit_code
    text = " ".join(f"{type(error).__name__}: {error}".split())
    hint = "please report it, with the output of `edgekit doctor` and of this command with -v"
    return InternalError(f"internal error: {text}", hint=hint), 1


def plain(value: Any) -> Any:
    """Any of our values as JSON has them: dataclasses as objects, arrays as lists, NaN and infinity as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, without importing it
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, type(None))) else str(value)


def clean(text: str) -> str:
    """`text` without the control characters by which a label or a file's name could drive a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _said(stage: str, what: str) -> str:
    return clean(f"{stage}: {what}" if what else stage)


def _complain(line: str) -> None:
    """Write to stderr; if nobody can read that, the command still goes on and its exit code still tells."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:
        _abandon(sys.stderr)


def _abandon(stream: IO[str]) -> None:
    """Point a broken stream's descriptor at nothing, or the interpreter fails once more when it flushes at its end."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _open_streams() -> None:
    """Make stdout and stderr able to take any text, and closed descriptors safe.

    A descriptor 0, 1 or 2 that the caller closed would be given to the next file that is opened, and what a native
    library prints would land in that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _logging(console: Console) -> Iterator[None]:
    """What EdgeKit logs is said on stderr: warnings always, the rest with -v."""

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say = console.say if record.levelno >= logging.WARNING else console.detail
            say(f"{record.levelname.lower()}: {clean(record.getMessage())}")

    handler, log = Said(), logging.getLogger("edgekit")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _painter() -> Callable[[str, int], str]:
    """Colours a word where there is a terminal and no NO_COLOR (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or not _on_terminal():
        return lambda word, colour: word
    return lambda word, colour: f"\x1b[1;{colour}m{word}\x1b[0m"


def _rich() -> RichConsole | None:
    """rich's console on stderr, where there is a terminal and rich is installed."""
    if not _on_terminal():
        return None
    try:
        from rich.console import Console as RichConsole
    except ImportError:
        return None
    return RichConsole(stderr=True)
