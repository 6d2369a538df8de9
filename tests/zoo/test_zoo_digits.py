"""zoo:digits: its pictures as files, what of them is held out, and what a reader of the folder sees."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest

from edgekit import zoo
from edgekit.zoo.digits import recipe

KILOBYTE = 1024


@pytest.fixture(scope="module")
def digits() -> Any:
    """scikit-learn's data, in its own order."""
    from sklearn.datasets import load_digits

    return load_digits()


def pixels(url: str) -> Any:
    """The pixels of a `data:` URL as Pillow reads them, which checks every checksum of the file."""
    image = pytest.importorskip("PIL.Image")
    assert url.startswith("data:image/png;base64,")
    file = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
    with image.open(io.BytesIO(file)) as opened:
        opened.verify()
    with image.open(io.BytesIO(file)) as opened:
        assert (opened.format, opened.mode) == ("PNG", "L")
        return np.asarray(opened)


def test_a_png_keeps_size_and_values() -> None:
    wide = [[0, 1, 2, 127, 255], [255, 254, 128, 3, 0], [9, 8, 7, 6, 5]]
    url = recipe.URL + base64.b64encode(recipe.png(wide)).decode()
    np.testing.assert_array_equal(pixels(url), wide)


def test_held_out_pictures_are_the_last_of_the_data(digits: Any) -> None:
    held = zoo.heldout("digits")
    assert len(held.inputs) == recipe.TESTED
    assert held.expected == tuple(str(digit) for digit in digits.target[-recipe.TESTED :])
    for url, levels in zip(held.inputs, digits.images[-recipe.TESTED :], strict=True):
        np.testing.assert_allclose(pixels(url) / 255, levels / 16, atol=0.5 / 255)


def test_no_held_out_picture_is_among_the_others(digits: Any) -> None:
    known = [url for url, _ in recipe.pictures()]
    held = zoo.heldout("digits")
    assert len(known) == len(set(known)) == len(digits.images) == 1797
    assert known[-recipe.TESTED :] == list(held.inputs)
    assert len(held.calibration) == recipe.CALIBRATED
    assert set(held.calibration) < set(known[: -recipe.TESTED])


def test_every_digit_is_tested_and_the_file_is_small() -> None:
    held = zoo.heldout("digits")
    assert min(held.expected.count(label) for label in recipe.LABELS) >= 30
    assert (zoo.folder("digits") / "heldout.json").stat().st_size < 150 * KILOBYTE


def test_labels_and_input_size_are_in_the_folder() -> None:
    config, processor = (
        json.loads((zoo.folder("digits") / f"{name}.json").read_text()) for name in ("config", "preprocessor_config")
    )
    assert config["architectures"] == ["ResNetForImageClassification"]
    assert config["id2label"] == {str(at): str(at) for at in range(10)}
    assert processor["image_processor_type"] == "ConvNextImageProcessor"
    assert processor["size"] == {"shortest_edge": recipe.SIZE}


@pytest.mark.slow
def test_auto_classes_read_the_folder() -> None:
    """The folder alone says which classes it wants; a larger copy of a picture is read as the same digit."""
    transformers = pytest.importorskip("transformers")
    image = pytest.importorskip("PIL.Image")
    classifier = transformers.pipeline("image-classification", model=str(zoo.folder("digits")), device="cpu")
    held = zoo.heldout("digits")
    assert zoo.score(held, recipe.answers(classifier, held.inputs)) == pytest.approx(held.trained)
    large = [image.fromarray(pixels(url)).resize((200, 200), image.Resampling.BICUBIC) for url in held.inputs[:50]]
    assert [labels[0]["label"] for labels in classifier(large, top_k=1)] == list(held.expected[:50])


@pytest.mark.slow
def test_digits_survive_a_small_shift() -> None:
    """Training shifts the pictures; half a pixel of them, two of the model's input, costs little."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    held, classifier = zoo.heldout("digits"), recipe.read(zoo.folder("digits"))
    values = np.stack([pixels(url) for url in held.inputs])
    batch = classifier.image_processor(list(values[..., None].repeat(3, axis=-1)), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        logits = classifier.model(torch.roll(batch, 2, dims=-1)).logits
    assert zoo.score(held, [recipe.LABELS[at] for at in logits.argmax(-1).tolist()]) >= 0.97
