"""Sample series to judge a recurrent model's bundle on: waves with noise, or the user's CSV file.

A few short ones, which a bundle keeps with their answers, then some of STEPS steps: what rounding does to a state adds
up from step to step, so a quantized model is judged by the last LATE of these. A series is float64 (time, features),
NaN where a number is missing. Knows nothing of any model but its settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import limits
from edgekit.bundle import user_files
from edgekit.errors import InputError, UsageError

from ..ingest.csv_table import Table

if TYPE_CHECKING:
    from edgekit.core import Array

STEPS, LATE = 1000, 100
SHORT = (1, 2, 3, 7, 16, 33, 64, 100)  # as many as a bundle keeps goldens
WAVES, MOST = 4, 16  # long series: made, and cut from a user's file
SEED = 0
NUMBERS = 50_000  # of the short series, at most: a bundle keeps them


def waves(settings: Mapping[str, Any]) -> list[Array]:
    """Each feature two sines and noise around its mean, of about its deviation (`normalize`, else 0 and 1)."""
    count = len(settings["features"])
    scale = settings.get("normalize") or {"mean": [0.0] * count, "std": [1.0] * count}
    random, steps, found = np.random.default_rng(SEED), np.arange(STEPS)[:, None], list[Any]()
    for length in (*_shortened(count), *[STEPS] * WAVES):
        periods, phases = random.uniform(5, 200, (2, count)), random.uniform(0, 2 * np.pi, (2, count))
        slow, fast = np.sin(2 * np.pi * steps / periods[:, None] + phases[:, None])
        made = (0.9 * slow + 0.7 * fast + 0.5 * random.normal(size=(STEPS, count)))[:length]
        found.append(made * scale["std"] + scale["mean"])
    return found


def _shortened(features: int) -> list[int]:
    """The lengths SHORT, the longest cut where series of so many features would hold more than NUMBERS."""
    rows, most = NUMBERS // features, max(SHORT)
    while most > 1 and sum(min(length, most) for length in SHORT) > rows:
        most -= 1
    return [min(length, most) for length in SHORT]


def read(file: Path, features: Sequence[str], option: str = "--calibration") -> list[Array]:
    """The user's own, as `edgekit run` reads them; besides, an empty line ends a series. One that is shorter than STEPS
    is repeated. `option`: that they came with, for messages.

    Raises UsageError for what is no such file, naming the line.
    """
    series, end = list[list[Any]](), -1
    try:
        table = Table(iter(_lines(file, option)), features)
        for _, row in table:
            if table.line != end + 1:
                series.append([])
            end = table.line
            if any(map(math.isinf, row)):
                raise UsageError(f"{file.name}, line {end}: a number is infinite", hint="leave missing values empty")
            series[-1].append(row)
    except InputError as error:
        raise UsageError(f"{file.name}, {error}", hint=error.hint) from error
    if not series:
        raise UsageError(f"{file.name} has no samples", hint=f"write one row per step: {','.join(features)}")
    whole = [np.array(rows, np.float64) for rows in series]
    return [*_short(whole), *_long(whole)]


def late(items: Sequence[Any], answers: Sequence[Array]) -> list[Array]:
    """The last LATE results (or the one at the end) of the series that are long enough for an error to add up; all
    results where no series is."""
    found = [answer[-LATE:] for item, answer in zip(items, answers, strict=True) if len(item) >= STEPS]
    return found or list(answers)


def _lines(file: Path, option: str) -> list[str]:
    data = user_files.read_input(file, limits.CALIBRATION_BYTES, f"give a CSV file to {option}")
    try:
        return data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file.name} is not a CSV file: {error}", hint="write one row per step and one column per feature"
        ) from error


def _short(series: Sequence[Array]) -> Iterable[Array]:
    """Beginnings of the user's series, one after the other."""
    lengths = enumerate(_shortened(len(series[0][0])))
    return (_repeated(series[number % len(series)], length)[:length] for number, length in lengths)


def _long(series: Sequence[Array]) -> list[Array]:
    """Pieces of STEPS steps, each series' first before any second."""
    whole = [_repeated(rows, STEPS) for rows in series]
    longest = max(map(len, whole))
    pieces = (rows[at : at + STEPS] for at in range(0, longest - STEPS + 1, STEPS) for rows in whole)
    return [piece for piece in pieces if len(piece) == STEPS][:MOST]


def _repeated(rows: Array, length: int) -> Array:
    return np.tile(rows, (-(-length // len(rows)), 1))
