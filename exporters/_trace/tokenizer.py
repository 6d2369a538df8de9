"""Write the bundle's tokenizer.json: the model's own, or one that transformers converts from an older vocabulary."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from edgekit.core import Source
from edgekit.errors import UnsupportedError
from edgekit.source.stand_in_tokenizer import stand_in_tokenizer

from .prefix_space import apply_prefix_space
from .trace import quiet

FILE = "tokenizer.json"
log = logging.getLogger("edgekit.exporters")


def write_tokenizer(source: Source, folder: Path) -> None:
    """Write tokenizer.json into `folder`: the model's, or one that stands in for that of random weights.

    Raises UnsupportedError when transformers cannot make a fast tokenizer of an older model's vocabulary.
    """
    if source.random:
        made = stand_in_tokenizer(source.config["vocab_size"], source.config.get("pad_token_id"))
        (folder / FILE).write_text(json.dumps(made), encoding="utf-8")
    elif (source.folder / FILE).is_file():
        shutil.copyfile(source.folder / FILE, folder / FILE)
        apply_prefix_space(source.folder, folder / FILE)
    else:
        _convert(source.folder, folder / FILE)
    for note in _ignored(folder / FILE):
        log.info(note)


def _ignored(file: Path) -> list[str]:
    """What the file says and no ingest does: it would cut or fill every text, whatever the model's own length."""
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # whoever opens it says what is wrong with it
        return []
    found = [name for name in ("truncation", "padding") if isinstance(stated, dict) and stated.get(name)]
    if isinstance(stated, dict) and isinstance(stated.get("model"), dict) and stated["model"].get("dropout"):
        found.append("dropout")
    return [f"{FILE}: ignored {', '.join(found)}"] if found else []


def _convert(folder: Path, target: Path) -> None:
    """tokenizer.json from the vocabulary in `folder`."""
    with quiet():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except MemoryError:
            raise
        except BaseException as error:  # tokenizers panics with what is not an Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise _no_vocabulary(f"{type(error).__name__}: {error}"[:2000]) from error
    # Without any of its files transformers makes a tokenizer that knows no word, and says nothing.
    files = tokenizer.vocab_files_names.values()
    if files and not any((folder / name).is_file() for name in files):
        raise _no_vocabulary(f"none of {', '.join(files)} is there")
    if not tokenizer.is_fast:
        raise UnsupportedError(
            f"{type(tokenizer).__name__} has no fast form, which is what a device runs",
            hint="look for a copy of the model with a tokenizer.json",
        )
    tokenizer.backend_tokenizer.save(str(target))


def _no_vocabulary(cause: str) -> UnsupportedError:
    return UnsupportedError(
        "the model has no tokenizer.json, and none can be made of its vocabulary",
        hint="save the tokenizer with transformers' save_pretrained, and export that folder",
        cause=cause,
    )
