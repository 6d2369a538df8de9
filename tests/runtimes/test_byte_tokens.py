"""Byte tokens become text as llama.cpp shows it: whole letters, and one mark for each part that is not UTF-8."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtimes.ingest import chat
from edgekit.runtimes.ingest.chat import Chat

FIRST = 3  # id of <0x00>
LETTERS = "▁abcdefghijklmnopqrstuvwxyz.,!é🙂\ufffd"
TEXT = FIRST + 256  # id of the first letter


def tokenizer(kind: str) -> Any:
    """A tokenizer with byte fallback, as Llama 2, Mistral and Gemma have it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS, "▁▁"]
    made = Tokenizer(models.BPE({name: id for id, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True))
    made.add_special_tokens([AddedToken(name, special=True) for name in names[:3]])
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = {
        "llama": lambda: decoders.Sequence([*spaces, decoders.Strip(" ", 1, 0)]),
        "gemma": lambda: decoders.Sequence(spaces),
        "metaspace": lambda: decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    }[kind]()
    return made


@pytest.fixture(scope="module", params=["llama", "gemma", "metaspace"])
def ingest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chat:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer(request.param).save(str(folder / "tokenizer.json"))
    return chat.open(folder, {"context_length": 4096, "vocab_size": TEXT + len(LETTERS) + 1})


def byte_ids(text: str, count: int | None = None) -> list[int]:
    return [FIRST + byte for byte in text.encode()][:count]


def streamed(ingest: Chat, ids: list[int]) -> str:
    stream = ingest.stream()
    return "".join([*map(stream.push, ids), stream.end()])


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (byte_ids("你好"), "你好"),
        (byte_ids("你好", 5), "你\ufffd"),
        (byte_ids("👍👍", 5), "👍\ufffd"),
        (byte_ids("\n你好", 5), "\n你\ufffd"),
        (byte_ids("你好你好", 10), "你好你\ufffd"),
        ([*byte_ids("你"), *byte_ids("好", 2), TEXT + 1], "你\ufffda"),
        ([FIRST + 0xFF, FIRST + 0x41, FIRST + 0xFE], "\ufffdA\ufffd"),
        ([*byte_ids("é", 1), 2, *byte_ids("é")[1:]], "é"),  # a special token says nothing
    ],
)
def test_what_is_not_utf8_is_one_mark(ingest: Chat, ids: list[int], text: str) -> None:
    assert ingest.decode(ids) == text
    assert streamed(ingest, ids) == text


@given(seed=st.integers(0, 2**32))
def test_pieces_are_together_what_decoding_gives(ingest: Chat, seed: int) -> None:
    chance = random.Random(seed)
    texts = ["é", "你", "👍", "\n", "a", "\ufffd", " "]
    ids: list[int] = []
    for _ in range(chance.randrange(1, 20)):
        whole = byte_ids(chance.choice(texts), chance.choice((None, None, 1, 2, 3)))
        ids += chance.choice((whole, [chance.randrange(TEXT + len(LETTERS) + 1)], [TEXT + chance.randrange(30)]))
    assert streamed(ingest, ids) == ingest.decode(ids)


@given(text=st.text(st.sampled_from("aé你👍 \n"), min_size=1, max_size=20))
def test_whole_letters_are_those_of_the_tokenizer(ingest: Chat, text: str) -> None:
    ids = byte_ids(text)
    assert ingest.decode(ids) == ingest.tokenizer.decode(ids)


def test_a_tokenizer_that_lacks_a_byte_decodes_as_it_does(tmp_path: Path) -> None:
    made = tokenizer("gemma")
    state = made.to_str().replace("<0xEF>", "<0xef>")
    (tmp_path / "tokenizer.json").write_text(state, encoding="utf-8")
    ingest = chat.open(tmp_path, {"context_length": 64, "vocab_size": 300})
    assert ingest.decode(byte_ids("你好", 5)) == ingest.tokenizer.decode(byte_ids("你好", 5))
