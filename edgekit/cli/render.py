"""The answers of `edgekit run` as lines for a person, as JSON, and as files.

One function per type of result, chosen by the type: a new type needs an entry here, a new task none.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import user_files
from edgekit.cli.sample_rows import cells
from edgekit.errors import UsageError
from edgekit.results import Anomaly, Forecast, Label, Ranked, Result, Span, Token
from edgekit.text_table import one_line, plain

SHOWN = 4  # numbers of a vector that a terminal is shown

# One line per answer


def lines(answers: Sequence[Any], items: Sequence[Any], names: Sequence[str] = ()) -> str:
    """One line per answer, after the item's name and a tab where several items have names."""
    texts = [line(answer, items) for answer in answers]
    if len(names) > 1:
        texts = [f"{one_line(name)}\t{text}" for name, text in zip(names, texts, strict=True)]
    return "\n".join(texts)


@singledispatch
def line(answer: Any, items: Sequence[Any]) -> str:
    """An answer in one line; `items` is what the model read. JSON for a type that has no entry."""
    return json.dumps(record(answer), allow_nan=False)


@line.register
def _(answer: str, items: Sequence[Any]) -> str:
    return one_line(answer)


@line.register
def _(answer: Result, items: Sequence[Any]) -> str:
    return one_line(answer.text)


@line.register
def _(answer: Ranked, items: Sequence[Any]) -> str:
    return f"{answer.score:.4f}\t{one_line(str(items[answer.index]))}"


@line.register
def _(answer: list, items: Sequence[Any]) -> str:  # type: ignore[type-arg]
    return "\t".join(one_line(part(item)) for item in answer)


@line.register(Forecast)
@line.register(Anomaly)
def _(answer: Any, items: Sequence[Any]) -> str:
    return "\t".join(cells(answer))


@line.register
def _(answer: np.ndarray, items: Sequence[Any]) -> str:
    """All numbers as JSON; a terminal is shown the first ones."""
    if sys.stdout is None or not sys.stdout.isatty():
        return json.dumps(record(answer), allow_nan=False)
    more = " …" if answer.size > SHOWN else ""
    shape = " x ".join(map(str, answer.shape))
    return f"{' '.join(f'{number:.4f}' for number in answer.ravel()[:SHOWN])}{more} ({shape} numbers)"


@line.register
def _(answer: dict, items: Sequence[Any]) -> str:  # type: ignore[type-arg]
    return "\t".join(f"{one_line(name)} {line(array, items)}" for name, array in answer.items())


@singledispatch
def part(item: Any) -> str:
    """One item of an answer that is a list."""
    return line(item, ())


@part.register
def _(item: Label) -> str:
    return f"{item.label} {item.score:.4f}"


@part.register
def _(item: Span) -> str:
    return f"{item.label} {item.score:.4f} {item.start}-{item.end} {item.text}"


@part.register
def _(item: Token) -> str:
    return f"{item.token} {item.score:.4f}"


@part.register
def _(item: list) -> str:  # type: ignore[type-arg]
    """All proposals for one mask."""
    return ", ".join(part(each) for each in item)


# JSON


@singledispatch
def record(answer: Any) -> Any:
    """An answer, or a list of answers, as JSON values."""
    return plain(answer)


@record.register
def _(answer: np.ndarray) -> Any:
    """Nested lists; float32 numbers have the nine digits that identify them, not the 17 of a float64."""
    values = plain(answer)
    return _nine_digits(values) if answer.dtype == np.float32 else values


def _nine_digits(values: Any) -> Any:
    if isinstance(values, list):
        return [_nine_digits(value) for value in values]
    return None if values is None else float(f"{values:.9g}")


@record.register
def _(answer: list) -> Any:  # type: ignore[type-arg]
    return [record(item) for item in answer]


@record.register
def _(answer: dict) -> Any:  # type: ignore[type-arg]
    return {name: record(value) for name, value in answer.items()}


def facts(model: Any, load: float, run: float) -> dict[str, Any]:
    """What ran, for a program; times in seconds."""
    return {
        "bundle": model.bundle.name,
        "task": model.bundle.task,
        "variant": model.variant.name,
        "target_chosen": model.chosen_by,
        "placement": model.placement,
        "random_weights": model.bundle.source.random,
        "seconds": {"load": load, "run": run},
    }


def summary(known: Mapping[str, Any], count: int, noun: str) -> str:
    """The same in a line for a person."""
    load, run = known["seconds"]["load"], known["seconds"]["run"]
    each = f", {run * 1e3 / count:.2f} ms each" if count > 1 else ""
    return (
        f"{known['bundle']}: {known['variant']} on {known['placement']}, loaded in {load * 1e3:.0f} ms, "
        f"{count} {noun if count != 1 else noun.removesuffix('s')} in {run * 1e3:.1f} ms{each}"
    )


# Files


def check_path(path: Path) -> None:
    """Raise UsageError where results cannot be written: before anything is computed."""
    if path.suffix not in FORMATS:
        raise UsageError(
            f"cannot write {path.name}", hint="end its name in .json, in .npy for vectors, or in .npz for named arrays"
        )
    user_files.check_output(path)


def save(path: Path, known: Mapping[str, Any], answers: Any) -> None:
    """Write the whole file or nothing. Raises UsageError for answers that this format cannot hold, ResourceError."""
    user_files.save(path, FORMATS[path.suffix](known, answers))


def _json(known: Mapping[str, Any], answers: Any) -> bytes:
    return json.dumps({**known, "results": record(answers)}, ensure_ascii=False, allow_nan=False).encode()


def _npy(known: Mapping[str, Any], answers: Any) -> bytes:
    alone = isinstance(answers, list) and len(answers) == 1 and isinstance(answers[0], dict) and len(answers[0]) == 1
    if alone:  # one output of one input
        (answers,) = answers[0].values()
    arrays = answers if isinstance(answers, np.ndarray) else _stacked(answers)
    if arrays is None:
        raise UsageError(f"the answers of {known['task']} are not an array", hint="end the file's name in .json")
    buffer = io.BytesIO()
    np.save(buffer, arrays, allow_pickle=False)
    return buffer.getvalue()


def _npz(known: Mapping[str, Any], answers: Any) -> bytes:
    """Named arrays; those of the second input and on bear its number: `y.1`."""
    if not (isinstance(answers, list) and answers and all(isinstance(each, dict) for each in answers)):
        raise UsageError(f"the answers of {known['task']} have no names", hint="end the file's name in .npy or .json")
    named = {f"{name}.{n}" if n else name: array for n, each in enumerate(answers) for name, array in each.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


def _stacked(answers: Any) -> Any:
    """Arrays of one shape as one array, else None."""
    arrays = isinstance(answers, list) and answers and all(isinstance(each, np.ndarray) for each in answers)
    return np.stack(answers) if arrays and len({each.shape for each in answers}) == 1 else None


FORMATS: dict[str, Callable[[Mapping[str, Any], Any], bytes]] = {".json": _json, ".npy": _npy, ".npz": _npz}
