"""Sampling: logits to the next token, in small steps from array to array.

Knows nothing of text, of graphs or of batches: every row of a batch has a `Chooser` of its own, so that what is chosen
for it does not depend on its company. The steps run in the order that Hugging Face documents for `generate`: logit
bias, repetition penalty, minimum of new tokens, then temperature, top-k, top-p, min-p, typical. Presence and frequency
penalties, which Hugging Face does not have, follow the repetition penalty, as in vLLM.

A step takes and gives float32 (vocabulary,). What it removes gets -inf; it never removes everything.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import limits
from edgekit.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

    from edgekit.core import Floats

    Ids = NDArray[np.int64]

NEAR = 256  # tokens that are sorted first: more are only where these do not carry enough

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_k": (0, limits.VOCABULARY),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "min_new_tokens": (0, limits.NEW_TOKENS),
    "logprobs": (0, 100),
    "seed": (0, 2**63 - 1),
}
WHOLE = ("top_k", "min_new_tokens", "logprobs", "seed")
COLDEST = 1e-3  # a temperature below it is refused, 0 aside: float32 has no room for such logits
BIAS = 1000.0  # the largest, either way


class History:
    """What a row holds: the distinct ids of prompt and answer, and how often each stands in the answer."""

    def __init__(self, prompt: Iterable[int] = ()) -> None:
        self._seen = dict.fromkeys(prompt)
        self._counts: dict[int, int] = {}
        self.new = 0  # tokens of the answer

    def add(self, id: int) -> None:
        self._seen[id] = None
        self._counts[id] = self._counts.get(id, 0) + 1
        self.new += 1

    @property
    def seen(self) -> Ids:
        return np.fromiter(self._seen, np.int64, len(self._seen))

    @property
    def counts(self) -> tuple[Ids, Floats]:
        """The answer's distinct ids, and how often each was chosen."""
        size = len(self._counts)
        return np.fromiter(self._counts, np.int64, size), np.fromiter(self._counts.values(), np.float32, size)


Step = Callable[["Floats", History], "Floats"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token. Log-probabilities are of the model's own distribution, before any step; None: not asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens with theirs, best first


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen. The default is greedy, and changes nothing that the model says.

    Raises UsageError naming the option that is out of its range.
    """

    temperature: float = 0.0  # 0: the likeliest token, always
    top_k: int = 0  # the so many likeliest tokens; 0: all
    top_p: float = 1.0  # the likeliest tokens that carry so much probability (arXiv:1904.09751)
    min_p: float = 0.0  # tokens with at least this share of the likeliest one's probability (arXiv:2407.01082)
    typical_p: float = 1.0  # tokens nearest to the expected information, carrying so much (arXiv:2202.00666)
    repetition_penalty: float = 1.0  # divides what was there before, prompt and answer (arXiv:1909.05858)
    presence_penalty: float = 0.0  # taken once from what the answer holds
    frequency_penalty: float = 0.0  # taken as often as the answer holds it
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # id -> what is added to its logit
    min_new_tokens: int = 0  # no end before
    logprobs: int | None = None  # 0: of the chosen token; n: of the n likeliest too; None: none
    seed: int | None = None  # of the first row, the next has one more; None: new ones, which `Chooser.seed` tells

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in ("logprobs", "seed"):
                _check(name, value, least, most, whole=name in WHOLE)
        if 0 < self.temperature < COLDEST:
            raise UsageError(f"temperature is {self.temperature:g}", hint=f"give 0 for greedy, or {COLDEST:g} to 100")
        if not isinstance(self.logit_bias, Mapping):
            raise UsageError(f"logit_bias is {self.logit_bias!r:.60}", hint="give a dict: token id to number")
        for id, bias in self.logit_bias.items():
            _check("logit_bias: a token id", id, 0, limits.VOCABULARY, whole=True)
            _check(f"logit_bias of token {id}", bias, -BIAS, BIAS)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def steps(self, ends: Collection[int] = ()) -> list[Step]:
        """The steps that these options need, in their order. `ends`: the ids that `min_new_tokens` holds back."""
        asked: list[tuple[bool, Step]] = [
            (bool(self.logit_bias), _bias(self.logit_bias)),
            (self.repetition_penalty != 1, partial(repetition, penalty=self.repetition_penalty)),
            (
                self.presence_penalty != 0 or self.frequency_penalty != 0,
                partial(frequency, presence=self.presence_penalty, frequency=self.frequency_penalty),
            ),
            (
                self.min_new_tokens > 0 and bool(ends),
                partial(hold_back, ends=np.array(sorted(ends), np.int64), least=self.min_new_tokens),
            ),
        ]
        if not self.greedy:
            asked += [
                (self.temperature != 1, partial(temperature, value=self.temperature)),
                (self.top_k > 0, partial(top_k, k=self.top_k)),
                (self.top_p < 1, partial(top_p, p=self.top_p)),
                (self.min_p > 0, partial(min_p, p=self.min_p)),
                (self.typical_p < 1, partial(typical, p=self.typical_p)),
            ]
        return [step for wanted, step in asked if wanted]


class Chooser:
    """Chooses one row's tokens, one after the other. `seed` is what makes the same choices again, also alone."""

    def __init__(
        self, sampling: Sampling, prompt: Iterable[int] = (), ends: Collection[int] = (), *, row: int = 0
    ) -> None:
        self.seed = secrets.randbits(48) if sampling.seed is None else (sampling.seed + row) % 2**63
        self._sampling, self._steps = sampling, sampling.steps(ends)
        self._history = History(prompt if self._steps else ())
        self._generator = None if sampling.greedy else np.random.default_rng(self.seed)

    def choose(self, logits: Floats) -> Choice:
        """The next token for `logits` (vocabulary,), which stay as they are.

        Raises UsageError for a bias on a token that the model has not, VerificationError for logits that are not
        numbers: no token can be chosen among those.
        """
        scores = np.asarray(logits, np.float32)
        if not math.isfinite(float(scores.max())):  # a NaN anywhere is the maximum
            raise VerificationError(
                f"the model gives logits that are not numbers, at new token {self._history.new}",
                hint="the weights, the precision or the engine is at fault: run `edgekit verify` on the bundle",
            )
        for step in self._steps:
            scores = step(scores, self._history)
        id = int(scores.argmax()) if self._generator is None else _draw(scores, self._generator)
        self._history.add(id)
        if self._sampling.logprobs is None:
            return Choice(id)
        return _told(np.asarray(logits, np.float32), id, self._sampling.logprobs)


def repetition(scores: Floats, history: History, *, penalty: float) -> Floats:
    """Logits of what was seen, divided by `penalty` if above zero and multiplied if below."""
    seen, scores = _known(history.seen, scores), scores.copy()
    logits = scores[seen]
    scores[seen] = np.where(logits < 0, logits * np.float32(penalty), logits / np.float32(penalty))
    return scores


def frequency(scores: Floats, history: History, *, presence: float, frequency: float) -> Floats:
    """Logits of what the answer holds, less `presence`, less `frequency` times its count (OpenAI's API reference)."""
    ids, counts = history.counts
    scores = scores.copy()
    scores[ids] -= np.float32(presence) + np.float32(frequency) * counts
    return scores


def hold_back(scores: Floats, history: History, *, ends: Ids, least: int) -> Floats:
    """-inf for the ends while the answer has fewer than `least` tokens, unless there is nothing else to choose."""
    if history.new >= least:
        return scores
    held = scores.copy()
    held[_known(ends, scores)] = -np.inf
    return held if held.max() > -np.inf else scores


def temperature(scores: Floats, history: History, *, value: float) -> Floats:
    return scores / np.float32(value)


def top_k(scores: Floats, history: History, *, k: int) -> Floats:
    """The `k` highest, and what is equal to the last of them."""
    if k >= len(scores):
        return scores
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.where(scores < least, np.float32(-np.inf), scores)


def top_p(scores: Floats, history: History, *, p: float) -> Floats:
    """The fewest highest that carry a probability of `p`, one at least."""
    kept, shares = _shares(scores)
    return _only(scores, kept[_fewest(-shares, shares, p)])


def min_p(scores: Floats, history: History, *, p: float) -> Floats:
    """What has at least `p` times the highest probability."""
    kept, shares = _shares(scores)
    return _only(scores, kept[shares >= p * shares.max()])


def typical(scores: Floats, history: History, *, p: float) -> Floats:
    """What is nearest to the expected information, until it carries `p`; equals of the last stay."""
    kept, shares = _shares(scores)
    own = np.log(np.maximum(shares, np.finfo(np.float32).tiny))
    distance = np.abs(own - np.dot(shares, own))
    last = _fewest(distance, shares, p)[-1]
    return _only(scores, kept[distance <= distance[last]])


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Over the last axis, in float64."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def _bias(bias: Mapping[int, float]) -> Step:
    ids, values = np.array([*bias], np.int64), np.array([*bias.values()], np.float32)

    def biased(scores: Floats, history: History) -> Floats:
        if ids.max() >= len(scores):
            raise UsageError(
                f"logit_bias names token {ids.max()}, and the model has {len(scores)}", hint="leave that token out"
            )
        scores = scores.copy()
        scores[ids] += values
        return scores

    return biased


def _known(ids: Ids, scores: Floats) -> Ids:
    """The ids that have a logit: a tokenizer may know more tokens than the model."""
    return ids[ids < len(scores)]


def _shares(scores: Floats) -> tuple[Ids, Floats]:
    """The places of what is not removed yet, and the probabilities of these, float32; sums of many want float64."""
    kept = np.flatnonzero(scores > -np.inf)
    exp = np.exp(scores[kept] - scores.max())
    return kept, exp / np.float32(exp.sum(dtype=np.float64))


def _fewest(key: Floats, shares: Floats, p: float) -> Ids:
    """The places with the lowest keys, in order, as many as carry a probability of `p`: one at least.

    A few carry enough almost always, and finding these needs no sort of a whole vocabulary.
    """
    near = min(NEAR, len(key))
    while True:
        part = np.argpartition(key, near - 1)[:near] if near < len(key) else np.arange(len(key))
        order = part[np.argsort(key[part], kind="stable")]
        carried = shares[order].cumsum(dtype=np.float64)
        if carried[-1] >= p or near == len(key):
            return order[: int((carried < p).sum()) + 1]
        near = min(near * 16, len(key))


def _only(scores: Floats, kept: Ids) -> Floats:
    found = np.full_like(scores, -np.inf)
    found[kept] = scores[kept]
    return found


def _draw(scores: Floats, generator: np.random.Generator) -> int:
    kept, shares = _shares(scores)
    carried = shares.astype(np.float64).cumsum()  # twice as fast as cumsum's own dtype
    return int(kept[np.searchsorted(carried, generator.random() * carried[-1], side="right")])


def _told(logits: Floats, id: int, count: int) -> Choice:
    own = log_softmax(logits)
    count = min(count, len(own))
    near = np.argpartition(-own, count - 1)[:count] if count else np.empty(0, np.int64)
    best = near[np.argsort(-own[near], kind="stable")]
    return Choice(id, float(own[id]), tuple(zip(best.tolist(), own[best].tolist())))


def _check(name: str, value: Any, least: float, most: float, *, whole: bool = False) -> None:
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"{name} is {value!r}", hint=f"give {kind} from {least:g} to {most:g}")
