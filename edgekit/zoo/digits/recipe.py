"""How zoo:digits is made: `python -m edgekit.zoo.digits.recipe [--out FOLDER] [--steps N]`, half a minute on one core.

The data are the 1797 handwritten digits that scikit-learn ships (`sklearn.datasets.load_digits`): the test set of the
UCI "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, https://doi.org/10.24432/C50P49), CC BY 4.0,
8x8 pixels, 17 levels of grey. Here a picture is a `data:` URL of an 8x8 grey PNG, white ink on black. The order of the
file seems to follow the writers, so the last fifth of the file is held out, not a random fifth: a random split puts
pictures of each writer on both sides and is easier. Steps and augmentation were chosen on the fifth before it.
"""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.zoo import _training

STEPS = 800
BATCH = 64
TASK = "image-classification"
LABELS = tuple("0123456789")
SIDE, LEVELS = 8, 16  # pixels of a side; the grey level of full ink
TESTED, CALIBRATED = 360, 64  # number of held-out pictures, and of training pictures for calibration
SIZE, MEAN, STD = 32, 0.3, 0.38  # side of the model's input; about the mean and the deviation of all pixels in 0..1
URL = "data:image/png;base64,"
# Largest change of each entry of the 2x3 affine matrix in training: scale, shear and rotation, shift (1: half a side).
AUGMENTATION = ((0.15, 0.2, 0.25), (0.2, 0.15, 0.25))
CARD = {
    "name": "digits",
    "what": "Reads a handwritten digit.",
    "range": "one digit, white ink on black, that fills a square picture; trained on 8x8 pixels",
    "data": "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C50P49, by way of scikit-learn; CC BY 4.0, here as PNG files; the last 360 of its 1797 "
    "pictures held out",
    "made_by": "python -m edgekit.zoo.digits.recipe",
}


def png(pixels: Sequence[Sequence[int]]) -> bytes:
    """An 8-bit grey PNG (https://www.w3.org/TR/png-3/) of these rows of pixels.

    The data are stored, not compressed: the bytes do not depend on the version of a compressor.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 0, 0, 0, 0)
    data = b"".join(b"\0" + bytes(row) for row in pixels)  # filter 0: pixels as they are
    block = b"\1" + struct.pack("<HH", len(data), len(data) ^ 0xFFFF) + data  # the last block of the stream, stored
    stream = b"\x78\x01" + block + struct.pack(">I", zlib.adler32(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def pictures() -> list[tuple[str, str]]:
    """All pictures in scikit-learn's order, each as the URL of its PNG, with its label."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = zip(digits.images.astype(int).tolist(), digits.target.tolist(), strict=True)
    return [(_url(levels), LABELS[digit]) for levels, digit in rows]


def _url(levels: Sequence[Sequence[int]]) -> str:
    pixels = [[round(level * 255 / LEVELS) for level in row] for row in levels]
    return URL + base64.b64encode(png(pixels)).decode("ascii")


def heldout_data() -> dict[str, Any]:
    """What heldout.json holds: the last pictures of the file; for calibration some of the others."""
    known = pictures()
    learned, tested = known[:-TESTED], known[-TESTED:]
    return {
        "tasks": {TASK: {"metric": "accuracy", "expected": [label for _, label in tested]}},
        "calibration": [url for url, _ in random.Random(_training.SEED).sample(learned, CALIBRATED)],
        "inputs": [url for url, _ in tested],
    }


def make_model() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64],
        depths=[1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate(LABELS)),
        label2id={label: at for at, label in enumerate(LABELS)},
    )
    return ResNetForImageClassification(config)


def make_processor() -> Any:
    """The image processor: bicubic to SIZE x SIZE without a crop, then `(x / 255 - MEAN) / STD`."""
    from transformers import ConvNextImageProcessorPil

    size = {"shortest_edge": SIZE}
    return ConvNextImageProcessorPil(size=size, crop_pct=1.0, resample=3, image_mean=[MEAN] * 3, image_std=[STD] * 3)


def train(model: Any, processor: Any, steps: int) -> None:
    """Minimize the cross entropy of training pictures, each of them scaled, sheared, rotated and shifted at random."""
    import torch
    from torch.nn.functional import affine_grid, cross_entropy, grid_sample
    from transformers.image_utils import load_image

    learned = pictures()[:-TESTED]
    images = [load_image(url) for url, _ in learned]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    labels = torch.tensor([LABELS.index(label) for _, label in learned])
    black, spread = -MEAN / STD, torch.tensor(AUGMENTATION)

    def loss_at(step: int) -> Any:
        batch = torch.randint(len(pixels), (BATCH,))
        affine = torch.eye(2, 3) + spread * (2 * torch.rand(BATCH, 2, 3) - 1)
        grid = affine_grid(affine, [BATCH, *pixels.shape[1:]], align_corners=False)
        moved = grid_sample(pixels[batch] - black, grid, align_corners=False) + black  # zeros outside become black
        return cross_entropy(model(moved).logits, labels[batch], label_smoothing=0.05)

    _training.fit(model, loss_at, steps=steps, rate=4e-3, decay=0.05)


def answers(classifier: Any, inputs: Sequence[str]) -> list[str]:
    """The likeliest label of every picture."""
    return [labels[0]["label"] for labels in classifier(list(inputs), top_k=1)]


def read(folder: Path) -> Any:
    """transformers' own image classification pipeline of the folder: it decodes, resizes and normalizes."""
    from transformers import ConvNextImageProcessorPil, ResNetForImageClassification, pipeline

    model = ResNetForImageClassification.from_pretrained(folder)
    processor = ConvNextImageProcessorPil.from_pretrained(folder)
    return pipeline(TASK, model=model, image_processor=processor, device="cpu")


def main() -> None:
    chosen = _training.options("digits", STEPS)
    _training.be_deterministic()
    model, processor, data = make_model(), make_processor(), heldout_data()
    train(model, processor, chosen.steps)
    _training.save(model, processor, chosen.out)
    _training.write_json(chosen.out / "heldout.json", data)
    classifier = read(chosen.out)
    _training.write_card(chosen, model, CARD, data, lambda task: answers(classifier, data["inputs"]))


if __name__ == "__main__":
    main()
