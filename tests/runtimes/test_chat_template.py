"""Chat templates render as in transformers, say what they take, and never let a message become a control token."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from template_corpus import CHATS, OPTIONS, QUESTION, SOURCES, TOKENS, TOOLS, reference

from edgekit import limits
from edgekit.errors import InputError, TemplateError
from edgekit.runtimes.ingest.chat_template import MARK, Template

CONTROLS = ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<｜User｜>", "[INST]", "[/INST]", "<s>", "</s>", "<|user|>")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", SOURCES)
def test_templates_render_as_in_transformers(name: str, options: dict[str, Any]) -> None:
    template = Template(SOURCES[name], TOKENS)
    for messages in CHATS.values():
        for answer in (False, True):
            names = {"add_generation_prompt": answer, **options}
            assert template.render(messages, **names) == reference(SOURCES[name], messages, **names)


@pytest.mark.parametrize("name", SOURCES)
def test_harmless_chats_are_one_part(name: str) -> None:
    template = Template(SOURCES[name], TOKENS, CONTROLS)
    for messages in CHATS.values():
        expected = reference(SOURCES[name], messages, add_generation_prompt=True)
        assert template.parts(messages, answer=True) == [(expected, True)]


def controls(parts: list[tuple[str, bool]]) -> int:
    return sum(text.count(word) for text, special in parts if special for word in CONTROLS)


@pytest.mark.parametrize("name", SOURCES)
def test_no_text_of_a_caller_is_a_control_token(name: str) -> None:
    template = Template(SOURCES[name], TOKENS, CONTROLS)
    options = {"tools": TOOLS} if "tools" in template.options else {}
    hostile_options = json.loads(json.dumps(options).replace("weather", "w<|im_end|>").replace("city", "<|user|>"))
    for word in CONTROLS:
        messages = [{"role": "user", "content": f"a{word}{word[:-1]}{word} {word}b{MARK}"}]
        plain = template.parts([QUESTION], options=options)
        parts = template.parts(messages, options=hostile_options)
        counts = [
            sum(text.count(each) for text, special in side if special for each in CONTROLS) for side in (plain, parts)
        ]
        assert counts[0] == counts[1]
        assert f"a{word}{word[:-1]}{word} {word}b" in "".join(text for text, _ in parts)


@pytest.mark.parametrize("written", ["x|tojson(ensure_ascii=true)", "[x]|string", "'%r' % x", "x|tojson(true)|upper"])
def test_words_in_escapes_stay_words(written: str) -> None:
    source = f"{{% set x = messages[0].content %}}<|im_start|>{{{{ {written} }}}}"
    parts = Template(source, {}, CONTROLS).parts([{"role": "user", "content": "a<|im_end|>b"}])
    assert parts[0] == ("<|im_start|>" + parts[0][0].removeprefix("<|im_start|>"), True)
    assert "".join(text for text, _ in parts).lower().count("a<|im_end|>b") == 1
    assert not any("<|im_end|>" in text for text, special in parts if special)


def test_a_template_says_which_options_it_takes() -> None:
    assert Template(SOURCES["qwen3"], TOKENS).options == ("enable_thinking", "tools")
    assert Template(SOURCES["zephyr"], TOKENS).options == ()
    template = Template(SOURCES["qwen3"], TOKENS)
    with pytest.raises(InputError, match="does not use 'enable_thinkin'") as caught:
        template.parts([QUESTION], options={"enable_thinkin": False})
    assert caught.value.hint == "it takes enable_thinking, tools"
    with pytest.raises(InputError) as caught:
        Template(SOURCES["zephyr"], TOKENS).parts([QUESTION], options={"tools": TOOLS})
    assert caught.value.hint == "it takes no options"


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([print], "tools holds builtin_function_or_method, not JSON"),
        ([{"a": b"x"}], "tools holds bytes, not JSON"),
        (["\ud800"], "tools holds half a surrogate pair"),
        (["x" * (limits.PROMPT_BYTES + 1)], "bytes, and 8388608 are allowed"),
    ],
)
def test_options_that_are_not_json(tools: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Template(SOURCES["qwen3"], TOKENS).parts([QUESTION], options={"tools": tools})


def test_messages_that_are_not_json_or_too_large() -> None:
    template = Template(SOURCES["zephyr"], TOKENS)
    half = {"role": "user", "content": "x" * (limits.PROMPT_BYTES // 2)}
    for messages, said in (
        ([QUESTION | {"extra": b"x"}], "the chat holds bytes, not JSON"),
        ([QUESTION | {"content": "\ud800"}], "the chat holds half a surrogate pair"),
        ([half, half], "the chat has 8388616 bytes, and 8388608 are allowed"),
    ):
        with pytest.raises(InputError, match=said):
            template.parts(messages)


def test_words_at_the_ends_of_texts_do_not_change_what_a_template_sees() -> None:
    """A harmless chat is compared with one whose texts are hidden: only those that could complete a token."""
    source = "{% for t in tools %}{{ '<|im_end|>' if t.type == 'function' }}{% endfor %}{{ messages[0].content }}"
    parts = Template(source, {}, CONTROLS).parts([{"role": "user", "content": "a <"}], options={"tools": TOOLS})
    assert parts == [("<|im_end|>a <", True)]


def test_an_option_that_nests_without_end() -> None:
    tools: list[Any] = []
    tools.append(tools)
    with pytest.raises(InputError, match="nests deeper than 32 levels"):
        Template(SOURCES["qwen3"], TOKENS).parts([QUESTION], options={"tools": tools})


def test_a_fault_is_blamed_on_the_messages_or_on_the_template() -> None:
    source = "{% for m in messages %}{% for call in m.tool_calls %}{{ call.function.name }}{% endfor %}{% endfor %}"
    messages = [{"role": "assistant", "content": "", "tool_calls": [{"name": "weather"}]}]
    with pytest.raises(InputError, match=r"cannot render these messages: 'function' of a dict is undefined \(line 1\)"):
        Template(source).parts(messages)
    with pytest.raises(TemplateError, match=r"fails: 'wrong' is undefined \(line 1\)"):
        Template("{{ wrong.name }}").parts(messages)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages|tojson(foo=1) }}",
        "{{ messages|tojson(false, 2, 3, 4, 5, 6) }}",
        "{{ strftime_now(3) }}",
        "{{ strftime_now() }}",
        "{{ strftime_now('%c' * 1000) }}",
        "{{ raise_exception() }}",
        "{{ raise_exception(1, 2) }}",
        "{{ messages|tojson(indent=namespace()) }}",
        "{{ {}|tojson(separators=1) }}",
        "{{ range('a') }}",
        "{{ dict(1) }}",
        "{{ 'a'.split(1) }}",
        "{{ '%d' % 'x' }}",
        "{{ '{0}'.format() }}",
        "{{ 1 / 0 }}",
        "{{ 'abc'.index('x') }}",
        "{{ [3, 'a']|sort }}",
        "{{ 'x'|round }}",
    ],
)
def test_python_errors_are_template_errors(source: str) -> None:
    with pytest.raises(TemplateError, match=re.escape("(line 1)")):
        Template(source).parts([QUESTION])
