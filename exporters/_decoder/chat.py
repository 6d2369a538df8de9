"""Read the chat template and its special tokens from a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import BundleError

from .._json_files import read_object

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


def chat_settings(folder: Path) -> dict[str, Any]:
    """`chat_template` (None where the folder has none), and `special_tokens` by their names in
    templates. Raises BundleError for a template that is no text."""
    told = read_object(folder / "tokenizer_config.json")
    mapped = read_object(folder / "special_tokens_map.json")
    tokens = {name: _text(told.get(name) or mapped.get(name)) for name in NAMES}
    return {
        "chat_template": _template(folder, told.get("chat_template")),
        "special_tokens": {name: text for name, text in tokens.items() if text},
    }


def _template(folder: Path, told: Any) -> str | None:
    """A file of its own goes before the config's entry, as in transformers; of several that named `default`."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if isinstance(told, list):
        told = next((each.get("template") for each in told if each.get("name") == "default"), None)
    if told is not None and not isinstance(told, str):
        raise BundleError("tokenizer_config.json: chat_template is not text", hint="download or save the model again")
    return told


def _text(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
