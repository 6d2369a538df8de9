"""The commands: one function per verb, each of them one call into the core.

Parses, calls, and hands the result to `edgekit.text_table`. `edgekit.cli.console` prints and ends a command. Whatever
is heavy is imported inside the verb that needs it, so that --help and shell completion need click alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edgekit
from edgekit import registry
from edgekit.cli import console as consoles
from edgekit.cli.bench import bench
from edgekit.cli.console import Console
from edgekit.cli.options import (
    COUNT,
    TARGETS,
    Verbs,
    complaint,
    engine_options,
    loss,
    one_of,
    size,
    speaks,
    states,
    written,
)
from edgekit.cli.report import report
from edgekit.core import PRECISIONS
from edgekit.errors import DeviceError, VerificationError

if TYPE_CHECKING:
    from edgekit.bundle.manifest import Verify

COMPLETION = "_EDGEKIT_COMPLETE"
EPILOG = f'Shell completion: put `eval "$({COMPLETION}=bash_source edgekit)"` into ~/.bashrc; zsh and fish likewise.'
KINDS = ("architectures", "tasks", "targets", "zoo")
VERIFY = ("always", "once", "never")

VERSION = written("--version", text="Show the version and exit.", tell=lambda _: f"edgekit {edgekit.__version__}")
BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))


@click.group(cls=Verbs, params=[VERSION], epilog=EPILOG)
def cli() -> None:
    """Turn a model into something a device can run, and run it there without torch.

    $ edgekit export sentence-transformers/all-MiniLM-L6-v2 -o minilm.ek
    $ edgekit run minilm.ek "a sentence" "another one"
    $ edgekit doctor
    """


@cli.command()
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="BUNDLE", help="Where to.")
@click.option("--task", metavar="TASK", help="What the model is for, see `edgekit list tasks`.  [as its config says]")
@click.option("--target", "targets", multiple=True, **one_of("target", TARGETS), help="Repeat for more.  [all here]")
@click.option(
    "--precision", multiple=True, **one_of("precision", (*PRECISIONS, "auto")), help="Repeat for more.  [auto]"
)
@click.option("--method", metavar="METHOD", help="How to quantize: dynamic, rtn.  [what the precision needs]")
@click.option("--group-size", type=COUNT, metavar="N", help="How many weights share a scale.")
@click.option(
    "--engine-option",
    "engine_options",
    multiple=True,
    callback=engine_options,
    metavar="TARGET:NAME=VALUE",
    help="Kept in the bundle, and told to the engine wherever it runs.",
)
@click.option(
    "--calibration", metavar="PATH", help="Texts, one a line, or series, in CSV, to quantize and to measure with."
)
@click.option("--max-accuracy-loss", type=loss, metavar="X", help="Publish nothing that loses more; 0.01 is 1 %.")
@click.option("--dimensions", type=COUNT, metavar="N", help="Shorten vectors to N numbers (Matryoshka models).")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub model.")
@click.option("--trust-remote-code", is_flag=True, help="Take a repository with code, which is not run.")
@click.option("--memory-limit", type=size, metavar="SIZE", help="Most memory for each worker: 8G, 512MiB.")
@click.option("--force", is_flag=True, help="Replace BUNDLE if it is there.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--offline", is_flag=True, help="Open no connection: use what was downloaded before.")
@click.option(
    "--state",
    "states",
    multiple=True,
    callback=states,
    metavar="OUT=IN",
    help="Of an .onnx file: what comes out of OUT goes into IN at the next step. Repeat for more.",
)
@speaks
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
    force: bool,
    dry_run: bool,
    **choices: Any,
) -> None:
    """Turn MODEL into a bundle: ONNX, quantized, proved.

    $ edgekit export sentence-transformers/all-MiniLM-L6-v2 -o minilm.ek
    $ edgekit export zoo:parity -o parity.ek --target cpu --precision int8
    $ edgekit export ./my-bert -o my-bert.ek --task text-classification --dry-run
    $ edgekit export lstm.onnx -o lstm.ek --state hn=h0 --state cn=c0

    MODEL is a hub id, a local Hugging Face folder, zoo:NAME, random:CONFIG_PATH or an .onnx file.
    """
    from edgekit import text_table

    if dry_run:
        from edgekit import device
        from edgekit.workbench.plan import check_memory, plan

        planned = plan(model, **choices)
        check_memory(planned, memory_limit, device.available_memory())
        console.answer(planned, text_table.plan(planned))
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
            force=force,
            progress=progress,
            **choices,
        )
    known = text_table.facts(bundle)
    console.answer(known, text_table.bundle(bundle, known))


@cli.command()
@BUNDLE
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("-p", "--prompt", "prompts", multiple=True, metavar="TEXT", help="An input, even if it begins with -.")
@click.option("--query", metavar="TEXT", help="Rank the inputs by how well they fit TEXT.")
@click.option("--target", **one_of("target", ("auto", *TARGETS)), default="auto", help="Where to run.  [auto]")
@click.option("--precision", **one_of("precision", PRECISIONS), help="Which variant.  [the fastest]")
@click.option("-t", "--threads", type=click.IntRange(1, 1024), metavar="N", help="[the cores that are ours to use]")
@click.option("--memory-limit", type=size, metavar="SIZE", help="Refuse what would take more, by forecast: 2G, 512MiB.")
@click.option("--dimensions", type=COUNT, metavar="N", help="Shorten vectors to N numbers (Matryoshka models).")
@click.option("--prompt-name", metavar="NAME", help="Which of the model's own prompts to put before each text.")
@click.option("--top-k", type=COUNT, metavar="N", help="How many labels, words or documents; tokens to choose from.")
@click.option("--system", metavar="TEXT", help="What a chat model is told before the first prompt.")
@click.option("--max-new-tokens", type=COUNT, metavar="N", help="The longest answer.  [512]")
@click.option("--temperature", type=float, metavar="X", help="0 takes the likeliest token, more is bolder.  [0]")
@click.option("--top-p", type=float, metavar="X", help="Choose among the likeliest tokens that carry X.")
@click.option("--min-p", type=float, metavar="X", help="Choose among tokens of X times the likeliest's probability.")
@click.option("--repetition-penalty", type=float, metavar="X", help="Above 1 avoids what was said before.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before TEXT. Repeat for more.")
@click.option("--seed", type=int, metavar="N", help="The same N, the same choices.  [a new one]")
@click.option("--no-stream", is_flag=True, help="Write answers when they are whole.")
@click.option("--rate", type=float, metavar="HZ", help="Samples a second: resampled from it; files come as if live.")
@click.option("--truncate", is_flag=True, help="Cut texts that are too long instead of refusing them.")
@click.option("--verify", **one_of("choice", VERIFY), default="once", help="When to check files' digests.  [once]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="FILE.json, or FILE.npy of vectors."
)
@speaks
@click.pass_obj
def run(
    console: Console,
    /,
    bundle: Path,
    inputs: tuple[str, ...],
    prompts: tuple[str, ...],
    output: Path | None,
    target: str,
    precision: str | None,
    threads: int | None,
    verify: Verify,
    memory_limit: int | None,
    **choices: Any,
) -> None:
    """Run a bundle on texts, one answer per INPUT, or on series, one line per sample.

    $ edgekit run minilm.ek "a sentence" "another one"
    $ edgekit run qwen3.ek -p "Why is the sky blue?" --max-new-tokens 100
    $ edgekit run qwen3.ek
    $ edgekit run minilm.ek -o vectors.npy < sentences.txt
    $ edgekit run reviews.ek --json -p "what a film"
    $ edgekit run minilm.ek --query "how to cook rice" - < documents.txt
    $ edgekit run faults.ek - < telemetry.csv

    Without INPUT, or for the INPUT -, each line of stdin is one; to a language model all of stdin is. Without INPUT on
    a terminal a language model chats.

    Of a recurrent model INPUT is a CSV file, or - for stdin: a header that names the model's columns, or numbers only.
    Each result is written as it comes, as CSV or with --json as a JSON object a line.
    """
    from edgekit.cli import chat, series_run, text_run
    from edgekit.model import load

    if output:
        text_run.check_output(output)
    text_run.check_given(inputs, prompts, asks=not console.json)
    begun = time.perf_counter()
    with load(
        bundle, target=target, precision=precision, threads=threads, verify=verify, memory_limit=memory_limit
    ) as model:
        loaded = time.perf_counter()
        method = text_run.method_for(model.bundle.task, choices)
        if model.bundle.source.random:
            console.say("warning: random weights: the answers mean nothing")
        if model.bundle.ingest == "series":
            texts: Sequence[Any] = series_run.tell(
                console, model, (*inputs, *prompts), choices["rate"], keep=bool(output)
            )
            if not output:
                return
            answers: Any = texts
        elif method == "generate" and text_run.on_terminal(inputs, prompts) and not console.json:
            chat.converse(console, model, choices)
            return
        else:
            texts = text_run.texts_for(method, text_run.gather(inputs, prompts))
            loaded, begun = time.perf_counter(), begun + time.perf_counter() - loaded  # waiting for stdin is neither
            if method == "generate":
                answers = chat.answer(console, model, texts, choices, stream=not (console.json or output))
            else:
                answers = text_run.ask(model, method, texts, choices)
        done = time.perf_counter()
        facts = text_run.facts(model, loaded - begun, done - loaded)
    console.detail(text_run.summary(facts, len(texts)))
    if method == "generate":
        console.detail(chat.summary(answers))
    if output:
        text_run.save(output, facts, answers)
        console.say(f"wrote {output}")
        console.answer(facts | {"output": output}, None)
    elif console.json or method != "generate":
        console.answer(facts | {"results": answers}, None if console.json else text_run.lines(method, answers, texts))


@cli.command()
@BUNDLE
@click.option("--verify", **one_of("choice", VERIFY), default="once", help="When to check files' digests.  [once]")
@speaks
@click.pass_obj
def inspect(console: Console, /, bundle: Path, verify: Verify) -> None:
    """Say what is in a bundle, without running it.

    $ edgekit inspect minilm.ek
    $ edgekit inspect minilm.ek -v --verify always

    Where it came from, its variants with what was measured of them, its known answers; with -v its files.
    """
    from edgekit import text_table
    from edgekit.bundle.manifest import read

    found = read(bundle, verify=verify)
    known = text_table.facts(found)
    console.answer(known, text_table.bundle(found, known, files=console.verbose))


@cli.command()
@BUNDLE
@click.option("--target", "targets", multiple=True, **one_of("target", TARGETS), help="Repeat for more.  [all here]")
@speaks
@click.pass_obj
def verify(console: Console, /, bundle: Path, targets: tuple[str, ...]) -> None:
    """Hold a bundle against its known answers on this device.

    $ edgekit verify minilm.ek
    $ edgekit verify minilm.ek --target openvino

    The exit code is 5 when a variant is out of tolerance.
    """
    from edgekit import text_table
    from edgekit.verify import verify

    checks = verify(bundle, targets=targets)
    wrong = [check for check in checks if not check.ok]
    failed = None
    if wrong:
        message = f"{wrong[0].variant} is out of tolerance: {wrong[0].why}"
        hint = "run another variant (--target, --precision), or export the model again on this machine"
        failed = VerificationError(message, hint=hint, variants=[check.variant for check in wrong])
    console.answer({"ok": not wrong, "checks": checks}, text_table.checks(checks), failed)


cli.add_command(bench)
cli.add_command(report)


@cli.command("list")
@click.argument("kind", required=False, **one_of("list", KINDS))
@speaks
@click.pass_obj
def list_(console: Console, /, kind: str | None) -> None:
    """List what EdgeKit knows and this machine has.

    $ edgekit list
    $ edgekit list targets
    $ edgekit list architectures --json
    """
    from edgekit import doctor, tasks, text_table, zoo

    ways: dict[str, Callable[[], Sequence[Any]]] = {
        "architectures": lambda: registry.names("exporters"),
        "tasks": lambda: tasks.TASKS,
        "targets": doctor.targets,
        "zoo": lambda: [f"zoo:{name}" for name in zoo.names()],
    }
    found = {each: ways[each]() for each in ([kind] if kind else KINDS)}
    console.answer(found, text_table.lists(found))


@cli.command()
@speaks
@click.pass_obj
def doctor(console: Console) -> None:
    """Say what is wrong with this installation, and the remedy.

    $ edgekit doctor
    $ edgekit doctor --json

    The exit code is 8 when no target can run here.
    """
    from edgekit import text_table
    from edgekit.doctor import examine

    found = examine()
    failed = None
    if not found.usable:
        failed = DeviceError("no target can run on this machine", hint=found.findings[0].remedy)
    console.answer(found, text_table.diagnosis(found), failed)


@cli.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="edgekit-demo", metavar="FOLDER", help="Where to."
)
@click.option("--open", "open_browser", is_flag=True, help="Show the report in a browser.")
@speaks
@click.pass_obj
def demo(console: Console, /, output: Path, open_browser: bool) -> None:
    """Export, run and verify tiny models, and write a report.

    $ edgekit demo
    $ edgekit demo -o /tmp/demo --open
    """
    from edgekit.demo import demo

    with console.stages() as progress:
        made = demo(output, open_browser=open_browser, progress=progress)
    console.answer(made, str(made))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line's way in; the exit code comes back, nothing is raised."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if COMPLETION in os.environ:
        cli.main(prog_name="edgekit", complete_var=COMPLETION)  # click's own shell completion, which ends the process
    options = words[: words.index("--")] if "--" in words else words
    console = Console(json="--json" in options)  # before anything is parsed: that may fail, too
    return consoles.run(console, lambda: _parse_and_do(words, console))


def _parse_and_do(words: list[str], console: Console) -> None:
    """What `click.Command.main` does, without its own ways to print and to end."""
    try:
        with cli.make_context("edgekit", words, obj=console) as context:
            cli.invoke(context)
    except click.exceptions.Exit:
        return  # --help and --version have said all
    except click.UsageError as error:
        raise complaint(error) from None
