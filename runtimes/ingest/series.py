"""Series of samples to the input of a recurrent graph: float32 (batch, time, features), normalized, without gaps.

Knows what a sample is made of, what to do where a number is missing, and the rate at which the model wants samples.
Does not know what the numbers mean: `runtimes.heads` gives the answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np

from edgekit import limits
from edgekit.errors import BundleError, InputError

from .. import settings as types
from .csv_table import Table as Table
from .resample import resampled, seconds
from .stream_reader import Reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Floats

    Doubles = NDArray[np.float64]

MISSING = ("hold", "zero", "mean", "refuse")
INPUTS = ("x", "counts")
CHUNK_STEPS = 64
MAX_ROWS = 64  # series in a batch
KINDS = {"U": "text", "S": "bytes", "b": "booleans", "c": "complex numbers", "M": "dates"}  # numpy's, in words
ONE = np.ones(1, np.int64)


class Settings(types.Settings):
    """What the bundle says of the series that the model reads."""

    features: types.Names  # of the columns
    normalize: types.Scale | None = None  # what is taken off each column and what it is divided by
    # Where a number is NaN: the column's last real one (its mean before any), zero before normalizing, the mean of
    # `normalize` (0 where there is none), or an error.
    missing: Literal["hold", "zero", "mean", "refuse"] = "hold"
    rate: Annotated[float, msgspec.Meta(ge=1e-9, le=1e9)] | None = None  # samples a second; None: any
    # Samples of a long series that go through the graph at once
    chunk_steps: Annotated[int, msgspec.Meta(ge=1, le=limits.SERIES_STEPS)] = CHUNK_STEPS
    streamable: bool = True
    why_not: types.Text = ""  # it cannot go on from a state

    def __post_init__(self) -> None:
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"two features have one name: {', '.join(self.features):.200}")
        if self.normalize is not None:
            self.normalize.check("normalize", len(self.features))


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """One series as the graph takes it: float32 (time, F)."""

    x: Floats
    position: int = 0  # in the call, for messages

    def __len__(self) -> int:
        return len(self.x)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The samples' bits, row by row: what tells whether a series is read as it was when a bundle was made."""
        return self.x.view(np.int32).ravel().astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class SeriesBatch:
    """Some series as a graph takes them, padded on the right where the graph is told how long each is."""

    feeds: dict[str, Array]
    rows: tuple[int, ...]
    lengths: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Series:
    """How a bundle's model wants its samples. Threads may share it."""

    features: tuple[str, ...]
    mean: Doubles = field(repr=False)  # (F,), zeros where nothing is normalized
    std: Doubles = field(repr=False)
    missing: str = "hold"
    rate: float | None = None
    chunk_steps: int = CHUNK_STEPS
    counted: bool = False  # the graph takes `counts`
    batched: bool = True

    def alone(self, given: Any) -> bool:
        """Whether that is one series, and not several: an array of up to two axes, or a list of numbers or rows."""
        if isinstance(given, np.ndarray) or not _is_list(given):
            return np.ndim(given) < 3
        first = next((item for item in given if item is not None), None)
        if first is None:
            return len(given) > 0
        if isinstance(first, np.ndarray) and first.ndim:
            return False
        return not (_is_list(first) and any(_is_list(item) or isinstance(item, np.ndarray) for item in first))

    def encode(
        self,
        items: Sequence[Any],
        *,
        truncate: bool = False,
        prompt: str | None = None,
        offsets: bool = False,
        first: int = 0,
        timestamps: Sequence[Any] | None = None,
    ) -> list[Samples]:
        """Series (time, F), or (time,) where F is 1, as the graph takes them. `truncate`, `prompt` and `offsets` mean
        nothing here. `timestamps`: seconds or datetime64 (time,) for each, to resample by.

        Raises InputError for what is no series, naming row and column.
        """
        if timestamps is not None and len(timestamps) != len(items):
            raise InputError(f"timestamps for {len(timestamps)} series, and there are {len(items)}")
        times = [None] * len(items) if timestamps is None else timestamps
        return [
            Samples(self._whole(item, when, f"series[{number}]"), number)
            for number, (item, when) in enumerate(zip(items, times), first)
        ]

    def batches(
        self, encodings: Sequence[Samples], *, max_tokens: int = 512, multiple: int = 1, max_rows: int = MAX_ROWS
    ) -> Iterator[SeriesBatch]:
        """Every series in exactly one batch of at most `max_rows` rows and `max_tokens` samples, padding counted, but
        always one row; longest first. `multiple`: lengths that the engine likes."""
        longest = max(map(len, encodings), default=1)
        for rows in self.groups(encodings, max_rows=max(1, min(max_rows, max_tokens // longest))):
            wide = len(encodings[rows[0]])
            wide = -(-wide // multiple) * multiple if self.counted else wide
            yield self.batch([encodings[row].x for row in rows], rows, wide)

    def groups(self, encodings: Sequence[Samples], max_rows: int = MAX_ROWS) -> Iterator[tuple[int, ...]]:
        """The positions of series that can be run side by side, the longest first; only what is as long can be, unless
        the graph takes `counts`, and nothing where it takes one series at a time."""
        order = sorted(range(len(encodings)), key=lambda row: -len(encodings[row]))
        for _, alike in groupby(order, lambda row: not self.counted and len(encodings[row])):
            rows, most = tuple(alike), max_rows if self.batched else 1
            yield from (rows[first : first + most] for first in range(0, len(rows), most))

    def batch(self, series: Sequence[Floats], rows: Sequence[int] = (0,), wide: int | None = None) -> SeriesBatch:
        """These, each float32 (n, F), side by side; of one length where the graph takes no `counts`."""
        lengths = [len(x) for x in series]
        wide = wide or max(lengths)
        assert self.counted or min(lengths) == wide
        if lengths == [wide]:
            padded = series[0][None]
        elif min(lengths) == wide:
            padded = np.array(series)
        else:
            padded = np.zeros((len(series), wide, len(self.features)), np.float32)
            for place, x in enumerate(series):
                padded[place, : len(x)] = x
        counts = np.array(lengths, np.int64)
        return SeriesBatch({"x": padded, "counts": counts} if self.counted else {"x": padded}, tuple(rows), counts)

    def windows(self, x: Floats) -> Iterator[Floats]:
        """A series in pieces of `chunk_steps`; the last may be shorter."""
        return (x[first : first + self.chunk_steps] for first in range(0, len(x), self.chunk_steps))

    def samples(
        self, given: Sequence[Any], held: Sequence[Doubles], names: Sequence[object] = ()
    ) -> tuple[Floats, Doubles]:
        """The next sample of each of n streams, (F,) or a number where F is 1, as (n, F); and what is held after them,
        (n, F), given what was before. `names`: the streams', for messages. Raises InputError."""
        x = self._side_by_side([self._by_name(one) if isinstance(one, Mapping) else one for one in given])
        found = self._normalized(x)
        if not np.isfinite(found).all():
            missing, where = np.isnan(x), partial(_one_of, names)
            x = np.where(missing, self._instead(missing, np.array(held), where), x) if missing.any() else x
            found = self._scaled(x, where)
        return found, x

    def sample(self, given: Any, held: Doubles) -> tuple[SeriesBatch, Doubles]:
        """The next sample of one stream as a batch, and what is held after it: as `samples`, and sooner where
        it is an array or a number with nothing missing. Raises InputError."""
        if isinstance(given, Mapping):
            given = self._by_name(given)
        x = np.array([given]) if type(given) is float else given
        if isinstance(x, np.ndarray) and x.shape == self.mean.shape and x.dtype.kind in "fiu":
            x = x.astype(np.float64)  # a copy: the caller's array may change
            row = self._normalized(x)
            if math.isfinite(row.dot(row)):
                return self._one(row), x
        found, last = self.samples([given], [held])
        return self._one(found[0]), last[0]

    def _by_name(self, given: Mapping[str, Any]) -> list[Any]:
        """The numbers of a sample in the model's order. Raises InputError for other names."""
        if given.keys() != set(self.features):
            named = ", ".join(map(str, given)) or "nothing"
            raise InputError(f"the sample has {named}", hint=f"give a number for each of {', '.join(self.features)}")
        return [math.nan if given[name] is None else given[name] for name in self.features]

    def _one(self, row: Floats) -> SeriesBatch:
        x = row[None, None]
        return SeriesBatch({"x": x, "counts": ONE} if self.counted else {"x": x}, (0,), ONE)

    def chunk(self, given: Any, held: Doubles, what: str = "the chunk") -> tuple[Floats, Doubles]:
        """Several samples, (n, F) or (n,) where F is 1, as (n, F); and what is held after them. Raises InputError."""
        x = self._filled(self._rows(given, what), held, what)
        return self._scaled(x, partial(_row_of, what)), x[-1].copy()  # the caller's array may change

    def reader(self, rate: float | None = None, *, timed: bool = False) -> Reader:
        """What brings a stream to the model's rate; see Reader. Raises InputError for a model that has none."""
        return Reader(self, rate, timed)

    def _side_by_side(self, given: Sequence[Any]) -> Doubles:
        """Samples as (n, F): at once where they are alike, else one by one to say which is none."""
        wide = len(self.features)
        try:
            x = np.array(given)
        except (TypeError, ValueError):
            x = np.array("")
        if x.dtype.kind not in "fiu" or not (x.shape[1:] == (wide,) or x.ndim == wide == 1):
            rows = [np.atleast_1d(_numbers(one, "the sample")) for one in given]
            for row in rows:
                if row.shape != self.mean.shape:
                    raise self._misfit("the sample", row, "a number a feature")
            x = np.array(rows)
        return x.reshape(len(given), -1).astype(np.float64, copy=False)

    def _whole(self, given: Any, times: Any, what: str) -> Floats:
        if times is None:
            return self.chunk(given, self.mean, what)[0]
        rate, x = self.wanted_rate(), self._rows(given, what)
        x = self._filled(x, self.mean, what)
        return self._scaled(resampled(x, seconds(times, len(x), what), rate, what), partial(_row_of, what))

    def _rows(self, given: Any, what: str) -> Doubles:
        """Checked to be (n, F), not more than can be held, and not empty."""
        x = _numbers(given, what)
        wide = len(self.features)
        x = x[:, None] if x.ndim == 1 and wide == 1 else x
        if x.ndim != 2 or x.shape[1] != wide or not len(x):
            raise self._misfit(what, x, "one or more rows, a number a feature in each")
        if len(x) > limits.SERIES_STEPS:
            raise InputError(f"{what} has {len(x)} samples, and {limits.SERIES_STEPS} are allowed", hint="stream it")
        return x

    def _normalized(self, x: Doubles) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            found: Floats = ((x - self.mean) / self.std).astype(np.float32)
        return found

    def _scaled(self, x: Doubles, where: Callable[[int], str]) -> Floats:
        """Normalized, as float32. Raises InputError for what is not finite then."""
        found = self._normalized(x)
        if not np.isfinite(found).all():
            row, column = np.argwhere(~np.isfinite(found))[0]
            raise InputError(
                f"{where(row)}: {self.features[column]} is {x[row, column]:g}",
                hint="give finite float32 numbers, or NaN for a missing value",
            )
        return found

    def _filled(self, x: Doubles, held: Doubles, what: str) -> Doubles:
        """A series (n, F) with a number wherever one is missing; `held` (F,) was there before it."""
        missing = np.isnan(x)
        if not missing.any():
            return x
        if self.missing == "hold":
            rows = np.where(missing, 0, np.arange(1, len(x) + 1)[:, None])
            return np.take_along_axis(np.vstack([held, x]), np.maximum.accumulate(rows, axis=0), axis=0)
        return np.where(missing, self._instead(missing, held, partial(_row_of, what)), x)

    def _instead(self, missing: NDArray[np.bool_], held: Doubles, where: Callable[[int], str]) -> Doubles | float:
        """What is put where a number is missing. Raises InputError where nothing may be."""
        if self.missing == "refuse":
            row, column = np.argwhere(missing)[0]
            raise InputError(
                f"{where(row)}: {self.features[column]} is missing", hint="this model does not accept gaps: fill them"
            )
        return held if self.missing == "hold" else self.mean if self.missing == "mean" else 0.0

    def wanted_rate(self) -> float:
        """Samples a second. Raises InputError for a model that does not care."""
        if self.rate is None:
            raise InputError("this model has no rate to resample to", hint="leave timestamps and rate out")
        return self.rate

    def _misfit(self, what: str, x: Doubles, wanted: str) -> InputError:
        named = ", ".join(self.features)
        return InputError(f"{what} has the shape {list(x.shape)}", hint=f"expected {wanted}: {named}")


def open(folder: Path, settings: Mapping[str, Any]) -> Series:
    """What the settings say. Raises BundleError where they make no sense."""
    features = settings.get("features")
    if not isinstance(features, list) or not features or not all(isinstance(name, str) for name in features):
        raise BundleError("the settings name no features", hint="export the model again")
    if len(set(features)) != len(features):
        raise BundleError(f"two features have one name: {', '.join(features)}", hint="export the model again")
    inputs = settings.get("inputs") or ["x"]
    if "x" not in inputs or (unknown := sorted(set(inputs) - set(INPUTS))):
        told = f"takes {unknown[0]!r}" if "x" in inputs else "does not take 'x'"
        raise BundleError(f"the graph {told}", hint=f"a series model takes {' and '.join(INPUTS)}")
    missing, rate, chunk = (
        settings.get(name, usual) for name, usual in (("missing", "hold"), ("rate", None), ("chunk_steps", CHUNK_STEPS))
    )
    if missing not in MISSING:
        raise BundleError(f"missing is {missing!r}, not one of {', '.join(MISSING)}", hint="export the model again")
    if rate is not None and not (type(rate) in (int, float) and 0 < rate < float("inf")):
        raise BundleError(f"rate is {rate!r}, not samples per second", hint="export the model again")
    if type(chunk) is not int or chunk < 1:
        raise BundleError(f"chunk_steps is {chunk!r}, not a number of samples", hint="export the model again")
    mean, std = scale(settings, "normalize", len(features)) or (np.zeros(len(features)), np.ones(len(features)))
    counted, batched = "counts" in inputs, bool(settings.get("batched", True))
    return Series(tuple(features), mean, std, missing, rate, chunk, counted, batched)


def scale(settings: Mapping[str, Any], name: str, count: int) -> tuple[Doubles, Doubles] | None:
    """The means and deviations (count,) of that setting; None where it is. Raises BundleError."""
    told = settings.get(name)
    if told is None:
        return None
    try:
        mean, std = (np.asarray(told[part], np.float64) for part in ("mean", "std"))
    except (TypeError, ValueError, KeyError, IndexError) as error:
        hint = "export the model again"
        raise BundleError(f"{name} does not give mean and std", hint=hint, cause=str(error)) from error
    if not all(part.shape == (count,) and np.isfinite(part).all() for part in (mean, std)) or not (std > 0).all():
        raise BundleError(f"{name} needs {count} means, and as many deviations above 0", hint="export the model again")
    return mean, std


def _row_of(what: str, row: int) -> str:
    return f"{what}, row {row}"


def _one_of(names: Sequence[object], place: int) -> str:
    return f"the sample of stream {names[place]}" if names else "the sample"


def _is_list(given: object) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes)


def _numbers(given: Any, what: str) -> Doubles:
    """As float64, None as NaN. Raises InputError."""
    try:
        found = np.asarray(given)
        if found.dtype.kind == "O":
            found = found.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what} is not made of numbers", hint="give an array of floats", cause=str(error)) from error
    if found.dtype.kind not in "fiu":
        kind = KINDS.get(found.dtype.kind, found.dtype.name)
        raise InputError(f"{what} holds {kind}, not numbers", hint="give an array of floats")
    return found.astype(np.float64, copy=False)
