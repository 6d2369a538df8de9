"""Logits at masked positions to the likeliest words.

Equal to transformers' fill-mask pipeline. Knows nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Measure
from edgekit.errors import BundleError, InputError
from edgekit.results import Token

from .. import settings as types
from .classes import check_top_k, softmax

if TYPE_CHECKING:
    from edgekit.core import Arrays, Floats

    from ..ingest.text import Encoding, TextBatch


class Settings(types.Settings):
    """What the bundle says of the mask."""

    output: types.Name  # of the graph: logits (B, T, vocabulary)
    mask_id: types.TokenId
    mask_token: types.Name  # what a user writes for it: "[MASK]", "<mask>"


def open(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked. Raises BundleError."""
    for name, kind in (("output", str), ("mask_id", int), ("mask_token", str)):
        if not isinstance(settings.get(name), kind):
            raise BundleError(f"the settings do not give {name}", hint="export the model again")
    return dict(settings)


def numbers(outputs: Arrays, batch: TextBatch, settings: Mapping[str, Any]) -> list[Floats]:
    """The logits at each text's masks: float32 (m_i, vocabulary). Raises InputError for a text without a mask."""
    masks = batch.feeds["input_ids"] == settings["mask_id"]
    counts = masks.sum(axis=1)
    if not counts.all():
        raise InputError(
            f"texts[{batch.encodings[int(counts.argmin())].position}] has no {settings['mask_token']}",
            hint=f"write {settings['mask_token']} where a word is missing",
        )
    logits = outputs[settings["output"]][masks].astype(np.float32, copy=False)
    return np.split(logits, counts.cumsum()[:-1])


def answers(
    numbers: Sequence[Floats], encodings: Sequence[Encoding], settings: Mapping[str, Any], *, top_k: int = 5
) -> list[list[list[Token]]]:
    """For each text, for each of its masks, the `top_k` best tokens, best first.

    Each mask is filled by itself: the others stay in the text. Raises InputError if `top_k` is below one.
    """
    check_top_k(top_k)
    return [_fill(logits, encoding, settings["mask_id"], top_k) for logits, encoding in zip(numbers, encodings)]


def compare(
    reference: Sequence[Floats], candidate: Sequence[Floats], settings: Mapping[str, Any] | None = None
) -> Measure:
    """The share of masks with the same best token; loss is the share with another."""
    a, b = np.concatenate(reference), np.concatenate(candidate)
    agreement = float(((a.argmax(axis=1) == b.argmax(axis=1)) & np.isfinite(b).all(axis=1)).mean())
    return Measure("top-1 agreement", agreement, 1.0 - agreement)


def _fill(logits: Floats, encoding: Encoding, mask_id: int, top_k: int) -> list[list[Token]]:
    ids = encoding.ids
    places = [at for at, id in enumerate(ids) if id == mask_id]
    scores = softmax(logits)
    best = _best(scores, top_k)
    decode = encoding.source.decode
    return [
        [
            Token(
                decode([id], skip_special=False),
                id,
                float(row[id]),
                # Skipping special tokens would take the other masks out of the text.
                decode([*ids[:at], id, *ids[at + 1 :]], skip_special=len(places) == 1),
            )
            for id in chosen
        ]
        for at, row, chosen in zip(places, scores, best, strict=True)
    ]


def _best(scores: Floats, top_k: int) -> list[list[int]]:
    """The places of the `top_k` highest scores of each row (m, vocabulary), highest first, without sorting all."""
    k = min(top_k, scores.shape[1])
    near = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")
    found: list[list[int]] = np.take_along_axis(near, order, axis=1).tolist()
    return found
