"""Tokenizers that are none, that panic, and settings that do not fit: every one is an error that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_bert import WORDS, minilm, write_tokenizer

from edgekit import limits
from edgekit.errors import BundleError, TokenizerError
from edgekit.runtimes.ingest import _tokenizer
from edgekit.runtimes.ingest import text as module
from edgekit.runtimes.ingest.text import Text

BPE: dict[str, Any] = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}


@pytest.mark.parametrize(
    ("parts", "cause"),
    [
        ({"model": BPE}, "out of range for slice"),
        ({"model": {**BPE, "vocab": {"a": 0, "b": 1, "ab": 2}, "continuing_subword_prefix": "####"}}, "out of range"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "chunk size must be non-zero"),
        (
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}],
                    "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}],
                    "special_tokens": {},
                }
            },
            "no entry found for key",
        ),
        ({"model": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 5}}, "UnkIdNotInVocabulary"),
        ({"model": {**WORDS, "vocab": {"b": 0}}}, "Missing [UNK]"),
    ],
)
def test_a_bad_tokenizer_is_an_error_when_it_is_opened(
    tmp_path: Path, parts: dict[str, Any], cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not a tokenizer that works") as caught:
        module.open(write_tokenizer(tmp_path, **parts), {})
    assert cause in caught.value.cause
    assert capfd.readouterr().err == ""


def test_a_panic_while_encoding_is_an_error(tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    text = module.open(write_tokenizer(tmp_path, pre_tokenizer=split), {})
    for offsets in (False, True):
        with pytest.raises(TokenizerError, match="cannot encode") as caught:
            text.encode(["a" * 40 + "!"], offsets=offsets)
        assert "retry-limit-in-match" in caught.value.cause
    assert text.encode(["b"])[0].ids == [1]  # still usable


@pytest.mark.parametrize("content", ["", "not json", "[" * 3000, "{}", "\x00\xff"])
def test_what_is_no_tokenizer_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"own\.json") as caught:
        module.open(tmp_path, {"tokenizer": "own.json"})
    assert caught.value.cause


@pytest.mark.parametrize("limit", ["TOKENIZER_BYTES", "VOCABULARY"])
def test_limits_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(limits, limit, 2)
    with pytest.raises(TokenizerError) as caught:
        module.open(write_tokenizer(tmp_path), {})
    assert " 2 " in caught.value.cause


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_stopping_the_program_is_never_swallowed(stop: type[BaseException]) -> None:
    class Stopping:
        def encode_batch_fast(self, texts: list[str]) -> None:
            raise stop

    with pytest.raises(stop):
        Text(Stopping()).encode(["a"])


def test_decode_errors_are_tokenizer_errors() -> None:
    with pytest.raises(TokenizerError, match="cannot decode"):
        module.open(minilm(), {}).decode([-1])


def test_what_others_write_to_stderr_while_a_tokenizer_is_opened_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with _tokenizer._without_backtrace():
        os.write(2, b"from another thread\n")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "from another thread\n"


def test_a_closed_stderr_is_no_trouble(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from edgekit.runtimes.ingest import text\n"
        "os.close(2); print(text.open(Path(sys.argv[1]), {}).encode(['b'])[0].ids)"
    )
    command = [sys.executable, "-c", script, str(write_tokenizer(tmp_path))]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout == "[1]\n"


@pytest.mark.parametrize("name", ["/etc/passwd", "../tokenizer.json", "a/../../b", "a\\b", "a\0b"])
def test_a_name_that_leads_out_of_the_bundle_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="unsafe path"):
        module.open(tmp_path, {"tokenizer": name})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json is missing"):
        module.open(tmp_path, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": ["input_ids", "pixel_values"]}, "pixel_values"),
        ({"default_prompt": "query"}, "'query' is not among the prompts"),
        ({"max_length": 3}, "max_length is 3, and the tokenizer adds 3"),
        ({"max_length": "256"}, "max_length is '256'"),
        ({"pad_id": None}, "pad_id is None"),
        ({"prompts": {"query": 5}}, "the prompt 'query' is not a text"),
        ({"prompts": ["query"]}, r"prompts is \['query'\]"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        module.open(minilm(), given)
