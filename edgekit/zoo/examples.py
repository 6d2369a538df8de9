"""A few of a zoo model's answers to its held-out inputs, as a person reads them: by the metric, never by the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.reporting.record import Example

if TYPE_CHECKING:
    from edgekit.zoo import HeldOut

SHOWN, WRONG = 6, 3  # examples, and how many of them may be wrong answers


def labels(test: HeldOut, answers: Sequence[str]) -> list[Example]:
    rows = zip(test.inputs, test.expected, answers, strict=True)
    return [Example(text, wanted, got, wanted == got) for text, wanted, got in rows]


def nearest(test: HeldOut, vectors: Any) -> list[Example]:
    """The passage nearest to each query by cosine, as `edgekit.zoo.metrics.recall_at_1` has it."""
    vectors, count = np.asarray(vectors), len(test.expected)
    closest = (vectors[:count] @ vectors[count:].T).argmax(axis=1) + count
    rows = zip(test.inputs, test.expected, closest.tolist())
    return [Example(text, test.inputs[wanted], test.inputs[got], wanted == got) for text, wanted, got in rows]


def spans(test: HeldOut, answers: Sequence[Sequence[tuple[int, int, str]]]) -> list[Example]:
    rows = []
    for text, wanted, got in zip(test.inputs, test.expected, answers, strict=True):
        marks = tuple((start, end) for start, end, _ in got)
        rows.append(Example(text, _spans(text, wanted), _spans(text, got), set(wanted) == set(got), marks))
    return rows


# Metric -> every held-out input with what is right and what was answered.
EXAMPLES: dict[str, Callable[[HeldOut, Any], list[Example]]] = {
    "accuracy": labels,
    "exact_match": labels,
    "recall@1": nearest,
    "span_f1": spans,
}


def choose(examples: Sequence[Example]) -> list[Example]:
    """A few to show, from all over the texts; some of the wrong ones, if there are any, come last."""
    wrong = _spread([example for example in examples if not example.right], WRONG)
    return [*_spread([example for example in examples if example.right], SHOWN - len(wrong)), *wrong]


def _spans(text: str, spans: Sequence[tuple[int, int, str]]) -> str:
    return ", ".join(f"{text[start:end]} ({label.lower()})" for start, end, label in spans) or "none"


def _spread(rows: Sequence[Example], count: int) -> list[Example]:
    """`count` of them, as far apart as they lie."""
    if len(rows) <= count:
        return list(rows)
    return [rows[at * len(rows) // count] for at in range(count)]
