"""A tokenizer for models without one: `random:` bundles need it to be measured with text.

Every byte is a token, so any text goes in and comes out again. It says nothing about a real tokenizer's quality, and
counts more tokens for a text than a real one would.
"""

from __future__ import annotations

from typing import Any

from edgekit.errors import UnsupportedError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BYTES = 256


def stand_in_tokenizer(
    vocab_size: int,
    pad_token_id: int | None = None,
    *,
    unk_token_id: int | None = None,
    cls_token_id: int | None = None,
    sep_token_id: int | None = None,
    mask_token_id: int | None = None,
    wrap: bool = True,
) -> dict[str, Any]:
    """The content of a tokenizer.json: one token per byte and five special ones, every id below `vocab_size`.

    A special id that is None, out of range or taken already gets the lowest free one (configs say -1, or one id for
    two roles). `wrap` puts a text between [CLS] and [SEP], as encoders want it. With fewer than 261 ids the bytes
    that found no room, UTF-8's continuation bytes first, read as [UNK]. Raises UnsupportedError below 16 ids.
    """
    if vocab_size < 16:
        raise UnsupportedError(
            f"a vocabulary of {vocab_size} tokens is too small for text", hint="use 16 tokens or more"
        )
    wanted = (pad_token_id, unk_token_id, cls_token_id, sep_token_id, mask_token_id)
    special = _placed(wanted, vocab_size)
    free = (number for number in range(vocab_size) if number not in special.values())
    vocab = special | dict(zip(_byte_symbols(), free))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, token) for token, number in sorted(special.items(), key=lambda item: item[1])],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "post_processor": _wrapping(special) if wrap else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {"type": "BPE", "unk_token": "[UNK]", "fuse_unk": False, "vocab": vocab, "merges": []},
    }


def _placed(wanted: tuple[int | None, ...], vocab_size: int) -> dict[str, int]:
    placed: dict[str, int] = {}
    for token, number in zip(SPECIAL, wanted):
        if number is not None and 0 <= number < vocab_size and number not in placed.values():
            placed[token] = number
    free = (number for number in range(vocab_size) if number not in {*placed.values()})
    for token in SPECIAL:
        if token not in placed:
            placed[token] = next(free)
    return {token: placed[token] for token in SPECIAL}


def _byte_symbols() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's `bytes_to_unicode`).

    Printable ASCII comes first, so that a small vocabulary holds what English text needs.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(BYTES) if byte not in shown]
    symbol = {byte: chr(byte) for byte in shown} | {byte: chr(BYTES + n) for n, byte in enumerate(hidden)}
    first = [0x20, *range(0x61, 0x7B), *range(0x21, 0x61), *range(0x7B, 0x7F)]
    return [symbol[byte] for byte in [*first, *(byte for byte in range(BYTES) if byte not in first)]]


def _added(number: int, token: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": token, **flags}


def _wrapping(special: dict[str, int]) -> dict[str, Any]:
    cls, sep = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]"))
    sep_of_pair = {"SpecialToken": {"id": "[SEP]", "type_id": 1}}
    first, second = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
    tokens = {token: {"id": token, "ids": [special[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")}
    return {
        "type": "TemplateProcessing",
        "single": [cls, first, sep],
        "pair": [cls, first, sep, second, sep_of_pair],
        "special_tokens": tokens,
    }
