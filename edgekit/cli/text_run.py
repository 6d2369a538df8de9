"""What `edgekit run` does around the model: texts in from arguments and stdin, answers out as lines, JSON or .npy.

Knows the results of the heads by their fields. Loads no model and parses no option.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import tasks
from edgekit.bundle import safe_files
from edgekit.cli.console import plain
from edgekit.errors import InputError, ResourceError, UsageError
from edgekit.text_table import one_line

if TYPE_CHECKING:
    from edgekit.model import Model

STDIN = "-"
HINT = "give texts as arguments, or pipe them in, one a line"
UNSAID = (None, False, ())  # options that were not given
SERIES = {"rate": "rate"}  # what a model of series takes
SHOWN = 4  # numbers of a vector that a terminal is shown
# Model method -> the options of the command that it takes, by the name of its own parameter.
TAKES = {
    "embed": {"dimensions": "dimensions", "prompt_name": "prompt", "truncate": "truncate"},
    "classify": {"top_k": "top_k", "truncate": "truncate"},
    "rerank": {"query": "query", "top_k": "top_k", "truncate": "truncate"},
    "tag": {"truncate": "truncate"},
    "fill": {"top_k": "top_k", "truncate": "truncate"},
    "generate": {
        name: name
        for name in (
            "system",
            "max_new_tokens",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "stop",
            "seed",
            "no_stream",
        )
    },
}


def check_given(inputs: Sequence[str], prompts: Sequence[str], *, asks: bool) -> None:
    """Before anything is loaded: is there something to run on, or somebody who may be asked? Raises UsageError."""
    if not inputs and not prompts and (sys.stdin is None or (sys.stdin.isatty() and not asks)):
        raise UsageError("no input", hint=HINT)


def on_terminal(inputs: Sequence[str], prompts: Sequence[str]) -> bool:
    """Whether nothing was given, and somebody sits there who may be asked."""
    return not inputs and not prompts and sys.stdin is not None and sys.stdin.isatty()


def gather(inputs: Sequence[str], prompts: Sequence[str]) -> list[str | list[str]]:
    """The texts to run on: the inputs, with stdin's lines in place of `-`, then the prompts; stdin if there are none.

    Raises UsageError if there is nothing at all, InputError for what is not UTF-8.
    """
    if not inputs and not prompts:
        inputs = [STDIN] if sys.stdin is not None and not sys.stdin.isatty() else []
    found: list[str | list[str]] = [list(_stdin_lines()) if word == STDIN else word for word in inputs]
    given = [text for text in [*found, *prompts] if text != []]
    if not given:
        raise UsageError("no input", hint=HINT)
    for text in given:
        letters = text if isinstance(text, str) else ""
        if not letters.isascii() and any("\ud800" <= letter <= "\udfff" for letter in letters):
            raise InputError(f"{letters[:40]!a} is not UTF-8", hint="check the terminal's encoding (LANG, LC_ALL)")
    return given


def texts_for(method: str, given: Sequence[str | list[str]]) -> list[str]:
    """What was gathered, as the method takes it: stdin is a text a line, and one prompt for a language model."""
    if method == "generate":
        return [text if isinstance(text, str) else "\n".join(text) for text in given]
    return [line for text in given for line in ([text] if isinstance(text, str) else text)]


def check_output(path: Path) -> None:
    """Before anything is computed: can answers be written there? Raises UsageError."""
    if path.suffix not in (".json", ".npy"):
        raise UsageError(f"cannot write {path.name}", hint="end its name in .json, or in .npy for vectors")
    if path.is_dir() or not path.parent.is_dir():
        why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UsageError(f"cannot write {path}: {why}")


def method_for(task: str, choices: Mapping[str, Any]) -> str:
    """The Model's method: the task's own; with a query any model that can compare texts ranks them.

    Raises UsageError for an option that the method has no use for, and for a ranking without a query.
    """
    method = "rerank" if choices["query"] is not None else tasks.find(task).method
    takes = SERIES if tasks.find(task).ingest == "series" else TAKES[method]
    for name, value in choices.items():
        if value not in UNSAID and name not in takes:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} has no meaning for {method} ({task})", hint=f"leave {option} out")
    if method == "rerank" and choices["query"] is None:
        raise UsageError("nothing to rank by", hint="say --query TEXT; the inputs are the documents")
    return method


def ask(model: Model, method: str, texts: Sequence[str], choices: Mapping[str, Any]) -> Any:
    """What the model answers. Raises as the method does."""
    options = {TAKES[method][name]: value for name, value in choices.items() if value not in UNSAID}
    if method == "rerank":
        return model.rerank(options.pop("query"), texts, **options)
    return getattr(model, method)(texts, **options)


def facts(model: Model, load: float, run: float) -> dict[str, Any]:
    """What answered, for a program; times in seconds."""
    return {
        "bundle": model.bundle.name,
        "task": model.bundle.task,
        "variant": model.variant.name,
        "target_chosen": model.chosen_by,
        "placement": model.placement,
        "random_weights": model.bundle.source.random,
        "seconds": {"load": load, "run": run},
    }


def summary(known: Mapping[str, Any], count: int) -> str:
    """The same in a line for a person."""
    load, run = known["seconds"]["load"], known["seconds"]["run"]
    return (
        f"{known['bundle']}: {known['variant']} on {known['placement']}, loaded in {load * 1e3:.0f} ms, "
        f"{count} texts in {run * 1e3:.1f} ms, {run * 1e3 / count:.2f} ms each"
    )


def save(path: Path, known: Mapping[str, Any], answers: Any) -> None:
    """Write the answers whole or not at all. Raises UsageError for answers that are no array, ResourceError."""
    if path.suffix == ".npy":
        import numpy as np

        if not isinstance(answers, np.ndarray):
            raise UsageError(f"the answers of {known['task']} are not an array", hint="end the file's name in .json")
        buffer = io.BytesIO()
        np.save(buffer, answers, allow_pickle=False)
        data = buffer.getvalue()
    else:
        data = json.dumps({**known, "results": plain(answers)}, ensure_ascii=False, allow_nan=False).encode()
    try:
        safe_files.replace_file(path, data)
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror}", hint="choose another place with -o") from error


def lines(method: str, answers: Any, texts: Sequence[str]) -> str:
    """One line per text; of a ranking one per document, best first. A terminal is shown a vector's beginning."""
    if method == "embed":
        short = sys.stdout is not None and sys.stdout.isatty()
        return "\n".join(_short(row) if short else json.dumps(row) for row in answers.tolist())
    if method == "rerank":
        return "\n".join(f"{row.score:.4f}\t{one_line(texts[row.index])}" for row in answers)
    return "\n".join("\t".join(one_line(_words(method, item)) for item in row) for row in answers)


def _words(method: str, item: Any) -> str:
    """One label, one span, or all candidates for one mask."""
    if method == "classify":
        return f"{item.label} {item.score:.4f}"
    if method == "tag":
        return f"{item.label} {item.score:.4f} {item.start}-{item.end} {item.text}"
    return ", ".join(f"{token.token} {token.score:.4f}" for token in item)


def _short(row: Sequence[float]) -> str:
    more = " …" if len(row) > SHOWN else ""
    return f"{' '.join(f'{number:.4f}' for number in row[:SHOWN])}{more} ({len(row)} numbers)"


def _stdin_lines() -> Iterator[str]:
    """Raises InputError naming the line that is not UTF-8."""
    if sys.stdin is None:
        return
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise InputError(f"line {number} of stdin is not UTF-8", hint="convert it: iconv -t UTF-8") from None
