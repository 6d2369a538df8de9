"""Results: the frozen values that task methods return."""

from __future__ import annotations

from dataclasses import dataclass, field


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
