"""The zoo: tiny models that were really trained, with the data that they never saw and their exact metric.

    folder = zoo.folder("parity")                              # a standard Hugging Face folder
    test = zoo.heldout("parity", "text-classification")
    zoo.score(test, [label_of(text) for text in test.inputs])  # 1.0 where every answer is right

Each model is a folder here, with the recipe that made it (`python -m edgekit.zoo.parity.recipe`), `heldout.json`
and `card.json`. Reads files and counts right answers; runs no model and knows no architecture. Only the recipes and
`_training.py` import torch, inside functions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bundle import user_files
from edgekit.errors import InputError, SourceError
from edgekit.registry import suggest
from edgekit.zoo.metrics import METRICS

if TYPE_CHECKING:
    from edgekit.core import Floats

_HOME = Path(__file__).parent
PICTURE = "data:image/"  # how an input begins that is a picture


@dataclass(frozen=True)
class HeldOut:
    """One task of one model: inputs that its training never saw, and what is right.

    One answer per input, as `edgekit.zoo.metrics` says for each metric: its label, its spans, its vector, its text, its
    steps' labels, or its numbers. An input is a text, a series (a row of features for each step), or a picture (the
    `data:` URL of a PNG).
    """

    model: str
    task: str  # "feature-extraction", "text-classification", "time-series-forecasting", …
    metric: str  # one of `edgekit.zoo.metrics.METRICS`; always 0 to 1, higher is better
    inputs: tuple[Any, ...]
    expected: tuple[Any, ...]
    calibration: tuple[Any, ...]  # training inputs, for quantizers: neither in `inputs` nor made from held-out numbers
    trained: float  # the metric of the float32 weights under torch, as the recipe measured it


@dataclass(frozen=True)
class Card:
    """What a zoo model does, and the size of its weights in bytes. `name` is what `edgekit export` takes."""

    name: str
    description: str
    bytes: int


def cards() -> list[Card]:
    """Every model of the zoo, from its card.json."""
    read = {name: _read(name, "card.json") for name in names()}
    return [Card(f"zoo:{name}", card["what"], card["weights"]["bytes"]) for name, card in read.items()]


def names() -> list[str]:
    """Every model of the zoo."""
    return sorted(config.parent.name for config in _HOME.glob("*/config.json"))


def folder(name: str) -> Path:
    """The Hugging Face folder of a zoo model. Raises SourceError if there is none of that name."""
    if name not in names():
        hint = suggest(name, names()) or f"the zoo has: {', '.join(names())}"
        raise SourceError(f"no model named {name!r} in the zoo", hint=hint)
    return _HOME / name


def tasks(name: str) -> list[str]:
    """What a zoo model was trained and tested for, its first task first."""
    return list(_read(name, "heldout.json")["tasks"])


def heldout(name: str, task: str = "") -> HeldOut:
    """The held-out data of a zoo model for `task`; its first task if none is named.

    Raises SourceError for an unknown model, or a task that the model was not trained for.
    """
    data = _read(name, "heldout.json")
    task = task or next(iter(data["tasks"]))
    if task not in data["tasks"]:
        raise SourceError(f"zoo:{name} was not trained for {task!r}", hint=f"its tasks: {', '.join(data['tasks'])}")
    chosen = data["tasks"][task]
    return HeldOut(
        model=name,
        task=task,
        metric=chosen["metric"],
        inputs=_frozen(data["inputs"]),
        expected=tuple(_frozen(row) for row in chosen["expected"]),
        calibration=_frozen(data["calibration"]),
        trained=_read(name, "card.json")["measured"][task],
    )


def score(on: HeldOut, answers: Sequence[Any] | Floats) -> float:
    """`on.metric` of a model's answers, one per input; for "recall@1" a float array of shape (inputs, width).

    Raises InputError if their number is not that of the inputs.
    """
    if len(answers) != len(on.inputs):
        raise InputError(
            f"{len(answers)} answers for {len(on.inputs)} held-out inputs of zoo:{on.model}",
            hint="give one answer per input, in the inputs' order",
        )
    return METRICS[on.metric](on.expected, answers)


def write_calibration(test: HeldOut, path: Path) -> None:
    """Write the calibration inputs where `--calibration` reads them: a text a line, or a folder of pictures."""
    if not test.calibration[0].startswith(PICTURE):
        user_files.save(path, "\n".join(test.calibration).encode())
        return
    path.mkdir(exist_ok=True)
    for number, picture in enumerate(test.calibration):
        head, _, data = picture.partition(";base64,")
        name = f"{number:03}.{head.removeprefix(PICTURE)}"
        user_files.save(path / name, base64.b64decode(data, validate=True))


def _read(name: str, file: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder(name) / file).read_text(encoding="utf-8"))
    return read


def _frozen(row: Any) -> Any:
    """Lists as JSON has them, as tuples: held-out data is shared, and spans are compared as sets."""
    return tuple(_frozen(item) for item in row) if isinstance(row, list) else row
