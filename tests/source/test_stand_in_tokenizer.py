"""The tokenizer that stands in for that of a model of random weights."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer

from edgekit.errors import UnsupportedError
from edgekit.source.stand_in_tokenizer import stand_in_tokenizer

TEXTS = ["Hello, world!", "naïve café 北京 🙂", " two  spaces\n\ttab ", "\0\x7f", ""]


@pytest.mark.parametrize(
    ("size", "pad"), [(261, 0), (30522, 0), (50265, 1), (32000, None), (300, -1), (300, 300), (512, 511)]
)
def test_it_takes_any_text_and_gives_it_back(size: int, pad: int | None) -> None:
    made = stand_in_tokenizer(size, pad)
    tokenizer = Tokenizer.from_str(json.dumps(made))
    vocab = tokenizer.get_vocab()
    assert len(set(vocab.values())) == len(vocab) == 261
    assert all(0 <= number < size for number in vocab.values())
    if pad in range(size):
        assert tokenizer.token_to_id("[PAD]") == pad
    for text in TEXTS:
        encoded = tokenizer.encode(text)
        assert tokenizer.decode(encoded.ids) == text
        assert encoded.tokens[0] == "[CLS]"
        assert encoded.tokens[-1] == "[SEP]"
        assert len(encoded.ids) == len(text.encode()) + 2


def test_it_keeps_the_ids_of_a_config() -> None:
    made = stand_in_tokenizer(50265, 1, unk_token_id=3, cls_token_id=0, sep_token_id=2, mask_token_id=50264)
    tokenizer = Tokenizer.from_str(json.dumps(made))
    names = {"[PAD]": 1, "[UNK]": 3, "[CLS]": 0, "[SEP]": 2, "[MASK]": 50264}
    assert {name: tokenizer.token_to_id(name) for name in names} == names
    assert tokenizer.encode("[MASK]").ids == [0, 50264, 2]
    pair = tokenizer.encode("a", "b")
    assert pair.type_ids == [0, 0, 0, 1, 1]


def test_it_for_a_decoder_whose_special_tokens_are_one() -> None:
    made = stand_in_tokenizer(50257, None, cls_token_id=50256, sep_token_id=50256, wrap=False)
    tokenizer = Tokenizer.from_str(json.dumps(made))
    assert tokenizer.token_to_id("[CLS]") == 50256
    assert tokenizer.token_to_id("[SEP]") not in (None, 50256)
    assert len(tokenizer.encode("abc").ids) == 3


def test_it_for_a_small_vocabulary() -> None:
    tokenizer = Tokenizer.from_str(json.dumps(stand_in_tokenizer(64, 0)))
    assert max(tokenizer.get_vocab().values()) == 63
    assert tokenizer.decode(tokenizer.encode("hello world").ids) == "hello world"
    assert tokenizer.encode("é").tokens == ["[CLS]", "[UNK]", "[UNK]", "[SEP]"]
    with pytest.raises(UnsupportedError, match="too small"):
        stand_in_tokenizer(15)
