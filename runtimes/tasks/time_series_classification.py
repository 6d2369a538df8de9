"""Time series classification: labels with scores for each sample or series: faults, gestures, activities."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from ..heads import labels
from ._series import STREAMED, SeriesModel

ALIASES = ("series-classification",)


class TimeSeriesClassification(SeriesModel):
    """Series to labels with scores."""

    METHODS = ("classify", *STREAMED)
    head: ClassVar[ModuleType] = labels

    def classify(self, series: Any, *, top_k: int | None = None, timestamps: Any = None) -> Any:
        """Classify series: labels with scores, best first; a list for one series, a list of lists for several.

        Where each sample has a result, a list of these lists. `timestamps`, seconds or datetime64 (time,), for each a
        series: it is resampled to the model's rate. Raises InputError naming row and column.
        """
        return self._read(series, timestamps, top_k=top_k)
