"""Older folders have a vocabulary but no tokenizer.json: transformers makes one of it, in a worker process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.errors import UnsupportedError

from .trace import quiet


def work(payload: dict[str, Any], say: Callable[[str], None]) -> None:
    """Write `payload["target"]`, a tokenizer.json, from the vocabulary in `payload["folder"]`.

    Raises UnsupportedError when transformers cannot make a fast tokenizer of it.
    """
    with quiet():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(payload["folder"], local_files_only=True, trust_remote_code=False)
        except (ValueError, OSError, ImportError) as error:
            raise _no_vocabulary(str(error)[:2000]) from error
    # Without any of its files transformers makes a tokenizer that knows no word, and says nothing.
    files = tokenizer.vocab_files_names.values()
    if files and not any((Path(payload["folder"]) / name).is_file() for name in files):
        raise _no_vocabulary(f"none of {', '.join(files)} is there")
    if not tokenizer.is_fast:
        raise UnsupportedError(
            f"{type(tokenizer).__name__} has no fast form, which is what a device runs",
            hint="look for a copy of the model with a tokenizer.json",
        )
    tokenizer.backend_tokenizer.save(payload["target"])


def _no_vocabulary(cause: str) -> UnsupportedError:
    return UnsupportedError(
        "the model has no tokenizer.json, and none can be made of its vocabulary",
        hint="save the tokenizer with transformers' save_pretrained, and export that folder",
        cause=cause,
    )
