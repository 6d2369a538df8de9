"""Inputs of a benchmark: the same in every run on every machine, or the user's own.

    items      a zoo model's held-out inputs, else the task's own samples, or the user's file
    prompts    texts of an exact number of tokens, another one for every run, so that nothing that a cache keeps of
               earlier ones can help

The process that is measured is handed its inputs: what it takes to make them would count as its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import registry, zoo
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.core import Bundle
    from edgekit.model import Model

ZOO = "zoo:"
MOST = 256  # inputs that take turns
NEAR = 64  # characters around the place where a prompt is cut, that are tried to meet its number of tokens
OPTION = "--input"


def items(bundle: Bundle, file: Path | None = None) -> list[Any]:
    """Samples of the bundle's task, as JSON has them. Raises UsageError for a file that holds none."""
    if file is None and (inputs := held_out(bundle)):
        return list(inputs[:MOST])
    kind: type[Model] = registry.task(bundle.task)
    return kind.workload(kind.samples(bundle, file, OPTION))[:MOST]


def held_out(bundle: Bundle) -> tuple[Any, ...]:
    """The inputs that a zoo model's training never saw; none of any other model."""
    name = bundle.source.id.removeprefix(ZOO)
    if not bundle.source.id.startswith(ZOO) or name not in zoo.names() or bundle.task not in zoo.tasks(name):
        return ()
    return zoo.heldout(name, bundle.task).inputs


class Prompts:
    """Prompts for a language model, of exactly so many tokens: through its template where it has one and that leaves
    room, else a text as it is, else (a tokenizer that knows too few words) token ids."""

    def __init__(self, model: Any, tokens: int, file: Path | None = None, *, begin: bool = True) -> None:
        """`begin`: a text has what the tokenizer puts before one (`<s>`), as nothing was read before it."""
        self._ingest: Any = model._ingest
        self._tokens, self._begin = tokens, begin
        texts = import_module("edgekit.runtimes.samples.texts")
        self._words = texts.read(file, OPTION) if file is not None else list(texts.TEXTS)
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
            f"{bundle.name} has a context of {context} tokens, and the test needs {tokens}", hint="shorten -p, -n or -d"
        )
