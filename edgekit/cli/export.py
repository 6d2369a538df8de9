"""`edgekit export`: parses its options and calls `edgekit.export`, or with --dry-run shows the plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.bundle.safe_files import size_text
from edgekit.cli.console import Console
from edgekit.cli.inspect import bundle_facts, bundle_text
from edgekit.cli.options import (
    COUNT,
    TARGETS,
    Command,
    complete_model,
    complete_task,
    constants,
    engine_options,
    loss,
    one_of,
    output_switches,
    seconds,
    shapes,
    size,
    states,
)
from edgekit.core import PRECISIONS
from edgekit.text_table import pairs, table

if TYPE_CHECKING:
    from edgekit.workbench.plan import Plan


@click.command(cls=Command)
@click.argument("model", shell_complete=complete_model)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="BUNDLE", help="The bundle's folder."
)
@click.option(
    "--task",
    metavar="TASK",
    shell_complete=complete_task,
    help="What to export for; see `edgekit list tasks`.  [as config.json says]",
)
@click.option(
    "--target", "targets", multiple=True, **one_of("target", TARGETS), help="Engine. Repeat for more.  [all here]"
)
@click.option(
    "--precision",
    multiple=True,
    **one_of("precision", (*PRECISIONS, "auto")),
    help="Repeat for more.  [auto: int4 or int8]",
)
@click.option("--method", metavar="METHOD", help="How to quantize: dynamic, rtn.  [by precision]")
@click.option("--group-size", type=COUNT, metavar="N", help="Number of weights that share a scale.")
@click.option(
    "--engine-option",
    "engine_options",
    multiple=True,
    callback=engine_options,
    metavar="TARGET:NAME=VALUE",
    help="An engine setting, stored in the bundle. Repeat for more.",
)
@click.option(
    "--calibration",
    metavar="PATH",
    help="Data for quantization and accuracy: texts, one per line, series as CSV, arrays as .npz.",
)
@click.option("--max-accuracy-loss", type=loss, metavar="X", help="Fail if quantization loses more; 0.01 is 1 %.")
@click.option("--dimensions", type=COUNT, metavar="N", help="Shorten vectors to N numbers (Matryoshka models).")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub model.")
@click.option("--trust-remote-code", is_flag=True, help="Accept a repository with code. The code is not run.")
@click.option("--memory-limit", type=size, metavar="SIZE", help="Memory limit of each worker: 8G, 512MiB.")
@click.option("--time-limit", type=seconds, metavar="TIME", help="Time limit of each stage: 90s, 15m, 2h.  [by size]")
@click.option("--force", is_flag=True, help="Replace BUNDLE if it exists.")
@click.option("--dry-run", is_flag=True, help="Show the plan and export nothing.")
@click.option("--offline", is_flag=True, help="Use only files that are already downloaded.")
@click.option(
    "--state",
    "states",
    multiple=True,
    callback=states,
    metavar="OUT=IN",
    help="For an .onnx file: feed output OUT to input IN at the next step. Repeat for more.",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    callback=constants,
    metavar="NAME=VALUE",
    help="For an .onnx file: the input NAME always has this value: 16000, true, [1, 2]. Repeat for more.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    callback=shapes,
    metavar="NAME=AXES",
    help="For an .onnx file: fix axes of the input NAME: batch,576. A name is a free axis. Repeat for more.",
)
@output_switches
@click.pass_obj
def export(
    console: Console,
    /,
    model: str,
    output: Path,
    calibration: str | None,
    max_accuracy_loss: float | None,
    dimensions: int | None,
    memory_limit: int | None,
    time_limit: float | None,
    force: bool,
    dry_run: bool,
    **choices: Any,
) -> None:
    """Convert MODEL to ONNX, quantize it, check it, and write a bundle.

    $ edgekit export sentence-transformers/all-MiniLM-L6-v2 -o minilm.ek
    $ edgekit export zoo:parity -o parity.ek --target cpu --precision int8
    $ edgekit export ./my-bert -o my-bert.ek --task text-classification --dry-run
    $ edgekit export lstm.onnx -o lstm.ek --state hn=h0 --state cn=c0
    $ edgekit export vad.onnx -o vad.ek --state stateN=state --input sr=16000 --shape input=batch,576
    $ edgekit export network.onnx -o network.ek

    MODEL is a hub id, a local Hugging Face folder, zoo:NAME, random:CONFIG_PATH or an .onnx file.
    """
    if dry_run:
        from edgekit.bundle import publish
        from edgekit.machine import device
        from edgekit.workbench import plan as planning

        publish.check(output, force=force)
        plan = planning.plan(model, **choices)
        planning.check_memory(plan, memory_limit, device.available_memory())
        console.answer(plan, plan_text(plan))
        return
    from edgekit.export import export

    with console.stages() as progress:
        bundle = export(
            model,
            output,
            calibration=calibration,
            max_accuracy_loss=max_accuracy_loss,
            dimensions=dimensions,
            memory_limit=memory_limit,
            time_limit=time_limit,
            force=force,
            progress=progress,
            **choices,
        )
    facts = bundle_facts(bundle)
    console.answer(facts, bundle_text(bundle, facts))


def plan_text(plan: Plan) -> str:
    """What an export would do, for a person."""
    source = plan.source
    head = {
        "source": f"{source.id} ({source.arch})",
        "revision": source.revision,
        "task": plan.task,
        "left out": "; ".join(plan.left_out),
        "memory needed": size_text(plan.memory_needed),
        "disk needed": size_text(plan.disk_needed),
    }
    return pairs(head) + "\n\n" + table(("variant", "why"), plan.variants)
