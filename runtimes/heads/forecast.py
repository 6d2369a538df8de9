"""Outputs of a recurrent model to forecasts in physical units, with quantiles.

A result of the graph has horizon x outputs x quantiles numbers, the quantiles next to each other. `denormalize` has one
mean and deviation an output, or one for each of these numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from edgekit import limits
from edgekit.errors import BundleError
from edgekit.results import Forecast

from . import _series
from ._series import check, names, restored
from ._series import compare as compare
from ._series import numbers as numbers

if TYPE_CHECKING:
    from edgekit.core import Floats


class Settings(_series.Settings):
    """What the bundle says of the forecasts."""

    horizon: Annotated[int, msgspec.Meta(ge=1, le=limits.SETTING_ITEMS)] = 1  # steps ahead
    # The levels that the graph gives, rising; None: one number each, and no range
    quantiles: Annotated[list[Annotated[float, msgspec.Meta(gt=0, lt=1)]], msgspec.Meta(max_length=1000)] | None = None

    def __post_init__(self) -> None:
        levels = self.quantiles or []
        if levels != sorted(set(levels)):
            raise ValueError(f"quantiles are {levels!r:.200}, not rising")
        each = len(self.outputs)
        results = self.horizon * each * max(1, len(levels))
        if results > limits.SETTING_ITEMS:
            raise ValueError(f"a forecast has {results} numbers; {limits.SETTING_ITEMS} are allowed")
        if self.denormalize is not None:
            self.denormalize.check("denormalize", each, results)


def open(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked. Raises BundleError."""
    horizon, levels = settings.get("horizon", 1), settings.get("quantiles") or []
    if type(horizon) is not int or horizon < 1:
        raise BundleError(f"horizon is {horizon!r}, not a number of steps", hint="export the model again")
    rising = isinstance(levels, list) and all(type(level) is float and 0 < level < 1 for level in levels)
    if not rising or levels != sorted(set(levels)):
        raise BundleError(f"quantiles are {levels!r}, not levels from 0 to 1, rising", hint="export the model again")
    each, outputs = max(1, len(levels)), len(names(settings))
    known = {**settings, "horizon": horizon, "quantiles": levels}
    known["denormalize"] = _repeated(settings.get("denormalize"), outputs, each, horizon)
    return check(known, horizon * outputs * each)


def results(y: Floats, settings: Mapping[str, Any]) -> list[Forecast]:
    """A Forecast for each of n steps, from results (n, horizon x outputs x quantiles). Raises VerificationError."""
    levels, shape = settings["quantiles"], (len(y), settings["horizon"], len(settings["outputs"]), -1)
    return [_forecast(row, levels) for row in restored(y, settings).reshape(shape)]


def answers(numbers: Sequence[Floats], encodings: Sequence[object], settings: Mapping[str, Any]) -> list[Forecast]:
    """For each series what comes after its end. Raises VerificationError."""
    return [results(y[-1:], settings)[0] for y in numbers]


def _forecast(row: Floats, levels: Sequence[float]) -> Forecast:
    """From (horizon, outputs, quantiles)."""
    if not levels:
        return Forecast(row[..., 0])
    median = min(range(len(levels)), key=lambda place: abs(levels[place] - 0.5))
    low, high = (row[..., 0], row[..., -1]) if len(levels) > 1 else (None, None)
    return Forecast(row[..., median], low, high, {level: row[..., place] for place, level in enumerate(levels)})


def _repeated(told: Any, outputs: int, each: int, horizon: int) -> Any:
    """What is said of each output, said of each result; anything else as it is."""
    try:
        if any(len(told[part]) != outputs for part in ("mean", "std")):
            return told
        return {part: np.tile(np.repeat(told[part], each), horizon).tolist() for part in ("mean", "std")}
    except (TypeError, KeyError):
        return told
