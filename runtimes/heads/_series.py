"""What the heads of recurrent models share: results per row in physical units, and their comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.core import Measure
from edgekit.errors import BundleError, VerificationError

from .. import settings as types
from ..ingest.series import scale

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays, Floats

    from ..ingest.series import SeriesBatch

PER = ("step", "end")


class Settings(types.Settings):
    """What the bundle says of the results."""

    outputs: types.Names  # of the results
    per: Literal["step", "end"]  # "step": each sample has a result; "end": what was fed has one
    denormalize: types.Scale | None = None  # `std` multiplies results, `mean` is added then

    def __post_init__(self) -> None:
        if self.denormalize is not None:
            self.denormalize.check("denormalize", len(self.outputs))


def check(settings: Mapping[str, Any], results: int) -> dict[str, Any]:
    """The settings of a graph with so many results, `denormalize` as arrays of as many. Raises BundleError."""
    if settings.get("per") not in PER:
        raise BundleError(f"per is {settings.get('per')!r}, not one of {', '.join(PER)}", hint="export the model again")
    return {**settings, "results": results, "denormalize": scale(settings, "denormalize", results)}


def names(settings: Mapping[str, Any]) -> list[str]:
    """What `outputs` names. Raises BundleError."""
    found = settings.get("outputs")
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise BundleError("the settings name no outputs", hint="export the model again")
    return found


def numbers(outputs: Arrays, batch: SeriesBatch, settings: Mapping[str, Any]) -> list[Floats]:
    """The results of each row of the batch as the graph gives them: float32 (time or 1, n). Raises BundleError."""
    y = outputs["y"].astype(np.float32, copy=False)
    wanted = 3 if settings["per"] == "step" else 2
    if y.ndim != wanted or y.shape[-1] != settings["results"]:
        raise BundleError(
            f"the graph gives results of shape {list(y.shape)}, and the bundle states {settings['results']} per "
            f"{'step' if wanted == 3 else 'series'}",
            hint="export the model again",
        )
    if wanted == 2:
        return [row[None] for row in y]
    return [row[:length] for row, length in zip(y, batch.lengths)]


def restored(y: Floats, settings: Mapping[str, Any]) -> Floats:
    """Results (…, n) in the user's units. Raises VerificationError for one that is not finite."""
    if not is_finite(y):
        raise VerificationError(
            "the model gave a number that is not finite", hint="reset() the stream; run `edgekit verify` on the bundle"
        )
    if settings["denormalize"] is None:
        return y
    mean, std = settings["denormalize"]
    found: Floats = (y * std + mean).astype(np.float32)
    return found


def is_finite(y: Floats) -> bool:
    """Of few numbers a product tells it in a quarter of the time, unless it is too large for float32."""
    flat = y.ravel()
    return math.isfinite(np.dot(flat, flat)) or bool(np.isfinite(y).all())


def compare(
    reference: Sequence[Array], candidate: Sequence[Array], settings: Mapping[str, Any] | None = None
) -> Measure:
    """The mean absolute difference by the reference's mean size, over all results; infinite where one is not finite."""
    a, b = (np.concatenate([np.asarray(row, np.float64) for row in rows]) for rows in (reference, candidate))
    error = float(np.abs(a - b).mean() / max(float(np.abs(a).mean()), 1e-12))
    error = error if np.isfinite(error) else float("inf")
    return Measure("relative error", error, error)


def last_or_all(found: Any, settings: Mapping[str, Any]) -> Any:
    """What a whole series is answered: the results of all steps, or the one that there is."""
    return found if settings["per"] == "step" else found[-1]
