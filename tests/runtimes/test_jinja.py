"""The template engine: the Jinja that chat templates use, as jinja2 computes it, with bounded time and memory."""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples
from template_corpus import BOMBS, CHATS, EXPRESSIONS, OPTIONS, SOURCES, STATEMENTS, TOKENS, reference

from edgekit.errors import EdgeKitError
from edgekit.runtimes.ingest import chat_template
from edgekit.runtimes.jinja.faults import Fault, LimitFault, RenderFault, SyntaxFault
from edgekit.runtimes.jinja.template import Template

MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": " a-b Ünï\tç "},
    {"role": "assistant", "content": "x y", "n": 3, "items": [1, 2.5, None, True]},
]


def render(source: str, **variables: Any) -> str:
    return Template(source).render(variables, {"strftime_now": lambda layout: layout})


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_are_those_of_jinja2(expression: str) -> None:
    source = f"{{{{ {expression} }}}}"
    assert render(source, messages=MESSAGES) == reference(source, MESSAGES)


@pytest.mark.parametrize("source", STATEMENTS.values(), ids=STATEMENTS)
def test_statements_are_those_of_jinja2(source: str) -> None:
    assert render(source, messages=MESSAGES) == reference(source, MESSAGES)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "expected an expression"),
        ("{% if 1 %}", "endif is missing"),
        ("{{ 1", "a tag has no end"),
        ("{# x", "a comment has no end"),
        ("{% raw %}", "raw has no endraw"),
        ("{{ (1] }}", "unexpected ']'"),
        ("{{ 'a\\N{x}' }}", "a bad escape"),
        ("{{ " + "9" * 301 + " }}", "too many digits"),
        ("{{ ; }}", "unexpected ';'"),
        ("{{ 1 2 }}", "unexpected '2'"),
        ("{% include 'x' %}", "cannot load another file"),
        ("{% nothing %}", "unknown tag 'nothing'"),
        ("{% break %}", "break is not in a loop"),
        ("{% for m in x %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}", "break is not in a loop"),
        ("{% macro f(a=1, b) %}{% endmacro %}", "a parameter without a default"),
        ("{% call 1 %}{% endcall %}", "`call` needs a call"),
        ("{% autoescape true %}{% endautoescape %}", "autoescape is for HTML"),
        ("{% set true = 1 %}", "true cannot be assigned to"),
        ("{{ f(a=1, 2) }}", "an argument follows one with a name"),
        ("{{ a.'b' }}", "expected a name"),
        ("{% if 1 %}" * 200, "it nests too deep"),
        ("{{ " + "(" * 200 + ")" * 200 + " }}", "it nests too deep"),
        ("{{ " + "-" * 100_000 + "1 }}", "it nests too deep"),
        ("{{ a" + ".b" * 100_000 + " }}", "it nests too deep"),
        ("{{ a" + "|list" * 100_000 + " }}", "it nests too deep"),
        ("{% if 1 %}" + "{% elif 1 %}" * 1001 + "{% endif %}", "too many branches"),
    ],
)
def test_what_is_not_a_template(source: str, message: str) -> None:
    with pytest.raises(SyntaxFault, match=message):
        Template(source)


@pytest.mark.parametrize("link", ["+1", "~1", " and 1", " or 1", "*1", "<1", " if 1 else 1"])
def test_long_chains_are_no_deep_trees(link: str) -> None:
    template = Template("{{ 1" + link * (100 if "if" in link else 5000) + " }}")
    texts: list[str] = []
    kept = threading.stack_size(512 << 10)
    thread = threading.Thread(target=lambda: texts.append(template.render({}, {})))
    thread.start()
    thread.join()
    threading.stack_size(kept)
    assert texts


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ nothing.x }}", "'nothing' is undefined"),
        ("{{ messages.x.y }}", "'x' of a list is undefined"),
        ("{{ nothing() }}", "'nothing' is undefined"),
        ("{{ nothing + 1 }}", "'nothing' is undefined"),
        ("{{ nothing < 1 }}", "'nothing' is undefined"),
        ("{{ nothing['x'] }}", "'nothing' is undefined"),
        ("{{ nothing|abs }}", "'nothing' is undefined"),
        ("{{ 'a' + 1 }}", r"'\+' is not for a text and a number"),
        ("{{ 'a' * 'b' }}", r"'\*' is not for a text and a text"),
        ("{{ 'a' - 'b' }}", "'-' is not for a text and a text"),
        ("{{ -'a' }}", "'-' is not for a text"),
        ("{{ 1 in 'a' }}", "'in' is not for a number and a text"),
        ("{{ 1 in 2 }}", "'in' is not for a number and a number"),
        ("{{ 1() }}", "a number cannot be called"),
        ("{{ 1|nothing }}", "there is no filter 'nothing'"),
        ("{{ 1 is nothing }}", "there is no test 'nothing'"),
        ("{{ 1|length }}", "a number has no length"),
        ("{{ [1]|map('upper')|length }}", "has no length"),
        ("{{ [1]|map('upper')|tojson }}", "is not JSON before `list`"),
        ("{{ [1]|map('upper') }}", "cannot be written"),
        ("{{ range }}", "the function range cannot be written"),
        ("{% for m in 1 %}{% endfor %}", "a number has no parts"),
        ("{% set a, b = [1] %}", "1 values for 2 names"),
        ("{% set x.a = 1 %}", "'x' is not a namespace"),
        ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "no attribute '__class__'"),
        ("{{ {[1]: 2} }}", "a key is a list"),
        ("{{ [1].append(2) }}", r"append\(\) is not allowed"),
        ("{{ {}.update({}) }}", r"update\(\) is not allowed"),
        ("{% macro f(a) %}{% endmacro %}{{ f(1, a=2) }}", r"f\(\) has two values for 'a'"),
        ("{% for m in [1] %}{{ loop(1) }}{% endfor %}", "this loop is not recursive"),
        ("{% for m in [1] recursive %}{{ loop() }}{% endfor %}", r"loop\(\) takes one list"),
        ("{% for m in [1] %}{{ loop.cycle() }}{% endfor %}", r"loop.cycle\(\) needs values"),
        ("{{ (-8) ** 0.5 }}", "a root of a negative number"),
        ("{{ 1|round(method='x') }}", "the method of `round`"),
        ("{{ 1|round(1000) }}", "the precision of `round`"),
        ("{{ [1]|dictsort }}", "`dictsort` sorts a dict"),
        ("{{ [1]|batch(0) }}", "`batch` needs a size"),
        ("{{ [1]|map }}", "`map` needs a filter"),
        ("{{ [1]|items }}", "a list has no items"),
        ("{{ 1|urlencode }}", "`urlencode` is not for a number"),
        ("{{ '{0.a}'.format(1) }}", "is not the name of an argument"),
        ("{{ dict([((1, 2), 3)]) }}", "a key is a tuple"),
    ],
)
def test_operations_that_do_not_fit(source: str, message: str) -> None:
    with pytest.raises(RenderFault, match=message):
        render(source, messages=MESSAGES)


def test_data_that_is_not_json() -> None:
    with pytest.raises(RenderFault, match="a value is object, not JSON"):
        render("x", messages=[object()])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ '%s' % range }}",
        "{{ self._TemplateReference__context }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ [range, namespace(), messages] }}",
        "{{ ''|attr('__class__') }}",
        "{{ messages|map(attribute='__class__')|list }}",
        "{{ loop.__class__ }}",
    ],
)
def test_no_template_reaches_python(source: str) -> None:
    try:
        text = render(source, messages=MESSAGES)
    except RenderFault:
        return
    assert not any(word in text for word in ("class", "0x", "object", "edgekit"))


@pytest.mark.parametrize("source", BOMBS, ids=[source[:60] for source in BOMBS])
def test_bombs_end(source: str) -> None:
    with pytest.raises(LimitFault):
        render(source, messages=MESSAGES)


def test_a_rendering_fits_the_stack_of_the_caller() -> None:
    """The caller's own frames may leave few."""

    def deep(frames: int) -> str:
        return deep(frames - 1) if frames else render("{{ " + "(" * 60 + "1" + ")" * 60 + " }}")

    with pytest.raises(Fault, match="nests too deep"):
        deep(900)


def mutated(chance: random.Random, sources: list[str]) -> str:
    """A template with some of its text cut out, doubled, exchanged or taken from another."""
    source = chance.choice(sources)
    for _ in range(chance.choice((1, 1, 2, 5))):
        start = chance.randrange(len(source) + 1)
        end = min(len(source), start + chance.choice((1, 3, 10, 60)))
        other = chance.choice(sources)
        at = chance.randrange(len(other))
        piece = chance.choice(
            ("", source[start:end] * 2, other[at : at + 30], chance.choice(SIGNS), source[start:end][::-1])
        )
        source = source[:start] + piece + source[end:]
    return source


SIGNS = (
    "{{", "}}", "{%", "%}", "{#", "-", "|", "(", ")", "[", "]", "'", '"', ".", ",", "=", "not ", " is ", " in ", "None",
    "0", "9" * 50, "\\", "\x00", "\ud800", "🙂", "loop", "range(9)", "namespace", "messages", "*", "**", "~", "%",
)  # fmt: skip


@examples(200)
@given(seed=st.integers(0, 2**32))
def test_mutated_templates_fail_with_our_errors(seed: int) -> None:
    chance = random.Random(seed)
    source = mutated(chance, [*SOURCES.values(), *STATEMENTS.values(), *BOMBS])
    with suppress(EdgeKitError):
        template = chat_template.Template(source, TOKENS, ["<|im_end|>"])
        drawn = chance.choice([*OPTIONS.values()])
        options = {name: value for name, value in drawn.items() if name in template.options}
        template.parts(chance.choice([*CHATS.values()]), answer=True, options=options)
