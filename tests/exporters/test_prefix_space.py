"""`add_prefix_space` of tokenizer_config.json counts against tokenizer.json where transformers heeds it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgekit.exporters._trace.prefix_space import apply_prefix_space

TEXTS = ("ab", "a b", "abc cab")


def byte_level(prefix: bool) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: id for id, letter in enumerate(["<s>", "</s>", *letters])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    return made


def sentence_piece(kind: str) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abc"]
    made = Tokenizer(models.BPE({name: id for id, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True))
    space = normalizers.Replace(" ", "▁")
    if kind == "prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
    elif kind == "replace":
        made.normalizer = space
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    return made


MADE = {
    "byte level with": lambda: byte_level(True),
    "byte level without": lambda: byte_level(False),
    **{kind: lambda kind=kind: sentence_piece(kind) for kind in ("prepend", "replace", "first", "never")},
}
BYTE_CLASSES = ("GPT2TokenizerFast", "Qwen2TokenizerFast")
PIECE_CLASSES = ("LlamaTokenizerFast", "LlamaTokenizer")
CASES = [
    *((name, kind) for name in (*PIECE_CLASSES, "PreTrainedTokenizerFast") for kind in MADE),
    *((name, kind) for name in BYTE_CLASSES for kind in MADE if kind.startswith("byte")),
]


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_tokens_are_those_of_transformers(name: str, kind: str, value: bool, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    MADE[kind]().save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": name, "add_prefix_space": value, "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copyfile(tmp_path / "tokenizer.json", tmp_path / "copy.json")
    apply_prefix_space(tmp_path, tmp_path / "copy.json")
    expected = AutoTokenizer.from_pretrained(str(tmp_path))
    tokenizer = Tokenizer.from_file(str(tmp_path / "copy.json"))
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == expected(text, add_special_tokens=False).input_ids, text


def test_without_a_word_the_file_stays_as_it_is(tmp_path: Path) -> None:
    sentence_piece("prepend").save(str(tmp_path / "tokenizer.json"))
    before = (tmp_path / "tokenizer.json").read_bytes()
    llama = {"tokenizer_class": "LlamaTokenizer"}
    for config in ({}, llama, llama | {"add_prefix_space": None}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        apply_prefix_space(tmp_path, tmp_path / "tokenizer.json")
        assert (tmp_path / "tokenizer.json").read_bytes() == before
