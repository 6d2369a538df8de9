"""What the texts for people say must exist: commands, snippets, files, names and the table of architectures."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import readme_table

import edgekit
from edgekit import registry
from edgekit.cli.main import cli
from edgekit.model import Model
from edgekit.runtimes.conversation import Conversation
from edgekit.runtimes.stream import Stream
from edgekit.runtimes.streams import Streams

HOME = Path(__file__).parents[1]
TEXTS = ("README.md", "SECURITY.md", "CHANGELOG.md", ".github/CONTRIBUTING.md", "tests/benchmarks/README.md")
README = (HOME / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """The fenced blocks of that language in all texts."""
    found = (FENCE.findall((HOME / name).read_text(encoding="utf-8")) for name in TEXTS)
    return [block for text in found for kind, block in text if kind == language]


def commands() -> Iterator[list[str]]:
    """The words of every `edgekit …` line, without pipes, files and comments."""
    for block in blocks("console"):
        for line in block.splitlines():
            for part in line.removeprefix("$ ").split("|") if line.startswith("$ ") else ():
                words = shlex.split(part.partition("<")[0], comments=True)
                if words[:1] == ["edgekit"]:
                    yield words[1:]


SNIPPETS = [*blocks("python"), *(f"import edgekit\n{line}" for line in re.findall(r"`(edgekit\.\w+\(.+\))`", README))]


@pytest.mark.parametrize("name", readme_table.NAMES)
def test_a_table_is_up_to_date(name: str) -> None:
    table = getattr(readme_table, name)()
    assert readme_table.split(README, name)[1].strip() == table, "run: python tests/readme_table.py"


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    verb, *rest = words
    context = cli.commands[verb].make_context(verb, rest)
    assert context.command.name == verb


def test_there_are_commands_and_snippets() -> None:
    assert len(list(commands())) > 15
    assert len(SNIPPETS) > 2


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_name_what_exists(snippet: str) -> None:
    tree = ast.parse(snippet)
    kinds = [Model, Conversation, Stream, Streams, *(registry.task(task.name) for task in registry.tasks())]
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, keywords = node.func.attr, {word.arg for word in node.keywords}
        if getattr(node.func.value, "id", "") == "edgekit":
            owners: list[Any] = [edgekit]
        else:
            owners = [kind for kind in kinds if hasattr(kind, name)]
        assert owners, f"nothing has {name}()"
        assert any(keywords <= accepted(getattr(owner, name), keywords) for owner in owners), (name, keywords)


def accepted(function: Any, keywords: set[str | None]) -> set[str | None]:
    """The keywords that a function takes; with **options, also the parameters of sampling."""
    parameters = inspect.signature(function).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        options = import_module("edgekit.runtimes.sampling").Sampling.__dataclass_fields__
        return {*parameters, *options, "max_new_tokens", "stop", "seed"}
    return {*parameters}


@pytest.mark.parametrize("name", TEXTS)
def test_links_and_paths_lead_to_files(name: str) -> None:
    text, place = (HOME / name).read_text(encoding="utf-8"), (HOME / name).parent
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert all((place / link.partition("#")[0]).exists() for link in links), links
    named = re.findall(r"(?<![\w./])(?:edgekit|exporters|runtimes|targets|tests)/[\w/.]+\w", text)
    assert [path for path in named if not (HOME / path).exists() and "NAME" not in path] == []


@pytest.mark.parametrize("name", TEXTS)
def test_dotted_names_exist(name: str) -> None:
    for dotted in re.findall(r"`(edgekit(?:\.\w+)+)", (HOME / name).read_text(encoding="utf-8")):
        if dotted.startswith("edgekit.bench/") or dotted.endswith((".json", ".css", ".sha256")):
            continue
        resolve(dotted)


def resolve(dotted: str) -> Any:
    """The module or attribute of that name. Raises ImportError, AttributeError."""
    *home, last = dotted.split(".")
    try:
        return import_module(dotted)
    except ModuleNotFoundError:
        return getattr(import_module(".".join(home)), last)
