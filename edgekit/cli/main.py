"""The `edgekit` command: the group of all commands, and the entry point that turns every outcome into an exit code.

Each command is one file of this folder: it parses, calls into the core and hands the result to the console. What is
heavy is imported inside the commands, so --help and shell completion need click alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

import edgekit
from edgekit.cli import console as consoles
from edgekit.cli.bench import bench
from edgekit.cli.console import Console
from edgekit.cli.demo import demo
from edgekit.cli.doctor import doctor
from edgekit.cli.export import export
from edgekit.cli.inspect import inspect
from edgekit.cli.listing import listing
from edgekit.cli.options import CommandGroup, print_option, usage_error
from edgekit.cli.report import report
from edgekit.cli.run import run
from edgekit.cli.verify import verify

COMMANDS = (export, run, inspect, verify, bench, report, listing, doctor, demo)  # as --help lists them
COMPLETION = "_EDGEKIT_COMPLETE"
EPILOG = (
    f'Shell completion: put `eval "$({COMPLETION}=bash_source edgekit)"` into ~/.bashrc; '
    "for zsh write zsh_source, for fish fish_source."
)
VERSION = print_option(
    "-V", "--version", text="Show the version and exit.", output=lambda _: f"edgekit {edgekit.__version__}"
)


@click.group(cls=CommandGroup, params=[VERSION], epilog=EPILOG)
def cli() -> None:
    """Turn a model into something a device can run, and run it there without torch.

    $ edgekit export sentence-transformers/all-MiniLM-L6-v2 -o minilm.ek
    $ edgekit run minilm.ek "a sentence" "another one"
    $ edgekit doctor
    """


for command in COMMANDS:
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code and raises nothing."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if COMPLETION in os.environ:
        cli.main(prog_name="edgekit", complete_var=COMPLETION)  # click's own shell completion, which ends the process
    options = words[: words.index("--")] if "--" in words else words
    console = Console(json="--json" in options)  # set before parsing, which may fail
    return consoles.run(console, lambda: _parse_and_do(words, console))


def _parse_and_do(words: list[str], console: Console) -> None:
    """Parse and run a command as `click.Command.main` does, but raise our errors instead of printing click's."""
    try:
        with cli.make_context("edgekit", words, obj=console) as context:
            cli.invoke(context)
    except click.exceptions.Exit:
        return  # --help and --version have written their text
    except click.UsageError as error:
        raise usage_error(error) from None
