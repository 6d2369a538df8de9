"""What is no bundle yet is made one, and what is one is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_bundles import make

from edgekit.bundle import manifest
from edgekit.errors import DeviceError, SourceError, UsageError
from edgekit.measuring.prepare import name_of, prepared

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 300,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("zoo:parity", "parity.ek"),
        ("random:configs/qwen3-0.6b", "qwen3-0.6b.ek"),
        ("random:configs/qwen3-0.6b/config.json", "qwen3-0.6b.ek"),
        ("random:small.json", "small.ek"),
        ("org/Model.Name-1.5", "Model.Name-1.5.ek"),
        ("./graphs/lstm.onnx", "lstm.ek"),
        ("random:a b/c d", "c_d.ek"),
    ],
)
def test_names(model: str, name: str) -> None:
    assert name_of(model) == name


def test_a_bundle_is_left_alone(tmp_path: Path) -> None:
    folder = make(tmp_path / "no suffix")
    assert prepared(str(folder), targets=(), precisions=(), folder=tmp_path / "unused") == folder
    missing = tmp_path / "missing.ek"  # opening it says what is wrong, and no hub is asked
    assert prepared(str(missing), targets=(), precisions=(), folder=tmp_path / "unused") == missing
    assert not (tmp_path / "unused").exists()


def test_what_is_no_model_is_what_an_export_says(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        prepared("zoo:nothing", targets=(), precisions=(), folder=tmp_path)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="exporting a model needs onnx") as caught:
        prepared("zoo:parity", targets=(), precisions=(), folder=tmp_path)
    assert caught.value.exit_code == 8


@pytest.mark.slow
def test_a_config_becomes_a_bundle_of_made_up_weights(tmp_path: Path) -> None:
    config = tmp_path / "tiny" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps(CONFIG))
    said: list[str] = []
    made = prepared(
        f"random:{config}",
        targets=["cpu"],
        precisions=["int4"],
        folder=tmp_path,
        progress=lambda *words: said.append(words[0]),
    )
    found = manifest.read(made)
    assert (made, found.source.random) == (tmp_path / "tiny.ek", True)
    assert [variant.name for variant in found.variants] == ["cpu/int4-g32-rtn"]
    assert said
    with pytest.raises(UsageError, match=r"two of the models have the name tiny\.ek"):
        prepared(f"random:{config.parent}", targets=["cpu"], precisions=["int4"], folder=tmp_path)
