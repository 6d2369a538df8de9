"""What a benchmark feeds a model: the same inputs in every run of it anywhere, or the user's own.

    texts      a zoo model's held-out ones, else `edgekit.samples`, in the form that the task takes
    series     a zoo model's held-out ones, else `edgekit.series`' waves, of a seed
    prompts    texts of an exact number of tokens, another one for every run, so that nothing that a cache keeps of
               earlier ones can help

The process that is measured is handed its inputs: what it takes to make them would count as its own. Knows how each
ingest is fed, and no loop.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import samples, series, zoo
from edgekit.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from edgekit.core import Bundle
    from edgekit.model import Model

ZOO = "zoo:"
MOST, SERIES = 256, 64  # texts, and series, that take turns
NEAR = 64  # characters around the place where a prompt is cut, that are tried to meet its number of tokens
OPTION = "--input"


def items(bundle: Bundle, file: Path | None = None) -> list[Any]:
    """Texts, pairs of texts or series for a model that is done in one run, or reads a stream, as JSON has them.

    Raises UsageError for a file that holds none, UnsupportedError for an ingest that nothing is known to feed.
    """
    if bundle.ingest == "text":
        return samples.for_task(bundle.task, _texts(bundle, file), bundle.settings)
    if bundle.ingest == "series":
        return _series(bundle, file)
    raise UnsupportedError(
        f"{bundle.name}: there are no inputs for {bundle.ingest!r} to measure with yet",
        hint="it can be run and verified: edgekit verify",
    )


def _texts(bundle: Bundle, file: Path | None) -> list[str]:
    if file is not None:
        return samples.read(file, OPTION)[:MOST]
    return list(held_out(bundle)[:MOST]) or list(samples.TEXTS)


def _series(bundle: Bundle, file: Path | None) -> list[Any]:
    if file is not None:
        return list(series.read(file, bundle.settings["features"], OPTION)[len(series.SHORT) :])
    return list(held_out(bundle)[:SERIES]) or series.waves(bundle.settings)[len(series.SHORT) :]


def restored(bundle: Bundle, found: Sequence[Any]) -> list[Any]:
    """`items` once they were JSON, as a model takes them."""
    import numpy as np

    if bundle.ingest == "series":
        return [np.array(one, np.float64) for one in found]  # None becomes NaN: missing
    return [tuple(one) if isinstance(one, list) else one for one in found]


def held_out(bundle: Bundle) -> tuple[Any, ...]:
    """The inputs that a zoo model's training never saw; none of any other model."""
    name = bundle.source.id.removeprefix(ZOO)
    if not bundle.source.id.startswith(ZOO) or name not in zoo.names() or bundle.task not in zoo.tasks(name):
        return ()
    return zoo.heldout(name, bundle.task).inputs


class Prompts:
    """Prompts for a language model, of exactly so many tokens: through its template where it has one and that leaves
    room, else a text as it is, else (a tokenizer that knows too few words) token ids."""

    def __init__(self, model: Model, tokens: int, file: Path | None = None, *, begin: bool = True) -> None:
        """`begin`: a text has what the tokenizer puts before one (`<s>`), as nothing was read before it."""
        self._ingest: Any = model._ingest
        self._tokens, self._begin = tokens, begin
        self._words = samples.read(file, OPTION) if file is not None else list(samples.TEXTS)
        self.form = next(form for form in FORMS if self._made(form, 0) is not None)

    def __getitem__(self, number: int) -> Any:
        """The prompt of run `number`: text, chat messages or ids."""
        return self._made(self.form, number) or self.ids(number)

    def ids(self, number: int, tokens: int | None = None) -> list[int]:
        """Token ids of no meaning, none of them special."""
        special = {id for id, token in self._ingest.tokenizer.get_added_tokens_decoder().items() if token.special}
        usable = [id for id in range(self._ingest.vocabulary) if id not in special] or [0]
        return random.Random(number).choices(usable, k=self._tokens if tokens is None else tokens)

    def _made(self, form: str, number: int) -> Any:
        """None where no text of that number of tokens was found."""
        if form == "ids":
            return self.ids(number)
        if form == "chat" and self._ingest.template is None:
            return None
        asks: Callable[[str], Any] = (
            (lambda text: [{"role": "user", "content": text}]) if form == "chat" else (lambda text: text)
        )
        return self._cut(asks, self._text(number))

    def _text(self, number: int) -> str:
        """The texts in an order of their own for each run, as often as it takes, a number before all else."""
        chance, said = random.Random(number), [f"{number}."]
        while sum(map(len, said)) < 8 * self._tokens + 512:  # characters; no tokenizer of words makes longer tokens
            said += chance.sample(self._words, len(self._words))
        return " ".join(said)

    def _cut(self, asks: Callable[[str], Any], text: str) -> Any:
        """What asks for a beginning of `text` that has the number of tokens; None where none has."""
        low, high = 1, len(text)
        while low < high:
            middle = (low + high) // 2
            if self._count(asks(text[:middle])) < self._tokens:
                low = middle + 1
            else:
                high = middle
        for away in range(NEAR):  # a longer text may have fewer tokens, so near by is looked too
            for end in {low + away, max(1, low - away)}:
                if self._count(asks(text[:end])) == self._tokens:
                    return asks(text[:end])
        return None

    def _count(self, prompt: Any) -> int:
        """Tokens of a prompt; more than any context for one that does not fit."""
        ingest = self._ingest
        if isinstance(prompt, str):
            return len(ingest._ids(ingest.words.split(ingest.words.broken(prompt)), begin=self._begin))
        return len(ingest.chat(prompt))


FORMS = ("chat", "text", "ids")


def check(bundle: Bundle, tokens: int) -> None:
    """Raises UsageError where so many tokens do not fit into a language model's context."""
    context = bundle.settings["context_length"]
    if tokens > context:
        raise UsageError(
            f"{bundle.name} has a context of {context} tokens, and {tokens} were asked for", hint="shorten -p, -n or -d"
        )
