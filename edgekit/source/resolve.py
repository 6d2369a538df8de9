"""Resolve MODEL, as the user typed it, to a `Source`: a folder of checked files. Nothing is loaded.

Knows the forms of a model's name and the order in which they are tried. `hub`, `config_json` and `weights` beside this
file read what their names say. A model that EdgeKit cannot export is refused here by its config.json, before its
weights are downloaded.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import registry
from edgekit.bundle import safe_files, user_files
from edgekit.core import Source
from edgekit.errors import SourceError, UnsupportedError, UsageError
from edgekit.source import config_json, hub, onnx_file, refusals, sentence_layout, weights
from edgekit.source.config_json import architecture
from edgekit.source.refusals import FORMS
from edgekit.source.stand_in_tokenizer import stand_in_tokenizer
from edgekit.zoo import folder as zoo_folder
from edgekit.zoo import names as zoo

__all__ = ["architecture", "resolve", "stand_in_tokenizer", "zoo"]

log = logging.getLogger("edgekit")

HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?(?<![.-])", re.ASCII)
HUB_URL = re.compile(r"https?://[^/]+/([^/?#]+/[^/?#]+)")
# What else belongs to a model: config and tokenizer files, sentence-transformers modules, chat templates.
SMALL = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class Closed:
    """Models without public weights: the names they go by, what they do, and open models that do it too."""

    names: re.Pattern[str]
    family: str
    kind: str
    instead: tuple[str, ...]


CHAT = ("Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-1B-Instruct", "openai/gpt-oss-20b")
CLOSED = (
    Closed(re.compile(r"(openai/)?(chatgpt.*|gpt-?(3\.5|4|5)([-.o].*)?|o[134](-.*)?)"), "GPT-4", "chat", CHAT),
    Closed(re.compile(r"(anthropic/)?claude.*"), "Claude", "chat", CHAT),
    Closed(re.compile(r"(google/)?gemini.*"), "Gemini", "chat", ("google/gemma-3-1b-it", *CHAT)),
    Closed(
        re.compile(r"(openai/)?(dall-?e|gpt-image).*"),
        "DALL-E",
        "text to image",
        ("stabilityai/stable-diffusion-xl-base-1.0", "black-forest-labs/FLUX.1-schnell"),
    ),
    Closed(
        re.compile(r"(openai/)?text-embedding-(3|ada).*"),
        "text-embedding-3",
        "text embeddings",
        ("sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-m3", "nomic-ai/nomic-embed-text-v1.5"),
    ),
)


def resolve(
    model: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    states: Mapping[str, str] | None = None,
    inputs: Mapping[str, Any] | None = None,
    shapes: onnx_file.Shapes | None = None,
) -> Source:
    """The model behind a name: `zoo:` and `random:` first, then what exists as a path, then the hub.

    `config` is without the keys that steer what is imported or fetched; `revision` is the full commit of a hub
    model. No code from a repository is ever run, whatever the config and `trust_remote_code` say: native code
    wins over a repository's own, and Python files are not even downloaded. `states` (input -> output), constant
    `inputs` and `shapes` are an ONNX file's.

    Raises SourceError (not found, gated, offline), UnsupportedError (no exporter, no public weights, remote code),
    BundleError (a bad file), UsageError (options that do not fit the name).
    """
    typed = os.path.expanduser(model)
    path = Path(typed)
    if os.path.exists(typed):
        user_files.check_name(path.absolute())
    is_onnx = path.suffix == ".onnx" and os.path.isfile(typed)
    for option, value in (("--state", states), ("--input", inputs), ("--shape", shapes)):
        if value and not is_onnx:
            raise UsageError(f"{option} is only for .onnx files, and {model} is not one", hint=f"leave {option} out")
    if model.startswith("zoo:"):
        found = _in_folder(model, zoo_folder(model.removeprefix("zoo:")), trust_remote_code)
    elif model.startswith("random:"):
        found = _random(model, trust_remote_code)
    elif is_onnx:
        found = onnx_file.resolve(model, path, states or {}, inputs, shapes)
    elif os.path.exists(typed):  # unlike Path.exists, False for a name that no file system can hold
        found = _in_folder(model, _folder(path), trust_remote_code)
    elif _looks_like_a_path(model):
        raise _no_such_path(model, path)
    else:
        return _on_the_hub(model, revision, offline, trust_remote_code)
    if revision is not None:
        raise UsageError(f"{model} has no revisions", hint="--revision is for hub ids; leave it out")
    return found


def sizes(source: Source) -> dict[str, int]:
    """Bytes of the model's weights as they are stored, by name. Raises BundleError."""
    is_onnx = source.arch in (registry.ONNX_FILE, registry.ONNX_NETWORK)
    return onnx_file.sizes(source) if is_onnx else weights.sizes(source.folder)


def _random(model: str, trust: bool) -> Source:
    path = Path(os.path.expanduser(model.removeprefix("random:")))
    config = path / hub.CONFIG if os.path.isdir(path) else path
    if not os.path.isfile(config):
        raise _no_such_path(model, config)
    return _checked(model, config, "", trust, random=True)


def _folder(path: Path) -> Path:
    if path.is_dir():
        return path
    raise refusals.not_a_folder(str(path))


def _in_folder(model: str, folder: Path, trust: bool) -> Source:
    safe_files.check_unicode(folder)
    inner = sentence_layout.encoder(folder)
    names = _names(folder, inner)
    refusals.require_config(names, model)
    source = _checked(model, folder / inner / hub.CONFIG, "", trust)
    weights.check(folder)
    return source


def _names(folder: Path, inner: str) -> list[str]:
    """Relative names of the folder's own files, those one folder down, and those of the encoder as if at the top."""
    here = [entry.name for entry in folder.iterdir()]
    below = [path.relative_to(folder).as_posix() for path in folder.glob(f"*/{hub.CONFIG}")]
    return [*here, *below, *(entry.name for entry in (folder / inner).iterdir() if inner)]


def _on_the_hub(model: str, revision: str | None, offline: bool, trust: bool) -> Source:
    _refuse_closed(model)
    if not HUB_ID.fullmatch(model) or len(model) > 96:
        link = HUB_URL.match(model)
        raise SourceError(f"{model!r} is not a model id", hint=f"did you mean {link[1]!r}?" if link else FORMS)
    if trust and not hub.COMMIT.fullmatch(revision or ""):
        raise UsageError(
            "--trust-remote-code needs --revision, so that the code that you reviewed is the code of this export",
            hint="add --revision with the 40 hex digits of a commit",
        )
    try:
        snapshot = hub.find(model, revision, offline=offline)
    except SourceError as error:
        error.message = f"no folder {model} here, and {error.message}"
        raise
    names = list(snapshot.digests)
    inner = _encoder_on_the_hub(snapshot)
    refusals.require_config([*names, *(name.removeprefix(f"{inner}/") for name in names if inner)], model)
    config = f"{inner}/{hub.CONFIG}" if inner else hub.CONFIG
    folder = hub.download(snapshot, [config])
    source = _checked(model, folder / config, snapshot.commit, trust, names)
    if snapshot.offline and not any(name.endswith((refusals.SUFFIX, *refusals.PICKLES)) for name in names):
        raise SourceError(f"the local cache holds {model} without its weights", hint="run the command once online")
    refusals.require_safetensors(names)
    hub.download(snapshot, sorted(name for name in names if name.endswith(SMALL) and not weights.is_aside(name)))
    # Weights last: a cache that holds them holds the rest too. Which ones, the index among the small files says.
    hub.download(snapshot, weights.choose(names, folder))
    weights.check(folder)
    return source


def _encoder_on_the_hub(snapshot: hub.Snapshot) -> str:
    """The sub-folder that an old sentence-transformers repository keeps its encoder in; empty for the top."""
    if hub.CONFIG in snapshot.digests or sentence_layout.MODULES not in snapshot.digests:
        return ""
    return sentence_layout.encoder(hub.download(snapshot, [sentence_layout.MODULES]))


def _checked(
    model: str, path: Path, revision: str, trust: bool, names: list[str] | None = None, *, random: bool = False
) -> Source:
    config, removed = config_json.read(path)
    if removed:
        log.info("config.json: ignored %s", ", ".join(removed))
    files = names if names is not None else [entry.name for entry in path.parent.iterdir()]
    config_json.refuse_remote_code(config, removed, files, trust)
    # Absolute: an export's workers run in a folder of their own.
    return Source(model, architecture(config), path.parent.absolute(), revision, config, random)


def _refuse_closed(model: str) -> None:
    for closed in CLOSED:
        if closed.names.fullmatch(model.lower()):
            raise UnsupportedError(
                f"{model}: the weights of the {closed.family} family are not public, so nobody can export them",
                hint=f"open models for {closed.kind}: {', '.join(closed.instead)}",
                instead=list(closed.instead),
            )


def _looks_like_a_path(model: str) -> bool:
    return model.startswith(("./", "../", "/", "~")) or model.endswith(".onnx") or "\\" in model or model in (".", "..")


def _no_such_path(model: str, path: Path) -> SourceError:
    """The error, with the folders and .onnx files (for `random:`, also .json files) that could have been meant."""
    if not os.path.isdir(path.parent):
        return SourceError(f"{model} does not exist", hint=f"{path.parent} does not exist either")
    kinds = (".onnx", ".json") if model.startswith("random:") else (".onnx",)
    beside = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in kinds or os.path.isdir(entry))
    near = registry.suggest(path.name, beside)
    there = f"the folder holds: {', '.join(beside[:5])}" if beside else f"{path.parent} holds no model"
    return SourceError(f"{model} does not exist", hint=near or there)
