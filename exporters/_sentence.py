"""What sentence-transformers' modules.json says: how hidden states become one vector.

Understands Transformer, Pooling (mean, cls, last token, max), Dense and Normalize, in that order; anything else is
refused by name, since leaving it out would give other vectors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekit.errors import UnsupportedError

POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
ACTIVATIONS = {"Tanh": "tanh", "Identity": "identity", "ReLU": "relu", "Sigmoid": "sigmoid", "SiLU": "silu"}


def sentence_settings(source: Path, folder: Path, *, limit: int) -> dict[str, Any]:
    """The embedding head's settings; Dense weights are written into `folder`. `limit`: the model's own longest input.

    Without a modules.json the vectors are mean-pooled and left unscaled, as sentence-transformers does.
    """
    settings: dict[str, Any] = {"pooling": "mean", "normalize": False, "dense": [], "dimensions": None}
    settings |= _prompts(source)
    for module in _read(source / "modules.json", []):
        place = source / module.get("path", "")
        match str(module.get("type", "")).rsplit(".", 1)[-1]:
            case "Transformer":
                stated = _read(place / "sentence_bert_config.json", {}) or _read(
                    source / "sentence_bert_config.json", {}
                )
                settings["max_length"] = min(limit, stated.get("max_seq_length") or limit)
                settings["lowercase"] = bool(stated.get("do_lower_case"))
            case "Pooling":
                settings["pooling"] = _pooling(_read(place / "config.json", {}))
            case "Dense":
                settings["dense"].append(_dense(place, folder, number=len(settings["dense"])))
            case "Normalize":
                settings["normalize"] = True
            case kind:
                raise UnsupportedError(
                    f"modules.json asks for {kind!r}, which EdgeKit does not know",
                    hint=f"known modules: Transformer, Pooling, Dense, Normalize; remove {kind} if it is not needed",
                )
    return settings


def _prompts(source: Path) -> dict[str, Any]:
    stated = _read(source / "config_sentence_transformers.json", {})
    name = stated.get("similarity_fn_name") or "cosine"
    if name not in ("cosine", "dot"):
        raise UnsupportedError(f"similarity {name!r} is not known", hint="known: cosine, dot")
    return {
        "prompts": stated.get("prompts") or {},
        "default_prompt": stated.get("default_prompt_name"),
        "similarity": name,
    }


def _pooling(config: dict[str, Any]) -> str:
    """One mode; the joining of several is not supported."""
    mode = config.get("pooling_mode")  # sentence-transformers >= 5.2 may write one word here
    chosen = [POOLING[key] for key in POOLING if config.get(key)]
    if isinstance(mode, str):
        chosen = [{"lasttoken": "last"}.get(mode, mode)]
    unknown = sorted(key for key, on in config.items() if key.startswith("pooling_mode_") and on and key not in POOLING)
    if unknown or len(chosen) != 1 or chosen[0] not in POOLING.values():
        raise UnsupportedError(
            f"pooling {unknown or chosen or mode!r} is not supported", hint="one of mean, cls, last token or max is"
        )
    if chosen[0] == "mean" and config.get("include_prompt") is False:
        raise UnsupportedError(
            "pooling without the prompt's tokens is not supported", hint="the model needs include_prompt: true"
        )
    return chosen[0]


def _dense(place: Path, folder: Path, *, number: int) -> dict[str, Any]:
    """One Dense module: its arrays as .npy files in `folder`, named by number."""
    import numpy as np
    from safetensors.numpy import load_file

    config = _read(place / "config.json", {})
    activation = str(config.get("activation_function", "torch.nn.modules.linear.Identity")).rsplit(".", 1)[-1]
    if activation not in ACTIVATIONS:
        raise UnsupportedError(f"Dense activation {activation!r} is not known", hint=f"known: {', '.join(ACTIVATIONS)}")
    weights = load_file(str(place / "model.safetensors"))
    layer = {"activation": ACTIVATIONS[activation]}
    for key in ("weight", "bias"):
        if f"linear.{key}" in weights:
            layer[key] = f"dense_{number}_{key}.npy"
            np.save(folder / layer[key], weights[f"linear.{key}"].astype(np.float32))
    return layer


def _read(file: Path, default: Any) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else default
