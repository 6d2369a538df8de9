"""Prompts to token ids: text, chat messages through the template, or ids; and ids back to text.

What a user or a model says in a chat never becomes a control token (`<|im_end|>`): such words in it are encoded as the
letters that they are. So it is with a plain text, except for the marks of fill-in-the-middle, or where the caller asks
for all (`parse_special`). Everything else is encoded as transformers does it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from edgekit import limits
from edgekit.errors import BundleError, InputError, TokenizerError, UsageError

from .. import settings as types
from . import text
from ._tokenizer import open_tokenizer
from .byte_tokens import ByteTokens, byte_tokens
from .chat_template import Template, Words

log = logging.getLogger("edgekit")

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
HINT = "shorten it: a prompt is never cut"
# What code models mark the gap, files and repositories with, as llama.cpp lists them. No turn begins or ends by one.
FILL_IN = frozenset(
    {
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<|code_prefix|>", "<PRE>", "▁<PRE>",
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<|code_suffix|>", "<SUF>", "▁<SUF>",
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<|code_middle|>", "<MID>", "▁<MID>",
        "<|repo_name|>", "<|fim_repo|>", "<fim-repo>", "<reponame>", "<|file_sep|>", "<|file_separator|>",
        "[PREFIX]", "[SUFFIX]", "[MIDDLE]",
    }
)  # fmt: skip


class Settings(types.Settings):
    """What the bundle says of the prompts that the model reads."""

    context_length: types.Tokens  # of prompt and answer
    vocab_size: types.Vocabulary
    tokenizer: types.FileName = "tokenizer.json"
    chat_template: Annotated[str, msgspec.Meta(max_length=limits.TEMPLATE_BYTES)] | None = None
    special_tokens: dict[types.Name, types.Text] | None = None  # by their names in templates: `bos_token`


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt's tokens."""

    ids: list[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PromptOptions:
    """How a prompt is read. `template`: names for the chat template; `parse_special`: of a text, whether control tokens
    in it count as such."""

    template: Mapping[str, Any] = field(default_factory=dict)
    parse_special: bool = False


PLAIN = PromptOptions()
TEMPLATE_NAMES = ("tools", "documents", "enable_thinking")  # options that go to the template by their own names
PROMPT_NAMES = (*TEMPLATE_NAMES, "chat_template_kwargs", "parse_special")


def prompt_options(options: Mapping[str, Any]) -> tuple[PromptOptions, dict[str, Any]]:
    """How the prompt is read, and the options that are about the answer. Raises UsageError, InputError."""
    values = {name: value for name, value in options.items() if value is not None}
    more, parse_special = values.get("chat_template_kwargs", {}), values.get("parse_special", False)
    if not isinstance(more, Mapping) or not all(isinstance(name, str) for name in more):
        raise UsageError("chat_template_kwargs is not a dict of names", hint="give {'enable_thinking': False}")
    if not isinstance(parse_special, bool):
        raise UsageError(f"parse_special is {parse_special!r:.40}", hint="give True or False")
    template = {**more, **{name: values[name] for name in TEMPLATE_NAMES if name in values}}
    rest = {name: value for name, value in options.items() if name not in PROMPT_NAMES}
    return PromptOptions(template, parse_special), rest


@dataclass(frozen=True, eq=False)
class Chat:
    """A bundle's tokenizer with its chat template. Threads may share it."""

    tokenizer: Any = field(repr=False)
    context: int
    vocabulary: int
    template: Template | None
    words: Words  # that a text does not become
    most_bytes: int = limits.PROMPT_BYTES  # of one prompt, as UTF-8

    def encode(
        self,
        items: Sequence[Prompt],
        *,
        truncate: bool = False,
        prompt: str | None = None,
        offsets: bool = False,
        first: int = 0,
        begin: bool = True,
        reading: PromptOptions = PLAIN,
    ) -> list[Encoded]:
        """Prompts as tokens. `truncate` cuts samples that are measured, and nothing else. `begin`: a text has what the
        tokenizer puts before it (`<s>`), which it has not where it goes on from another.

        Raises InputError for what is no prompt, and for one that does not fit into the context.
        """
        return [self._encode(item, number, truncate, begin, reading) for number, item in enumerate(items, first)]

    def chat(self, messages: Sequence[Mapping[str, Any]], reading: PromptOptions = PLAIN) -> list[int]:
        """A chat's tokens, with the beginning of the assistant's turn.

        Raises InputError, also for a model without a template; TemplateError.
        """
        if self.template is None:
            raise InputError("this model has no chat template", hint="give it a text to continue")
        if reading.parse_special:
            raise InputError("parse_special is for a text, not for chat messages", hint="leave it out")
        return self._ids(self.template.parts(messages, answer=True, options=reading.template), begin=False)

    def stream(self) -> Stream:
        return Stream(self)

    def decode(self, ids: Sequence[int]) -> str:
        """Special tokens say nothing. Raises TokenizerError."""
        ids = list(ids) if self._byte_tokens is None else self._byte_tokens.repaired(ids)
        return str(text.guarded("the tokenizer cannot decode these ids", lambda: self.tokenizer.decode(ids)))

    def _encode(self, item: Prompt, number: int, truncate: bool, begin: bool, reading: PromptOptions) -> Encoded:
        if isinstance(item, str):
            text.check(item, number, self.most_bytes)
            ids = self._ids(self._parts(item, number, reading.parse_special), begin=begin)
        elif isinstance(item, bytes | Mapping) or not hasattr(item, "__len__"):
            raise _not_a_prompt(number)
        elif len(item) and all(isinstance(part, Mapping) for part in item):
            ids = self.chat([part for part in item if isinstance(part, Mapping)], reading)
        elif all(isinstance(part, int | np.integer) and not isinstance(part, bool) for part in item):
            ids = [int(part) for part in item if isinstance(part, int | np.integer)]
            if any(not 0 <= one < self.vocabulary for one in ids):
                raise InputError(
                    f"prompts[{number}] has an id that is not in the vocabulary",
                    hint=f"give ids from 0 to {self.vocabulary - 1}",
                )
        else:
            raise _not_a_prompt(number)
        if not ids:
            raise InputError(f"prompts[{number}] has no tokens", hint="give a text that is not empty")
        if reading.template and not (len(item) and isinstance(item[0], Mapping)):
            name = next(iter(reading.template))
            raise InputError(f"{name} is for the chat template, and this is not a chat", hint="give chat messages")
        if truncate:
            ids = ids[: self.context]
        self.check_room(len(ids))
        return Encoded(ids)

    def _parts(self, words: str, number: int, parse_special: bool) -> list[tuple[str, bool]]:
        """A text in parts: True where control tokens in it count as such."""
        if parse_special:
            return [(words, True)]
        parts = self.words.split(self.words.broken(words))
        if letters := [part for part, special in parts if not special]:
            log.warning(
                "prompts[%d] has %s, which is read as letters: parse_special (--parse-special) reads it as a token",
                number, letters[0],
            )  # fmt: skip
        return parts

    def check_room(self, count: int) -> None:
        """Raise InputError where so many tokens do not fit into the context."""
        if count > self.context:
            raise InputError(
                f"the prompt has {count} tokens, and the context holds {self.context}", hint=HINT,
                tokens=count, limit=self.context,
            )  # fmt: skip

    def _ids(self, parts: Sequence[tuple[str, bool]], *, begin: bool) -> list[int]:
        """`begin`: with what the tokenizer puts before a text. Special tokens count in the parts that say so."""
        if self.most_bytes < limits.PROMPT_BYTES:  # the tokenizer's own steps make texts longer
            text.check("".join(words for words, _ in parts), 0, self.most_bytes)
        if begin and not (parts and parts[0][1]):
            parts = [("", True), *parts]
        ids: list[int] = []
        for place, (words, special) in enumerate(parts):
            ids += self._encoded(words, special=special, begin=begin and place == 0)
        if (strange := max(ids, default=0)) >= self.vocabulary:
            token = self.tokenizer.id_to_token(strange)
            raise TokenizerError(
                f"the tokenizer writes {token!r}, token {strange}, and the model knows {self.vocabulary} tokens",
                hint="export the model again with the tokenizer that it was trained with",
            )
        return ids

    def _encoded(self, words: str, *, special: bool, begin: bool) -> list[int]:
        tokenizer = self.tokenizer if special else self._plain
        found: list[int] = text.guarded(
            "the tokenizer cannot encode this text", lambda: tokenizer.encode(words, add_special_tokens=begin).ids
        )
        return found

    @cached_property
    def _byte_tokens(self) -> ByteTokens | None:
        return byte_tokens(self.tokenizer)

    @cached_property
    def _plain(self) -> Any:
        """The same tokenizer, to which no text is a special token."""
        from tokenizers import Tokenizer

        found = Tokenizer.from_str(self.tokenizer.to_str())
        found.encode_special_tokens = True
        return found


class Stream:
    """Token ids to text as they come: whole characters only, and together exactly what `decode` gives."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._ids: list[int] = []
        self._start = self._read = 0  # the window: what is decoded again, and what of it was given out
        self._given = 0  # characters

    def push(self, id: int) -> str:
        """The text that this token completes; often none."""
        self._ids.append(id)
        before = self._chat.decode(self._ids[self._start : self._read])
        after = self._chat.decode(self._ids[self._start :])
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""
        self._start, self._read = self._read, len(self._ids)
        self._given += len(after) - len(before)
        return after[len(before) :]

    def end(self) -> str:
        """What is left: a character that was never completed."""
        return self._chat.decode(self._ids)[self._given :]


def open(folder: Path, settings: Mapping[str, Any], *, threads: int | None = None) -> Chat:
    """The tokenizer of the bundle in `folder`, tried once. Raises TokenizerError, TemplateError, BundleError."""
    file = open_tokenizer(text.inside(folder, settings.get("tokenizer", "tokenizer.json")))
    tokenizer = file.tokenizer
    context, vocabulary = settings.get("context_length"), settings.get("vocab_size")
    if not isinstance(context, int) or not isinstance(vocabulary, int) or context < 1:
        raise BundleError("the settings do not state the context length", hint="export the model again")
    added = [token for token in tokenizer.get_added_tokens_decoder().values() if token.content]
    controls = tuple(token.content for token in added if token.special)
    words = tuple(token.content for token in added if not token.special and _looks_like_markup(token.content))
    source = settings.get("chat_template")
    template = Template(source, settings.get("special_tokens") or {}, controls, words) if source else None
    return Chat(tokenizer, context, vocabulary, template, Words({*controls, *words} - FILL_IN), file.most_bytes)


def _not_a_prompt(number: int) -> InputError:
    return InputError(f"prompts[{number}] is not a prompt", hint="give a text, chat messages or token ids")


def _looks_like_markup(word: str) -> bool:
    """`</think>` and `[TOOL]`, but not the runs of spaces or the words that some tokenizers add as well."""
    return len(word) > 2 and word[0] in "<[" and word[-1] in ">]"
