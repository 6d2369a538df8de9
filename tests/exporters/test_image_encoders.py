"""Exporters of image models, with tiny random weights: what each graph gives, and what each exporter refuses."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import odd_pictures
import pytest
import tiny_images
from tiny_images import TINY

from edgekit import registry
from edgekit.core import Bundle, Graph, Recipe, Source, Variant
from edgekit.errors import UnsupportedError
from edgekit.exporters._vision import image_encoder
from edgekit.exporters._vision.preprocessor import image_steps
from edgekit.quantize import recipes
from edgekit.quantize.int8 import SMALLEST
from edgekit.source import resolve
from edgekit.workbench import graph, variants

CLASSIFICATION, FEATURES = "image-classification", "image-feature-extraction"
TARGETS = ("cpu", "openvino")
BATCHES = (1, 2, 5)  # the tracer sees 3
# Architecture, task, ending of the class that is stored.
TRACED = [(arch, CLASSIFICATION, "ForImageClassification") for arch in TINY]
TRACED += [("deit", CLASSIFICATION, "ForImageClassificationWithTeacher")]
TRACED += [("resnet", FEATURES, "Model"), ("vit", FEATURES, "Model")]


@pytest.fixture(autouse=True)
def workbench() -> Iterator[None]:
    """Libraries of the workbench warn of their own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(file: Path) -> Any:
    return json.loads(file.read_text())


@dataclass(frozen=True)
class Traced:
    """A model's folder, with its graph beside it."""

    folder: Path
    task: str
    ending: str

    @property
    def noun(self) -> Graph:
        return graph.describe(graph.load(self.folder / "model.onnx"), "model", "model.onnx", {})


Make = Callable[..., Traced]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Traces each model once for all tests of this file."""
    known: dict[str, Traced] = {}

    def make(arch: str, task: str, ending: str, size: tuple[int, int] | None = None, **changes: Any) -> Traced:
        key = repr((arch, task, ending, size, sorted(changes.items())))
        if key not in known:
            folder = model(tmp_path_factory.mktemp(arch), arch, ending, size, **changes)
            known[key] = trace(folder, task, ending)
        return known[key]

    return make


def model(folder: Path, arch: str, ending: str, size: tuple[int, int] | None = None, **changes: Any) -> Path:
    tiny_images.make(folder, arch, ending, **changes)
    height, width = size or TINY[arch][1]
    write(
        folder / "preprocessor_config.json",
        image_processor_type="ViTImageProcessor",
        size={"height": height, "width": width},
    )
    return folder


def write(file: Path, **changes: Any) -> None:
    """A JSON file, with these keys changed where it is there already."""
    file.write_text(json.dumps((read(file) if file.exists() else {}) | changes))


def trace(folder: Path, task: str, ending: str) -> Traced:
    from edgekit.exporters._trace import trace

    tracing = tracing_of(folder, task)
    program = trace.export(tracing)
    trace.check(program.model, tracing)
    program.save(str(folder / "model.onnx"), external_data=True)
    return Traced(folder, task, ending)


def tracing_of(folder: Path, task: str) -> Any:
    source = resolve.resolve(str(folder), offline=True)
    return exporter(source.arch).trace(source, task)


def exporter(arch: str) -> Any:
    return registry.find("exporters", arch).EXPORTER


def pixels(size: tuple[int, int], batch: int) -> Any:
    return np.random.default_rng(batch).standard_normal((batch, 3, *size), np.float32)


def own_answers(made: Traced, images: Any, **options: Any) -> Any:
    """transformers' own class on these pixels, without anything of ours."""
    import torch
    import transformers

    stem = type(transformers.AutoConfig.from_pretrained(made.folder)).__name__.removesuffix("Config")
    own = getattr(transformers, stem + made.ending).from_pretrained(made.folder).eval()
    with torch.inference_mode():
        found = own(torch.from_numpy(images), **options)
    return (found.logits if made.task == CLASSIFICATION else found.pooler_output.flatten(1)).numpy()


def answers(made: Traced, target: str, images: Any, recipe: Recipe | None = None) -> Any:
    session = registry.find("targets", target).open(made.folder, made.noun, recipe or Recipe(), threads=1)
    try:
        return session.run({"pixel_values": images})[0][image_encoder.OUTPUTS[made.task]]
    finally:
        session.close()


def assert_right(made: Traced, own: Callable[[Any], Any]) -> None:
    _, _, height, width = made.noun.inputs[0].shape
    assert isinstance(height, int)
    assert isinstance(width, int)
    for batch in BATCHES:
        images = pixels((height, width), batch)
        expected = own(images)
        assert np.abs(expected).max() > 1e-2  # not lost among the layers
        assert batch == 1 or np.ptp(expected, axis=0).max() > 1e-2  # nor what tells one image from another
        for target in TARGETS:
            found = answers(made, target, images)
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), (target, batch)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "task", "ending"), TRACED)
def test_graph_gives_what_transformers_gives(traced: Make, arch: str, task: str, ending: str) -> None:
    made = traced(arch, task, ending)
    assert made.noun.inputs[0].shape == ("batch", 3, *TINY[arch][1])
    assert_right(made, lambda images: own_answers(made, images))


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "task", "ending"), TRACED)
def test_graph_is_plain(traced: Make, arch: str, task: str, ending: str) -> None:
    """No branches, no float64, and no positions that are interpolated with every image."""
    import onnx_ir as ir

    nodes = list(graph.load(traced(arch, task, ending).folder / "model.onnx").graph.all_nodes())
    kinds = {node.op_type for node in nodes}
    assert not kinds & {"If", "Loop", "Scan"}
    assert not any(
        value.dtype == ir.DataType.DOUBLE for node in nodes for value in (*node.inputs, *node.outputs) if value
    )
    assert ("Resize" in kinds) == (arch == "mobilevit")  # whose map of 2 x 3 is enlarged to even sides


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "task", "ending"), TRACED)
def test_a_picture_s_file_has_transformers_answer(
    traced: Make, tmp_path: Path, arch: str, task: str, ending: str
) -> None:
    """By the task's own class, as the settings say it: from files to what is compared."""
    from PIL import Image
    from transformers import AutoImageProcessor

    made = traced(arch, task, ending)
    odds = (odd_pictures.turned(6)(), odd_pictures.palette_with_a_clear_entry())
    shown = {tmp_path / odd.name: odd.picture for odd in odds}
    for odd in odds:
        (tmp_path / odd.name).write_bytes(odd.data)
    source = resolve.resolve(str(made.folder), offline=True)
    bundle = Bundle(made.folder, source, (task,), exporter(source.arch).settings(source, task, tmp_path), ())
    with registry.task(task)(bundle, Variant("cpu", Recipe(), (made.noun,)), 1) as model:
        found = np.stack(model.numbers(list(shown)))
    pixels = AutoImageProcessor.from_pretrained(made.folder)([Image.fromarray(each) for each in shown.values()])
    expected = own_answers(made, np.stack(pixels["pixel_values"]))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()  # not the same for any picture


@pytest.mark.slow
def test_positions_of_another_size_are_as_transformers_interpolates_them(traced: Make) -> None:
    made = traced("vit", CLASSIFICATION, "ForImageClassification", (40, 56))
    assert_right(made, lambda images: own_answers(made, images, interpolate_pos_encoding=True))
    assert "Resize" not in {node.op_type for node in graph.load(made.folder / "model.onnx").graph}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("arch", ["resnet", "vit"])
def test_int8_weights_run_on_every_engine(traced: Make, tmp_path: Path, arch: str, target: str) -> None:
    made, recipe = traced(arch, CLASSIFICATION, "ForImageClassification"), recipes.recipe("int8")
    images = pixels(TINY[arch][1], 8)

    def feed(graphs: Any, sessions: Any) -> None:
        sessions["model"].run({"pixel_values": images})

    largest = variants.calibrate(made.folder, [made.noun], feed).get("model")
    small = recipes.apply(graph.load(made.folder / "model.onnx"), recipe, largest)
    small = registry.find("targets", target).compile(small, recipe, kind="plain")
    assert float_weights(small) == []
    graph.pack({"model.onnx": small}, tmp_path)
    expected = answers(made, target, images)
    found = answers(replace(made, folder=tmp_path), target, images, recipe)
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.999


def float_weights(model: Any) -> list[str]:
    """Names of nodes that multiply with a float32 weight of a size that is worth quantizing."""
    names = []
    for node in model.graph:
        weights = [graph.weight(value) for value in node.inputs[1:2]]
        if node.op_type in ("Conv", "Gemm", "MatMul") and any(w and w.const_value.size >= SMALLEST for w in weights):
            names.append(node.name)
    return names


# Weights that a checkpoint has, and lacks


def vectors(folder: Path, images: Any) -> Any:
    """What the module that is traced gives, in torch."""
    import torch

    with torch.inference_mode():
        return tracing_of(folder, FEATURES).module(torch.from_numpy(images)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit", "deit"])
def test_without_a_pooler_the_vector_is_the_first_token(tmp_path: Path, arch: str) -> None:
    import torch
    from transformers import AutoModel

    images = pixels((32, 32), 2)
    classifier, encoder = model(tmp_path / "a", arch, "ForImageClassification"), model(tmp_path / "b", arch, "Model")
    with torch.inference_mode():
        first = AutoModel.from_pretrained(classifier)(torch.from_numpy(images)).last_hidden_state[:, 0].numpy()
        pooled = AutoModel.from_pretrained(encoder)(torch.from_numpy(images)).pooler_output.numpy()
    np.testing.assert_allclose(vectors(classifier, images), first, atol=1e-5)
    np.testing.assert_allclose(vectors(encoder, images), pooled, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "ending", "task", "weight"),
    [
        ("vit", "Model", CLASSIFICATION, "classifier.bias"),
        ("resnet", "Backbone", CLASSIFICATION, "classifier.1.bias"),
        ("deit", "Model", CLASSIFICATION, "classifier.bias"),
        ("beit", "ForMaskedImageModeling", FEATURES, "pooler.layernorm.bias"),
        ("convnext", "Backbone", FEATURES, "layernorm.bias"),
    ],
)
def test_weights_of_another_task_are_refused(tmp_path: Path, arch: str, ending: str, task: str, weight: str) -> None:
    with pytest.raises(UnsupportedError, match=f"no '{weight}'.*not trained for {task}") as caught:
        tracing_of(model(tmp_path, arch, ending), task)
    assert "--task" in caught.value.hint


@pytest.mark.slow
def test_a_backbone_gives_vectors(tmp_path: Path) -> None:
    folder = model(tmp_path, "dinov2", "Backbone")
    assert exporter("dinov2").task(resolve.resolve(str(folder), offline=True)) == FEATURES
    assert vectors(folder, pixels((42, 56), 2)).shape == (2, 32)


@pytest.mark.slow
def test_counters_of_normalizations_are_not_missed(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = model(tmp_path, "resnet", "Model")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "num_batches_tracked" not in name}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert vectors(folder, pixels(TINY["resnet"][1], 2)).shape == (2, 32)


# What an exporter says of a folder


def source_of(folder: Path, random: bool = False, **config: Any) -> Source:
    return Source("some/model", "vit", folder, "", {"model_type": "vit", **config}, random=random)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("ViTForImageClassification", CLASSIFICATION),
        ("DeiTForImageClassificationWithTeacher", CLASSIFICATION),
        ("ViTModel", FEATURES),
        ("Dinov2Backbone", FEATURES),
    ],
)
def test_task_of_the_class_that_the_config_names(tmp_path: Path, name: str, task: str) -> None:
    assert exporter("vit").task(source_of(tmp_path, architectures=[name])) == task


def test_task_of_an_unknown_class(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="cannot tell the task of 'ViTForMaskedImageModeling'") as caught:
        exporter("vit").task(source_of(tmp_path, architectures=["ViTForMaskedImageModeling"]))
    assert "--task" in caught.value.hint
    assert exporter("vit").task(source_of(tmp_path, random=True)) == FEATURES


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        ("single_label_classification", "single"),
        ("multi_label_classification", "multi"),
        ("regression", "regression"),
        (None, "single"),
    ],
)
def test_settings_of_a_classifier(tmp_path: Path, stated: str | None, problem: str) -> None:
    write(tmp_path / "preprocessor_config.json", size={"height": 32, "width": 40})
    source = source_of(tmp_path, id2label={"1": "dog", "0": "cat"}, problem_type=stated)
    assert exporter("vit").settings(source, CLASSIFICATION, tmp_path) == {
        "output": "logits",
        "image": image_steps(tmp_path, source.config),
        "labels": ["cat", "dog"],
        "problem": problem,
    }


def test_settings_of_vectors(tmp_path: Path) -> None:
    write(tmp_path / "preprocessor_config.json", size={"height": 32, "width": 40})
    source = source_of(tmp_path)
    assert exporter("vit").settings(source, FEATURES, tmp_path) == {
        "output": "embedding",
        "image": image_steps(tmp_path, source.config),
        "pooling": "none",
        "normalize": False,
    }


def test_trained_weights_without_an_image_processor_are_refused(tmp_path: Path) -> None:
    """Its class would say a mean and a size; the model's own may be others."""
    with pytest.raises(UnsupportedError, match="has no preprocessor_config") as caught:
        exporter("vit").settings(source_of(tmp_path), FEATURES, tmp_path)
    assert "preprocessor_config.json" in caught.value.hint
    write(tmp_path / "processor_config.json", image_processor={"image_processor_type": "ViTImageProcessor"})
    assert exporter("vit").settings(source_of(tmp_path), FEATURES, tmp_path)["image"]


def test_made_up_weights_take_what_the_class_says(tmp_path: Path) -> None:
    settings = exporter("vit").settings(source_of(tmp_path, random=True, image_size=48), FEATURES, tmp_path)
    assert settings["image"][0]["size"] == {"height": 48, "width": 48}


def test_images_of_many_sizes_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "preprocessor_config.json", size={"shortest_edge": 32})
    with pytest.raises(UnsupportedError, match="images of many sizes") as caught:
        exporter("vit").trace(source_of(tmp_path), CLASSIFICATION)
    assert "preprocessor_config.json" in caught.value.hint
