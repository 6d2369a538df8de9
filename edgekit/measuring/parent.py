"""The controlling side of a measurement: starts the measured process, requests runs, and pauses it between them.

A subject that is not asked is stopped (SIGSTOP): an engine's threads spin while they wait, and would take the cores
from the one that is measured. It dies with whoever started it, and when it is closed.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgekit.checks import samples
from edgekit.core import Variant
from edgekit.errors import ResourceError, from_dict
from edgekit.measuring.configuration import Test
from edgekit.text_table import plain
from edgekit.workbench import worker

JOB = "edgekit.measuring.child:serve"
SILENCE = 1800.0  # seconds without a word after which it is given up
ITEMS = "items.npz"  # the arrays of what it is fed, in its folder
WARM_UP = 10.0  # seconds at most


class Subject:
    """One variant in one test, in a process of its own. A context manager, as it owns that process."""

    def __init__(
        self,
        folder: Path,
        variant: Variant,
        test: Test,
        threads: int,
        place: Path,
        *,
        items: Sequence[Any] = (),
        file: Path | None = None,
        patience: float | None = WARM_UP,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`items`, `file`: what it is fed, see `inputs`. `place`: an empty folder, for what the process prints.
        `patience`: see `probe.serve`; None: it runs once and ends. `env`: what differs in its environment.
        """
        self._place, self._stage = place, f"bench {variant.name} {test.name}"
        spawned = time.monotonic()
        self._process = worker.start(JOB, place, environment() | dict(env or {}))
        self._open, self._heard = True, b""
        order = {
            "folder": str(folder),
            "target": variant.target,
            "precision": variant.recipe.name,
            "threads": threads,
            "test": plain(test),
            "items": samples.write(place / ITEMS, items),
            "arrays": str(place / ITEMS),
            "file": None if file is None else str(file.resolve()),
            "spawned": spawned,
            "patience": patience,
        }
        try:
            self._send(worker.order(order, self._stage))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self) -> dict[str, Any]:
        """What it says next. Raises the EdgeKitError that it ended with, ResourceError, CrashError."""
        line = self._line()
        if not line:
            raise worker.post_mortem(self._process.wait(), self._stage, self._place / worker.LOG)
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise from_dict(said["error"])
        found: dict[str, Any] = said["progress"] if "progress" in said else said["result"]
        return found

    def ask(self, **request: Any) -> dict[str, Any]:
        """Its answer; it is stopped again afterwards. Raises as `hear`."""
        found = self._asked(request)
        self.stop()
        return found

    def finish(self) -> dict[str, Any]:
        """Its last words; then it ends by itself. Raises as `hear`."""
        return self._asked({"do": "finish"})

    def stop(self) -> None:
        """Until it is asked. Harmless when it has ended."""
        self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End it, whatever it is doing; twice is once."""
        if self._open:
            worker.end(self._process)
            self._open = False

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        self._process.send_signal(signal.SIGCONT)
        self._send(json.dumps(request))
        return self.hear()

    def _line(self) -> bytes:
        """The next line; nothing where it has ended. Lines may come together, and are kept here until they are asked
        for: a pipe's own buffer would hide them from the selector."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                if not ready.select(SILENCE):
                    raise ResourceError(
                        f"{self._stage} did not respond for {SILENCE:.0f} s", hint="measure a smaller model"
                    )
                if not (more := os.read(self._process.stdout.fileno(), 1 << 16)):
                    return b""
                self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # what it died of is told by `hear`
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def environment() -> dict[str, str]:
    """A worker's, but with tokenizers as an application has them: on as many threads as they like."""
    found = worker.environment()
    told = os.environ.get("TOKENIZERS_PARALLELISM")
    return {name: value for name, value in found.items() if name != "TOKENIZERS_PARALLELISM"} | (
        {} if told is None else {"TOKENIZERS_PARALLELISM": told}
    )
