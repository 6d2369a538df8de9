"""`edgekit run`: loads a bundle, runs it on the inputs, and writes each result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.console import Console
from edgekit.cli.options import BUNDLE, COUNT, TARGETS, VERIFY, Command, one_of, output_switches, size
from edgekit.core import PRECISIONS

if TYPE_CHECKING:
    from edgekit.bundle.manifest import Verify


@click.command(cls=Command)
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
@VERIFY
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="FILE.json, or FILE.npy of vectors."
)
@output_switches
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
