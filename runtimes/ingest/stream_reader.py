"""Turn a stream of samples into a stream at the model's rate.

Knows times, and leaves what a sample is to the ingest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError

from .resample import Resampler

if TYPE_CHECKING:
    from .series import Series


class Reader:
    """Samples as they come to samples at the model's rate. Bounded: holds one sample, and never asks for another."""

    def __init__(self, series: Series, rate: float | None, timed: bool) -> None:
        """`rate`: how many come a second; `timed`: each comes as a pair of its time in seconds and itself."""
        if rate is not None and not 0 < rate < float("inf"):
            raise InputError(f"rate is {rate:g}", hint="give samples per second, above 0")
        self._series, self._timed = series, timed
        self._step = None if rate is None else 1 / rate
        self._held, self._count = series.mean, 0
        wanted = series.wanted_rate() if timed or rate is not None else None
        self._resampler = None if wanted is None or (rate == wanted and not timed) else Resampler(wanted)

    def push(self, item: Any) -> Iterator[Any]:
        """The samples that the model is given now that this one has come. Raises InputError."""
        if self._resampler is None:
            return iter((item,))
        try:
            time, given = item if self._timed else (self._count * (self._step or 0.0), item)
            time = float(time)
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"sample {self._count} is not a pair of a time and a sample", hint="give (seconds, sample)"
            ) from None
        _, (self._held,) = self._series.samples([given], [self._held])
        self._count += 1
        return self._resampler.push(time, self._held)
