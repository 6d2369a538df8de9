"""Anomaly detection: a score for each sample of a series, and whether it is above the threshold."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from ..heads import anomaly
from ._series import STREAMED, SeriesModel

ALIASES = ("time-series-anomaly-detection",)


class AnomalyDetection(SeriesModel):
    """Series to anomaly scores."""

    METHODS = ("detect_anomalies", *STREAMED)
    head: ClassVar[ModuleType] = anomaly

    def detect_anomalies(self, series: Any, *, threshold: float | None = None, timestamps: Any = None) -> Any:
        """Score each sample of a series: a list of Anomaly, or one Anomaly where only the end has a score.

        `threshold` takes the place of the model's own. `timestamps`, seconds or datetime64 (time,), for each a series:
        it is resampled to the model's rate. Raises InputError naming row and column.
        """
        return self._read(series, timestamps, threshold=threshold)
