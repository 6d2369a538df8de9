"""The result of one sample of a series, as a row of CSV with named columns, and as a JSON object.

One function per type of result, chosen by the type.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from edgekit.results import Anomaly, Forecast
from edgekit.text_table import plain


def csv_line(row: Sequence[str]) -> str:
    """One line of CSV with its line feed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()


@singledispatch
def cells(result: Any) -> list[str]:
    """The result of a sample as cells of CSV."""
    return [str(number) for number in result]


@cells.register
def _(result: Anomaly) -> list[str]:
    return [f"{result.score:.7g}", str(result.flagged).lower()]


@cells.register
def _(result: Forecast) -> list[str]:
    parts = [result.values] if result.low is None or result.high is None else [result.values, result.low, result.high]
    return [str(number) for row in zip(*(part.ravel() for part in parts)) for number in row]


@cells.register
def _(result: list) -> list[str]:  # type: ignore[type-arg]
    """The best label."""
    return [result[0].label, f"{result[0].score:.7g}"]


@singledispatch
def columns(result: Any, settings: Mapping[str, Any]) -> list[str]:
    """The names of `cells`; `settings` names the model's outputs."""
    return list(settings["outputs"])


@columns.register
def _(result: Anomaly, settings: Mapping[str, Any]) -> list[str]:
    return ["score", "flagged"]


@columns.register
def _(result: list, settings: Mapping[str, Any]) -> list[str]:  # type: ignore[type-arg]
    return ["label", "score"]


@columns.register
def _(result: Forecast, settings: Mapping[str, Any]) -> list[str]:
    steps, outputs = len(result.values), settings["outputs"]
    ahead = [name if steps == 1 else f"{name}+{step}" for step in range(1, steps + 1) for name in outputs]
    parts = ("",) if result.low is None else ("", ".low", ".high")
    return [f"{name}{part}" for name in ahead for part in parts]


@singledispatch
def record(result: Any, settings: Mapping[str, Any]) -> Any:
    """The result of a sample of a series as a JSON object."""
    return plain(result)


@record.register
def _(result: list, settings: Mapping[str, Any]) -> Any:  # type: ignore[type-arg]
    return {"label": result[0].label, "score": plain(result[0].score), "labels": plain(result)}


@record.register
def _(result: np.ndarray, settings: Mapping[str, Any]) -> Any:
    return dict(zip(settings["outputs"], plain(result)))
