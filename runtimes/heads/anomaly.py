"""Scores of a recurrent model to anomalies: the scores above a threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import BundleError, InputError
from edgekit.results import Anomaly

from .. import settings as types
from . import _series
from ._series import check, last_or_all, names, restored
from ._series import compare as compare
from ._series import numbers as numbers

if TYPE_CHECKING:
    from edgekit.core import Floats


class Settings(_series.Settings):
    """What the bundle says of the scores. Above `threshold` one is flagged; None: none, unless the caller has one."""

    threshold: types.Number | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.outputs) != 1:
            raise ValueError(f"{len(self.outputs)} anomaly scores per sample, not one")


def open(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked. Raises BundleError."""
    if len(names(settings)) != 1:
        raise BundleError(
            f"{len(settings['outputs'])} anomaly scores per sample, not one", hint="export the model again"
        )
    threshold = settings.get("threshold")
    if threshold is not None and not _is_threshold(threshold):
        raise BundleError(f"threshold is {threshold!r}, not a score", hint="export the model again")
    return check(settings, 1)


def results(y: Floats, settings: Mapping[str, Any], *, threshold: float | None = None) -> list[Anomaly]:
    """Scores (n, 1) of n steps as Anomaly. `threshold` takes the place of the model's own.

    Raises InputError, VerificationError.
    """
    if threshold is not None and not _is_threshold(threshold):
        raise InputError(f"threshold is {threshold!r}", hint="give the score above which a sample is flagged")
    limit = settings.get("threshold") if threshold is None else threshold
    limit = math.inf if limit is None else limit
    return [Anomaly(score, score > limit) for score in restored(y, settings)[:, 0].tolist()]


def answers(
    numbers: Sequence[Floats],
    encodings: Sequence[object],
    settings: Mapping[str, Any],
    *,
    threshold: float | None = None,
) -> list[Any]:
    """For each series an Anomaly a sample, or one where it has one result. Raises InputError, VerificationError."""
    return [last_or_all(results(y, settings, threshold=threshold), settings) for y in numbers]


def _is_threshold(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
