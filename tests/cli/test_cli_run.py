"""`edgekit run` on a real bundle for each task: what goes in, what comes out, and what makes no sense."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_bundles
from cli_calls import Call, bundles, call, vectors

from edgekit import limits
from edgekit.cli import render
from edgekit.model import load

__all__ = ["bundles", "call", "vectors"]


def embedded(folder: Path, *texts: str, **options: Any) -> np.ndarray[Any, Any]:
    with load(folder, target="cpu") as model:
        return model.embed(texts, **options)


def test_run_embeds_arguments_prompts_and_lines(call: Call, vectors: Path) -> None:
    ended = call("run", vectors, "a", "-", "-p", "-b", stdin="é\r\n\nlast".encode())
    assert ended.code == 0
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert np.array_equal(np.asarray(rows, np.float32), embedded(vectors, "a", "é", "", "last", "-b"))


def test_run_reads_stdin_when_nothing_else_is_given(call: Call, vectors: Path) -> None:
    piped = call("run", vectors, "--json", stdin=b"one\ntwo\n").json
    named = call("run", vectors, "--json", "one", "two").json
    assert piped["results"] == named["results"]
    assert (piped["variant"], piped["placement"]) == ("cpu/fp32", "CPUExecutionProvider")
    assert set(piped["seconds"]) == {"load", "run"}


def test_run_passes_its_options_on(call: Call, vectors: Path) -> None:
    found = call("run", vectors, "a", "--dimensions", "3", "--prompt-name", "query", "--json").json["results"]
    assert np.array_equal(np.asarray(found, np.float32), embedded(vectors, "a", dimensions=3, prompt="query"))


def test_run_shows_a_terminal_the_beginning(
    call: Call, vectors: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    line = call("run", vectors, "a").out
    numbers = embedded(vectors, "a")[0, :4]
    assert line == f"{' '.join(f'{number:.4f}' for number in numbers)} … (6 numbers)\n"


def test_run_takes_ten_thousand_inputs(call: Call, vectors: Path) -> None:
    ended = call("run", vectors, *["a"] * 10_000)
    assert ended.code == 0
    assert len(set(ended.out.splitlines())) == 1
    assert ended.out.count("\n") == 10_000


def test_run_classifies(call: Call, bundles: Callable[[str], Path]) -> None:
    folder = bundles("text-classification")
    with load(folder) as model:
        first, second = model.classify(["a", "b"])
    lines = call("run", folder, "a", "b").out.splitlines()
    assert lines[0] == "\t".join(f"{label.label} {label.score:.4f}" for label in first)
    ended = call("run", folder, "b", "--top-k", "1", "--json")
    assert ended.json["results"] == [[{"label": second[0].label, "score": second[0].score}]]


def test_run_tags(call: Call, bundles: Callable[[str], Path]) -> None:
    folder = bundles("token-classification")
    with load(folder) as model:
        (spans,) = model.tag(["hello"])
    assert spans
    assert call("run", folder, "").out == "\n"  # a line for a text without any
    expected = "\t".join(f"{span.label} {span.score:.4f} {span.start}-{span.end} {span.text}" for span in spans)
    assert call("run", folder, "hello").out == expected + "\n"


def test_run_fills(call: Call, bundles: Callable[[str], Path]) -> None:
    folder = bundles("fill-mask")
    with load(folder) as model:
        ((mask,),) = model.fill(["a[MASK]"], top_k=2)
    found = call("run", folder, "a[MASK]", "--top-k", "2", "--json").json["results"]
    assert found == [[[{name: getattr(token, name) for name in ("token", "id", "score", "text")} for token in mask]]]
    assert call("run", folder, "a[MASK]", "--top-k", "2").out.count(",") == 1


@pytest.mark.parametrize("task", ["text-ranking", "feature-extraction"])
def test_run_ranks(call: Call, bundles: Callable[[str], Path], task: str) -> None:
    folder, documents = bundles(task), ["some", "other", "words"]
    with load(folder) as model:
        ranked = model.rerank("query", documents)
    ended = call("run", folder, *documents, "--query", "query")
    assert ended.out.splitlines() == [f"{row.score:.4f}\t{documents[row.index]}" for row in ranked]


@pytest.mark.parametrize(
    ("task", "words", "said"),
    [
        ("text-ranking", [], "text-ranking.ek (text-ranking) needs --query"),
        ("feature-extraction", ["--top-k", "2"], "needs --query with --top-k"),
        ("text-classification", ["--dimensions", "2"], "(text-classification) has no --dimensions"),
        ("text-classification", ["--prompt-name", "x"], "(text-classification) has no --prompt-name"),
        ("text-classification", ["-o", "x.npy"], "the answers of text-classification are not an array"),
        ("feature-extraction", ["--precision", "int4"], "has no variant 'int4'"),
        ("feature-extraction", ["--prompt-name", "x"], "x"),
    ],
)
def test_run_refuses_what_makes_no_sense(
    call: Call,
    bundles: Callable[[str], Path],
    task: str,
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call("run", bundles(task), "a", *words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("stdin", [b"", None])
def test_run_without_any_input(call: Call, vectors: Path, stdin: bytes | None) -> None:
    ended = call("run", vectors, stdin=stdin)
    assert ended.code == 2
    assert "no input" in ended.err


def test_run_refuses_lines_that_are_no_text(call: Call, vectors: Path) -> None:
    ended = call("run", vectors, "--json", stdin=b"good\nb\xe9se\n")
    assert ended.json["error"]["code"] == "EK-INPUT"
    assert "line 2 of stdin" in ended.err


def test_run_refuses_arguments_that_are_no_text(call: Call, vectors: Path) -> None:
    ended = call("run", vectors, "--json", os.fsdecode(b"b\xe9se"))
    assert ended.code == 2
    assert ended.json["error"]["code"] == "EK-INPUT"


def test_run_writes_vectors(call: Call, vectors: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.npy"
    file.write_text("old")
    ended = call("run", vectors, "a", "b", "-o", file)
    assert (ended.code, ended.out, ended.err) == (0, "", f"wrote {file}\n")
    assert np.array_equal(np.load(file, allow_pickle=False), embedded(vectors, "a", "b"))
    assert os.listdir(tmp_path) == ["out.npy"]


def test_run_writes_json(call: Call, vectors: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    ended = call("run", vectors, "a", "-q", "--json", "-o", file)
    assert ended.json["output"] == str(file)
    assert ended.err == ""
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert np.array_equal(np.asarray(results, np.float32), embedded(vectors, "a"))


@pytest.mark.parametrize(
    ("name", "said"), [("a.json", "it is a folder"), ("/proc/a.json", "cannot write"), ("link.json", "a symbolic link")]
)
def test_run_cannot_write(call: Call, vectors: Path, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "a.json").mkdir()
    (tmp_path / "thesis.json").write_text("mine")
    (tmp_path / "link.json").symlink_to("thesis.json")
    ended = call("run", vectors, "a", "-o", tmp_path / name)
    assert ended.code == 2
    assert said in ended.err
    assert (tmp_path / "thesis.json").read_text() == "mine"


def test_run_writes_to_a_pipe(call: Call, vectors: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out.json")
    reader = os.open(tmp_path / "out.json", os.O_RDONLY | os.O_NONBLOCK)
    ended = call("run", vectors, "a", "-q", "--json", "-o", tmp_path / "out.json")
    assert ended.json["output"] == str(tmp_path / "out.json")
    with os.fdopen(reader, "rb") as pipe:
        assert json.loads(pipe.read())["results"]
    assert (tmp_path / "out.json").is_fifo()


def test_run_says_what_ran_with_v(call: Call, vectors: Path) -> None:
    err = call("run", vectors, "a", "b", "-v").err
    assert "cpu/fp32 on CPUExecutionProvider" in err
    assert "2 texts in" in err


def test_run_warns_of_random_weights(call: Call, tmp_path: Path) -> None:
    folder = small_bundles.make(tmp_path / "r.ek", random=True)
    ended = call("run", folder, "a", "--json")
    assert "random weights" in ended.err
    assert ended.json["random_weights"] is True


def test_float32_is_written_with_nine_digits() -> None:
    vector = np.array([0.1, -0.02279672771692276, np.nan, 1e-30], np.float32)
    written = render.record(vector)
    assert json.dumps(written) == "[0.100000001, -0.0227967277, null, 1e-30]"
    back = np.array([math.nan if value is None else value for value in written], np.float32)
    np.testing.assert_array_equal(back, vector)
    assert render.record(np.array([[0.1]])) == [[0.1]]


def test_the_summary_of_one_item() -> None:
    known = {"bundle": "x.ek", "variant": "cpu/fp32", "placement": "CPU", "seconds": {"load": 0.1, "run": 0.01}}
    assert render.summary(known, 1, "texts").endswith("1 text in 10.0 ms")
    assert render.summary(known, 2, "texts").endswith("2 texts in 10.0 ms, 5.00 ms each")


def test_run_reads_no_more_than_it_can_hold(call: Call, vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROMPT_BYTES", 10)
    ended = call("run", vectors, stdin=b"one\ntwo and three\n")
    assert (ended.code, "line 2 of stdin has more than 10 bytes" in ended.err) == (2, True)
    monkeypatch.setattr(limits, "INPUT_LINES", 3)
    ended = call("run", vectors, stdin=b"a\n" * 4)
    assert (ended.code, "stdin has more than 3 lines" in ended.err) == (2, True)
    monkeypatch.setattr(limits, "INPUT_LETTERS", 5)
    ended = call("run", vectors, stdin=b"abc\nab\n")
    assert (ended.code, "or 5 characters" in ended.err) == (2, True)
