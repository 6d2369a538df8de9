"""Resample samples with timestamps to a fixed rate, by linear interpolation.

The grid begins at the first sample's time. Whole series and streams go by the same formula, so they give the same
numbers. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import limits
from edgekit.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

NEAR = 1e-3  # of the time between two samples: a time that is rounded still falls on the grid


def seconds(times: Any, count: int, what: str) -> Doubles:
    """Timestamps (count,), in seconds or as datetime64, as seconds. Raises InputError naming the row that is wrong."""
    found = np.asarray(times)
    if found.dtype.kind == "M":
        since = found - found[:1]
        found = np.where(np.isnat(since), np.nan, since / np.timedelta64(1, "s"))
    if found.dtype.kind not in "fiu" or found.shape != (count,):
        raise InputError(
            f"{what} has {count} samples, and timestamps {found.dtype.name} {list(found.shape)}",
            hint="give seconds or a datetime64 for each sample",
        )
    found = found.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(found) | (np.diff(found, prepend=-np.inf) <= 0))
    if len(wrong):
        raise _unordered(what, int(wrong[0]), found[wrong[0]], found[wrong[0] - 1] if wrong[0] else -math.inf)
    return found


def resampled(x: Doubles, times: Doubles, rate: float, what: str) -> Doubles:
    """(n, F) at increasing `times` (n,) to (m, F) at `rate` a second. Raises InputError for more than can be held."""
    count = _reaches((times[-1] - times[0]) * rate) + 1
    _check_count(count, what)
    if len(x) == 1:
        return x.copy()
    since, places = times - times[0], np.arange(count)
    # The sample that brings a place: the first to reach it, by the very rounding that a stream has.
    after = np.searchsorted(np.floor(since * rate + NEAR), places).clip(1, None)
    share = _share(places / rate, since[after - 1], since[after])
    rows: Doubles = x[after - 1] + (x[after] - x[after - 1]) * share[:, None]
    return rows


class Resampler:
    """The same for samples that come one at a time: holds the last one, and nothing else."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._rows = self._made = 0
        self._first = self._last = -math.inf
        self._row: Doubles | None = None

    def push(self, time: float, row: Doubles) -> Iterator[Doubles]:
        """The rows (F,) of the grid up to `time`: none, one or many, each made when it is asked for.

        Raises InputError for a time that is not after the one before.
        """
        if not math.isfinite(time) or time <= self._last:
            raise _unordered("the stream", self._rows, time, self._last)
        before, since, self._row, self._last = self._row, self._last - self._first, row, time
        self._rows += 1
        if before is None:
            self._first, self._made = time, 1
            return iter((row,))
        reached = _reaches((time - self._first) * self._rate) + 1
        _check_count(reached - self._made, "the stream")
        first, self._made = self._made, reached
        return self._between(range(first, reached), before, since, row, time - self._first)

    def _between(self, places: range, before: Doubles, since: float, row: Doubles, now: float) -> Iterator[Doubles]:
        return (before + (row - before) * _share(place / self._rate, since, now) for place in places)


def _reaches(steps: float) -> int:
    """The last place of the grid that so many steps come to."""
    return math.floor(steps + NEAR) if math.isfinite(steps) else limits.SERIES_STEPS


def _share(at: Any, before: Any, after: Any) -> Any:
    """How far between the two, at most all the way: the last time may be a rounding short of its place."""
    return np.minimum((at - before) / (after - before), 1.0)


def _check_count(count: int, what: str) -> None:
    if count > limits.SERIES_STEPS:
        raise InputError(
            f"{what} has a gap of {count} samples at the model's rate, and {limits.SERIES_STEPS} are allowed",
            hint="are the timestamps in seconds?",
        )


def _unordered(what: str, row: int, time: float, before: float) -> InputError:
    why = f"not after {before:.9g}" if math.isfinite(time) else "not a time"
    return InputError(
        f"{what}, row {row}: the timestamp {time:.9g} is {why}", hint="sort the rows by time, and remove duplicates"
    )
