"""What cannot be exported: each format by its name, with the next step."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_source import CONFIG, model, refusal, tiny_arch

from edgekit.errors import BundleError, EdgeKitError, SourceError, UnsupportedError
from edgekit.source import weights

__all__ = ["tiny_arch"]

SETTINGS = json.dumps(CONFIG)


def folder(home: Path, **files: str) -> str:
    """A folder of these files; `__` stands for a dot, `___` for a slash."""
    for name, content in files.items():
        path = home / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(home)


@pytest.mark.parametrize(
    ("files", "kind", "message", "hint"),
    [
        ({"model__gguf": ""}, UnsupportedError, "GGUF", "original model"),
        ({"config__json": SETTINGS, "model__gguf": ""}, UnsupportedError, "GGUF", "original model"),
        ({"adapter_config__json": "{}", "adapter_model__safetensors": ""}, UnsupportedError, "adapter", "merge"),
        (
            {"config__json": SETTINGS, "adapter_config__json": "{}", "adapter_model__bin": ""},
            UnsupportedError,
            "adapter",
            "merge",
        ),
        ({"config__json": SETTINGS, "pytorch_model__bin": ""}, BundleError, "pickled", "safetensors"),
        ({"config__json": SETTINGS, "tf_model__h5": ""}, UnsupportedError, "TensorFlow", "from_tf"),
        ({"config__json": SETTINGS, "flax_model__msgpack": ""}, UnsupportedError, "Flax", "from_flax"),
        ({"config__json": SETTINGS}, BundleError, "no weights", "random:"),
        ({"inner___config__json": SETTINGS}, SourceError, "no config.json", "may be in: inner"),
        ({"README__md": ""}, SourceError, "no config.json", "save_pretrained"),
    ],
)
def test_folders_of_other_formats(
    tmp_path: Path, files: dict[str, str], kind: type[EdgeKitError], message: str, hint: str
) -> None:
    error = refusal(kind, folder(tmp_path / "model", **files))
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantized already \(gptq\)"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"\(bitsandbytes\)"),
        ({"quantization_config": {"bits": 4, "group_size": 64}}, "quantized already$"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, r"\(compressed-tensors\)"),
        ({"quantization_config": "int4"}, "quantized already$"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "MLX's format"),
    ],
)
def test_weights_that_are_quantized_already(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    error = refusal(UnsupportedError, str(model(tmp_path / "tiny", {**CONFIG, **config})))
    assert re.search(message, error.message)
    assert error.exit_code == 4
    assert "original" in error.hint or "unquantized" in error.hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("model.gguf", "original model"),
        ("model.safetensors", "name its folder"),
        ("a.json", "random:"),
        ("a", "hub id"),
    ],
)
def test_a_file_in_place_of_a_folder(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / name).write_text("")
    assert hint in refusal(UnsupportedError, str(tmp_path / name)).hint


@pytest.mark.parametrize(
    ("names", "wrapper"),
    [
        (["a.weight", "module.b"], ""),
        (["module.a", "module.b"], "module."),
        (["_orig_mod.module.a", "_orig_mod.module.b"], "_orig_mod.module."),
        (["base_model.model.model.a"], "base_model.model."),
        ([], ""),
    ],
)
def test_what_was_put_before_every_name(names: list[str], wrapper: str) -> None:
    assert weights.wrapper(names) == wrapper


def test_a_missing_tensor_is_found_behind_a_prefix() -> None:
    error = weights.missing("embeddings.weight", ["model.embeddings.weight", "model.other"])
    assert "without 'model.'" in error.hint
    assert "is config.json of another model" in weights.missing("layers.0.a", ["layers.0.b"]).hint
    assert weights.missing("layers", ["x"]).hint == "download the model again"
