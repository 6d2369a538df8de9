"""Decode byte tokens (`<0xE4>`) as UTF-8, as llama.cpp shows them.

`tokenizers` decodes a run of them all or nothing: one bad byte, or an end inside a letter, and each byte of the run
becomes a replacement character, those of whole letters with it. Here a run is decoded with one replacement character
for each part that is not UTF-8, and written as byte tokens again, which are then whole letters to the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any


class ByteTokens:
    """A tokenizer's byte tokens. `skips`: ids of special tokens, which decoding leaves out."""

    def __init__(self, ids: Sequence[int], skips: frozenset[int]) -> None:
        """`ids`: of the bytes 0 to 255."""
        self._ids, self._skips = ids, skips
        self._bytes = {id: byte for byte, id in enumerate(ids)}

    def repaired(self, ids: Sequence[int]) -> list[int]:
        """Ids whose byte tokens are valid UTF-8."""
        return list(self._repaired(id for id in ids if id not in self._skips))

    def _repaired(self, ids: Iterator[int]) -> Iterator[int]:
        for are_bytes, run in groupby(ids, self._bytes.__contains__):
            if are_bytes:
                text = bytes(self._bytes[id] for id in run).decode("utf-8", errors="replace")
                yield from (self._ids[byte] for byte in text.encode())
            else:
                yield from run


def byte_tokens(tokenizer: Any) -> ByteTokens | None:
    """The byte tokens of a tokenizer that decodes them; None where it does not, or has not all of them."""
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    if None in ids or tokenizer.decoder is None:
        return None
    decoder = json.loads(tokenizer.decoder.__getstate__())
    if not any(part.get("type") == "ByteFallback" for part in decoder.get("decoders", [decoder])):
        return None
    special = (id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    return ByteTokens(ids, frozenset(special))
