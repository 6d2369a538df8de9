"""Images a second that are prepared for a model: EdgeKit's ingest beside the image processors of transformers.

    python tests/benchmarks/image_preprocess.py
    python tests/benchmarks/image_preprocess.py --models vit --sizes 1280x960 --rounds 9

A batch of 16 photo-like images, as decoded Pillow images and as JPEG files, in transformers' Pillow processor and,
where torchvision is installed, its torch one. All contenders in one process, in turns; a ratio is taken within a round,
and the median over rounds is given with the lowest and the highest: once of wall time, once of the CPU time that all
threads of the process spent, which other work on the machine disturbs less. `1 thread`: EdgeKit reads one image at a
time; by itself it takes as many as there are cores. Before, the pixels of both are compared: those of the Pillow
processor are equal to the last bit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from _harness import machine, say, table
from PIL import Image

from edgekit.exporters._vision.preprocessor import image_steps
from edgekit.runtimes.ingest import image

BATCH = 16
DISTINCT = 4  # images; each comes several times in a batch
MODELS = ("vit", "clip", "resnet")
PEERS = ("pil", "torchvision")
Call = Callable[[], Any]


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Smooth areas with detail and noise on them, so that a JPEG of it is as large as a photo's."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8))
    levels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    levels += random.integers(-12, 13, (height, width, 1), dtype=np.int16)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def processors(folder: Path, kind: str) -> dict[str, Any]:
    """transformers' image processors that work here, by back end, with the class's own settings."""
    from transformers import AutoImageProcessor

    (folder / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text("{}", encoding="utf-8")
    working = {}
    for backend in PEERS:
        processor = AutoImageProcessor.from_pretrained(folder, backend=backend)
        if processor.backend == backend:  # without torchvision it falls back to Pillow's
            working[backend] = processor
        else:
            say(f"{kind}: transformers' {backend} processor is left out: {backend} is not installed")
    return working


def contenders(folder: Path, kind: str, items: Sequence[Any]) -> dict[str, Call]:
    """What is measured, by name, each with its whole batch. Paths are opened by whoever gets them."""
    steps = {"image": image_steps(folder, {"model_type": kind})}
    calls: dict[str, Call] = {}
    for name, threads in (("EdgeKit", None), ("EdgeKit, 1 thread", 1)):
        ingest = image.open(folder, steps, threads=threads)
        calls[name] = lambda ingest=ingest: np.stack([pixels.pixels for pixels in ingest.encode(items)])
    for backend, processor in processors(folder, kind).items():

        def peer(processor: Any = processor) -> Any:
            pictures = [Image.open(item) if isinstance(item, Path) else item for item in items]
            tensors = "np" if processor.backend == "pil" else "pt"
            return processor(pictures, return_tensors=tensors)["pixel_values"]

        calls[f"transformers, {backend}"] = peer
    return calls


def compared(calls: dict[str, Call]) -> None:
    """Says how far each one's pixels are from EdgeKit's. Raises AssertionError where Pillow's differ."""
    ours = calls["EdgeKit"]()
    for name, call in calls.items():
        distance = float(np.abs(ours - np.asarray(call())).max())
        assert distance == 0 or "torchvision" in name, f"{name} differs by {distance}"
        say(f"{name}: {ours.shape}, largest difference {distance:g}")


Times = dict[str, list[tuple[float, float]]]


def seconds(calls: dict[str, Call], rounds: int) -> Times:
    """Wall and CPU seconds of a batch, a round; the order turns with every round."""
    times: Times = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start, worked = time.perf_counter(), time.process_time()
            calls[name]()
            times[name].append((time.perf_counter() - start, time.process_time() - worked))
    return times


def row(case: Sequence[str], times: Times, peer: str, name: str) -> list[object]:
    speeds = [BATCH / median(wall for wall, _ in times[each]) for each in (name, peer)]
    ratios = [sorted(theirs[at] / ours[at] for ours, theirs in zip(times[name], times[peer])) for at in (0, 1)]
    return [*case, name, peer, *speeds, *(f"{median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})" for each in ratios)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help=f"model_type of each (default: {' '.join(MODELS)})")
    parser.add_argument("--sizes", nargs="+", default=("4000x3000", "1280x960"), help="width x height of the images")
    parser.add_argument("--forms", nargs="+", choices=("decoded", "JPEG"), default=("decoded", "JPEG"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rows: list[list[object]] = []
    with TemporaryDirectory() as name:
        for size in args.sizes:
            width, height = map(int, size.split("x"))
            pictures = [photo(width, height, seed) for seed in range(DISTINCT)]
            files = [Path(name, f"{size}-{number}.jpg") for number in range(DISTINCT)]
            for picture, file in zip(pictures, files):
                picture.save(file, quality=90)
            for kind in args.models:
                for form in args.forms:
                    items: list[Any] = pictures if form == "decoded" else list(files)
                    say(f"{kind}, {size}, {form}")
                    calls = contenders(Path(name), kind, items * (BATCH // DISTINCT))
                    compared(calls)
                    times = seconds(calls, args.rounds)
                    peers = [peer for peer in calls if peer.startswith("transformers")]
                    ours = [each for each in calls if each not in peers]
                    rows += [row((kind, size, form), times, peer, each) for peer in peers for each in ours]
    print(json.dumps(machine()))
    print(table(["model", "size", "form", "", "beside", "images/s", "its images/s", "ratio", "CPU ratio"], rows))


if __name__ == "__main__":
    main()
