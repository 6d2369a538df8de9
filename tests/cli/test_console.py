"""The contract of every command, in processes of their own: streams that are closed, full or narrow, and signals."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import text_table
from edgekit.cli import console as consoles
from edgekit.cli.console import Console
from edgekit.core import Measure
from edgekit.errors import BundleError, EdgeKitError

EDGEKIT = [sys.executable, "-m", "edgekit"]
WORK = """
import sys, time
from edgekit.cli.console import Console, run

def work():
    with console.stages() as progress:
        progress("first", "one")
        progress("first", "two")
        progress("second", "")
        try:
            print("ready", flush=True)
            time.sleep({pause})
        finally:
            print("cleaned", flush=True)
            time.sleep({stubborn})

console = Console(json="--json" in sys.argv, verbose="-v" in sys.argv)
sys.exit(run(console, work))
"""


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return bash(command.replace("edgekit", f"{sys.executable} -m edgekit"), **environment)


def bash(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=os.environ | environment, timeout=300
    )


def start(*words: str, pause: float = 60, stubborn: float = 0, **options: Any) -> subprocess.Popen[bytes]:
    script = WORK.format(pause=pause, stubborn=stubborn)
    heard: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": hears_signals}
    process = subprocess.Popen([sys.executable, "-c", script, *words], **heard | options)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def hears_signals() -> None:
    """Under `nohup`, or in the background of a script, a process is born deaf to these; the product respects that."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


# Streams (F-E1)


@pytest.mark.parametrize("words", [["--help"], ["list", "tasks"], ["list", "tasks", "--json"], ["export", "--help"]])
def test_a_reader_that_has_gone(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run([*EDGEKIT, *words], stdout=write, stderr=subprocess.PIPE, timeout=300)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize("words", ["--version", "list tasks", "list tasks --json", "exprot --json"])
def test_full_stdout(words: str) -> None:
    ended = shell(f"edgekit {words} > /dev/full")
    assert ended.returncode == (2 if words.startswith("exprot") else 7)
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.splitlines()) == 2
    assert "Traceback" not in ended.stderr


LARGE = """
import sys
from edgekit.cli.console import Console, run

console = Console(json="--json" in sys.argv)
sys.exit(run(console, lambda: console.answer({"text": "x" * 4_000_000}, "x" * 4_000_000)))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["", "--json"])
def test_a_large_result_is_written_whole_or_reported(tmp_path: Path, unbuffered: str, words: str) -> None:
    """However Python buffers: into a pipe that is read in pieces, onto a disk with too little room, to a reader that
    goes after the first bytes."""
    program = f"PYTHONUNBUFFERED={unbuffered} {sys.executable} -c '{LARGE}' {words}"
    whole = bash(f"{program} | (sleep 0.2; wc -c)")
    assert 4_000_000 < int(whole.stdout) < 4_000_020
    # A file size limit is a small disk that needs no mount; Python ignores its signal.
    full = bash(f"ulimit -f 1000; {program} > {tmp_path}/out")
    assert full.returncode == 7
    assert full.stderr.startswith("error: cannot write the result to stdout: File too large")
    gone = bash(f"{program} | head -c 5; exit ${{PIPESTATUS[0]}}")
    assert (gone.returncode, gone.stderr) == (141, "")


def test_a_stdout_that_does_not_block() -> None:
    """Whoever shares a terminal or a pipe with us may have made it so."""
    script = f"import os; os.set_blocking(1, False){LARGE}"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    time.sleep(0.5)
    out, _ = process.communicate(timeout=300)
    assert (process.returncode, len(out)) == (0, 4_000_001)


def test_closed_stdout() -> None:
    ended = shell("edgekit list tasks >&-")
    assert ended.returncode == 7
    assert "stdout is closed" in ended.stderr


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_nobody_reads_stderr(where: str) -> None:
    assert shell(f"edgekit exprot {where}").returncode == 2
    ended = shell(f"edgekit list tasks --json -v {where}")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["tasks"]


def test_closed_stdin() -> None:
    assert shell("edgekit list tasks <&-").returncode == 0
    ended = shell("edgekit run b.ek <&-")
    assert ended.returncode == 2
    assert "no input" in ended.stderr


def test_closed_descriptors_are_not_handed_to_files(tmp_path: Path) -> None:
    """What a library prints to descriptor 1 must not land in the first file that is opened."""
    script = """
        import sys
        from edgekit.cli.console import Console, run

        def work():
            with open(sys.argv[1], "w") as file:
                file.write(str(file.fileno()))

        sys.exit(run(Console(), work))
    """
    words = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "file")]
    ended = subprocess.run(["bash", "-c", '"$@" >&- 2>&- <&-', "bash", *words], timeout=300)
    assert ended.returncode == 0
    assert int((tmp_path / "file").read_text()) > 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_text_on_any_terminal(encoding: str) -> None:
    environment = {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "COLUMNS": "1", "TERM": "dumb"}
    name = "Zürich-\u4e2d\udcff"
    ended = subprocess.run([*EDGEKIT, "inspect", name], capture_output=True, env=os.environ | environment, timeout=300)
    assert ended.returncode == 6
    assert b"Traceback" not in ended.stderr
    told = subprocess.run(
        [*EDGEKIT, "inspect", name, "--json"], capture_output=True, env=os.environ | environment, timeout=300
    )
    assert name in json.loads(told.stdout.decode(encoding))["error"]["message"]


# Signals (F-A14)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_cleans_up(number: signal.Signals, code: int) -> None:
    process = start("--json")
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    cleaned, answer = out.splitlines()
    assert cleaned == b"cleaned"
    assert json.loads(answer) == {"error": {"code": "EK-INTERRUPTED", "message": f"interrupted by {number.name}"}}
    assert err.splitlines()[-1] == f"error: interrupted by {number.name}".encode()
    assert process.returncode == code


def test_a_second_signal_ends_at_once() -> None:
    process = start(stubborn=60)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"cleaned\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("module", ["edgekit", "edgekit.core", "click", "edgekit.cli.run", "edgekit.model", "numpy"])
def test_an_interrupt_during_imports_is_quiet(module: str) -> None:
    """Sent where a module is looked for: by the entry point, or by the command later."""
    script = """
        import os, signal, sys

        class Finder:
            def find_spec(self, name, path, target=None):
                if name == module:
                    os.kill(os.getpid(), signal.SIGINT)

        module = sys.argv.pop()
        sys.meta_path.insert(0, Finder())
        import edgekit_command
        sys.exit(edgekit_command.main())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), "run", "none.ek", "text", module],
        capture_output=True, text=True, preexec_fn=hears_signals, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 130
    assert ended.stderr in ("", "error: interrupted by SIGINT\n")


def test_whatever_an_interrupt_becomes_it_is_one() -> None:
    """numpy's import turns one into an ImportError."""
    script = """
        import os, signal, sys
        from edgekit.cli.console import Console, run

        def work():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt as error:
                raise ImportError("numpy: Error importing numpy") from error

        sys.exit(run(Console(), work))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, preexec_fn=hears_signals
    )
    assert (ended.returncode, ended.stderr) == (130, "error: interrupted by SIGINT\n")


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.slow
def test_native_code_does_not_keep_the_process(signals: int) -> None:
    """Where no Python handler can run, the first signal ends the process in time and the second at once."""
    script = """
        import hashlib, sys
        from edgekit.cli.console import Console, run

        def work():
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)  # minutes, and none of them in Python

        sys.exit(run(Console(), work))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    process.communicate(timeout=120)  # less than the work would take
    assert process.returncode == 143


def test_a_signal_that_is_ignored_stays_so() -> None:
    """nohup, and a job that a script put into the background."""
    process = start(pause=0.5, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, b"cleaned\n")


def test_stopping_and_going_on_does_no_harm() -> None:
    process = start(pause=0.3)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=300)
    assert process.returncode == 0


# Progress and colours


def on_a_terminal(*command: str, stdout: bool = False, **environment: str) -> str:
    """What a person with a terminal sees of stderr, and of stdout, too."""
    master, slave = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    variables |= {"TERM": "xterm", **environment}
    out = slave if stdout else subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=out, stderr=slave, env=variables)
    os.close(slave)
    seen = b""
    with suppress(OSError):  # EIO is how Linux says that the other side is closed
        while True:
            seen += os.read(master, 4096)
    os.close(master)
    process.wait(timeout=300)
    return seen.decode()


SCRIPT = WORK.format(pause=0.3, stubborn=0)


def test_a_line_per_stage_where_there_is_no_terminal() -> None:
    _, err = start(pause=0).communicate(timeout=300)
    assert err == b"first: one\nsecond\n"


def test_every_step_with_v_and_when_it_came() -> None:
    _, err = start("-v", pause=0.3).communicate(timeout=300)
    found = re.fullmatch(
        r" +(\d+\.\d) s  first: one\n +(\d+\.\d) s  first: two\n +(\d+\.\d) s  second\n +(\d+\.\d) s  done\n",
        err.decode(),
    )
    assert found, err
    times = list(map(float, found.groups()))
    assert times == sorted(times)
    assert times[-1] >= 0.3  # as long as it sleeps at least


def test_a_spinner_on_a_terminal_with_rich() -> None:
    seen = on_a_terminal(sys.executable, "-c", SCRIPT)
    assert "second" in seen
    assert "\x1b[?25l" in seen  # the cursor hides while it spins
    assert "\x1b[?25h" in seen  # and comes back
    assert "first: one\r\n" not in seen


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_RICH": "1"}])
def test_lines_on_a_terminal_that_cannot_spin(environment: dict[str, str], tmp_path: Path) -> None:
    if "NO_RICH" in environment:
        (tmp_path / "rich").mkdir()
        (tmp_path / "rich" / "__init__.py").write_text("raise ImportError('not installed')")
        environment = {"PYTHONPATH": str(tmp_path)}
    assert on_a_terminal(sys.executable, "-c", SCRIPT, **environment) == "first: one\r\nsecond\r\n"


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours(environment: dict[str, str], coloured: bool) -> None:
    seen = on_a_terminal(*EDGEKIT, "exprot", **environment)
    assert ("\x1b[" in seen) is coloured
    assert "error:" in seen


# Errors


@pytest.mark.parametrize(
    ("error", "code", "status", "said"),
    [
        (BundleError("bad", hint="mend it"), "EK-BUNDLE", 6, "error: bad\nhint: mend it\n"),
        (MemoryError(), "EK-RESOURCE", 7, "error: out of memory\nhint: "),
        (OSError(errno.ENOSPC, "No space left"), "EK-RESOURCE", 7, "error: the disk is full\nhint: "),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "EK-DEVICE", 8, "package torch is not"),
        (ModuleNotFoundError("No module", name="edgekit.nix"), "EK-INTERNAL", 1, "internal error: ModuleNotFound"),
        (ZeroDivisionError("by\nzero"), "EK-INTERNAL", 1, "error: internal error: ZeroDivisionError: by zero\nhint: "),
        (KeyboardInterrupt(), "EK-INTERRUPTED", 130, "error: interrupted by SIGINT\n"),
        (BrokenPipeError(errno.EPIPE, "not ours"), "EK-INTERNAL", 1, "internal error: BrokenPipeError"),
    ],
)
def test_any_error(capsys: pytest.CaptureFixture[str], error: BaseException, code: str, status: int, said: str) -> None:
    def work() -> None:
        raise error

    assert consoles.run(Console(json=True, quiet=True), work) == status
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == code
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_an_error_is_shown_once_on_a_terminal(term: str) -> None:
    """With --json it is on stdout; a script that keeps stdout to itself still gets it on stderr."""
    words = [*EDGEKIT, "inspect", "none.ek", "--json"]
    assert json.loads(on_a_terminal(*words, stdout=True, TERM=term))["error"]["code"] == "EK-BUNDLE"
    assert "does not exist" in on_a_terminal(*words, TERM=term)


def test_v_shows_cause_and_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def bug() -> None:
        raise ZeroDivisionError("x")

    def engine() -> None:
        raise BundleError("bad", cause="raw \x1b[1m text")

    assert consoles.run(Console(verbose=True), bug) == 1
    assert "in bug" in capsys.readouterr().err
    assert consoles.run(Console(verbose=True), engine) == 6
    assert capsys.readouterr().err == "error: bad\ncause: raw \\x1b[1m text\n"


def test_an_answer_is_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(json=True)

    def work() -> None:
        console.answer({"some": 1}, "x", BundleError("bad", number=np.float32("nan")))

    assert consoles.run(console, work) == 6
    out, _ = capsys.readouterr()
    assert json.loads(out) == {"some": 1, "error": {"code": "EK-BUNDLE", "message": "bad", "number": None}}


def test_what_is_logged_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    def work() -> None:
        logging.getLogger("edgekit").warning("odd \x07 file")

    assert consoles.run(Console(), work) == 0
    assert capsys.readouterr().err == "warning: odd \\x07 file\n"
    assert consoles.run(Console(quiet=True), work) == 0
    assert capsys.readouterr().err == ""
    assert logging.getLogger("edgekit").handlers == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Measure("cosine", float("inf"), 0.5), {"metric": "cosine", "value": None, "loss": 0.5}),
        (np.eye(2, dtype=np.float32), [[1.0, 0.0], [0.0, 1.0]]),
        ({1: (np.int64(2), Path("x"), None, True)}, {"1": [2, "x", None, True]}),
    ],
)
def test_plain(value: object, shown: object) -> None:
    assert text_table.plain(value) == shown
    json.dumps(text_table.plain(value), allow_nan=False)


def test_our_own_errors_have_codes() -> None:
    for kind in (consoles.InternalError, consoles.InterruptError):
        assert issubclass(kind, EdgeKitError)
        assert kind.code != EdgeKitError.code
