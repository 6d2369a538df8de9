"""The head of language models: token ids to text, and the end of an answer.

Knows nothing of sessions; `edgekit.runtimes.loops.decode` asks an `Answer` what to choose and whether to go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import msgspec
import numpy as np

from edgekit import limits
from edgekit.core import Measure
from edgekit.errors import UsageError
from edgekit.results import Piece

from .. import settings as types
from ..sampling import Choice, Chooser, Sampling, log_softmax

if TYPE_CHECKING:
    from edgekit.core import Array, Floats

POSITIONS = 16  # of a sample's end, whose next tokens are compared
MAX_NEW_TOKENS = 512  # where neither the caller nor the model says


@dataclass(frozen=True)
class Wish:
    """What a caller asks of an answer, checked. Raises UsageError naming the option."""

    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = MAX_NEW_TOKENS
    stop: tuple[str, ...] = ()  # texts that end the answer, and are not part of it
    ends: frozenset[int] = frozenset()  # tokens that end it

    def __post_init__(self) -> None:
        if type(self.max_new_tokens) is not int or not 1 <= self.max_new_tokens <= limits.NEW_TOKENS:
            raise UsageError(
                f"max_new_tokens is {self.max_new_tokens!r}", hint=f"give a whole number from 1 to {limits.NEW_TOKENS}"
            )
        if len(self.stop) > limits.STOP_STRINGS:
            raise UsageError(f"{len(self.stop)} stop strings", hint=f"{limits.STOP_STRINGS} are allowed")
        for text in self.stop:
            if not isinstance(text, str) or not 0 < len(text.encode(errors="replace")) <= limits.STOP_STRING_BYTES:
                raise UsageError(
                    f"a stop string is {text!r:.40}", hint=f"give a text of 1 to {limits.STOP_STRING_BYTES} bytes"
                )


class Answer:
    """One prompt's answer as it grows; the decode loop's `Row`."""

    def __init__(self, prompt: Sequence[int], new: Sequence[int], ingest: Any, wish: Wish, row: int = 0) -> None:
        """`prompt`: all tokens that the model has seen, for penalties and the context; `new`: those to compute."""
        self.ids = new
        self.prompt = len(prompt)
        self.chosen: list[int] = []
        self.pieces: list[Piece] = []
        self.finish_reason = ""
        self.most = min(wish.max_new_tokens, ingest.context - len(prompt) + 1)
        self._wish, self._chooser = wish, Chooser(wish.sampling, prompt, wish.ends, row=row)
        self._stream, self._held = ingest.stream(), ""

    @property
    def seed(self) -> int:
        return self._chooser.seed

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def choose(self, logits: Floats) -> Choice:
        """The next token; what it adds to the text is the last of `pieces`. Raises VerificationError, UsageError."""
        choice = self._chooser.choose(logits)
        self.chosen.append(choice.id)
        text = self._say(choice.id)
        self.pieces.append(Piece(text, (choice.id,), choice.logprob, choice.top))
        return choice

    def ends(self, choice: Choice) -> bool:
        """After `choose`: whether that was the last."""
        return bool(self.finish_reason)

    def _say(self, id: int) -> str:
        """The text that is certain now: what may be the beginning of a stop string waits."""
        ended = id in self._wish.ends
        self._held += "" if ended else self._stream.push(id)
        if not ended and len(self.chosen) < self.most:
            return self._until_stop()
        self.finish_reason = "stop" if ended else "length"
        self._held += self._stream.end()
        said = self._until_stop()
        rest, self._held = self._held, ""
        return said + rest

    def _until_stop(self) -> str:
        found = [at for at in map(self._held.find, self._wish.stop) if at >= 0]
        if found:
            said, self._held, self.finish_reason = self._held[: min(found)], "", "stop"
            return said
        waits = max((_overlap(self._held, stop) for stop in self._wish.stop), default=0)
        end = len(self._held) - waits
        said, self._held = self._held[:end], self._held[end:]
        return said


def _overlap(text: str, stop: str) -> int:
    """How many letters at the end of `text` begin `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


def wish(settings: Mapping[str, Any], options: Mapping[str, Any]) -> Wish:
    """What the caller asks, over what the model's generation_config.json says. Greedy unless a temperature is given:
    what the model says of top-k and the like holds then.

    Raises UsageError for an option that there is not, or with a value that makes no sense.
    """
    known = settings.get("generation") or {}
    given = {name: value for name, value in options.items() if value is not None}
    usual = SAMPLING if given.get("temperature") else ("repetition_penalty",)
    told = {name: known[name] for name in usual if name in known}
    strange = [name for name in given if name not in OPTIONS]
    if strange:
        raise UsageError(
            f"generate has no option {strange[0]!r}", hint=f"it has {', '.join(GenerationOptions.__annotations__)}"
        )
    stop, stop_ids = given.get("stop", ()), given.get("stop_ids", ())
    if not isinstance(stop, Iterable) or not isinstance(stop_ids, Iterable):
        raise UsageError("stop and stop_ids are lists", hint="give texts in stop, ids of tokens in stop_ids")
    for id in (stop_ids := tuple(stop_ids)):
        if type(id) is not int or not 0 <= id < limits.VOCABULARY:
            raise UsageError(f"a stop id is {id!r:.40}", hint="give token ids")
    return Wish(
        Sampling(**{**told, **{name: given[name] for name in SAMPLING if name in given}}),
        given.get("max_new_tokens", known.get("max_new_tokens", MAX_NEW_TOKENS)),
        (stop,) if isinstance(stop, str) else tuple(stop),
        frozenset((*settings.get("eos_ids", ()), *stop_ids)),
    )


class GenerationOptions(TypedDict, total=False):
    """Options of a call that generates text. What is absent comes from the model's generation_config.json.

    Sampling options are documented in `edgekit.runtimes.sampling.Sampling`: greedy without a temperature.
    """

    max_new_tokens: int  # the longest answer; 512 where neither the caller nor the model says
    stop: str | Sequence[str]  # texts that end the answer, and are not part of it
    stop_ids: Sequence[int]  # tokens that end it
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    min_new_tokens: int
    logprobs: int
    seed: int
    tools: Sequence[Mapping[str, Any]]  # JSON schemas of functions, for the chat template
    documents: Sequence[Mapping[str, Any]]  # texts to answer from, for the chat template
    enable_thinking: bool  # for the chat template of a model that can think before it answers
    chat_template_kwargs: Mapping[str, Any]  # anything else that the chat template reads, by its names
    parse_special: bool  # read control tokens in a text prompt as such, not as letters


SAMPLING = tuple(Sampling.__dataclass_fields__)
OPTIONS = (*SAMPLING, "max_new_tokens", "stop", "stop_ids")


class Generation(types.Settings):
    """Defaults of generation_config.json; None: it does not say."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: Annotated[int, msgspec.Meta(ge=1, le=limits.NEW_TOKENS)] | None = None

    def __post_init__(self) -> None:
        stated = {name: getattr(self, name) for name in SAMPLING if getattr(self, name, None) is not None}
        try:
            Sampling(**stated)
        except UsageError as error:
            raise ValueError(f"generation: {error.message}") from None


class Settings(types.Settings):
    """What the bundle says of the tokens that the model gives."""

    eos_ids: Annotated[tuple[types.TokenId, ...], msgspec.Meta(max_length=1024)] = ()  # any of them ends an answer
    bos_id: types.TokenId | None = None
    pad_id: types.TokenId | None = None
    generation: Generation | None = None
    # The model's shape, for `inspect` and reports
    layers: types.Size | None = None
    kv_heads: types.Count | None = None  # 0: no layer has attention
    head_dim: types.Count | None = None
    windows: Annotated[tuple[types.Size | None, ...], msgspec.Meta(max_length=limits.SETTING_ITEMS)] = ()
    attention_layers: Annotated[tuple[types.Count, ...], msgspec.Meta(max_length=limits.SETTING_ITEMS)] = ()
    state_bytes: types.Count | None = None


def open(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings: all that this head needs."""
    return dict(settings)


def positions(length: int) -> list[int]:
    """Which positions of a sample of so many tokens are compared: its last ones."""
    return list(range(max(0, length - POSITIONS), length))


def numbers(logits: Floats, settings: Mapping[str, Any] | None = None) -> Array:
    """What is compared of logits (positions, vocabulary): themselves, in float16 as a bundle keeps many of them."""
    return np.clip(logits, -6e4, 6e4).astype(np.float16)


def compare(reference: Sequence[Array], candidate: Sequence[Array], settings: Any = None) -> Measure:
    """Share of positions where the likeliest token is the same; the loss is the mean Kullback-Leibler divergence.

    A number that is not finite counts as an infinite loss.
    """
    same: list[bool] = []
    lost: list[float] = []
    for wanted, found in zip(reference, candidate, strict=True):
        a, b = log_softmax(wanted), log_softmax(found)
        same += (a.argmax(-1) == b.argmax(-1)).tolist()
        lost += (np.exp(a) * (a - b)).sum(-1).tolist()
    loss = float(np.mean(lost))
    return Measure("same token", float(np.mean(same)), max(0.0, loss) if np.isfinite(loss) else float("inf"))
