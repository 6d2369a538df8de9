"""Check a chat template at export, so that no turn of a chat is the first to find out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgekit.errors import BundleError, InputError, TemplateError

from ..samples.chats import CHATS, ChatSample
from .chat import Chat
from .chat_template import Template

# The text of messages with options, as another implementation renders it. It raises ValueError where that fails.
Reference = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], str]
HINT = "correct chat_template in the model's folder, or take it away to export a model that continues texts"


def check(chat: Chat, source: str, reference: Reference | None) -> list[str]:
    """Render each sample, and return what is wrong with those that a chat can do without.

    `reference`: another renderer to compare with. Raises TemplateError where a plain chat fails or differs, BundleError
    for a control token that the model has no row for.
    """
    assert chat.template is not None
    _check_tokens(chat, source)
    notes = []
    for sample in CHATS:
        if not set(sample.options) <= {*chat.template.options}:
            continue
        fault = _fault(chat.template, sample, reference)
        if fault and sample.is_plain:
            raise TemplateError(f"the chat template {fault}", hint=HINT)
        notes += [f"the chat template {fault}"] if fault else []
        if not fault and sample.is_plain:
            chat.chat(sample.messages)  # each id has a row
    return notes


def _fault(template: Template, sample: ChatSample, reference: Reference | None) -> str:
    """What is wrong with the rendering; "" where it is right, or the template refuses such a chat."""
    expected = failure = None
    if reference is not None:
        try:
            expected = reference(sample.messages, sample.options)
        except ValueError as error:
            failure = str(error)
    try:
        text = template.render(sample.messages, add_generation_prompt=True, **sample.options)
    except InputError as error:
        is_fault = sample.is_plain or expected is not None
        return f"refuses {sample.name}: {error.message}" if is_fault else ""
    except TemplateError as error:
        return f"fails with {sample.name}: {error.__cause__}"
    if failure is not None:
        return f"fails in transformers with {sample.name}: {failure}"
    if expected is not None and text != expected:
        return f"differs from transformers with {sample.name}: {_difference(expected, text)}"
    return ""


def _difference(expected: str, text: str) -> str:
    at = next((at for at, (a, b) in enumerate(zip(expected, text)) if a != b), min(len(expected), len(text)))
    return f"{text[at : at + 40]!r} instead of {expected[at : at + 40]!r} at character {at}"


def _check_tokens(chat: Chat, source: str) -> None:
    """Control tokens that the template writes, and the model knows nothing of."""
    for token, id in sorted(_tokens(chat.tokenizer)):
        if id >= chat.vocabulary and token in source:
            raise BundleError(
                f"the chat template writes {token}, token {id}, and the model knows {chat.vocabulary} tokens",
                hint="take the tokenizer that the model was trained with, or a template without this token",
            )


def _tokens(tokenizer: Any) -> Iterator[tuple[str, int]]:
    return ((token.content, id) for id, token in tokenizer.get_added_tokens_decoder().items())
