"""Folders whose weights do not fit, or have other names: read as transformers would, or refused by what is wrong."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_images
import tiny_models

from edgekit import registry
from edgekit.errors import BundleError, UnsupportedError
from edgekit.exporters._trace import transformers_model

torch = pytest.importorskip("torch", reason="transformers needs it")

ROWS = np.array([[2, 9, 11, 3]])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """transformers warns of what these folders lack, and of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make(tmp_path_factory.mktemp("bert") / "model", "bert")


def copy(folder: Path, target: Path, name: Callable[[str], str | None] = lambda name: name, **config: Any) -> Path:
    """The model with other names of its tensors (None: left out) and other values in its config."""
    from safetensors.torch import load_file, save_file

    target.mkdir()
    for file in folder.glob("*.json"):
        (target / file.name).write_bytes(file.read_bytes())
    stated = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(stated | config))
    renamed = {name(old): tensor for old, tensor in load_file(folder / "model.safetensors").items()}
    kept = {new: tensor for new, tensor in renamed.items() if new is not None}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


def trace(folder: Path, task: str) -> Any:
    source = tiny_models.source_of(folder)
    return registry.find("exporters", source.arch).EXPORTER.trace(source, task)


def hidden(folder: Path) -> Any:
    tracing = trace(folder, "feature-extraction")
    feeds = {"input_ids": ROWS, "attention_mask": np.ones_like(ROWS), "token_type_ids": np.zeros_like(ROWS)}
    with torch.inference_mode():
        return tracing.module(*(torch.from_numpy(feeds[name]) for name in tracing.inputs)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        lambda name: "_orig_mod." + name,
        lambda name: "module." + name,
        lambda name: "_orig_mod.module." + name,
        lambda name: "bert." + name,
        lambda name: "module.bert." + name,
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    ],
    ids=["compiled", "parallel", "both", "with a head", "parallel with a head", "gamma and beta"],
)
def test_names_as_other_tools_leave_them(bert: Path, tmp_path: Path, name: Callable[[str], str]) -> None:
    np.testing.assert_array_equal(hidden(copy(bert, tmp_path / "renamed", name)), hidden(bert))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "message", "hint"),
    [
        (lambda name: "model." + name, {}, "no 'embeddings", "without 'model.'"),
        (lambda name: "net." + name, {}, "no 'embeddings", "without 'net.'"),
        (lambda name: None if name.endswith("layer.1.output.dense.weight") else name, {}, "no 'encoder", "is config"),
        (lambda name: name, {"num_hidden_layers": 3}, r"no 'encoder\.layer\.2", "is config.json of another model"),
        (lambda name: "w" + name, {}, "no 'embeddings", "is config.json of another model"),
        (lambda name: name, {"hidden_size": 48}, r"has shape \[.*config.json needs \[48", "different models"),
        (lambda name: name, {"vocab_size": 280}, r"has shape \[300, 32\]; config.json needs \[280, 32\]", "different"),
        (lambda name: name, {"num_attention_heads": 5}, "ValueError: .*not a multiple", "different models"),
        (lambda name: name, {"hidden_act": "squash"}, "cannot load this bert model", "different models"),
        (lambda name: name, {"hidden_size": "wide"}, "bert", "again"),
    ],
    ids=["model.", "net.", "one", "a layer", "foreign", "width", "vocabulary", "heads", "activation", "type"],
)
def test_weights_and_configs_that_do_not_fit(
    bert: Path, tmp_path: Path, name: Callable[[str], str | None], config: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        trace(copy(bert, tmp_path / "odd", name, **config), "feature-extraction")
    assert hint in caught.value.hint


@pytest.mark.slow
def test_images_do_as_texts_do(tmp_path: Path) -> None:
    folder = tiny_images.make(tmp_path / "model", "vit", "ForImageClassification")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    task = "image-classification"
    for name, change in (("prefixed", lambda name: "_orig_mod." + name), ("same", lambda name: name)):
        assert trace(copy(folder, tmp_path / name, change), task)
    with pytest.raises(BundleError, match="has shape"):
        trace(copy(folder, tmp_path / "wide", hidden_size=64), task)
    with pytest.raises(BundleError, match="cannot load this vit model"):
        trace(copy(folder, tmp_path / "act", hidden_act="squash"), task)
    with pytest.raises(BundleError, match=r"no 'vit\..*layer.*\.[2-4]\."):
        trace(copy(folder, tmp_path / "deep", num_hidden_layers=5), task)


def test_whatever_transformers_raises_is_ours(bert: Path) -> None:
    source = tiny_models.source_of(bert)

    class Odd:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def from_pretrained(self, *_: Any, **__: Any) -> None:
            raise self.error

        from_config = from_pretrained

    for error in (NameError("QuantizeConfig"), ImportError("accelerate"), AssertionError(), ZeroDivisionError("0")):
        with pytest.raises(BundleError, match=type(error).__name__) as caught:
            transformers_model.load(Odd(error), source, None)
        assert type(error).__name__ in caught.value.cause
    for passed in (RuntimeError("can't allocate memory"), MemoryError(), UnsupportedError("of ours")):
        with pytest.raises(type(passed)):
            transformers_model.load(Odd(passed), source, None)
    with pytest.raises(UnsupportedError, match="makes no model of this config"):
        transformers_model.load(Odd(ValueError("heads")), replace(source, random=True), None)


def test_an_architecture_without_a_model_for_the_task() -> None:
    from transformers import AutoModelForImageClassification, BertConfig

    with pytest.raises(UnsupportedError, match="no bert model for image-classification") as caught:
        transformers_model.concrete(AutoModelForImageClassification, BertConfig(), "image-classification")
    assert "--task" in caught.value.hint
