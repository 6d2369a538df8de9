"""The options of `edgekit run`: each task has those that are parameters of its methods, and no others."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypedDict, Unpack

import click
import numpy as np
import pytest
from cli_calls import Call, bundles, call, vectors
from task_files import MakeTask, make_task

from edgekit import registry
from edgekit.cli import inputs, method_options
from edgekit.cli.main import cli
from edgekit.model import load

__all__ = ["bundles", "call", "make_task", "vectors"]

WORDS = {
    "--query": ["rice"],
    "--dimensions": ["2"],
    "--prompt-name": ["query"],
    "--truncate": [],
    "--top-k": ["1"],
    "--rate": ["5"],
    "--image": ["a.png"],
    "--system": ["x"],
    "--max-new-tokens": ["2"],
    "--temperature": ["0"],
    "--top-p": ["0.5"],
    "--min-p": ["0.5"],
    "--repetition-penalty": ["1.1"],
    "--stop": ["x"],
    "--seed": ["0"],
    "--no-stream": [],
}
TAKEN = {
    "feature-extraction": {"--query", "--dimensions", "--prompt-name", "--truncate"},
    "text-classification": {"--top-k", "--truncate"},
    "token-classification": {"--truncate"},
    "fill-mask": {"--top-k", "--truncate"},
}


@pytest.mark.parametrize("task", TAKEN)
def test_a_task_takes_the_options_of_its_methods(call: Call, bundles: Callable[[str], Path], task: str) -> None:
    folder = bundles(task)
    for flag, words in WORDS.items():
        if task == "feature-extraction" and flag == "--top-k":
            continue  # it needs --query
        ended = call("run", folder, "a[MASK]", flag, *words)
        if flag in TAKEN[task]:
            assert (ended.code, ended.err) == (0, ""), flag
        else:
            assert (ended.code, ended.out) == (2, "")
            assert ended.err.startswith(f"error: {task}.ek ({task}) has no {flag}\n")


def test_the_hint_names_the_options_that_there_are(call: Call, vectors: Path) -> None:
    ended = call("run", vectors, "a", "--temperature", "1")
    assert ended.err.splitlines() == [
        "error: feature-extraction.ek (feature-extraction) has no --temperature",
        "hint: embed takes --file, --prompt, --prompt-name, --dimensions, --truncate",
    ]


def test_a_query_picks_the_method_that_ranks(call: Call, vectors: Path) -> None:
    documents = ["some", "other", "words"]
    with load(vectors) as model:
        ranked = model.rerank("query", documents, top_k=2)
    ended = call("run", vectors, *documents, "--query", "query", "--top-k", "2")
    assert ended.out.splitlines() == [f"{row.score:.4f}\t{documents[row.index]}" for row in ranked]
    results = call("run", vectors, *documents, "--query", "query", "--top-k", "2", "--json").json["results"]
    assert results == [{"index": row.index, "score": row.score} for row in ranked]


def test_options_of_two_methods(call: Call, vectors: Path) -> None:
    ended = call("run", vectors, "a", "--query", "b", "--top-k", "2", "--dimensions", "2")
    assert (ended.code, ended.out) == (2, "")
    assert "has no --dimensions together with --query --top-k" in ended.err
    assert "hint: rerank takes --file, --prompt, --query, --truncate" in ended.err.replace("--top-k, ", "")


@pytest.mark.parametrize("task", [task.name for task in registry.tasks()])
def test_the_first_method_of_every_task_can_be_called(task: str) -> None:
    """Its options come from its signature; a TypedDict behind `**options` must be there at run time."""
    kind = registry.task(task)
    names = [str(param.name) for param in cli.commands["run"].params]
    assert method_options.describe(task, getattr(object.__new__(kind), kind.METHODS[0]), names) is not None
    assert kind.INPUT in inputs.KINDS


def test_the_keys_of_a_typed_dict_are_options() -> None:
    class Sampling(TypedDict, total=False):
        temperature: float
        seed: int

    def generate(prompt: str, *, stream: bool = False, **options: Unpack[Sampling]) -> None: ...
    def loose(prompt: str, **options: Any) -> None: ...

    generate.__annotations__["options"] = Unpack[Sampling]
    method = method_options.describe("generate", generate, ["prompt", "seed"])
    assert method == method_options.Method("generate", "prompt", ("stream", "temperature", "seed"), ())
    assert method_options.describe("loose", loose, []) == method_options.Method("loose", "prompt", (), ())


def test_the_options_of_generated_text() -> None:
    from edgekit.runtimes.tasks.text_generation import TextGeneration

    model = object.__new__(TextGeneration)
    method = method_options.describe("generate", model.generate, ["prompt"])
    assert method is not None
    assert {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "seed"} <= {*method.parameters}


def test_methods_that_a_command_cannot_call() -> None:
    async def coroutine(items: Any) -> None:
        await asyncio.sleep(0)

    async def generator(items: Any) -> AsyncIterator[int]:
        yield 1

    def two(a: Any, b: Any) -> None: ...
    def none() -> None: ...

    for function in (coroutine, generator, two, none):
        assert method_options.describe("x", function, ["query"]) is None


def test_help_lists_options_in_groups(call: Call) -> None:
    out = call("run", "--help").out
    places = [out.index(f"\n{title}:\n") for title in ("Common", "Text", "Text generation", "Images", "Series")]
    assert places == sorted(places)
    common, text, generation, images, series = (
        out[start:end] for start, end in zip(places, [*places[1:], None], strict=True)
    )
    assert "--help" in common
    assert "--json" in common
    assert "--query" in text
    assert "--seed" in generation
    assert "--image" in images
    assert "--rate" in series
    listed = {word for line in out.splitlines() for word in line.replace(",", " ").split() if word.startswith("--")}
    options = [param for param in cli.commands["run"].params if isinstance(param, click.Option)]
    assert {max(param.opts, key=len) for param in options} <= listed


# A task that nobody has heard of

LETTERS = """
    INPUT = "text"
    METHODS = ("count", "shout")

    def count(self, texts, *, top_k=3):
        return [[Label(each, text.count(each)) for each in sorted(set(text))][:top_k] for text in texts]

    def shout(self, texts, *, seed):
        return [text.upper() * (seed + 1) for text in texts]
"""


def test_a_new_task_needs_no_line_in_the_command(call: Call, make_task: MakeTask) -> None:
    folder = make_task("letter-count", LETTERS)
    assert call("run", folder, "abab", "c").out == "a 2.0000\tb 2.0000\nc 1.0000\n"
    assert call("run", folder, "abab", "--top-k", "1").out == "a 2.0000\n"
    assert call("run", folder, "ab", "--seed", "0").out == "AB\n"
    ended = call("run", folder, "abab", "--truncate")
    assert ended.err.splitlines() == [
        "error: letter-count.ek (letter-count) has no --truncate",
        "hint: count takes --top-k, --file, --prompt",
    ]
    assert call("run", folder, "abab", "--json").json["results"][0][0] == {"label": "a", "score": 2}
    assert "2 texts in" in call("run", folder, "a", "b", "-v").err


RESULTS = """
    INPUT = "text"
    METHODS = ("answer",)

    def answer(self, texts):
        @dataclass
        class Pair:
            left: int
            right: float

        number = np.float32(1.5)
        return [
            Anomaly(0.25, True), Forecast(np.array([[1.0], [2.0]])), Pair(1, 0.5), Result("a b", (), "stop", {}, {}, 0),
            np.array([1.0, 2.0]), "a b", number,
        ]
"""


def test_each_type_of_result_has_its_line(call: Call, make_task: MakeTask) -> None:
    folder = make_task("every-result", RESULTS)
    assert call("run", folder, "a").out.splitlines() == [
        "0.25\ttrue",
        "1.0\t2.0",
        '{"left": 1, "right": 0.5}',
        "a b",
        "[1.0, 2.0]",
        "a b",
        "1.5",
    ]


ARRAYS = """
    INPUT = "text"
    METHODS = ("measure",)

    def measure(self, texts, *, seed=0):
        return [np.ones(1 + seed * number) for number, _ in enumerate(texts)]
"""


def test_arrays_of_one_shape_are_written_as_one(call: Call, make_task: MakeTask, tmp_path: Path) -> None:
    folder = make_task("measured", ARRAYS)
    assert call("run", folder, "a", "b", "-o", tmp_path / "x.npy").code == 0
    assert np.load(tmp_path / "x.npy").shape == (2, 1)
    ended = call("run", folder, "a", "b", "--seed", "1", "-o", tmp_path / "x.npy")
    assert (ended.code, "the answers of measured are not an array" in ended.err) == (2, True)
    assert json.loads(call("run", folder, "a", "b", "--seed", "1").out.splitlines()[1]) == [1, 1]


def test_what_the_command_cannot_read(call: Call, make_task: MakeTask) -> None:
    video = make_task("video-search", "    INPUT = 'video'\n    METHODS = ('find',)\n    def find(self, videos): ...\n")
    ended = call("run", video, "a")
    assert (ended.code, ended.out) == (4, "")
    assert "cannot read 'video', which video-search.ek (video-search) takes" in ended.err


def test_a_model_without_a_method_for_the_command(call: Call, make_task: MakeTask) -> None:
    folder = make_task("paired", "    INPUT = 'text'\n    METHODS = ('pair',)\n    def pair(self, a, b): ...\n")
    ended = call("run", folder, "a")
    assert (ended.code, ended.out) == (4, "")
    assert "paired.ek (paired) has no method that `edgekit run` can call" in ended.err


def test_a_terminal_is_no_input(call: Call, vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a chat reads a terminal, and a chat goes into no file."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("io.TextIOWrapper", lambda _: terminal)
    for words in (("-o", tmp_path / "x.json"), ("--json",), ()):
        ended = call("run", vectors, *words, stdin=b"")
        assert (ended.code, "no input" in ended.err) == (2, True)
