"""Render a model's chat template: bounded work, no files, and messages that stay text.

A message may hold the very words that the template marks turns with (`<|im_start|>`). Before rendering, each such word
in it is broken by a mark; after rendering the broken words are the places that must not be read as control tokens.
A harmless chat is rendered as transformers does it, to the character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from edgekit import limits
from edgekit.errors import EdgeKitError, InputError, TemplateError

from ..jinja import template as jinja
from ..jinja.faults import Fault, RenderFault

MARK = "\U000f5eed"  # private use: no tokenizer and no keyboard has it
ESCAPED_MARKS = (json.dumps(MARK)[1:-1], repr(MARK)[1:-1])
OWN = ("messages", "add_generation_prompt")  # what a template is always given
ABSENT = {"tools": None, "documents": None, "add_generation_prompt": False}  # what transformers gives where nobody does
DATE_LAYOUT = 256  # characters
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of a message's reasoning, the usual one first
ROLES = ("system", "developer", "user", "assistant", "tool")
HINT = "the template came with the model; export another revision of it, or give plain text"


class Words:
    """The words that a tokenizer reads as control tokens. A mark in such a word takes that from it."""

    def __init__(self, words: Iterable[str]) -> None:
        known = [word for word in words if word]
        self._any = _any_of(known)
        self._broken = _any_of([word[0] + MARK + word[1:] for word in known])
        self._starts = frozenset(word[:at] for word in known for at in range(1, len(word)))
        self._ends = frozenset(word[at:] for word in known for at in range(1, len(word)))
        self._longest = max(map(len, known), default=0)

    def broken(self, text: str) -> str:
        """The text with a mark in each of these words, and no other marks."""
        return self._any.sub(lambda found: found[0][0] + MARK + found[0][1:], text.replace(MARK, ""))

    def split(self, text: str) -> list[tuple[str, bool]]:
        """What lies between broken words (True), and these words, whole again (False), in order.

        A mark that a template tore from its word ends a part, so that nothing becomes a control token by its going
        away.
        """
        if MARK not in text:
            return [(text, True)]
        parts, end = [], 0
        for found in self._broken.finditer(text):
            parts += [(part, True) for part in text[end : found.start()].split(MARK)]
            parts.append((found[0].replace(MARK, ""), False))
            end = found.end()
        parts += [(part, True) for part in text[end:].split(MARK)]
        return [part for part in parts if part[0]]

    def count(self, text: str) -> int:
        return len(self._any.findall(text))

    def may_complete(self, text: str) -> bool:
        """Whether the text begins with the end of a word, or ends with a beginning."""
        sizes = range(1, min(self._longest, len(text) + 1))
        return any(text[:size] in self._ends or text[-size:] in self._starts for size in sizes)


class Template:
    """A chat template.

    `source` is Jinja, `tokens` are names that it may use (`bos_token`). `controls`: the special tokens' words; `words`:
    those of tokens that are not special but not text either (`</think>`, `<tool_call>`).
    """

    def __init__(
        self,
        source: str,
        tokens: Mapping[str, Any] | None = None,
        controls: Sequence[str] = (),
        words: Sequence[str] = (),
    ) -> None:
        """Raises TemplateError for a template that is too large or that cannot be read."""
        if len(source.encode(errors="replace")) > limits.TEMPLATE_BYTES:
            raise TemplateError(f"the chat template is larger than {limits.TEMPLATE_BYTES} bytes", hint=HINT)
        self._tokens = dict(tokens or {})
        self._controls, self._all = Words(controls), Words((*controls, *words))
        try:
            self._template = jinja.Template(source)
        except Fault as error:
            raise TemplateError(f"the chat template cannot be read: {error}", hint=HINT) from error

    @cached_property
    def options(self) -> tuple[str, ...]:
        """The names that the template reads and that a caller may give: `tools`, `enable_thinking`."""
        return tuple(name for name in self._template.names if name not in {*OWN, *FUNCTIONS, *self._tokens})

    def parts(
        self, messages: Sequence[Mapping[str, Any]], *, answer: bool = False, options: Mapping[str, Any] | None = None
    ) -> list[tuple[str, bool]]:
        """The chat as text, in parts: True where special tokens are special, False where they are words of a message.

        `answer`: with the beginning of the assistant's turn. `options`: what the template may ask for besides (`tools`,
        `enable_thinking`). Raises InputError for messages and options that make no sense or that the template refuses,
        TemplateError.
        """
        checked = [_checked(number, message) for number, message in enumerate(messages)]
        check_data(checked, "the chat")
        if not checked:
            raise InputError("the chat has no messages", hint="give one: {'role': 'user', 'content': …}")
        self._check_options(options or {})
        names = {"add_generation_prompt": answer} | {
            name: _each_text(value, self._all.broken, keys=True) for name, value in (options or {}).items()
        }
        broken = [self._broken(message) for message in checked]
        text = self._rendered(broken, names)
        self._refuse_made(text, checked, broken, names)
        return self._all.split(text)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        for name, value in options.items():
            if name not in self.options:
                takes = f"it takes {', '.join(self.options)}" if self.options else "it takes no options"
                raise InputError(f"the chat template does not use {name!r:.60}", hint=takes)
            check_data(value, name)

    def _broken(self, message: Mapping[str, Any]) -> Any:
        """What the assistant said may hold its own words (`</think>`), which templates look for."""
        words = self._controls if message["role"] == "assistant" else self._all
        return _each_text(message, words.broken, keys=True)

    def _rendered(self, messages: Sequence[Any], names: Mapping[str, Any]) -> str:
        """`render`, which blames the messages where the template can render a plain chat."""
        try:
            return self.render(messages, **names)
        except TemplateError as error:
            if not isinstance(error.__cause__, RenderFault) or not self._renders_plain_chat():
                raise
            fault = error.__cause__
        raise InputError(
            f"the chat template cannot render these messages: {fault}",
            hint="compare their fields with what the model's card shows",
        )

    def _renders_plain_chat(self) -> bool:
        try:
            self.render([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
        except EdgeKitError:
            return False
        return True

    def render(self, messages: Sequence[Any], **names: Any) -> str:
        """The text that transformers' `apply_chat_template` gives.

        Raises TemplateError where the template fails, takes too long or says too much; InputError where it refuses.
        """
        variables = {**ABSENT, "messages": [_with_reasoning(message) for message in messages], **self._tokens, **names}
        try:
            return self._template.render(variables, FUNCTIONS, _unescaped)
        except Fault as error:
            raise TemplateError(f"the chat template fails: {error}", hint=HINT) from error

    def _refuse_made(self, text: str, messages: Sequence[Any], broken: Sequence[Any], names: Mapping[str, Any]) -> None:
        """A message may hold the rest of a word that the template begins; harmless messages show what is its own."""
        if not any(self._controls.may_complete(part) for part in _texts([messages, names])):
            return
        harmless = self.render(_each_text(broken, self._hidden), **_each_text(names, self._hidden))
        if self._controls.count(text) > self._controls.count(harmless):
            raise InputError("a message would become a control token", hint="change its first or last characters")

    def _hidden(self, text: str) -> str:
        """The text, or as many x where it could complete a control token."""
        return re.sub(r"\S", "x", text) if self._controls.may_complete(text) else text


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    """The longest of them first; of none, what nothing matches."""
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"(?!)")


def _checked(number: int, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InputError(f"messages[{number}] is not a message", hint="give {'role': 'user', 'content': 'text'}")
    if message["role"] not in ROLES:
        raise InputError(f"messages[{number}] has the role {message['role']!r}", hint=f"known: {', '.join(ROLES)}")
    content = message.get("content")
    if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise InputError(f"messages[{number}] has a content that is {type(content).__name__}, not text")
    return dict(message)


def check_data(value: Any, what: str) -> None:
    """Raise InputError for what a template cannot get: other than JSON, too deep, too large, half a letter."""
    try:
        size = sum(len(text.encode()) for text in _texts(_plain(value, what, limits.JSON_DEPTH)))
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds half a surrogate pair",
            hint="it is not valid Unicode: decode the source again, or text.encode(errors='replace').decode()",
        ) from error
    if size > limits.PROMPT_BYTES:
        raise InputError(f"{what} has {size} bytes, and {limits.PROMPT_BYTES} are allowed", hint="shorten it")


def _plain(value: Any, what: str, depth: int) -> Any:
    if depth == 0:
        raise InputError(f"{what} nests deeper than {limits.JSON_DEPTH} levels", hint="make it flatter")
    if isinstance(value, Mapping | list | tuple):
        for item in (*value, *value.values()) if isinstance(value, Mapping) else value:
            _plain(item, what, depth - 1)
    elif not isinstance(value, str | bool | int | float | None):
        raise InputError(f"{what} holds {type(value).__name__}, not JSON", hint="give texts, numbers, lists and dicts")
    return value


def _with_reasoning(message: Any) -> Any:
    """The message with its reasoning under each name that templates know, as transformers does it."""
    reasoning = next((message[name] for name in REASONING if message.get(name) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _each_text(value: Any, change: Callable[[str], str], *, keys: bool = False) -> Any:
    """The same structure with every text in it changed, with `keys` also names of fields; roles stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            change(key) if keys and isinstance(key, str) else key: (
                item if key == "role" else _each_text(item, change, keys=keys)
            )
            for key, item in value.items()
        }
    return [_each_text(item, change, keys=keys) for item in value] if isinstance(value, list | tuple) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _unescaped(text: str) -> str:
    """JSON and representations of values write the mark as an escape."""
    for escape in ESCAPED_MARKS:
        text = text.replace(escape, MARK)
    return text


def _refuse(message: str) -> None:
    raise InputError(f"the chat template refuses these messages: {message}", hint="see the model's card for its roles")


def _now(layout: str) -> str:
    if len(layout) > DATE_LAYOUT:
        raise ValueError("the layout of a date is too long")
    return datetime.now().strftime(layout)


FUNCTIONS = {"raise_exception": _refuse, "strftime_now": _now}
