"""Older folders: a vocabulary, and no tokenizer.json."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.core import Source
from edgekit.errors import UnsupportedError
from edgekit.exporters._trace import tokenizer

pytestmark = pytest.mark.slow

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "un", "##seen", ",", "."]
TEXTS = ["The cat sat.", "cats, unseen", "dog", ""]


@pytest.fixture(autouse=True)
def workbench() -> Iterator[None]:
    """transformers warns of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make(folder: Path, **told: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def run(folder: Path, *, random: bool = False) -> Path:
    source = Source("m", "bert", folder, "", {"model_type": "bert", "vocab_size": 64}, random)
    (folder / "made").mkdir()
    tokenizer.write_tokenizer(source, folder / "made")
    return folder / "made" / "tokenizer.json"


def test_a_vocabulary_becomes_a_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = make(tmp_path, tokenizer_class="BertTokenizer", do_lower_case=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    mine, theirs = Tokenizer.from_file(str(run(folder))), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert mine.encode(text).ids == theirs(text)["input_ids"]
    assert mine.encode("The cats").tokens == ["[CLS]", "the", "cat", "##s", "[SEP]"]


@pytest.mark.parametrize("kind", ["XLMRobertaTokenizer", "BertTokenizer", "PreTrainedTokenizerFast"])
def test_no_vocabulary_at_all(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path, tokenizer_class=kind)
    with pytest.raises(UnsupportedError, match=r"no tokenizer\.json, and none can be made") as caught:
        run(folder)
    assert "save_pretrained" in caught.value.hint
    assert caught.value.cause
    assert not (folder / "made" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    "files",
    [
        {"vocab.txt": "the\n\udcff\n"},
        {"vocab.json": "{", "merges.txt": "a b"},
        {"vocab.json": '{"a": 0}', "merges.txt": "a b c d\n"},
        {"spiece.model": "not a model"},
    ],
    ids=["bytes", "cut", "merges", "sentencepiece"],
)
def test_a_vocabulary_that_is_bad(tmp_path: Path, files: dict[str, str]) -> None:
    kinds = {"vocab.txt": "BertTokenizer", "vocab.json": "GPT2Tokenizer", "spiece.model": "T5Tokenizer"}
    folder = make(tmp_path, tokenizer_class=kinds[next(iter(files))])
    for name, content in files.items():
        (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UnsupportedError, match=r"none can be made of its vocabulary") as caught:
        run(folder)
    assert caught.value.cause


def test_a_tokenizer_without_a_fast_form(tmp_path: Path) -> None:
    folder = make(tmp_path, tokenizer_class="CanineTokenizer")
    with pytest.raises(UnsupportedError, match="CanineTokenizer has no fast form"):
        run(folder)
    assert not (folder / "made" / "tokenizer.json").exists()


def test_a_tokenizer_that_is_there_is_copied(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "tokenizer.json").write_text('{"some": 1}')
    assert run(folder).read_text() == '{"some": 1}'


def test_random_weights_get_one_that_stands_in(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    assert Tokenizer.from_file(str(run(make(tmp_path), random=True))).get_vocab_size() <= 64


@pytest.mark.parametrize(
    ("parts", "note"),
    [
        ({"truncation": {"max_length": 3}, "padding": {"strategy": "BatchLongest"}}, "ignored truncation, padding"),
        ({"truncation": None, "model": {"dropout": 0.1}}, "ignored dropout"),
        ({"truncation": None, "padding": None, "model": {"dropout": None}}, ""),
        ([], ""),
    ],
)
def test_what_the_file_says_and_nobody_does_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, parts: Any, note: str
) -> None:
    (make(tmp_path) / "tokenizer.json").write_text(json.dumps(parts))
    with caplog.at_level("INFO", logger="edgekit"):
        run(tmp_path)
    assert [record.getMessage() for record in caplog.records] == ([f"tokenizer.json: {note}"] if note else [])
