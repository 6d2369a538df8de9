"""Read an untrusted config.json: check it, remove what would run code, and name the model's exporter.

Repository code is never run, with or without `trust_remote_code`. Many good repositories still carry an `auto_map`
to their own modeling files although transformers has had the architecture for years (nomic_bert, phi3): then
the native code is used and the map is struck out. Without native code there is nothing to run: an error.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgekit import registry
from edgekit.bundle import strict_json
from edgekit.errors import BundleError, UnsupportedError
from edgekit.source import refusals

MAX_BYTES = 16 << 20  # the largest on the hub list 21,000 labels: about 1 MB

# Keys with which a config steers what transformers imports, fetches or opens, instead of what the model is.
STEERING = {
    "auto_map",
    "custom_pipelines",
    "trust_remote_code",
    "code_revision",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "use_kernels",
    "kernel_config",
    "transformers_weights",
    "use_pretrained_backbone",
    "name_or_path",
    "_name_or_path",
    "_commit_hash",
}


def read(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config without what steers, and the dotted names of what was struck out.

    Raises BundleError for a file that is not a proper JSON object, UnsupportedError for a quantization that
    points to another place.
    """
    removed: list[str] = []
    config = _struck(strict_json.read(path, MAX_BYTES), "", removed)
    return config, tuple(removed)


def _struck(value: Any, where: str, removed: list[str]) -> Any:
    if isinstance(value, list):
        return [_struck(item, f"{where}{index}.", removed) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        # transformers sets every key as an attribute, but for the one with which it spells infinity.
        if key in STEERING or (key.startswith("__") and key != "__float__"):
            removed.append(where + key)
        else:
            if key in ("quantization_config", "compression_config"):
                _stays_here(item, where + key)
            kept[key] = _struck(item, f"{where}{key}.", removed)
    return kept


def _stays_here(value: Any, where: str) -> None:
    """A quantizer that reads a path, a repository or a module named here would be led out of the folder."""
    if isinstance(value, dict):
        for key, item in value.items():
            _stays_here(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _stays_here(item, f"{where}.{index}")
    elif isinstance(value, str) and ("/" in value or "\\" in value or value.endswith(".py")):
        raise UnsupportedError(
            f"config.json refers to a file outside its folder: {where} is {value!r}",
            hint="export the unquantized model and let EdgeKit quantize it (--precision int8 or int4)",
            key=where,
        )


def architecture(config: dict[str, Any]) -> str:
    """The name of the architecture: config.json's `model_type` as an exporter's file is named (`xlm-roberta`:
    xlm_roberta), or would be, for a decoder that only transformers knows.

    Raises UnsupportedError with the nearest name where there is none, for a decoder that cannot be traced, and for
    weights that are quantized already.
    """
    name = file_name(config)
    refusals.refuse_quantized(config)
    known = registry.names("exporters")
    if registry.is_traced(name):
        registry.exporter(name).refuse(name, config)
    elif name not in known:
        hint = registry.suggest(name, known) or "`edgekit list architectures` shows what there is"
        raise UnsupportedError(f"no exporter for the architecture {config['model_type']!r}", hint=hint)
    return name


def file_name(config: dict[str, Any]) -> str:
    """`model_type` with underscores. Raises UnsupportedError if it is missing, BundleError if it is not a name."""
    kind = config.get("model_type", "")
    if kind == "":
        raise UnsupportedError(
            "config.json does not say its model_type",
            hint="export from a folder that transformers' save_pretrained wrote, or add the architecture's name",
        )
    if not isinstance(kind, str) or not kind.replace("-", "_").isidentifier():
        raise BundleError(f"config.json's model_type is not a name: {kind!r}", hint="download or save the model again")
    return kind.replace("-", "_")


def refuse_remote_code(config: dict[str, Any], removed: Iterable[str], files: Iterable[str], trust: bool) -> None:
    """Raises UnsupportedError where only the repository's own Python files know the architecture.

    `removed` is what `read` struck out and `files` the names in the repository. With `trust` the answer is
    `architecture`'s, which knows no such model either: the flag allows, it does not conjure.
    """
    code = [name for name in files if name.startswith(("modeling_", "configuration_")) and name.endswith(".py")]
    maps = [name for name in removed if name.split(".")[-1] == "auto_map"]
    if trust or not (code or maps) or is_native(file_name(config)):
        return
    raise UnsupportedError(
        f"remote code needed: {config['model_type']!r} is known only to the repository's own Python files",
        hint="EdgeKit runs no code from a repository; look for a version of the model that needs no remote code",
        files=sorted(code),
        keys=sorted(maps),
    )


def is_native(name: str) -> bool:
    """Whether EdgeKit has an exporter of that name or transformers a folder; imports neither."""
    if name in registry.names("exporters"):
        return True
    found = importlib.util.find_spec("transformers")
    homes = (found.submodule_search_locations or []) if found else []
    return any((Path(home) / "models" / name / "__init__.py").is_file() for home in homes)
