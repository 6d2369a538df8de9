"""`edgekit demo`: parses its options and calls `edgekit.demo.demo`."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.console import Console
from edgekit.cli.options import Command, output_switches


@click.command(cls=Command)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="edgekit-demo",
    metavar="FOLDER",
    help="Folder for bundles and report.  [edgekit-demo]",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the report in a browser.")
@output_switches
@click.pass_obj
def demo(console: Console, /, output: Path, open_browser: bool) -> None:
    """Export and measure a few models, and write a report.

    $ edgekit demo
    $ edgekit demo -o /tmp/demo --open
    """
    from edgekit.demo import demo

    with console.stages() as progress:
        result = demo(output, open_browser=open_browser, progress=progress)
    console.answer(result, str(result))
