"""What a model of the zoo answers to its held-out inputs: as the zoo's metric wants it, and as a person reads it.

One entry a task in `ANSWER` and in `TELL`. Knows the fields of what the heads give; counts and times nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.reporting.record import Example

if TYPE_CHECKING:
    from edgekit.model import Model
    from edgekit.zoo import HeldOut

EXAMPLES, WRONG = 6, 3  # shown, and how many of them may be wrong answers

# What a model answers to each text, or to each series, in the form that the zoo's metric takes.
ANSWER: dict[str, Callable[[Model, Sequence[Any]], Any]] = {
    "text-classification": lambda model, texts: [found[0].label for found in model.classify(texts)],
    "feature-extraction": lambda model, texts: model.embed(texts),
    "token-classification": lambda model, texts: [
        [(span.start, span.end, span.label) for span in found] for found in model.tag(texts)
    ],
    "text-generation": lambda model, texts: [found.text for found in model.run(texts)],
    "time-series-classification": lambda model, series: [
        [step[0].label for step in found] for found in model.classify(list(series), top_k=1)
    ],
    "time-series-forecasting": lambda model, series: [
        found.values[:, 0].tolist() for found in model.forecast(list(series))
    ],
}


def tell_labels(test: HeldOut, answers: Sequence[str]) -> list[Example]:
    rows = zip(test.inputs, test.expected, answers, strict=True)
    return [Example(text, wanted, got, wanted == got) for text, wanted, got in rows]


def tell_nearest(test: HeldOut, vectors: Any) -> list[Example]:
    """The passage nearest to each query by cosine, as `edgekit.zoo.metrics.recall_at_1` has it."""
    count = len(test.expected)
    nearest = (vectors[:count] @ vectors[count:].T).argmax(axis=1) + count
    rows = zip(test.inputs, test.expected, nearest.tolist())
    return [Example(text, test.inputs[wanted], test.inputs[got], wanted == got) for text, wanted, got in rows]


def tell_spans(test: HeldOut, answers: Sequence[Sequence[tuple[int, int, str]]]) -> list[Example]:
    told = []
    for text, wanted, got in zip(test.inputs, test.expected, answers, strict=True):
        marks = tuple((start, end) for start, end, _ in got)
        told.append(Example(text, _spans(text, wanted), _spans(text, got), set(wanted) == set(got), marks))
    return told


TELL: dict[str, Callable[[HeldOut, Any], list[Example]]] = {
    "text-classification": tell_labels,
    "feature-extraction": tell_nearest,
    "token-classification": tell_spans,
    "text-generation": tell_labels,
}


def choose(told: Sequence[Example]) -> list[Example]:
    """A few to show, from all over the texts; some of the wrong ones, if there are any, come last."""
    wrong = _spread([example for example in told if not example.right], WRONG)
    return [*_spread([example for example in told if example.right], EXAMPLES - len(wrong)), *wrong]


def _spans(text: str, spans: Sequence[tuple[int, int, str]]) -> str:
    return ", ".join(f"{text[start:end]} ({label.lower()})" for start, end, label in spans) or "none"


def _spread(rows: Sequence[Example], count: int) -> list[Example]:
    """`count` of them, as far apart as they lie."""
    if len(rows) <= count:
        return list(rows)
    return [rows[at * len(rows) // count] for at in range(count)]
