"""Render a model's chat template with minijinja: bounded work, no files, and messages that stay text.

A message may hold the very words that the template marks turns with (`<|im_start|>`). Before rendering, each such word
in it is broken by a mark; after rendering the broken words are the places that must not be read as control tokens.
A harmless chat is rendered as transformers does it, to the character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from edgekit import limits
from edgekit.errors import InputError, TemplateError

MARK = "\U000f5eed"  # private use: no tokenizer and no keyboard has it
ROLES = ("system", "developer", "user", "assistant", "tool")
HINT = "the template came with the model; export another revision of it, or give plain text"
STRING = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
TAG = re.compile(rf"\{{[{{%]((?:{STRING.pattern}|(?![%}}]\}}).)*)", re.DOTALL)  # a text in it may hold what ends tags
LINK = re.compile(r"[-+~*/%.(\[|{]|\b(?:and|or|not|if|is|in)\b|[<>=]+")
ELIF = re.compile(r"\belif\b|\belse\s+if\b")
# transformers marks what the assistant says with these, for training; here they say nothing.
GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


class Words:
    """The words that a tokenizer reads as control tokens. A mark in such a word takes that from it."""

    def __init__(self, words: Sequence[str]) -> None:
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
        tokens: Mapping[str, str] | None = None,
        controls: Sequence[str] = (),
        words: Sequence[str] = (),
    ) -> None:
        """Raises TemplateError for a template that is too large or that cannot be read."""
        if len(source.encode(errors="replace")) > limits.TEMPLATE_BYTES:
            raise TemplateError(f"the chat template is larger than {limits.TEMPLATE_BYTES} bytes", hint=HINT)
        _refuse_deep(source)
        self._source, self._tokens = _readable(source), dict(tokens or {})
        self._controls, self._all = Words(controls), Words((*controls, *words))
        _run(lambda environment: environment.add_template("chat", self._source))

    def parts(self, messages: Sequence[Mapping[str, Any]], **names: Any) -> list[tuple[str, bool]]:
        """The chat as text, in parts: True where special tokens are special, False where they are words of a message.

        `names`: what the template may ask for besides (`tools`, `enable_thinking`, `add_generation_prompt`).
        Raises InputError for messages that make no sense or that the template refuses, TemplateError.
        """
        checked = [_checked(number, message) for number, message in enumerate(messages)]
        if not checked:
            raise InputError("the chat has no messages", hint="give one: {'role': 'user', 'content': …}")
        text = self.render([self._broken(message) for message in checked], **names)
        self._refuse_made(text, checked, names)
        return self._all.split(text)

    def _broken(self, message: Mapping[str, Any]) -> Any:
        """What the assistant said may hold its own words (`</think>`), which templates look for."""
        words = self._controls if message["role"] == "assistant" else self._all
        return _each_text(message, words.broken)

    def render(self, messages: Sequence[Any], **names: Any) -> str:
        """The template's text. Raises TemplateError where it fails, takes too long or says too much."""
        given = {"messages": messages, **self._tokens, **names}
        text: str = _run(lambda environment: environment.render_str(self._source, **given))
        if len(text) > limits.TEMPLATE_OUTPUT:
            raise TemplateError(f"the chat template wrote more than {limits.TEMPLATE_OUTPUT} characters", hint=HINT)
        return text

    def _refuse_made(self, text: str, messages: Sequence[Any], names: Mapping[str, Any]) -> None:
        """A message may hold the rest of a word that the template begins; harmless messages show what is its own."""
        if not any(self._controls.may_complete(part) for part in _texts(messages)):
            return
        harmless = self.render(_each_text(messages, lambda text: re.sub(r"\S", "x", text)), **names)
        if self._controls.count(text) > self._controls.count(harmless):
            raise InputError("a message would become a control token", hint="change its first or last characters")


def _run(work: Callable[[Any], Any]) -> Any:
    """`work(environment)` of a fresh environment, whose failures are TemplateErrors."""
    from minijinja import Environment
    from minijinja import TemplateError as Failed

    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        filters={"tojson": _to_json},
        globals={"raise_exception": _refuse, "strftime_now": lambda layout: datetime.now().strftime(layout)},
        auto_escape_callback=lambda name: False,
    )
    environment.fuel = limits.TEMPLATE_FUEL
    try:
        return work(environment)
    except Failed as error:
        what = str(error).splitlines()[0]
        raise TemplateError(f"the chat template fails: {what}", hint=HINT, cause=str(error)[:2000]) from error


def _refuse_deep(source: str) -> None:
    """minijinja 3.0 overflows the stack, which ends the process, on a long chain of operators or of `elif`."""
    links = (len(LINK.findall(STRING.sub("", tag[1]))) for tag in TAG.finditer(source))
    if max(links, default=0) > limits.TEMPLATE_LINKS or len(ELIF.findall(source)) > limits.TEMPLATE_BRANCHES:
        raise TemplateError("the chat template nests too deep", hint=HINT)


def _readable(source: str) -> str:
    return GENERATION.sub(lambda found: f"{{%{found[1]} {'endif' if found[2] else 'if true'} {found[3]}%}}", source)


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


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """The same structure with every text in it changed; names of fields and roles stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: item if key == "role" else _each_text(item, change) for key, item in value.items()}
    return [_each_text(item, change) for item in value] if isinstance(value, list | tuple) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """As transformers sets it up: letters stay letters, nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(message: str) -> None:
    raise InputError(f"the chat template refuses these messages: {message}", hint="see the model's card for its roles")
