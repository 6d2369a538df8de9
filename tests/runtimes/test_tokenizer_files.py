"""Tokenizer files of strangers: none cuts, fills or grows a text without an error, whichever ingest opens it."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples
from tiny_bert import WORDS, write_tokenizer

from edgekit import limits, zoo
from edgekit.errors import BundleError, InputError, TokenizerError
from edgekit.runtimes.ingest import chat, text

CUT = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
FILLED = {
    "strategy": {"Fixed": 1_000_000_000}, "direction": "Right", "pad_to_multiple_of": None,
    "pad_id": 0, "pad_type_id": 0, "pad_token": "a",
}  # fmt: skip
MULTIPLE = {**FILLED, "strategy": "BatchLongest", "pad_to_multiple_of": 1 << 40}
CHAT = {"context_length": 64, "vocab_size": 3}
SPACES = {"type": "Whitespace"}


def text_ids(folder: Path, sentence: str) -> list[int]:
    return text.open(folder, {}).encode([sentence])[0].ids


def chat_ids(folder: Path, sentence: str) -> list[int]:
    return chat.open(folder, CHAT).encode([sentence])[0].ids


INGESTS: list[Callable[[Path, str], list[int]]] = [text_ids, chat_ids]


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*steps: dict[str, Any], key: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", key: list(steps)}


def affixed(**model: Any) -> dict[str, Any]:
    return {"model": {**model, "vocab": {"a": 0, "b": 1, "[UNK]": 2}}}


@pytest.mark.parametrize("ids", INGESTS)
@pytest.mark.parametrize("parts", [{"truncation": CUT}, {"padding": FILLED}, {"padding": MULTIPLE}])
def test_no_ingest_cuts_or_fills_a_text_as_its_tokenizer_file_says(
    tmp_path: Path, ids: Callable[[Path, str], list[int]], parts: dict[str, Any]
) -> None:
    write_tokenizer(tmp_path, pre_tokenizer=SPACES, **parts)
    assert ids(tmp_path, "a b a b a b") == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("ids", INGESTS)
@pytest.mark.parametrize(
    ("parts", "cause"),
    [
        ({"normalizer": sequence(*[replace({"String": "a"}, "a" * 1000)] * 4)}, "1e+12 times as long"),
        ({"normalizer": replace({"Regex": "a|b"}, "a" * 65)}, "65 times as long"),
        ({"normalizer": replace({"String": ""}, "a" * 65)}, "65 times as long"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 1_000_000}}, "1e+06 times as long"),
        ({"decoder": sequence(*[replace({"String": "a"}, "a" * 9)] * 2, key="decoders")}, "81 times as long"),
        (affixed(type="BPE", merges=[], continuing_subword_prefix="#" * 65), "continuing_subword_prefix has 65"),
        (affixed(type="BPE", merges=[], end_of_word_suffix="#" * 65), "end_of_word_suffix has 65"),
        (
            affixed(
                type="WordPiece", unk_token="[UNK]", continuing_subword_prefix="##", max_input_chars_per_word=10**9
            ),
            "words of 1000000000 characters",
        ),
        (
            {"model": {"type": "Unigram", "vocab": [["a", -1.0], ["a" * 3000, -2.0], ["b", -1.0]], "unk_id": 2}},
            "a token of 3000 characters",
        ),
        (
            {"model": {"type": "Unigram", "vocab": [["a", -1.0], ['"' * 3000, -2.0], ["b", -1.0]], "unk_id": 2}},
            "a token of 3000 characters",
        ),
        (
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {"a": {"id": "a", "ids": [0] * 2000, "tokens": ["a"] * 2000}},
                }
            },
            "2000 special tokens around each text",
        ),
    ],
)
def test_a_tokenizer_whose_work_has_no_bound_is_refused(
    tmp_path: Path, ids: Callable[[Path, str], list[int]], parts: dict[str, Any], cause: str
) -> None:
    with pytest.raises(TokenizerError, match="not a tokenizer that works") as caught:
        ids(write_tokenizer(tmp_path, **parts), "a")
    assert cause in caught.value.cause


@pytest.mark.parametrize("ids", INGESTS)
def test_texts_are_shorter_where_the_tokenizer_makes_them_longer(
    tmp_path: Path, ids: Callable[[Path, str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PROMPT_BYTES", 100)
    write_tokenizer(tmp_path, pre_tokenizer=SPACES, normalizer=replace({"String": "b"}, "a a "))
    assert ids(tmp_path, "b" * 20) == [0] * 40
    with pytest.raises(InputError, match="has 26 bytes, and 25 are allowed"):
        ids(tmp_path, "b" * 26)


def test_ids_are_not_random_where_the_file_says_dropout(tmp_path: Path) -> None:
    vocab = {letters: number for number, letters in enumerate(("a", "aa", "aaaa", "aaaaaaaa"))}
    model = {"type": "BPE", "vocab": vocab, "merges": [["a", "a"], ["aa", "aa"], ["aaaa", "aaaa"]], "dropout": 0.9}
    write_tokenizer(tmp_path, model=model)
    assert {tuple(text_ids(tmp_path, "a" * 8)) for _ in range(20)} == {(3,)}


@pytest.mark.parametrize(
    "model",
    [
        {"type": "BPE", "vocab": {"a": 0, "aa": 1, "b": 2}, "merges": [["a", "a"]]},
        {"type": "Unigram", "vocab": [["a", -1.0], ["aa", -1.5], ["b", -1.0]], "unk_id": 2},
        {**WORDS, "type": "WordPiece", "continuing_subword_prefix": "", "max_input_chars_per_word": 256},
    ],
)
def test_a_word_of_a_million_characters_comes_to_an_end(tmp_path: Path, model: dict[str, Any]) -> None:
    assert text_ids(write_tokenizer(tmp_path, model=model), "a" * 1_000_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


@examples(300)
@given(seed=st.integers(0, 2**32))
def test_mutated_tokenizer_files_give_our_errors_only(folder: Path, seed: int) -> None:
    generator = random.Random(seed)
    file = json.loads((zoo.folder(generator.choice(["parity", "speaker"])) / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(_mutated(file, generator))
    with contextlib.suppress(BundleError, InputError):
        for ids in INGESTS:
            ids(folder, "347 = a b")


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    1e308,
    "",
    "a",
    "\0",
    "(a+)+$",
    "[",
    [],
    {},
    ["a"],
    {"a": 1},
)


def _mutated(file: Any, generator: random.Random) -> str:
    """The file with one to three values replaced, removed or copied to another place, or with a byte changed."""
    for _ in range(generator.randint(1, 3)):
        holder, key = generator.choice(_places(file))
        how = generator.randrange(4)
        if how == 0:
            holder[key] = generator.choice(VALUES)
        elif how == 1:
            del holder[key]
        elif how == 2:
            other, place = generator.choice(_places(file))
            holder[key] = copy.deepcopy(other[place])
        else:
            holder[key] = json.loads(json.dumps(holder[key]).replace("1", "7"))
    return json.dumps(file)


def _places(file: Any) -> list[tuple[Any, Any]]:
    """Each (holder, key) in the file; of the vocabulary a few only."""
    places: list[tuple[Any, Any]] = []
    stack = [file]
    while stack:
        holder = stack.pop()
        keys = list(holder)[:30] if isinstance(holder, dict) else list(range(min(len(holder), 30)))
        for key in keys:
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                stack.append(holder[key])
    return places


@pytest.mark.parametrize("prompt", [None, 12, 1.5, b"a", {"role": "user"}, iter("a"), [None], [1.5], [[1]], object()])
def test_what_is_not_a_prompt(tmp_path: Path, prompt: Any) -> None:
    with pytest.raises(InputError, match="is not a prompt"):
        chat.open(write_tokenizer(tmp_path), CHAT).encode([prompt])
