"""Logits to labels with scores, or to one relevance score per pair.

Equal to transformers' text-classification pipeline and to sentence-transformers' CrossEncoder. Knows nothing of the
input: a picture's logits are answered the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.core import Measure
from edgekit.errors import BundleError, UnsupportedError
from edgekit.results import Label, Ranked

from .. import arguments
from .. import settings as types

if TYPE_CHECKING:
    from edgekit.core import Arrays, Floats
    from edgekit.session import Batch

    Rows = Floats | Sequence[Floats]  # (n, labels), or n times (labels,)

PROBLEMS = ("single", "multi", "regression")
ACTIVATIONS = ("sigmoid", "identity")


class Settings(types.Settings):
    """What the bundle says of the labels."""

    output: types.Name  # of the graph: logits (B, n)
    labels: types.Labels  # by id
    # softmax (a sigmoid where there is one label), a sigmoid each, or the number itself
    problem: Literal["single", "multi", "regression"] = "single"
    # What `rerank` does to the logit; a sigmoid, as CrossEncoder with one label
    activation: Literal["sigmoid", "identity"] = "sigmoid"


def open(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked. Raises BundleError."""
    check_labels(settings)
    for name, default, known in (("problem", "single", PROBLEMS), ("activation", "sigmoid", ACTIVATIONS)):
        if settings.get(name, default) not in known:
            raise BundleError(f"{name} is {settings[name]!r}, not one of {', '.join(known)}")
    return dict(settings)


def numbers(outputs: Arrays, batch: Batch, settings: Mapping[str, Any]) -> Floats:
    """The logits, one row a row of the batch: float32 (B, n). Raises BundleError if there are not as many as labels."""
    logits = outputs[settings["output"]].astype(np.float32, copy=False).reshape(len(batch.rows), -1)
    if logits.shape[1] != len(settings["labels"]):
        raise BundleError(f"the graph gives {logits.shape[1]} scores, and the bundle names {len(settings['labels'])}")
    return logits


def answers(
    numbers: Rows, encodings: Sequence[object], settings: Mapping[str, Any], *, top_k: int | None = None
) -> list[list[Label]]:
    """For each text all labels, or the `top_k` best, best first. Raises InputError if `top_k` is below one."""
    check_top_k(top_k)
    labels = settings["labels"]
    if len(numbers) == 0:
        return []
    scores = _scores(np.asarray(numbers, np.float32), settings.get("problem", "single"))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    best = np.take_along_axis(scores, order, axis=1)
    return [[Label(labels[i], score) for i, score in zip(*row)] for row in zip(order.tolist(), best.tolist())]


def rerank(numbers: Rows, settings: Mapping[str, Any], *, top_k: int | None = None) -> list[Ranked]:
    """All documents, or the `top_k` best, best first, from the logits of the pairs (query, document).

    As CrossEncoder.rank with a model of one label. Raises UnsupportedError if the model has more than one.
    """
    if len(settings["labels"]) != 1:
        raise UnsupportedError(
            f"rerank needs a model with one score per pair, and this one has {len(settings['labels'])}",
            hint="use classify on pairs",
        )
    logits = np.asarray(numbers, np.float32).reshape(-1)
    return ranked(sigmoid(logits) if settings.get("activation", "sigmoid") == "sigmoid" else logits, top_k)


def ranked(scores: Floats, top_k: int | None) -> list[Ranked]:
    """The positions of the `top_k` highest scores (n,), or of all, highest first. Raises InputError below one."""
    check_top_k(top_k)
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Ranked(index, score) for index, score in zip(order.tolist(), scores[order].tolist())]


def compare(reference: Rows, candidate: Rows, settings: Mapping[str, Any] | None = None) -> Measure:
    """The share of texts that get the same answer; loss is the share that does not.

    Same answer: the best label; for "multi" the same set of labels above one half. Where there is one number only, a
    regression or a reranker's, agreement says nothing: the loss is then the mean absolute difference by the
    reference's mean size. (A correlation would forgive a wrong scale, and means nothing on a handful of texts.)
    """
    a, b = np.asarray(reference, np.float32), np.asarray(candidate, np.float32)
    problem = (settings or {}).get("problem", "single")
    if problem == "regression" or a.shape[1] == 1:
        error = float(np.abs(a - b).mean() / max(float(np.abs(a).mean()), 1e-12))
        error = error if np.isfinite(error) else 1.0
        return Measure("relative error", error, error)
    same = np.all((a > 0) == (b > 0), axis=1) if problem == "multi" else a.argmax(axis=1) == b.argmax(axis=1)
    agreement = float((same & np.isfinite(b).all(axis=1)).mean())
    return Measure("label agreement", agreement, 1.0 - agreement)


def check_labels(settings: Mapping[str, Any]) -> None:
    """Raises BundleError if the settings do not name labels and the output that scores them."""
    labels = settings.get("labels")
    if not labels or not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise BundleError("the settings name no labels", hint="export the model again")
    if not isinstance(settings.get("output"), str):
        raise BundleError("the settings do not say which output holds the logits", hint="export the model again")


def check_top_k(top_k: int | None) -> None:
    """Raises InputError if `top_k` is not a whole number from one, or None."""
    arguments.count(top_k, "top_k", "give a number of answers from 1, or None for all")


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) by tanh, which cannot overflow."""
    shares: Floats = np.float32(0.5) * (np.tanh(np.float32(0.5) * logits) + np.float32(1))
    return shares


def softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = exp / exp.sum(axis=-1, keepdims=True)
    return shares


def _scores(logits: Floats, problem: str) -> Floats:
    if problem == "regression":
        return logits
    if problem == "multi" or logits.shape[1] == 1:
        return sigmoid(logits)
    return softmax(logits)
