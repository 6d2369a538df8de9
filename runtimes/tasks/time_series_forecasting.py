"""Time series forecasting: the next samples of a series, with quantiles where the model has them."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from ..heads import forecast
from ._series import STREAMED, SeriesModel

ALIASES = ("forecasting", "forecast")


class TimeSeriesForecasting(SeriesModel):
    """Series to what comes after them."""

    METHODS = ("forecast", *STREAMED)
    head: ClassVar[ModuleType] = forecast

    def forecast(self, series: Any, *, timestamps: Any = None) -> Any:
        """Forecast a series: a Forecast of float32 (horizon, outputs); a list of them for several series.

        `timestamps`, seconds or datetime64 (time,), for each a series: it is resampled to the model's rate.
        Raises InputError for what is not a series of this model, naming row and column.
        """
        return self._read(series, timestamps)
