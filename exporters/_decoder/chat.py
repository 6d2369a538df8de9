"""Read the chat template and its special tokens from a Hugging Face folder, and render chats with transformers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import BundleError

from .._json_files import read_object
from .._trace.trace import quiet

MORE = ("extra_special_tokens", "model_specific_special_tokens")  # further tokens by their names; or lists without

log = logging.getLogger("edgekit")

ChatReference = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], str]


def chat_settings(folder: Path) -> dict[str, Any]:
    """Settings: `chat_template` (None where the folder has none), and `special_tokens` by their names in templates.

    Raises BundleError for a template that is not text.
    """
    told = read_object(folder / "tokenizer_config.json")
    mapped = read_object(folder / "special_tokens_map.json")
    named = [held for key in MORE for held in (mapped.get(key), told.get(key)) if isinstance(held, dict)]
    stated = {**mapped, **{name: token for name, token in told.items() if token}}
    tokens = {name: _text(token) for name, token in stated.items() if name.endswith("_token")}
    tokens |= {name: _text(token) for held in named for name, token in held.items()}
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


def chat_reference(folder: Path) -> ChatReference | None:
    """`apply_chat_template` of the folder's tokenizer, which raises ValueError where it fails; None where transformers
    is not installed, or cannot read the tokenizer."""
    try:
        with quiet():
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever an optional package raises about files of strangers; the check renders alone
        log.info("chats are not compared with transformers: %s", error)
        return None

    def render(messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> str:
        chat = [dict(message) for message in messages]
        try:
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **options)
        except Exception as error:  # a template may fail in any way
            raise ValueError(str(error)) from error
        return str(text)

    return render
