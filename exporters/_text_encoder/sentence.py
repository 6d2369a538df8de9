"""Read sentence-transformers' modules.json: how hidden states become one vector.

Understands Transformer, Pooling (mean, cls, last token, max), Dense and Normalize, in that order; anything else is
refused by name, since leaving it out would give other vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import BundleError, UnsupportedError
from edgekit.source import sentence_layout

from .._json_files import read_object

if TYPE_CHECKING:
    from edgekit.core import Floats

ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
ACTIVATIONS = {"Tanh": "tanh", "Identity": "identity", "ReLU": "relu", "Sigmoid": "sigmoid", "SiLU": "silu"}
# The Transformer module's own settings, by the architecture in old models; the first that is there counts.
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
FLOATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}


def sentence_settings(source: Path, folder: Path, *, positions: int) -> dict[str, Any]:
    """The embedding head's settings; Dense weights are written into `folder`. `positions`: what the model has.

    Without a modules.json the vectors are mean-pooled and left unscaled, as sentence-transformers does.
    Raises UnsupportedError for what the head cannot do, BundleError for bad files.
    """
    home = sentence_layout.home(source) or source
    settings: dict[str, Any] = {"pooling": "mean", "normalize": False, "dense": []} | _defaults(home)
    for kind, place in _modules(home):
        match kind:
            case "Transformer":
                settings |= _transformer(place, positions)
            case "Pooling":
                settings |= _pooling(read_object(place / "config.json"))
            case "Dense":
                settings["dense"].append(_dense(place, folder, number=len(settings["dense"])))
            case "Normalize":
                settings["normalize"] = True
    return settings


def _defaults(source: Path) -> dict[str, Any]:
    """What applies to the whole model: prompts, the measure of likeness, a Matryoshka cut."""
    stated = read_object(source / "config_sentence_transformers.json")
    name = stated.get("similarity_fn_name") or "cosine"
    if name not in ("cosine", "dot"):
        raise UnsupportedError(f"similarity {name!r} is not known", hint="known: cosine, dot")
    return {
        "prompts": stated.get("prompts") or {},
        "default_prompt": stated.get("default_prompt_name"),
        "similarity": name,
        "dimensions": stated.get("truncate_dim"),
    }


def _modules(source: Path) -> Iterator[tuple[str, Path]]:
    """Kind and folder of each module, in their order."""
    kinds = []
    for module in sentence_layout.modules(source):
        stated, path = module["type"], module["path"]
        origin, _, kind = stated.rpartition(".")
        # A repository's own class may have the same name and do something else.
        if kind not in ORDER or not origin.startswith("sentence_transformers."):
            raise UnsupportedError(
                f"modules.json asks for {stated!r}, which EdgeKit does not know",
                hint=f"known modules: {', '.join(ORDER)}; remove {kind} if it is not needed, or save a model of an old "
                "version again with sentence-transformers",
            )
        kinds.append(kind)
        yield kind, source / path
    once = [kind for kind in kinds if kind in ORDER[:2]]
    if kinds and (kinds != sorted(kinds, key=ORDER.index) or once != [*ORDER[:2]]):
        raise UnsupportedError(
            f"modules.json runs {', '.join(kinds)}", hint=f"EdgeKit runs them in the order {', '.join(ORDER)}"
        )


def _transformer(place: Path, positions: int) -> dict[str, Any]:
    """Length and case. `max_seq_length` replaces the tokenizer's limit; the model's positions bound both."""
    file = next((place / name for name in TRANSFORMER_FILES if (place / name).is_file()), place / TRANSFORMER_FILES[0])
    stated = read_object(file)
    task = stated.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise UnsupportedError(f"vectors made by a {task} model are not supported", hint="feature-extraction ones are")
    options = stated.get("processor_kwargs") or stated.get("tokenizer_args") or {}
    length = options.get("model_max_length") or stated.get("max_seq_length")
    if length is not None and not (type(length) in (int, float) and length >= 1):
        raise BundleError(f"{file.name} has max_seq_length {length!r}", hint="it is a number of tokens, or null")
    settings: dict[str, Any] = {"lowercase": bool(stated.get("do_lower_case"))}
    return settings if length is None else settings | {"max_length": int(min(positions, length))}


def _pooling(config: dict[str, Any]) -> dict[str, Any]:
    """One mode, and whether the prompt's tokens count; the joining of several modes is not supported."""
    mode = config.get("pooling_mode")  # from version 5.2 on a word, or a list of them
    chosen = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    names = [POOLING.get(key, key) for key in chosen]
    if mode is not None:
        names = [{"lasttoken": "last"}.get(name, name) for name in ([mode] if isinstance(mode, str) else mode)]
    if len(names) != 1 or names[0] not in POOLING.values():
        raise UnsupportedError(
            f"pooling by {' and '.join(names) or 'nothing'} is not supported", hint="one of mean, cls, last or max is"
        )
    prompt = {"include_prompt": False} if config.get("include_prompt") is False else {}
    return {"pooling": names[0], **prompt}


def _dense(place: Path, folder: Path, *, number: int) -> dict[str, Any]:
    """One Dense module: its arrays as .npy files in `folder`, named by number."""
    import numpy as np

    config = read_object(place / "config.json")
    activation = str(config.get("activation_function", "Identity")).rsplit(".", 1)[-1]
    if activation not in ACTIVATIONS:
        raise UnsupportedError(f"Dense activation {activation!r} is not known", hint=f"known: {', '.join(ACTIVATIONS)}")
    if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise UnsupportedError(
            f"{place.name} has a residual, or is not for one vector a text", hint="a plain Dense layer is supported"
        )
    weights = _weights(place / "model.safetensors")
    layer = {"activation": ACTIVATIONS[activation]}
    for key in ("weight", "bias"):
        if f"linear.{key}" in weights:
            layer[key] = f"dense_{number}_{key}.npy"
            np.save(folder / layer[key], weights[f"linear.{key}"])
    return layer


def _weights(file: Path) -> dict[str, Floats]:
    """The tensors of a small safetensors file, as float32."""
    import numpy as np
    from safetensors import SafetensorError, deserialize

    hint = "save the model again with sentence-transformers, as safetensors"
    if not file.is_file():
        raise BundleError(f"{file.parent.name} has no {file.name}", hint=hint)
    found = {}
    try:
        tensors: list[tuple[str, dict[str, Any]]] = deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise BundleError(f"{file.parent.name}/{file.name} is bad", hint=hint, cause=str(error)) from error
    for name, tensor in tensors:
        if tensor["dtype"] == "BF16":  # the upper half of a float32
            array = (np.frombuffer(tensor["data"], "<u2").astype(np.uint32) << 16).view(np.float32)
        elif tensor["dtype"] in FLOATS:
            array = np.frombuffer(tensor["data"], FLOATS[tensor["dtype"]]).astype(np.float32)
        else:
            raise UnsupportedError(f"{file.parent.name} holds {name!r} as {tensor['dtype']}", hint="floats are known")
        found[name] = array.reshape(tensor["shape"])
    return found
