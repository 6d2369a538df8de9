"""Image models from a picture's file to the answer: what transformers' processor and model give, on every engine."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import odd_pictures
import pytest
import tiny_images
from cli_calls import Call, call
from export_cache import ExportCache

import edgekit
from edgekit import zoo
from edgekit.checks import goldens, samples
from edgekit.runtimes.tasks._images import BATCH

__all__ = ["call"]
pytestmark = pytest.mark.slow

BOTH = ("cpu", "openvino")
ARCHITECTURES = ("resnet", "vit")
# Architecture -> the class of its image processor, and what that makes of a picture.
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 48}}),  # resized to 54, then cut
    "vit": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}}),
}
Exported = Callable[..., Path]


@pytest.fixture(autouse=True)
def workbench() -> Iterator[None]:
    """transformers warns of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def folder_of(kept: ExportCache) -> Callable[..., Path]:
    """A Hugging Face folder of a tiny model with random weights, made once: `folder_of("vit", "Model")`."""

    def make(arch: str, ending: str = "ForImageClassification") -> Path:
        def write(folder: Path) -> None:
            import transformers

            tiny_images.make(folder, arch, ending)
            name, sizes = PROCESSORS[arch]
            getattr(transformers, name)(**sizes).save_pretrained(folder)

        return kept.get(f"{arch} {ending} with its image processor", write)

    return make


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Any]:
    """Files, and the levels that each of them shows."""
    return odd_pictures.write(tmp_path_factory.mktemp("pictures") / "odd")


def transformers_answers(folder: Path, shown: dict[Path, Any]) -> Any:
    """Logits, or vectors, of transformers' own processor and model: a row a picture."""
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

    torch.set_num_threads(1)
    classifies = AutoConfig.from_pretrained(folder).architectures[0].endswith("ForImageClassification")
    model = (AutoModelForImageClassification if classifies else AutoModel).from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    images = [Image.fromarray(levels) for levels in shown.values()]
    with torch.inference_mode():
        found = model(**processor(images=images, return_tensors="pt"))
    return (found.logits if classifies else found.pooler_output.flatten(1)).numpy()


def assert_near(found: Any, expected: Any, names: Any) -> None:
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 1e-2
    away = np.abs(found - expected).max(axis=1) / np.abs(expected).max()
    assert away.max() <= 1e-4, dict(zip(names, away.tolist()))


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_file_has_transformers_answer(
    exported: Exported, folder_of: Callable[..., Path], pictures: dict[Path, Any], arch: str, target: str
) -> None:
    expected = transformers_answers(folder_of(arch), pictures)
    assert len(pictures) > BATCH  # more than one run
    bundle = exported(str(folder_of(arch)), targets=BOTH, precision="fp32")
    with edgekit.load(bundle, target=target, threads=2) as model:
        found = np.stack(model.numbers(list(pictures)))
        answers = model.classify(list(pictures), top_k=None)
        alone = [model.numbers([file])[0] for file in pictures]
    assert_near(found, expected, [file.name for file in pictures])
    np.testing.assert_allclose(found, np.stack(alone), atol=1e-5 * np.abs(expected).max())
    best = [tiny_images.LABELS[number] for number in expected.argmax(1).tolist()]
    assert [labels[0].label for labels in answers] == best
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()  # else any picture would do
    shares = np.exp(expected - expected.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    scores = [{one.label: one.score for one in labels} for labels in answers]
    for label, number in ((label, number) for number, label in tiny_images.LABELS.items()):
        np.testing.assert_allclose([row[label] for row in scores], shares[:, number], atol=1e-3)


@pytest.mark.parametrize("target", BOTH)
def test_bytes_pillow_and_arrays_are_answered_as_their_file_is(
    exported: Exported, folder_of: Callable[..., Path], pictures: dict[Path, Any], target: str
) -> None:
    from PIL import Image

    bundle = exported(str(folder_of("resnet")), targets=BOTH, precision="fp32")
    with edgekit.load(bundle, target=target, threads=1) as model:
        expected = np.stack(model.numbers(list(pictures)))
        forms = {
            "bytes": [file.read_bytes() for file in pictures],
            "Pillow": [Image.open(file) for file in pictures],
            "strings": [str(file) for file in pictures],
        }
        for name, items in forms.items():
            assert np.array_equal(np.stack(model.numbers(items)), expected), name
        exact = [levels for file, levels in pictures.items() if "a.png" not in file.name]  # alpha is rounded otherwise
        expected = np.stack(model.numbers([file for file in pictures if "a.png" not in file.name]))
        for name, items in {
            "uint8": exact,
            "float32": [(levels / 255).astype(np.float32) for levels in exact],
        }.items():
            assert np.array_equal(np.stack(model.numbers(items)), expected), name
        first = next(iter(pictures))
        assert model.classify(first) == model.classify([first])[0] == next(iter(model.run([first])))


@pytest.mark.parametrize("target", BOTH)
def test_a_vector_is_the_pooler_s(
    exported: Exported, folder_of: Callable[..., Path], pictures: dict[Path, Any], target: str
) -> None:
    folder = folder_of("vit", "Model")
    expected = transformers_answers(folder, pictures)
    with edgekit.load(exported(str(folder), targets=BOTH, precision="fp32"), target=target, threads=1) as model:
        assert model.bundle.task == "image-feature-extraction"
        found = model.embed(list(pictures))
        alone = [model.embed(file) for file in pictures]
        assert model.embed([]).shape[0] == 0
    assert found.dtype == np.float32
    assert {vector.shape for vector in alone} == {(1, expected.shape[1])}
    assert_near(found, expected, [file.name for file in pictures])
    np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-5 * np.abs(expected).max())


# A model that was trained, in int8


@pytest.fixture
def digits(exported: Exported) -> Path:
    return exported("zoo:digits", targets=BOTH, precision=("fp32", "int8"))


@pytest.mark.parametrize("target", BOTH)
def test_int8_is_as_accurate_as_float(digits: Path, target: str) -> None:
    test, scores = zoo.heldout("digits"), {}
    for precision in ("fp32", "int8"):
        with edgekit.load(digits, target=target, precision=precision, threads=2) as model:
            answers = model.classify(list(test.inputs), top_k=1)
            scores[precision] = zoo.score(test, [labels[0].label for labels in answers])
            few = list(test.inputs[:20])
            alone = [model.classify(picture, top_k=1) for picture in few]
            assert [labels[0].label for labels in alone] == [labels[0].label for labels in answers[:20]]
    assert scores["fp32"] == pytest.approx(test.trained)
    assert scores["int8"] >= scores["fp32"] - 0.005


def test_pictures_of_one_s_own_calibrate(exported: Exported, tmp_path: Path) -> None:
    test, folder = zoo.heldout("digits"), tmp_path / "calibration"
    zoo.write_calibration(test, folder)
    made = edgekit.export("zoo:digits", tmp_path / "d.ek", targets=["cpu"], precision="int8", calibration=folder)
    assert made.variants[0].measured["samples"] == 64
    assert made.goldens is not None
    assert made.goldens.inputs == tuple({"bytes": number} for number in range(goldens.COUNT))
    assert all(file.startswith(b"\xff\xd8") for file in samples.read(made.folder / "goldens.npz", made.goldens.inputs))
    assert all(check.ok for check in edgekit.verify(made.folder))
    with edgekit.load(made.folder) as model:
        answers = model.classify(list(test.inputs), top_k=1)
    assert zoo.score(test, [labels[0].label for labels in answers]) >= test.trained - 0.005


def test_a_bundle_is_verified_on_every_engine(digits: Path) -> None:
    checks = edgekit.verify(digits)
    assert sorted(check.variant for check in checks) == [
        f"{target}/{precision}" for target in BOTH for precision in ("fp32", "int8-dynamic")
    ]
    assert all(check.ok for check in checks)


def test_every_row_of_a_bench_is_right(digits: Path) -> None:
    record = edgekit.bench(digits, quick=True, threads=1)
    assert len(record.rows) == 8
    for row in record.rows:
        assert row.invalid == ""
        assert row.check is not None
        assert row.check.ok
        assert row.accuracy is not None
        assert row.accuracy.value >= 0.98
        assert "latency" in row.figures if row.scenario == "single-stream" else "throughput" in row.figures


def test_a_folder_on_the_command_line(digits: Path, pictures: dict[Path, Any], call: Call) -> None:
    ended = call("run", digits, "-i", next(iter(pictures)).parent, "--top-k", "1", "--target", "cpu", "--json")
    found = ended.json
    names = sorted(file.name for file in pictures)
    assert (ended.code, found["inputs"]) == (0, names)
    with edgekit.load(digits, target="cpu") as model:
        expected = model.classify(sorted(pictures), top_k=1)
    labels = [[one["label"] for one in row] for row in found["results"]]
    assert labels == [[one.label for one in row] for row in expected]


def test_without_pillow_the_command_says_what_to_install(
    digits: Path, pictures: dict[Path, Any], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    ended = call("run", digits, "-i", next(iter(pictures)))
    assert ended.code == 8
    assert "pip install 'edgekit-onnx[vision]'" in ended.err


@pytest.mark.parametrize("model", ["resnet", "vit"])
def test_int4_is_refused_in_words(call: Call, folder_of: Callable[..., Path], tmp_path: Path, model: str) -> None:
    ended = call("export", folder_of(model), "-o", tmp_path / "m.ek", "--precision", "int4")
    assert ended.code == 4
    assert "int4 is not supported for this model" in ended.err
    assert list(tmp_path.iterdir()) == []
