"""Make a tokenizer.json agree with `add_prefix_space` in tokenizer_config.json, as transformers does.

Only classes that build their own normalizer and pre-tokenizer heed it there: Llama's for SentencePiece vocabularies,
those like GPT-2's for byte-level ones. The generic classes take tokenizer.json as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._json_files import read_object

GENERIC = ("", "PreTrainedTokenizerFast", "TokenizersBackend")
SPACE = "▁"


def apply_prefix_space(source: Path, target: Path) -> None:
    """Change the file `target`, a copy of the tokenizer.json in `source`, where the folder's config says otherwise.

    Raises BundleError where one of them is not a JSON object.
    """
    config = read_object(source / "tokenizer_config.json")
    value, name = config.get("add_prefix_space"), str(config.get("tokenizer_class") or "")
    if not isinstance(value, bool) or name in GENERIC:
        return
    state = read_object(target)
    before = json.dumps([state.get("normalizer"), state.get("pre_tokenizer")])
    if "Llama" in name:
        _set_sentencepiece(state, value)
    else:
        for part in _parts(state.get("pre_tokenizer")):
            if part.get("type") == "ByteLevel":
                part["add_prefix_space"] = value
    if json.dumps([state.get("normalizer"), state.get("pre_tokenizer")]) != before:
        target.write_text(json.dumps(state), encoding="utf-8")


def _set_sentencepiece(state: dict[str, Any], value: bool) -> None:
    """A space before the text comes from a normalizer (`Prepend`) or from the pre-tokenizer (`Metaspace`)."""
    metaspace = [part for part in _parts(state.get("pre_tokenizer")) if part.get("type") == "Metaspace"]
    for part in metaspace:
        absent = part.get("prepend_scheme") == "never"
        part["prepend_scheme"] = ("first" if absent else part.get("prepend_scheme", "first")) if value else "never"
        part.pop("add_prefix_space", None)  # the older name
    replaces = [part for part in _parts(state.get("normalizer")) if part.get("type") == "Replace"]
    if metaspace or not any(part.get("content") == SPACE for part in replaces):
        return
    others = [part for part in _parts(state["normalizer"]) if part.get("type") != "Prepend"]
    prepend = [part for part in _parts(state["normalizer"]) if part.get("type") == "Prepend"]
    first = (prepend or [{"type": "Prepend", "prepend": SPACE}]) if value else []
    state["normalizer"] = {"type": "Sequence", "normalizers": [*first, *others]}


def _parts(component: Any) -> Iterator[dict[str, Any]]:
    """The component, or what a sequence consists of."""
    if not isinstance(component, dict):
        return
    parts = component.get("normalizers") or component.get("pretokenizers")
    if component.get("type") == "Sequence" and isinstance(parts, list):
        yield from (part for part in parts if isinstance(part, dict))
    else:
        yield component
