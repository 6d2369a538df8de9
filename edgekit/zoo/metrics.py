"""The exact metrics of the zoo: from what is expected and what a model answered to a number from 0 to 1, 1 is best.

Knows no model. numpy only for vectors, inside the function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import singledispatch
from typing import Any

from edgekit.results import Forecast, Label, Result

Span = tuple[int, int, str]  # start and end in characters, label


def accuracy(expected: Sequence[str], answers: Sequence[str]) -> float:
    """How many labels are right, of one label per input."""
    return sum(want == got for want, got in zip(expected, answers, strict=True)) / len(expected)


def exact_match(expected: Sequence[str], answers: Sequence[str]) -> float:
    """How many texts are right to the letter: neither case nor spaces nor hyphens are forgiven."""
    return accuracy(expected, answers)


def span_f1(expected: Sequence[Iterable[Span]], answers: Sequence[Iterable[Span]]) -> float:
    """Micro-averaged F1 of exact spans, as CoNLL-2003 counts: 2 * right / (expected + given).

    One row of spans per input. A span that is given twice counts once.
    """
    wanted = [{tuple(span) for span in row} for row in expected]
    given = [{tuple(span) for span in row} for row in answers]
    right = sum(len(want & got) for want, got in zip(wanted, given, strict=True))
    total = sum(map(len, wanted)) + sum(map(len, given))
    return 2 * right / total if total else 1.0


def recall_at_1(expected: Sequence[int], answers: Any) -> float:
    """How many queries lie nearest, by cosine, to the row that they belong to.

    `answers` has shape (queries + passages, width); `expected[i]` is the row that belongs to row i. A query that is
    as near to another passage as to its own is wrong: a model whose vectors are all alike scores 0, and so does NaN.
    """
    import numpy as np

    vectors = np.asarray(answers, dtype=np.float64)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    queries, passages = vectors[: len(expected)], vectors[len(expected) :]
    nearness = queries @ passages.T
    rows, own = np.arange(len(expected)), np.asarray(expected) - len(expected)
    best = nearness[rows, own]
    nearness[rows, own] = -np.inf
    return float(np.mean(best > nearness.max(axis=1)))


def step_accuracy(expected: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]) -> float:
    """How many labels are right, of one label per step of each input."""
    pairs = [pair for want, got in zip(expected, answers, strict=True) for pair in zip(want, got, strict=True)]
    return sum(want == got for want, got in pairs) / len(pairs)


def r2(expected: Sequence[Sequence[float]], answers: Sequence[Sequence[float]]) -> float:
    """The coefficient of determination over all numbers: 1 less the squared error by the squared distance from the
    mean. 1 is right, 0 as good as saying the mean, and what is worse, NaN too, counts as 0."""
    pairs = [pair for want, got in zip(expected, answers, strict=True) for pair in zip(want, got, strict=True)]
    mean = sum(want for want, _ in pairs) / len(pairs)
    error, spread = sum((want - got) ** 2 for want, got in pairs), sum((want - mean) ** 2 for want, _ in pairs)
    return 1 - error / spread if error < spread else 0.0


def answers(results: Iterable[Any]) -> list[Any]:
    """What a task's method returned for each input, as the metrics take it: labels, spans, texts, numbers."""
    return [_answer(result) for result in results]


@singledispatch
def _answer(result: Any) -> Any:
    return result


@_answer.register
def _(result: Result) -> str:
    return result.text


@_answer.register
def _(result: Forecast) -> list[float]:
    numbers: list[float] = result.values[:, 0].tolist()
    return numbers


@_answer.register
def _(result: list) -> Any:  # type: ignore[type-arg]
    """Labels, best first; spans; or a list of labels for each step."""
    first = result[0] if result else None
    if isinstance(first, Label):
        return first.label
    if isinstance(first, list):
        return [labels[0].label for labels in result]
    return [(span.start, span.end, span.label) for span in result]


METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "span_f1": span_f1,
    "recall@1": recall_at_1,
    "step_accuracy": step_accuracy,
    "r2": r2,
}
