"""Say what a folder or repository is that EdgeKit cannot export, and what to do instead. Reads names of files only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from edgekit.errors import BundleError, EdgeKitError, SourceError, UnsupportedError, UsageError

CONFIG, ADAPTER = "config.json", "adapter_config.json"
SUFFIX = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
GGUF = ".gguf"
OTHERS = {".h5": "TensorFlow", ".msgpack": "Flax", ".keras": "Keras", ".tflite": "TensorFlow Lite"}
ORIGINAL = "export the original model, in safetensors, that it was made from; its card names it"
FORMS = "MODEL is a hub id (org/name), a Hugging Face folder, zoo:NAME, random:CONFIG_PATH or an .onnx file"


def require_config(names: Iterable[str], model: str) -> None:
    """Raise what fits where there is no config.json among the relative `names` of a folder or repository."""
    known = list(names)
    if ADAPTER in known and not any(_is_whole(name) for name in known):
        raise _adapter(model)
    if CONFIG in known:
        return
    if "edgekit.json" in known:
        raise UsageError(f"{model} is a bundle already", hint=f"edgekit run {model}")
    if "model_index.json" in known:
        raise UnsupportedError(f"{model} is a diffusion pipeline, which EdgeKit cannot export yet", hint=FORMS)
    if any(name.endswith(GGUF) for name in known):
        raise _gguf(model)
    below = sorted(PurePosixPath(name).parent.as_posix() for name in known if name.endswith("/" + CONFIG))
    if below:
        hint = f"a model may be in: {', '.join(below[:5])}; download that folder, and name it"
    else:
        hint = "name a folder that transformers' save_pretrained wrote"
    raise SourceError(f"{model} has no config.json", hint=hint)


def require_safetensors(names: Iterable[str]) -> None:
    """Raise BundleError, or UnsupportedError for another format, where files of these names hold no safetensors."""
    known = list(names)
    if any(name.endswith(SUFFIX) for name in known):
        return
    pickles = sorted(name for name in known if name.endswith(PICKLES))
    if pickles:
        raise BundleError(
            f"only pickled weights ({', '.join(pickles[:3])}): loading them can run any code, so EdgeKit does not",
            hint="on the hub, look for a revision with safetensors (often --revision refs/pr/1); or convert the file "
            "in a container without network: torch.load(FILE, weights_only=True), then "
            "safetensors.torch.save_file",
            files=pickles,
        )
    if any(name.endswith(GGUF) for name in known):
        raise _gguf("the model")
    for name in sorted(known):
        if kind := OTHERS.get(PurePosixPath(name).suffix):
            raise UnsupportedError(
                f"only {kind} weights ({name}), which EdgeKit does not read",
                hint="look for a revision with safetensors; or load it once with a transformers below 5 and from_tf "
                "or from_flax, and save it with save_pretrained",
                files=[name],
            )
    raise BundleError("no weights: there is no .safetensors file", hint="random:PATH exports with random weights")


def refuse_quantized(config: Mapping[str, Any]) -> None:
    """Raise UnsupportedError where a config.json says that the weights are quantized, before they are loaded."""
    mlx = config.get("quantization")
    if isinstance(mlx, dict) and "group_size" in mlx:
        raise UnsupportedError("the weights are quantized in MLX's format", hint=ORIGINAL)
    stated = config.get("quantization_config") or config.get("compression_config")
    if stated:
        method = stated.get("quant_method") if isinstance(stated, dict) else None
        how = f" ({method})" if isinstance(method, str) else ""
        raise UnsupportedError(
            f"the weights are quantized already{how}",
            hint="export the unquantized model and let EdgeKit quantize it (--precision int8 or int4)",
        )


def not_a_folder(path: str) -> EdgeKitError:
    """The error for a file in place of a model's folder."""
    suffix = PurePosixPath(path).suffix
    if suffix == GGUF:
        return _gguf(path)
    if suffix == ".json":
        return UnsupportedError(f"{path} is a file, not a model's folder", hint=f"did you mean random:{path} ?")
    weights = suffix in (SUFFIX, *PICKLES, *OTHERS)
    hint = f"name its folder, which also holds config.json; {FORMS}" if weights else FORMS
    return UnsupportedError(f"{path} is a file, not a model's folder", hint=hint)


def _is_whole(name: str) -> bool:
    return name.endswith((SUFFIX, *PICKLES)) and not PurePosixPath(name).name.startswith("adapter_")


def _adapter(model: str) -> UnsupportedError:
    return UnsupportedError(
        f"{model} is an adapter (LoRA or another of peft's), not a whole model",
        hint="merge it into its base model, and export the result: peft's AutoPeftModel….from_pretrained(ADAPTER)"
        ".merge_and_unload().save_pretrained(FOLDER)",
    )


def _gguf(model: str) -> UnsupportedError:
    return UnsupportedError(f"{model} is in llama.cpp's format GGUF, which EdgeKit does not read", hint=ORIGINAL)
