"""The entry point of the `edgekit` command: Ctrl-C is quiet from here on, while the package is still being imported.

It lies outside the package because importing that already takes a tenth of a second. A signal then ends the process
with its exit code at once, as nothing is there yet to clean up. The command itself handles signals later.
"""

from __future__ import annotations

import os
import signal


def main() -> int:
    """Run the command line; returns the exit code."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # as a shell leaves it for what runs in the background
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    from edgekit.cli.main import main as run

    signal.signal(signal.SIGINT, before)
    return run()
