"""Logits of a recurrent model to labels with scores, per step or per series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.core import Measure
from edgekit.results import Label

from .. import settings as types
from . import _series, classes
from ._series import check, last_or_all, restored
from ._series import numbers as numbers

if TYPE_CHECKING:
    from edgekit.core import Floats


class Settings(_series.Settings, kw_only=True):
    """What the bundle says of the labels; `problem` is that of `classes`."""

    labels: types.Labels
    problem: Literal["single", "multi", "regression"] = "single"


def open(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked. Raises BundleError."""
    found = classes.open(folder, {"output": "y", **settings})
    return check({**found, "denormalize": None}, len(found["labels"]))


def results(y: Floats, settings: Mapping[str, Any], *, top_k: int | None = None) -> list[list[Label]]:
    """For each of n steps, logits (n, labels), all labels or the `top_k` best, best first.

    Raises InputError if `top_k` is below one, VerificationError for a logit that is not finite.
    """
    return classes.answers(restored(y, settings), (), settings, top_k=top_k)


def answers(
    numbers: Sequence[Floats], encodings: Sequence[object], settings: Mapping[str, Any], *, top_k: int | None = None
) -> list[Any]:
    """For each series a list of Label, best first; where each step has one, a list of these. Raises as `results`."""
    return [last_or_all(results(y, settings, top_k=top_k), settings) for y in numbers]


def compare(
    reference: Sequence[Floats], candidate: Sequence[Floats], settings: Mapping[str, Any] | None = None
) -> Measure:
    """The share of results with the same answer, as `classes.compare` has it, over all steps of all series."""
    return classes.compare(np.concatenate(list(reference)), np.concatenate(list(candidate)), settings)
