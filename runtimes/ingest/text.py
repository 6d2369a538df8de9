"""Texts to token ids, and token ids to padded batches.

Knows tokenizer.json (through the `tokenizers` package), prompts, the length limit and the padding. Does not know what
the ids are for: `runtimes.heads` gives the answers.

Threads: `tokenizers` spreads a list over a pool of its own. The pool has RAYON_NUM_THREADS threads, or as many as this
process may use, and it is made once for the process, so a Model cannot resize it; TOKENIZERS_PARALLELISM=false keeps
every call on one thread. `open(..., threads=1)` tokenizes one text after the other whatever these say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from edgekit import limits
from edgekit.bundle import safe_files
from edgekit.errors import BundleError, InputError

from .. import arguments
from .. import settings as types
from ._tokenizer import guarded as guarded
from ._tokenizer import open_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array

T = TypeVar("T")
Item = str | tuple[str, str]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
RUN_TOKENS = 128  # what a run costs beside its tokens, in tokens: a small BERT on two CPU cores


class Settings(types.Settings):
    """What the bundle says of the texts that the model reads."""

    tokenizer: types.FileName = "tokenizer.json"
    vocab_size: types.Vocabulary | None = None
    max_length: types.Tokens | None = None  # special tokens included; None: no limit
    pad_id: types.TokenId = 0  # fills short rows
    inputs: list[Literal["input_ids", "attention_mask", "token_type_ids"]] | None = None  # None: those of the graph
    lowercase: bool = False  # before the tokenizer's own normalizer, as sentence-transformers' do_lower_case
    prompts: dict[types.Text, types.Text] | None = None  # name -> text that goes in front of what the user gives
    default_prompt: types.Text | None = None  # its name

    def __post_init__(self) -> None:
        if self.default_prompt and self.default_prompt not in (self.prompts or {}):
            raise ValueError(f"the default prompt {self.default_prompt!r:.80} is not among the prompts")
        if self.inputs is not None and (not self.inputs or len(set(self.inputs)) != len(self.inputs)):
            raise ValueError("`inputs` must be one or more different names")


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """One text or one pair as tokens, special ones included. A list per token is made when it is asked for.

    `text` holds the prompt too; offsets count its characters. In a pair, those of the second text count `pair`'s.
    """

    source: Text = field(repr=False)
    text: str
    pair: str | None
    raw: Any = field(repr=False)  # tokenizers.Encoding
    kept: tuple[int, ...] | None = field(repr=False)  # the tokens that are left after cutting; None: all
    placed: bool = field(repr=False)  # offsets and word ids were asked for
    position: int = 0  # in the call, for messages
    prompt_tokens: int = 0  # of the model's prompt at its beginning, with the special tokens before it

    def __len__(self) -> int:
        return len(self.raw) if self.kept is None else len(self.kept)

    @property
    def ids(self) -> list[int]:
        return self._left(self.raw.ids)

    @property
    def type_ids(self) -> list[int]:
        """Which text of a pair a token belongs to, as the tokenizer numbers them."""
        return self._left(self.raw.type_ids)

    @property
    def special(self) -> list[int]:
        """1 for a token that the tokenizer added ([CLS], </s>), 0 for a piece of the text."""
        return self._left(self.raw.special_tokens_mask)

    @property
    def offsets(self) -> list[tuple[int, int]] | None:
        """Start and end of each token in characters; None if `encode` was not asked for them."""
        return self._left(self.raw.offsets) if self.placed else None

    @property
    def word_ids(self) -> list[int | None] | None:
        """The number of each token's word, None for a special token; None if `encode` was not asked for offsets."""
        return self._left(self.raw.word_ids) if self.placed else None

    def _left(self, values: list[T]) -> list[T]:
        return values if self.kept is None else [values[i] for i in self.kept]


@dataclass(frozen=True, slots=True, eq=False)
class TextBatch:
    """Some encodings as a graph takes them: `feeds` are int64 (B, T), padded on the right.

    `rows` are the encodings' positions in the call, `lengths` their tokens, both in the order of the feeds' rows.
    """

    feeds: dict[str, Array]
    rows: tuple[int, ...]
    encodings: tuple[Encoding, ...]
    lengths: NDArray[np.int64]

    @property
    def prompt_tokens(self) -> NDArray[np.int64]:
        """The tokens of the prompt in each row."""
        return np.fromiter((encoding.prompt_tokens for encoding in self.encodings), np.int64, len(self.encodings))

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(B, T), True where there is a token and not padding."""
        return _mask(self.lengths, next(iter(self.feeds.values())).shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A bundle's tokenizer. Threads may share it."""

    tokenizer: Any = field(repr=False)  # tokenizers.Tokenizer, with truncation and padding off
    max_length: int | None = None
    pad_id: int = 0
    inputs: tuple[str, ...] = INPUTS[:2]
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    cuts_left: bool = False  # the file says that a long text loses its beginning, not its end
    most_bytes: int = limits.PROMPT_BYTES  # of one text, as UTF-8
    threads: int | None = None

    def encode(
        self,
        items: Sequence[Item],
        *,
        truncate: bool = False,
        prompt: str | None = None,
        offsets: bool = False,
        first: int = 0,
    ) -> list[Encoding]:
        """Texts or pairs of texts as tokens, in the order given.

        `prompt` names one of the model's prompts; "" uses none, not even the default one. In a pair it goes in front
        of the first text. Without `offsets` the tokenizer takes a faster way that gives none. `first`: the position of
        the first item in the caller's list, for messages.
        Raises InputError for what is not text, for a text of more than 8 MB and, unless `truncate`, for one of more
        than `max_length` tokens; TokenizerError if the tokenizer fails.
        """
        assert not isinstance(items, str), "a list of texts"
        prefix = self._prefix(prompt)
        texts = [_checked(item, prefix, position, self.most_bytes) for position, item in enumerate(items, first)]
        raws = guarded("the tokenizer cannot encode this text", lambda: self._run(texts, offsets))
        length = self._tokens_of_prompt(prefix) if prefix else 0
        found = enumerate(zip(texts, raws), first)
        return [self._encoding(position, text, raw, truncate, offsets, length) for position, (text, raw) in found]

    def batches(
        self, encodings: Sequence[Encoding], *, max_tokens: int = 512, max_rows: int = 64, multiple: int = 1
    ) -> Iterator[TextBatch]:
        """Every encoding in exactly one batch, longest first, so that rows of like length share one.

        A batch has at most `max_rows` rows and `max_tokens` tokens, padding counted, but always one row: what a list
        needs in memory does not grow with the list, nor with one long text in it. (What an engine holds grows with
        `max_tokens`; a small BERT gains nothing from more than 512, and loses by half beyond its cache.) A batch ends
        early where the padding that a new one would save is worth more than a run (`RUN_TOKENS`). Lengths are rounded
        up to a `multiple`, for an engine that prepares itself for every new shape.
        """
        assert max_tokens > 0
        assert max_rows > 0
        most = self.max_length or sys.maxsize
        lengths = [min(-(-len(encoding) // multiple) * multiple, max(most, len(encoding))) for encoding in encodings]
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        first = 0
        while first < len(order):
            longest = max(lengths[order[first]], 1)
            end = min(len(order), first + max(1, min(max_rows, max_tokens // longest)))
            last = first + 1
            while last < end and (longest - lengths[order[last]]) * (end - last) <= RUN_TOKENS:
                last += 1
            rows = tuple(order[first:last])
            yield self._batch(tuple(encodings[row] for row in rows), rows, longest)
            first = last

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of some ids. Raises TokenizerError if the tokenizer fails."""
        text = guarded(
            "the tokenizer cannot decode these ids",
            lambda: self.tokenizer.decode(ids, skip_special_tokens=skip_special),
        )
        return str(text)

    def _prefix(self, prompt: str | None) -> str:
        name = self.default_prompt if prompt is None else arguments.text(prompt, "prompt")
        if not name:
            return ""
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise InputError(f"this model has no prompt named {name!r}", hint=f"its prompts: {known}")
        return self.prompts[name]

    def _tokens_of_prompt(self, prompt: str) -> int:
        """As sentence-transformers counts them: the prompt alone, without a special token at its end."""
        raw = guarded("the tokenizer cannot encode the prompt", lambda: self.tokenizer.encode(prompt))
        return len(raw) - (raw.special_tokens_mask[-1] if len(raw) else 0)

    def _run(self, texts: list[Item], offsets: bool) -> list[Any]:
        run = self.tokenizer.encode_batch if offsets else self.tokenizer.encode_batch_fast
        if self.threads == 1:
            return [run([text])[0] for text in texts]
        found: list[Any] = run(texts)
        return found

    def _encoding(
        self, position: int, text: Item, raw: Any, truncate: bool, placed: bool, prompt_tokens: int
    ) -> Encoding:
        first, second = (text, None) if isinstance(text, str) else text
        limit = self.max_length
        if limit is None or len(raw) <= limit:
            return Encoding(self, first, second, raw, None, placed, position, prompt_tokens)
        if not truncate:
            raise InputError(
                f"texts[{position}] has {len(raw)} tokens, and {limit} are allowed",
                hint="shorten it, or cut it with truncate=True (--truncate)",
                position=position,
                tokens=len(raw),
                limit=limit,
            )
        kept = _cut(raw, limit, self.cuts_left)
        return Encoding(self, first, second, raw, kept, placed, position, prompt_tokens)

    def _batch(self, encodings: tuple[Encoding, ...], rows: tuple[int, ...], width: int) -> TextBatch:
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        mask = _mask(lengths, width)
        feeds: dict[str, Array] = {}
        for name in self.inputs:
            if name == "attention_mask":
                feeds[name] = mask.astype(np.int64)
            elif name == "input_ids":
                feeds[name] = _padded((encoding.ids for encoding in encodings), mask, self.pad_id)
            else:
                feeds[name] = _padded((encoding.type_ids for encoding in encodings), mask, 0)
        return TextBatch(feeds, rows, encodings, lengths)


def open(folder: Path, settings: Mapping[str, Any], *, threads: int | None = None) -> Text:
    """The tokenizer of the bundle in `folder`, tried once on a word.

    Raises TokenizerError if the file is bad or too big, BundleError if the settings do not fit it.
    """
    path = inside(folder, settings.get("tokenizer", "tokenizer.json"))
    file = open_tokenizer(path, lowercase=bool(settings.get("lowercase")))
    text = Text(
        file.tokenizer,
        max_length=settings.get("max_length"),
        pad_id=settings.get("pad_id", 0),
        inputs=tuple(settings.get("inputs") or INPUTS[:2]),
        prompts=settings.get("prompts") or {},
        default_prompt=settings.get("default_prompt"),
        cuts_left=file.cuts_left,
        most_bytes=file.most_bytes,
        threads=threads,
    )
    _fits(text)
    return text


def inside(folder: Path, name: object) -> Path:
    """The file of that name in a bundle. Raises BundleError if it is not there, or if the name leads out."""
    if not isinstance(name, str):
        raise BundleError(f"the settings name a file as {name!r}", hint="export the model again")
    return safe_files.safe_join(folder, name)


def _fits(text: Text) -> None:
    for name, kind in (("max_length", int | None), ("pad_id", int), ("prompts", Mapping)):
        if not isinstance(getattr(text, name), kind):
            raise BundleError(f"{name} is {getattr(text, name)!r}", hint="export the model again")
    unknown = [name for name in text.inputs if name not in INPUTS]
    if unknown:
        raise BundleError(f"a text model takes no input named {unknown[0]!r}", hint=f"known: {', '.join(INPUTS)}")
    odd = [name for name, prompt in text.prompts.items() if not isinstance(prompt, str)]
    if odd:
        raise BundleError(f"the prompt {odd[0]!r} is not a text", hint="export the model again")
    if text.default_prompt and text.default_prompt not in text.prompts:
        raise BundleError(f"the default prompt {text.default_prompt!r} is not among the prompts")
    added = max(text.tokenizer.num_special_tokens_to_add(is_pair) for is_pair in (False, True))
    if text.max_length is not None and text.max_length <= added:
        raise BundleError(f"max_length is {text.max_length}, and the tokenizer adds {added} special tokens to a pair")


def _checked(item: object, prefix: str, position: int, most_bytes: int) -> Item:
    if isinstance(item, tuple) and len(item) == 2:
        return prefix + check(item[0], position, most_bytes), check(item[1], position, most_bytes)
    return prefix + check(item, position, most_bytes)


def check(text: object, position: int, most_bytes: int = limits.PROMPT_BYTES) -> str:
    if not isinstance(text, str):
        raise InputError(
            f"texts[{position}] holds {type(text).__name__}, not text", hint="give strings, or pairs (a tuple) of them"
        )
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InputError(
            f"texts[{position}] holds half a surrogate pair at character {error.start}",
            hint="it is not valid Unicode: decode the source again, or text.encode(errors='replace').decode()",
        ) from None
    if size > most_bytes:
        raise InputError(f"texts[{position}] has {size} bytes, and {most_bytes} are allowed", hint="split it")
    return text


def _cut(raw: Any, limit: int, left: bool) -> tuple[int, ...]:
    """The positions that stay when `limit` tokens fit: every special token, and the beginning of each text.

    Done here and not by the tokenizer's own truncation: that is a state that threads would share, and for a pair it
    also makes every combination of the parts that it cuts off.
    """
    sequences = raw.sequence_ids
    texts = [[at for at, sequence in enumerate(sequences) if sequence == which] for which in (0, 1)]
    room = limit - sequences.count(None)
    stay = _longest_first(len(texts[0]), len(texts[1]), room)
    gone = {at for text, n in zip(texts, stay) for at in (text[: len(text) - n] if left else text[n:])}
    return tuple(at for at in range(len(raw)) if at not in gone)


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text of a pair stay: `longest_first` as in tokenizers' truncation.rs."""
    short, long = sorted((first, second))
    long = max(short, room - short) if short <= room else short
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)


def _mask(lengths: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    return np.arange(width) < lengths[:, None]


def _padded(rows: Iterator[list[int]], mask: NDArray[np.bool_], fill: int) -> NDArray[np.int64]:
    padded = np.full(mask.shape, fill, np.int64)
    padded[mask] = np.fromiter(chain.from_iterable(rows), np.int64)
    return padded
