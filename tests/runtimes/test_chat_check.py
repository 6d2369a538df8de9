"""What an export says of a chat template: refused where a plain chat is wrong, a note where another turn is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
from template_corpus import SOURCES, TOKENS

from edgekit.errors import BundleError, InputError, TemplateError, TokenizerError
from edgekit.runtimes.ingest import chat, chat_check
from edgekit.runtimes.ingest.chat import Chat
from edgekit.runtimes.ingest.chat_template import Template
from edgekit.runtimes.samples.chats import CHATS


def opened(folder: Path, source: str, vocabulary: int = 320) -> Chat:
    tiny_chat.make_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"context_length": 512, "vocab_size": vocabulary, "chat_template": source, "special_tokens": TOKENS}
    return chat.open(folder, settings)


def renderer(source: str) -> chat_check.Reference:
    """Another implementation: the same one, with a template of its own."""
    template = Template(source, TOKENS)

    def render(messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> str:
        try:
            return template.render(messages, add_generation_prompt=True, **options)
        except (TemplateError, InputError) as error:
            raise ValueError(error.message) from error

    return render


@pytest.mark.parametrize("name", SOURCES)
def test_good_templates_have_no_notes(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]
    # What transformers refuses, such as a tool's turn in zephyr's template, is no fault of ours.
    assert chat_check.check(opened(tmp_path, source), source, renderer(source)) == []
    assert chat_check.check(opened(tmp_path, source), source, None) == []


def test_a_plain_chat_that_fails_or_differs_is_refused(tmp_path: Path) -> None:
    good = tiny_chat.TEMPLATE
    for source, reference, said in (
        ("{{ nothing.x }}", None, r"fails with one turn: 'nothing' is undefined \(line 1\)"),
        ("{{ raise_exception('no') }}", None, "refuses one turn: the chat template refuses these messages: no"),
        ("{% if messages|length > 1 %}{{ 1 / 0 }}{% endif %}x", None, "fails with many turns: division by zero"),
        (good, renderer(good + "x"), "differs from transformers with one turn: '' instead of 'x' at character"),
        (good, renderer("{{ nothing.x }}"), "fails in transformers with one turn"),
    ):
        with pytest.raises(TemplateError, match=said):
            chat_check.check(opened(tmp_path, source), source, reference)


def test_another_turn_that_fails_or_differs_is_a_note(tmp_path: Path) -> None:
    source = tiny_chat.TEMPLATE + "{% if tools %}{{ tools|nothing }}{% endif %}{{ enable_thinking }}"
    notes = chat_check.check(opened(tmp_path, source), source, None)
    tools = [sample.name for sample in CHATS if "tools" in sample.options]
    assert notes == [f"the chat template fails with {name}: there is no filter 'nothing' (line 1)" for name in tools]
    other = tiny_chat.TEMPLATE + "{{ enable_thinking if enable_thinking else '' }}"
    source = tiny_chat.TEMPLATE + "{{ enable_thinking }}"
    notes = chat_check.check(opened(tmp_path, source), source, renderer(other))
    assert notes == [
        "the chat template differs from transformers with thinking off: 'False' instead of '' at character 78"
    ]


def test_a_turn_that_only_we_refuse_is_a_note(tmp_path: Path) -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    source = refuses + tiny_chat.TEMPLATE
    assert chat_check.check(opened(tmp_path, source), source, None) == []
    (note,) = chat_check.check(opened(tmp_path, source), source, renderer(tiny_chat.TEMPLATE))
    assert note.startswith("the chat template refuses a system message")


def test_a_control_token_without_a_row_is_named(tmp_path: Path) -> None:
    source = tiny_chat.TEMPLATE
    with pytest.raises(TokenizerError, match=r"the tokenizer writes '.+', token \d+, and the model knows 9 tokens"):
        chat_check.check(opened(tmp_path, source, vocabulary=9), source, None)
    with pytest.raises(BundleError, match=r"writes <\|im_end\|>, token 1, and the model knows 1 tokens"):
        chat_check.check(opened(tmp_path, source, vocabulary=1), source, None)
