"""`edgekit report`: parses its options and calls `edgekit.report.from_files`."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.console import Console
from edgekit.cli.options import Command, output_switches

PATH = click.Path(path_type=Path)


@click.command(cls=Command)
@click.argument("files", type=PATH, nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", type=PATH, metavar="OUT.html", help="Write an HTML page.")
@click.option("--compare", is_flag=True, help="Compare every file with the first.")
@click.option(
    "--fail-if", "bounds", multiple=True, metavar="BOUND", help="Exit with 5 if BOUND is true. Repeat for more."
)
@output_switches
@click.pass_obj
def report(
    console: Console, /, files: tuple[Path, ...], output: Path | None, compare: bool, bounds: tuple[str, ...]
) -> None:
    """Show or compare the results of `edgekit bench -o FILE.json`.

    $ edgekit report bench.json -o report.html
    $ edgekit report laptop.json board.json -o both.html
    $ edgekit report --compare before.json after.json --fail-if 'tpot_p50>+5%' --fail-if 'peak_rss>500MB'

    BOUND is METRIC[_STATISTIC]>VALUE, or <VALUE. A row that is missing, invalid or not measured fails, too.

    A percentage with a sign is relative to the first file: 'latency_p50>+5%'. It fails only if the change is
    significant (p < 0.05) and other programs did not disturb the slower run. If it is not, the output says why. End
    the bound with ! to fail in any case: 'latency_p50>+5%!'.
    """
    from edgekit.report import from_files

    result = from_files(files, output, compare=compare, bounds=bounds)
    console.answer(result, str(result), result.error)
