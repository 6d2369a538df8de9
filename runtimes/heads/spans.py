"""Logits per token to labelled spans of the text: names, places, parts of speech.

Equal to transformers' token-classification pipeline with aggregation_strategy="first": a word has the label of its
first piece, words of one entity make a span whose score is their mean. Three things are better than there:
words are the tokenizer's own, so a comma behind a name stays out of the span where pieces carry no "##" (RoBERTa);
a span has no white space at its ends (SentencePiece); and S, E, U and L are read (BIOES, BILOU).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgekit.core import Measure
from edgekit.errors import BundleError, InputError
from edgekit.results import Span

from .. import settings as types
from .classes import check_labels, softmax

if TYPE_CHECKING:
    from edgekit.core import Arrays, Floats

    from ..ingest.text import Encoding, TextBatch


_PREFIXED = re.compile(r"([BIESLU])-(.+)", re.DOTALL)


class _Pieces(NamedTuple):
    """A text's own tokens, without the special ones: their ids, and word, start and end of each if known."""

    ids: list[int]
    places: list[tuple[int | None, int, int]] | None


class _Word(NamedTuple):
    first: int  # its first piece and the one behind its last
    stop: int
    mark: str  # B, I, E, S, L, U
    label: str
    score: float


class Settings(types.Settings):
    """What the bundle says of the labels."""

    output: types.Name  # of the graph: logits (B, T, n)
    labels: types.Labels  # by id: BIO, BIOES, BILOU or plain, also mixed; "O" is no answer


def open(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked. Raises BundleError."""
    check_labels(settings)
    return dict(settings)


def numbers(outputs: Arrays, batch: TextBatch, settings: Mapping[str, Any]) -> list[Floats]:
    """The logits of each text's tokens, special ones and padding left out: float32 (t_i, n)."""
    logits = outputs[settings["output"]].astype(np.float32, copy=False)
    if logits.shape[-1] != len(settings["labels"]):
        raise BundleError(f"the graph gives {logits.shape[-1]} scores, and the bundle names {len(settings['labels'])}")
    return [row[: len(e)][np.array(e.special, np.bool_) ^ True] for row, e in zip(logits, batch.encodings, strict=True)]


def answers(numbers: Sequence[Floats], encodings: Sequence[Encoding], settings: Mapping[str, Any]) -> list[list[Span]]:
    """The spans of each text in the order of the text. Raises InputError for a pair of texts."""
    marks = _marks(settings["labels"])
    return [_spans(logits, encoding, marks) for logits, encoding in zip(numbers, encodings, strict=True)]


def compare(
    reference: Sequence[Floats], candidate: Sequence[Floats], settings: Mapping[str, Any] | None = None
) -> Measure:
    """The share of tokens that get the same label; loss is the share that does not."""
    a, b = np.concatenate(reference), np.concatenate(candidate)
    same = (a.argmax(axis=1) == b.argmax(axis=1)) & np.isfinite(b).all(axis=1)
    agreement = float(same.mean()) if len(same) else 1.0
    return Measure("token label agreement", agreement, 1.0 - agreement)


def _marks(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Mark and name of each label: `B-PER` is B, PER; a plain label is I, since neighbours with one label are one span.

    Label by label, as transformers does, so that an `X`, `[PAD]` or `LABEL_3` leaves the others as they are. A plain
    label may begin with `S-` (`S-Bahn`): E, S, L and U count where the name has a B or I too, or where all labels are
    marked and some by B or I.
    """
    parts = [_PREFIXED.fullmatch(label) for label in labels]
    names = {part[2] for part in parts if part and part[1] in "BI"}
    all_marked = bool(names) and all(part for part, label in zip(parts, labels, strict=True) if label != "O")
    return [
        (part[1], part[2]) if part and (part[1] in "BI" or all_marked or part[2] in names) else ("I", label)
        for part, label in zip(parts, labels, strict=True)
    ]


def _spans(logits: Floats, encoding: Encoding, marks: Sequence[tuple[str, str]]) -> list[Span]:
    if encoding.pair is not None:
        raise InputError("tag takes texts, and this is a pair", hint="give each text alone")
    if len(logits) == 0:
        return []
    scores = softmax(logits)
    best = scores.argmax(axis=1).tolist()
    pieces = _pieces(encoding)
    words = []
    for first, stop in _word_bounds(encoding.text, pieces):
        mark, label = marks[best[first]]
        words.append(_Word(first, stop, mark, label, float(scores[first, best[first]])))
    spans = (_span(entity, encoding, pieces) for entity in _entities(words) if entity[0].label != "O")
    return [span for span in spans if span.text]


def _pieces(encoding: Encoding) -> _Pieces:
    own = [at for at, special in enumerate(encoding.special) if not special]
    ids, words, offsets = encoding.ids, encoding.word_ids, encoding.offsets
    places = None if words is None or offsets is None else [(words[at], *offsets[at]) for at in own]
    return _Pieces([ids[at] for at in own], places)


def _word_bounds(text: str, pieces: _Pieces) -> Iterator[tuple[int, int]]:
    """First piece and the one behind the last of each word. Without places every piece is a word."""
    if pieces.places is None:
        yield from ((at, at + 1) for at in range(len(pieces.ids)))
        return
    first, before = 0, pieces.places[0][0]
    for at, (word, start, _) in enumerate(pieces.places[1:], 1):
        # A tokenizer without a pre-tokenizer calls the whole text one word: there only white space parts words.
        spaced = start > 0 and any(map(str.isspace, text[start - 1 : start + 1]))
        if spaced or word != before:
            yield first, at
            first, before = at, word
    yield first, len(pieces.ids)


def _entities(words: Sequence[_Word]) -> Iterator[list[_Word]]:
    """Neighbouring words of one entity; a run of O is one too. There is at least one word."""
    run: list[_Word] = []
    for word in words:
        if run and (word.label != run[-1].label or word.mark in "BSU" or run[-1].mark in "ESLU"):
            yield run
            run = []
        run.append(word)
    yield run


def _span(entity: Sequence[_Word], encoding: Encoding, pieces: _Pieces) -> Span:
    label, first, last = entity[0].label, entity[0].first, entity[-1].stop
    score = sum(word.score for word in entity) / len(entity)
    if pieces.places is None:
        return Span(label, score, None, None, encoding.source.decode(pieces.ids[first:last]))
    start, end = pieces.places[first][1], pieces.places[last - 1][2]
    text = encoding.text[start:end]
    start += len(text) - len(text.lstrip())
    return Span(label, score, start, start + len(text.strip()), text.strip())
