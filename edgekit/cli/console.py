"""A command's output and exit code, as scripts rely on them.

The result goes to stdout, everything else to stderr; with --json exactly one JSON object goes to stdout, errors too.
Every error becomes `error:`, `hint:` and an exit code. Knows the error tree, and no single command.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.bundle import user_files
from edgekit.cli import signals
from edgekit.core import Progress
from edgekit.errors import DeviceError, EdgeKitError, ResourceError
from edgekit.machine.shortage import resource_error
from edgekit.text_table import clean, plain

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

PIPE_CLOSED = 141  # 128 + SIGPIPE: what a shell reports of `cat` in `cat file | head -1`


class InternalError(EdgeKitError):
    """An unexpected exception: a bug in EdgeKit."""

    code = "EK-INTERNAL"


class InterruptError(EdgeKitError):
    """A signal ended the command; the exit code is 128 plus the signal's number."""

    code, exit_code = "EK-INTERRUPTED", 128 + signal.SIGINT


class OutputClosed(Exception):
    """The reader of stdout has closed the pipe."""


class CtrlC(Exception):
    """The user ended a command that has no other end."""


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C in this block is the usual end of the command, not an error: nothing is said, and the exit code is 130."""
    try:
        yield
    except KeyboardInterrupt as error:
        if getattr(error, "number", signal.SIGINT) != signal.SIGINT:
            raise
        raise CtrlC from error


@dataclass
class Console:
    """The streams of one command. Parsing the command line sets `json`, `quiet` and `verbose`."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    answered: bool = False  # a result was written, at least in part: a second JSON object must not follow

    def answer(self, data: Any, text: str | None, error: EdgeKitError | None = None) -> None:
        """Write the command's result, once: `data` as JSON with --json, else `text`, else nothing.

        `error` is part of the JSON object, and is raised after the result was written. Raises also as `write` does.
        """
        if self.json:
            ascii_only = "utf" not in (getattr(sys.stdout, "encoding", "") or "").lower()
            errors = {"error": error.as_dict()} if error else {}
            text = json.dumps(plain(data) | plain(errors), ensure_ascii=ascii_only, allow_nan=False)
        self.answered = True
        if text is not None:
            self.write(text + "\n")
        if error:
            raise error

    def write(self, text: str) -> None:
        """Write to stdout. Raises OutputClosed when the reader has closed it, ResourceError for any other failure."""
        if sys.stdout is None:
            raise ResourceError("cannot write the result: stdout is closed", hint="send stdout to a file, or use -o")
        try:
            _write_all(sys.stdout, text)
        except BrokenPipeError:
            _abandon(sys.stdout)
            raise OutputClosed from None
        except OSError as error:
            _abandon(sys.stdout)
            hint = "free some space, or send stdout elsewhere"
            raise ResourceError(f"cannot write the result to stdout: {error.strerror}", hint=hint) from error

    def say(self, line: str) -> None:
        """Write a line to stderr, unless -q is set."""
        if not self.quiet:
            _write_stderr(line)

    def detail(self, line: str) -> None:
        """Write a line to stderr if -v is set."""
        if self.verbose:
            _write_stderr(line)

    @contextmanager
    def stages(self) -> Iterator[Progress]:
        """A progress function: a spinner on a terminal where rich is installed, else a line per stage.

        With -v it writes every step and the seconds since the start.
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
            yield lambda stage, what: status.update(Text(_stage_line(stage, what)))

    def _line_per_stage(self) -> Progress:
        last, start = "", time.monotonic()

        def report(stage: str, what: str) -> None:
            nonlocal last
            if self.verbose:
                self.say(f"{time.monotonic() - start:7.1f} s  {_stage_line(stage, what)}")
            elif stage != last:
                self.say(_stage_line(stage, what))
            last = stage

        return report

    def fail(self, error: BaseException) -> int:
        """Write an error to stderr, and with --json to stdout too; returns the exit code."""
        known, status = diagnose(error)
        if self.json and not self.answered and self._answered_with(known) and not self.verbose and _one_screen():
            return status
        paint = _painter()
        _write_stderr(f"{paint('error:', 31)} {clean(known.message)}")
        if known.hint:
            _write_stderr(f"{paint('hint:', 36)} {clean(known.hint)}")
        if self.verbose and known.cause:
            _write_stderr(f"cause: {clean(known.cause)}")
        if self.verbose and isinstance(known, InternalError):
            _write_stderr("".join(traceback.format_exception(error)).rstrip())
        return status

    def _answered_with(self, error: EdgeKitError) -> bool:
        """Write the error as the JSON result; False where stdout does not take it."""
        try:
            self.answer({}, None, error)
        except EdgeKitError as raised:
            return raised is error
        except OutputClosed:
            return False
        raise AssertionError("an answer with an error raises it")


def run(console: Console, work: Callable[[], None]) -> int:
    """Run `work` and return its exit code, whatever it raises."""
    _open_streams()
    with _logging(console), signals.raised() as interrupts:
        try:
            work()
        except OutputClosed:
            return PIPE_CLOSED
        except CtrlC:
            return InterruptError.exit_code
        except BaseException as error:  # the last frame: no exception of any kind may end in a bare traceback
            # An import that is interrupted may raise anything: numpy makes an ImportError of it.
            return console.fail(interrupts[0] if interrupts else error)
    return 0


def diagnose(error: BaseException) -> tuple[EdgeKitError, int]:
    """Any exception as an EdgeKitError, with its exit code."""
    if isinstance(error, EdgeKitError):
        return error, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, signals.Interrupted) else signal.SIGINT
        return InterruptError(f"interrupted by {signal.Signals(number).name}"), 128 + number
    if isinstance(error, (MemoryError, OSError, RuntimeError, ImportError)) and (resource := resource_error(error)):
        return resource, resource.exit_code
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("edgekit"):
        hint = f"pip install {error.name}; `edgekit doctor` says what else is missing"
        return DeviceError(f"the Python package {error.name} is not installed", hint=hint), DeviceError.exit_code
    text = " ".join(f"{type(error).__name__}: {error}".split())
    hint = "please report it, with the output of `edgekit doctor` and of this command with -v"
    return InternalError(f"internal error: {text}", hint=hint), 1


def _stage_line(stage: str, what: str) -> str:
    return clean(f"{stage}: {what}" if what else stage)


def _write_stderr(line: str) -> None:
    """Write a line to stderr. Where stderr is closed the command goes on: the exit code still reports its outcome."""
    if sys.stderr is None:
        return
    try:
        _write_all(sys.stderr, line + "\n")
    except OSError:
        _abandon(sys.stderr)


def _write_all(stream: TextIO, text: str) -> None:
    """Write all of a text, or raise OSError. With PYTHONUNBUFFERED, Python's own `write` drops what a disk or a pipe
    did not take at once, and reports nothing."""
    try:
        descriptor = stream.fileno()
    except io.UnsupportedOperation:  # a caller's own stream in memory
        stream.write(text)
        return
    stream.flush()
    user_files.write_all(descriptor, text.encode(stream.encoding, stream.errors or "strict"))


def _abandon(stream: TextIO) -> None:
    """Redirect a broken stream to /dev/null, or the interpreter fails again when it flushes the stream at exit."""
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), stream.fileno())


def _open_streams() -> None:
    """Let stdout and stderr take any text, and open descriptors 0, 1 and 2 where the caller closed them.

    Otherwise the next file to be opened gets such a number, and what a native library prints lands in that file.
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
    """Write EdgeKit's log to stderr: warnings always, the rest with -v."""

    class StderrHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say = console.say if record.levelno >= logging.WARNING else console.detail
            say(f"{record.levelname.lower()}: {clean(record.getMessage())}")

    handler, log = StderrHandler(), logging.getLogger("edgekit")
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


def _one_screen() -> bool:
    """Whether stdout and stderr are both a terminal, where one person would read everything twice."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))


def _painter() -> Callable[[str, int], str]:
    """A function that colours a word, on a terminal without NO_COLOR (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or not _on_terminal():
        return lambda word, colour: word
    return lambda word, colour: f"\x1b[1;{colour}m{word}\x1b[0m"


def _rich() -> RichConsole | None:
    """rich's console on stderr; None without a terminal or without rich."""
    if not _on_terminal():
        return None
    try:
        from rich.console import Console as RichConsole
    except ImportError:
        return None
    return RichConsole(stderr=True)
