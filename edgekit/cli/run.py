"""`edgekit run`: load a bundle, read its inputs, call the method that the options ask for, show the answers.

Knows no task: `Model.INPUT` says what is read (`inputs`), the methods' own parameters say which options there are
(`method_options`), and the type of an answer says how it is shown (`render`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from edgekit.cli.console import Console, ended_by_ctrl_c
from edgekit.cli.options import (
    BUNDLE,
    COUNT,
    TARGETS,
    THREADS,
    VERIFY,
    GroupedCommand,
    GroupedOption,
    one_of,
    output_switches,
    size,
)
from edgekit.cli.sample_source import ON_ERROR
from edgekit.core import PRECISIONS, Target
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.bundle.manifest import Verify
    from edgekit.checks.first_load import Prove
    from edgekit.cli.inputs import Kind, Words
    from edgekit.cli.method_options import Call

INPUT_OPTIONS = (
    "prompts",
    "images",
    "system",
    "files",
    "on_error",
    "keep",
)  # they say what is read; all others are parameters of a method
PATH = click.Path(path_type=Path)
F = TypeVar("F", bound=Callable[..., Any])


def group(name: str) -> Callable[..., Callable[[F], F]]:
    """`click.option` for options under one heading of --help."""
    return partial(click.option, cls=GroupedOption, group=name)


def only_if_set(ctx: click.Context, param: click.Parameter, value: bool) -> bool | None:
    """The value of a switch: None unless it was used."""
    return True if value else None


def off_if_set(ctx: click.Context, param: click.Parameter, value: bool) -> bool | None:
    """The value of a switch that turns something off: None unless it was used."""
    return False if value else None


def template_options(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any] | None:
    """The names and values of --template-option: None without one. Raises UsageError for one without a name."""
    options: dict[str, Any] = {}
    for word in values:
        name, sign, value = word.partition("=")
        if not name.strip() or not sign:
            raise UsageError(
                f"--template-option {word!r:.60} has no name", hint="give NAME=VALUE: enable_thinking=false"
            )
        try:
            options[name.strip()] = json.loads(value)
        except (ValueError, RecursionError):  # not JSON: the text itself
            options[name.strip()] = value
    return options or None


common, text, generation = group("Common"), group("Text"), group("Text generation")
images, series = group("Images"), group("Series")


# The name of a method's option is that of the method's parameter: `edgekit.cli.method_options` compares them.
@click.command(cls=GroupedCommand)
@BUNDLE
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@common("--target", **one_of("target", ("auto", *TARGETS)), default="auto", help="Where to run.  [auto]")
@common("--precision", **one_of("precision", PRECISIONS), help="Which variant.  [the fastest]")
@common("-t", "--threads", type=THREADS, metavar="N", help="Threads of the engine.  [all available cores]")
@common("--memory-limit", type=size, metavar="SIZE", help="Refuse to use more memory, by forecast: 2G, 512MiB.")
@common("--top-k", type=COUNT, metavar="N", help="How many labels, words or documents; tokens to sample from.")
@VERIFY
@common(
    "--prove",
    **one_of("choice", ("first", "always", "never")),
    default="first",
    help="When to check the variant's known answers on this device: at its first load here, at every load, or never."
    "  [first]",
)
@common(
    "-o", "--output", type=PATH, metavar="FILE", help="Write the results to FILE.json, or arrays to FILE.npy or .npz."
)
@common(
    "-f", "--file", "files", multiple=True, metavar="PATH", help="A file of inputs: texts, one per line, or a series."
)
@text("-p", "--prompt", "prompts", multiple=True, metavar="TEXT", help="An input, even if it begins with -.")
@text("--query", metavar="TEXT", help="Rank the inputs by how well they fit TEXT.")
@text("--prompt-name", "prompt", metavar="NAME", help="Which of the model's own prompts to put before each text.")
@text("--dimensions", type=COUNT, metavar="N", help="Shorten vectors to N numbers (Matryoshka models).")
@text("--truncate", is_flag=True, callback=only_if_set, help="Cut texts that are too long instead of refusing them.")
@generation("--system", metavar="TEXT", help="The system message of a chat.")
@generation("--max-new-tokens", type=COUNT, metavar="N", help="The longest answer.  [512]")
@generation("--temperature", type=float, metavar="X", help="0 takes the likeliest token, more is bolder.  [0]")
@generation("--top-p", type=float, metavar="X", help="Sample from the likeliest tokens that add up to X.")
@generation("--min-p", type=float, metavar="X", help="Sample from tokens of X times the highest probability.")
@generation("--repetition-penalty", type=float, metavar="X", help="Above 1, avoid tokens that occurred before.")
@generation("--stop", multiple=True, metavar="TEXT", help="End the answer before TEXT. Repeat for more.")
@generation("--seed", type=int, metavar="N", help="The same N gives the same answer.  [random]")
@generation(
    "--template-option",
    "chat_template_kwargs",
    multiple=True,
    callback=template_options,
    metavar="NAME=VALUE",
    help="What the chat template reads: enable_thinking=false, tools='[…]'. VALUE is JSON or a text.",
)
@generation("--parse-special", is_flag=True, callback=only_if_set, help="Read control tokens in a text as such.")
@generation("--no-stream", "stream", is_flag=True, callback=off_if_set, help="Write each answer when it is complete.")
@images(
    "-i", "--image", "images", multiple=True, metavar="PATH", help="An image, or a folder of them. Repeat for more."
)
@series("--rate", type=float, metavar="HZ", help="Samples per second: resample from it; replay files at it.")
@series(
    "--on-error",
    **one_of("choice", ON_ERROR),
    help="What becomes of a bad row: the command fails, skips the row, or reads bad cells as missing.  [fail]",
)
@series("--keep", multiple=True, metavar="COLUMN", help="Write this column beside each result. Repeat for more.")
@output_switches
@click.pass_obj
def run(
    console: Console,
    /,
    bundle: Path,
    inputs: tuple[str, ...],
    output: Path | None,
    target: Target | Literal["auto"],
    precision: str | None,
    threads: int | None,
    verify: Verify,
    prove: Prove,
    memory_limit: int | None,
    **choices: Any,
) -> None:
    """Run a bundle on texts, images or series.

    $ edgekit run minilm.ek "a sentence" "another one"
    $ edgekit run minilm.ek --query "how to cook rice" - < documents.txt
    $ edgekit run minilm.ek -o vectors.npy < sentences.txt
    $ edgekit run reviews.ek --json -p "what a film"
    $ edgekit run qwen3.ek -p "Why is the sky blue?" --max-new-tokens 100
    $ edgekit run qwen3.ek -p "Be brief: why?" --template-option enable_thinking=false
    $ edgekit run qwen3.ek
    $ edgekit run resnet.ek -i photo.jpg -i holiday/
    $ edgekit run motor.ek - < telemetry.csv
    $ edgekit run network.ek input.npz -o output.npz

    INPUT is a text, an image file or folder, a CSV file, or arrays in an .npz file, as the model reads; - is stdin.
    Without INPUT stdin is read: one text per line, for a language model one prompt. On a terminal, a model with a chat
    template then starts a chat.

    A CSV file has a header with the names of the model's columns, or numbers only. Each sample's result is written at
    once, as a CSV line, or with --json as a JSON object per line: behind the number of its row, and its time where the
    file has a column named time or timestamp. Ctrl-C ends a series from stdin.
    """
    from edgekit.cli import chat, method_options, render
    from edgekit.cli import inputs as readers
    from edgekit.model import load

    if output:
        render.check_path(output)
    options = {name: value for name, value in choices.items() if value is not None and value != ()}
    words = readers.Words(inputs, **{name: choices[name] for name in INPUT_OPTIONS})
    if options.get("parse_special"):
        words = replace(words, is_raw=True)
    readers.check(words, terminal=not (console.json or output))
    start = time.perf_counter()
    with load(
        bundle, target=target, precision=precision, threads=threads, verify=verify, prove=prove,
        memory_limit=memory_limit,
    ) as model:  # fmt: skip
        load_seconds = time.perf_counter() - start
        kind = readers.kind(model)
        call = method_options.choose(model, options, kind.options, _flags(choices))
        if model.bundle.source.random:
            console.say("warning: random weights: the answers mean nothing")
        if model.INPUT == "chat" and words.on_terminal:
            chat.converse(console, model, words.system, call.options)
            return
        _answer(console, model, kind, call, words, output, load_seconds)


def _answer(
    console: Console, model: Any, kind: Kind, call: Call, words: Words, output: Path | None, load_seconds: float
) -> None:
    from edgekit.cli import chat, render, series_stream
    from edgekit.cli.inputs import reads_stdin

    _say_how_it_is_read(console, model, words)
    items = kind.read(model, words)
    start = time.perf_counter()  # reading stdin is not part of it
    if model.INPUT == "series":
        with ended_by_ctrl_c() if reads_stdin(words) and not output else nullcontext():
            answers = series_stream.answers(console, model, call, items, keep=bool(output))
        if not output:
            return
    elif model.INPUT == "chat":
        answers = chat.answers(console, model, items, call.options, silent=bool(console.json or output))
    else:
        answers = call(model, items)
    facts = render.facts(model, load_seconds, time.perf_counter() - start)
    names = kind.names(items)
    facts |= {"inputs": names} if names else {}
    console.detail(render.summary(facts, len(answers) if model.INPUT == "series" else len(items), kind.noun))
    if model.INPUT == "chat":
        console.detail(chat.summary(answers, call.options))
    if output:
        render.save(output, facts, answers)
        console.say(f"wrote {output}")
        console.answer(facts | {"output": output}, None)
    elif console.json:
        console.answer(facts | {"results": render.record(answers)}, None)
    elif model.INPUT != "chat":
        console.answer(facts, render.lines(answers, items, names))


def _say_how_it_is_read(console: Console, model: Any, words: Words) -> None:
    """Say what to type on a terminal, and that a file's name is taken for a text."""
    from edgekit.cli.inputs import names_of_files, reads_terminal

    if model.INPUT == "series" and reads_terminal(words):
        console.say(f"note: type {','.join(model.bundle.settings['features'])}, a line per sample; Ctrl-D ends")
    if model.INPUT in ("text", "query", "chat"):
        for name in names_of_files(words):
            console.say(
                f"note: {name!r} is read as a text, and there is a file of this name: -f {name} reads its lines"
            )


def _flags(choices: Mapping[str, Any]) -> dict[str, str]:
    """Name of an option -> how a user writes it: prompt -> --prompt-name."""
    return {str(param.name): max(param.opts, key=len) for param in run.params if param.name in choices}
