"""Time series regression: numbers for each sample or series: a hidden quantity, a control signal."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from ..heads import values
from ._series import STREAMED, SeriesModel

ALIASES = ("series-regression",)


class TimeSeriesRegression(SeriesModel):
    """Series to numbers."""

    METHODS = ("predict", *STREAMED)
    head: ClassVar[ModuleType] = values

    def predict(self, series: Any, *, timestamps: Any = None) -> Any:
        """Predict numbers for a series: float32 (time, outputs), or (outputs,) where only the end has a result.

        `timestamps`, seconds or datetime64 (time,), for each a series: it is resampled to the model's rate.
        Raises InputError for what is not a series of this model, naming row and column.
        """
        return self._read(series, timestamps)
