"""Open tokenizer.json for every ingest: checked, within limits, without the file's own truncation and padding.

A tokenizer.json is untrusted. It may cut every text in silence (`truncation`), fill it up to a billion tokens
(`padding`), grow it a thousandfold (`Replace`), or make the tokenizer panic. Knows nothing of what the ids are for.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgekit import limits
from edgekit.errors import TokenizerError
from edgekit.machine import system_calls

T = TypeVar("T")

AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")  # put to each character or piece of a word
BLOCK, SPARE = 256, 4  # bytes of tokenizer.json, and how many such blocks may lack a string's end
_STDERR = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class TokenizerFile:
    """An open tokenizer, with truncation, padding and dropout off."""

    tokenizer: Any  # tokenizers.Tokenizer
    cuts_left: bool  # the file says that a long text loses its beginning, not its end
    most_bytes: int  # of one text, as UTF-8: fewer where the tokenizer's own steps make texts longer


def open_tokenizer(path: Path, *, lowercase: bool = False) -> TokenizerFile:
    """The tokenizer in that file, tried once on a word. Raises TokenizerError.

    `lowercase`: lower-case before the file's own normalizer, as sentence-transformers' do_lower_case.
    """
    with _without_backtrace():
        return guarded(f"{path.name} is not a tokenizer that works", lambda: _open(path, lowercase))


def guarded(what: str, call: Callable[[], T]) -> T:
    """`call()`, with the tokenizer's failures as TokenizerError.

    A Rust panic arrives as a PanicException, which is a BaseException and not an Exception. It prints a line to
    stderr before (with RUST_BACKTRACE, a backtrace); holding that back on every call would hold back what other
    threads of the application write, so only `open_tokenizer` does.
    """
    try:
        return call()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            what, hint="export the model again from a tokenizer.json that you trust", cause=str(error)
        ) from error


def _open(path: Path, lowercase: bool) -> TokenizerFile:
    from tokenizers import Tokenizer, normalizers

    if path.stat().st_size > limits.TOKENIZER_BYTES:
        raise ValueError(f"the file is larger than {limits.TOKENIZER_BYTES} bytes")
    tokenizer = Tokenizer.from_file(str(path))
    if tokenizer.get_vocab_size() > limits.VOCABULARY:
        raise ValueError(f"the vocabulary has more than {limits.VOCABULARY} tokens")
    cuts_left = (tokenizer.truncation or {}).get("direction") == "left"
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _check_model(tokenizer, path)
    _check_special_tokens(tokenizer)
    grown = max(_growth(tokenizer.normalizer) * _growth(tokenizer.pre_tokenizer), _growth(tokenizer.decoder))
    if grown > limits.TOKENIZER_GROWTH:
        raise ValueError(f"its steps make a text {grown:.3g} times as long; {limits.TOKENIZER_GROWTH} is the limit")
    if lowercase:
        # As a normalizer, unlike str.lower() on the text, it keeps offsets right where "İ" turns into two characters.
        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    tokenizer.encode("a")  # a bad pre-tokenizer or template shows only now
    return TokenizerFile(tokenizer, cuts_left, int(limits.PROMPT_BYTES / grown))


def _check_model(tokenizer: Any, path: Path) -> None:
    """Bounds the work on one word. Dropout, which makes ids random, is for training: it is switched off."""
    model = tokenizer.model
    longest = getattr(model, "max_input_chars_per_word", 0)
    if longest > limits.WORDPIECE_CHARACTERS:
        raise ValueError(f"words of {longest} characters; {limits.WORDPIECE_CHARACTERS} is the limit")
    if type(model).__name__ == "Unigram" and _may_hold_long_tokens(path, tokenizer.normalizer):
        longest = max(map(len, tokenizer.get_vocab(with_added_tokens=False)), default=0)
        if longest > limits.UNIGRAM_CHARACTERS:
            raise ValueError(f"a token of {longest} characters; {limits.UNIGRAM_CHARACTERS} is the limit")
    for name in AFFIXES:
        size = len(getattr(model, name, None) or "")
        if size > limits.TOKENIZER_GROWTH:
            raise ValueError(f"{name} has {size} characters; {limits.TOKENIZER_GROWTH} is the limit")
    if getattr(model, "dropout", None):
        model.dropout = None


def _may_hold_long_tokens(path: Path, normalizer: Any) -> bool:
    """Whether the file has more long stretches without the end of a JSON string than its normalizer's table explains.

    To list the tokens of a large vocabulary takes half as long as to load it; to look at the start of each block takes
    a hundredth.
    """
    table = sum(len(step.get("precompiled_charsmap") or "") for step in _steps(_state(normalizer)))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        quotes = (data.find(b'"', at, at + BLOCK) for at in range(0, len(data) - BLOCK, BLOCK))
        stretches = sum(quote < 0 or data[quote - 1] == ord("\\") for quote in quotes)
    return stretches > table // BLOCK + SPARE


def _check_special_tokens(tokenizer: Any) -> None:
    count = max(tokenizer.num_special_tokens_to_add(is_pair) for is_pair in (False, True))
    if count > limits.SPECIAL_TOKENS:
        raise ValueError(f"{count} special tokens around each text; {limits.SPECIAL_TOKENS} is the limit")


def _growth(step: Any) -> float:
    """How many times as long a text becomes at most by the `Replace` and `Prepend` steps in `step`.

    A property of the file, not of a text, so that a probe cannot miss the character that sets it off. What Unicode
    forms and byte symbols add has a bound of its own (18 and 2).
    """
    return math.prod(map(_factor, _steps(_state(step))))


def _state(step: Any) -> Any:
    return [] if step is None else json.loads(step.__getstate__())


def _steps(step: Any) -> Iterator[dict[str, Any]]:
    for value in step.values() if isinstance(step, dict) else step:
        if isinstance(value, dict | list):
            yield from _steps(value)
    if isinstance(step, dict) and "type" in step:
        yield step


def _factor(step: dict[str, Any]) -> float:
    match step:
        case {"type": "Replace", "content": str(content), "pattern": {"String": str(pattern)}} if pattern:
            return max(1.0, len(content) / len(pattern))
        case {"type": "Replace", "content": str(text)} | {"type": "Prepend", "prepend": str(text)}:
            return max(1.0, len(text))
    return 1.0


@contextmanager
def _without_backtrace() -> Iterator[None]:
    """Drops what a panic writes to stderr. If there was no failure, what others wrote meanwhile is passed on."""
    with _STDERR:
        try:
            real = os.dup(2)
        except OSError:  # stderr is closed: nothing can be written to it
            yield
            return
        held = system_calls.unnamed_file()
        os.dup2(held, 2)
        said = b""
        try:
            yield
            said = system_calls.read_at(held, os.fstat(held).st_size, 0)
        finally:
            os.dup2(real, 2)
            os.write(2, said)
            os.close(real)
            os.close(held)
