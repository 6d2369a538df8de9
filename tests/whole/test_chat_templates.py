"""Chat templates all the way: what an export refuses or warns of, and options that reach the template."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import in_process
import pytest
import tiny_chat
from export_cache import ExportCache

import edgekit
from edgekit.errors import BundleError, InputError, TemplateError, UsageError
from edgekit.model import Model

pytestmark = pytest.mark.slow
HELLO = [{"role": "user", "content": "one two"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    + tiny_chat.TEMPLATE
    + "{% if enable_thinking is false %}no{% endif %}{{ mood }}"
)


@pytest.fixture(scope="module")
def model(kept: ExportCache) -> Any:
    folder = kept.get("a chat model with options", lambda made: tiny_chat.save(made, template=TEMPLATE))
    options: dict[str, Any] = {"targets": ["cpu"], "precision": "fp32"}
    bundle = kept.get("the bundle with options", lambda made: in_process.export(str(folder), made, **options))
    with edgekit.load(bundle, threads=1) as opened:
        yield opened


def tokens(model: Model, **options: Any) -> int:
    return int(model.generate(HELLO, max_new_tokens=1, **options).usage["prompt_tokens"])


def size(word: str) -> int:
    return len(tiny_chat.make_tokenizer().encode(word).ids)


def test_options_reach_the_template(model: Model) -> None:
    plain = tokens(model)
    assert tokens(model, tools=TOOLS) == plain + size("weather")
    assert tokens(model, enable_thinking=False) == plain + size("no")
    assert tokens(model, enable_thinking=True) == plain
    assert tokens(model, chat_template_kwargs={"mood": "xyz", "enable_thinking": False}) == plain + size("noxyz")
    with pytest.raises(InputError, match="does not use 'moood'") as caught:
        tokens(model, chat_template_kwargs={"moood": "calm"})
    assert caught.value.hint == "it takes enable_thinking, mood, tools"
    with pytest.raises(UsageError, match="no option 'mood'") as wrong:
        tokens(model, mood="calm")
    assert "chat_template_kwargs" in wrong.value.hint


def test_a_session_keeps_its_options(model: Model) -> None:
    plain = tokens(model)
    with model.session(tools=TOOLS, max_new_tokens=2) as chat, chat.fork() as fork:
        for each in (chat, fork):
            result = each.generate(HELLO)
            assert (result.usage["prompt_tokens"], len(result.ids)) == (plain + size("weather"), 2)
            chat.reset()
            assert chat.generate(HELLO, tools=[]).usage["prompt_tokens"] == plain
    with pytest.raises(UsageError, match="max_new_tokens is 0"):
        model.session(max_new_tokens=0)


def test_a_template_that_fails_on_a_plain_chat_is_not_exported(tmp_path: Path) -> None:
    folder = tiny_chat.save(tmp_path / "model", template="{{ messages[0].text.upper() }}")
    with pytest.raises(TemplateError, match="the chat template fails with one turn: 'text' of a dict is undefined"):
        in_process.export(str(folder), tmp_path / "made.ek", targets=["cpu"], precision="fp32")
    assert not (tmp_path / "made.ek").exists()


def test_a_template_that_fails_with_tools_is_exported_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_chat.save(
        tmp_path / "model", template=tiny_chat.TEMPLATE + "{% if tools %}{{ tools.x.y }}{% endif %}"
    )
    with caplog.at_level(logging.WARNING, logger="edgekit"):
        in_process.export(str(folder), tmp_path / "made.ek", targets=["cpu"], precision="fp32")
    assert "the chat template fails with tools: 'x' of a list is undefined (line 1)" in caplog.text


def test_a_control_token_beyond_the_vocabulary_is_named(tmp_path: Path) -> None:
    folder = tiny_chat.save(tmp_path / "model", template=tiny_chat.TEMPLATE.replace("<|im_end|>", "<|late|>"))
    tokenizer = tiny_chat.make_tokenizer()
    while tokenizer.get_vocab_size() < 400:
        tokenizer.add_tokens([f"filler{tokenizer.get_vocab_size()}"])
    tokenizer.add_special_tokens(["<|late|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(BundleError, match=r"writes <\|late\|>, token 400, and the model knows 3\d\d tokens"):
        in_process.export(str(folder), tmp_path / "made.ek", targets=["cpu"], precision="fp32")
