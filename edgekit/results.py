"""Results: the frozen values that task methods return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.core import Floats


@dataclass(frozen=True, slots=True)
class Label:
    """A class and its score: a probability, or the raw number of a regression."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document of a `rerank` call: its position there and how well it fits the query."""

    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Span:
    """`text` is what stands in the input from character `start` to `end`; these are None if there are no offsets."""

    label: str
    score: float
    start: int | None
    end: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Token:
    """One proposal for one mask: `token` as it is written, and `text`, the whole input with it in place."""

    token: str
    id: int
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class Anomaly:
    """How unusual a sample is, and whether that is too much."""

    score: float
    flagged: bool


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What comes next: each float32 (horizon, outputs). `values` are the median where there are quantiles.

    `low` and `high` are the lowest and the highest quantile, None where there is no range; `quantiles` are all, by
    level.
    """

    values: Floats
    low: Floats | None = None
    high: Floats | None = None
    quantiles: Mapping[float, Floats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added: text, often none or several letters, and the token's id."""

    text: str
    ids: tuple[int, ...]
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """An answer. `finish_reason`: "stop" (an end token or a stop string) or "length" (no room or no more asked for).

    `ids` are the new tokens, an end token with them; `usage` counts tokens; `timings` are in seconds.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: str
    usage: dict[str, int]
    timings: dict[str, float]
    seed: int
    pieces: tuple[Piece, ...] = field(default=(), repr=False)
