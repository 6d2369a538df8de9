"""Images a second: EdgeKit's session part beside bare engines, and files to labels beside transformers.

    python tests/benchmarks/images.py
    python tests/benchmarks/images.py --models resnet-50 --batches 1 --rounds 15 --keep .images -o images.json
    python tests/benchmarks/images.py --config config.json

A model with random weights is saved as transformers saves it and exported in fp32. `session`: what EdgeKit does with
encoded pixels until logits are there, beside a bare loop of ONNX Runtime and of OpenVINO over the same graph file, with
the same options and the same pixels as one array. `files`: `classify` from JPEG files, beside transformers' pipeline
with torch, and with Optimum where that is installed.

All contenders of a case in one process, in turns, the order turning with every round; a ratio is taken within a round,
and its median over rounds is given with the lowest and the highest. A ratio above 1: EdgeKit is faster. Before, the
logits of all are compared. A session may be 3 % slower than its bare loop; ends with exit code 1 where it is more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from _harness import busy_seconds, machine, publish, say, spread, table
from image_preprocess import photo

import edgekit
from edgekit import registry

TARGETS = ("cpu", "openvino")
LOWEST = 0.97  # of a bare loop's speed
SIZE = 1280, 960  # of the photos
CONFIGS: dict[str, dict[str, Any]] = {
    "resnet-50": {
        "model_type": "resnet",
        "embedding_size": 64,
        "hidden_sizes": [256, 512, 1024, 2048],
        "depths": [3, 4, 6, 3],
        "layer_type": "bottleneck",
        "hidden_act": "relu",
    },
    "vit-base": {
        "model_type": "vit",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    },
}
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}
Call = Callable[[], Any]


def checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """A Hugging Face folder of the model with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification

    if not (folder / "preprocessor_config.json").exists():
        torch.manual_seed(0)
        rest = {name: value for name, value in config.items() if name != "model_type"}
        made = AutoConfig.for_model(config["model_type"], **rest, num_labels=1000)
        AutoModelForImageClassification.from_config(made).eval().save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    return folder


def exported(folder: Path, bundle: Path) -> Path:
    if not bundle.exists():
        say(f"exporting {bundle.name}")
        edgekit.export(str(folder), bundle, targets=TARGETS, precision="fp32", task="image-classification")
    return bundle


@contextmanager
def bare(model: Any, threads: int) -> Iterator[Callable[[Any], Any]]:
    """The engine by itself on the model's graph: logits of pixels (n, 3, h, w)."""
    file, output = model.bundle.folder / model.graph().path, model.settings["output"]
    target = registry.find("targets", model.variant.target)
    if model.variant.target == "cpu":
        import onnxruntime as ort

        options = target.session_options(model.variant.recipe, threads, model.variant.options)
        without = list(target.SLOW_FUSIONS)
        session = ort.InferenceSession(file, options, providers=[target.PROVIDER], disabled_optimizers=without)
        yield lambda pixels: session.run([output], {"pixel_values": pixels})[0]
    else:
        from edgekit.targets._openvino.engine import core

        options = {
            "INFERENCE_PRECISION_HINT": target.computes(model.variant.recipe, model.graph()),
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "CPU_RUNTIME_CACHE_CAPACITY": target.KEPT,
        }
        request = core().compile_model(file, "CPU", options).create_infer_request()
        yield lambda pixels: request.infer({"pixel_values": pixels})[output].copy()


def sessions(bundle: Path, target: str, files: Sequence[Path], threads: int, stack: ExitStack) -> dict[str, Call]:
    """EdgeKit's session part and the bare engine, each on the same pixels."""
    model = stack.enter_context(edgekit.load(bundle, target=target, precision="fp32", threads=threads))
    engine = stack.enter_context(bare(model, threads))
    pixels = model._ingest.encode(files)
    together = np.stack([one.pixels for one in pixels])
    return {"EdgeKit": lambda: model._gather(pixels), "bare": lambda: engine(together)}


def whole(
    folder: Path, bundle: Path, target: str, files: Sequence[Path], threads: int, stack: ExitStack
) -> dict[str, Call]:
    """From files to labels."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(threads)
    model = stack.enter_context(edgekit.load(bundle, target=target, precision="fp32", threads=threads))
    names, size = [str(file) for file in files], len(files)
    calls: dict[str, Call] = {"EdgeKit": lambda: model.classify(files)}
    peers = {"transformers": pipeline("image-classification", model=str(folder), device="cpu")}
    try:
        from optimum.onnxruntime import ORTModelForImageClassification
    except ImportError:
        say("Optimum is left out: optimum.onnxruntime is not installed")
    else:
        from transformers import AutoImageProcessor

        runs = ORTModelForImageClassification.from_pretrained(folder, export=True)
        processor = AutoImageProcessor.from_pretrained(folder)
        peers["Optimum"] = pipeline("image-classification", model=runs, image_processor=processor)
    for name, peer in peers.items():
        calls[name] = lambda peer=peer: peer(names, batch_size=size)
    return calls


def alike(calls: dict[str, Call]) -> None:
    """Raises AssertionError where numbers or labels differ from EdgeKit's."""
    ours, *others = (numbers(call()) for call in calls.values())
    for name, theirs in zip(list(calls)[1:], others):
        away = float(np.abs(ours - theirs).max() / np.abs(ours).max())
        assert away < 1e-3, f"{name} differs by {away}"


def numbers(answers: Any) -> Any:
    """Logits as they are, labels as their scores, the best first."""
    if isinstance(answers, np.ndarray) or isinstance(answers[0], np.ndarray):
        return np.asarray(answers)
    scores = [[one["score"] if isinstance(one, dict) else one.score for one in row] for row in answers]
    return np.asarray(scores)


def in_turns(calls: dict[str, Call], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of one call, a round: the mean of as many as fit into `seconds`."""
    names, times = list(calls), {name: list[float]() for name in calls}
    for call in calls.values():  # warm: engines prepare for a shape that they meet
        call()
        call()
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start, count = time.perf_counter(), 0
            while not count or time.perf_counter() - start < seconds:
                calls[name]()
                count += 1
            times[name].append((time.perf_counter() - start) / count)
    return times


def measured(
    what: str, model: str, target: str, batch: int, calls: dict[str, Call], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each contender beside EdgeKit."""
    alike(calls)
    begun, busy, worked = time.perf_counter(), busy_seconds(), time.process_time()
    times = in_turns(calls, args.rounds, args.seconds)
    others = (busy_seconds() - busy - (time.process_time() - worked)) / (time.perf_counter() - begun)
    rows = []
    for name in list(calls)[1:]:
        rates = {each: batch / median(times[each]) for each in ("EdgeKit", name)}
        ratio = spread([theirs / ours for ours, theirs in zip(times["EdgeKit"], times[name])])
        rows.append({
            "what": what, "model": model, "target": target, "batch": batch, "beside": name,
            "images_per_second": rates["EdgeKit"], "its": rates[name], "ratio": ratio,
            "cores_busy_with_other_work": others, "seconds": {each: times[each] for each in ("EdgeKit", name)},
        })  # fmt: skip
        say(f"{what} {model} {target} batch {batch} beside {name}: {ratio['median']:.3f}")
    return rows


def cases(name: str, config: dict[str, Any], home: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    folder = checkpoint(home / name, config)
    bundle = exported(folder, home / f"{name}.ek")
    photos = [home / f"{number}.jpg" for number in range(max(args.batches))]
    for number, file in enumerate(photos):
        photo(*SIZE, number).save(file, quality=90)
    for target in TARGETS:
        for batch in args.batches:
            with ExitStack() as stack:
                calls = sessions(bundle, target, photos[:batch], args.threads, stack)
                yield from measured("session", name, target, batch, calls, args)
            with ExitStack() as stack:
                calls = whole(folder, bundle, target, photos[:batch], args.threads, stack)
                yield from measured("files", name, target, batch, calls, args)


def line(row: dict[str, Any]) -> list[object]:
    ratio = row["ratio"]
    return [
        *(row[key] for key in ("what", "model", "target", "batch", "beside", "images_per_second", "its")),
        f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})",
        row["cores_busy_with_other_work"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(CONFIGS), default=tuple(CONFIGS))
    parser.add_argument("--config", type=Path, help="a config.json of an image classifier, instead of --models")
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 16))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contender in a round (default: 1)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for models and exports, used again")
    parser.add_argument("-o", "--output", type=Path, help="write all figures to this file")
    args = parser.parse_args()
    configs = {name: CONFIGS[name] for name in args.models}
    if args.config:
        configs = {args.config.stem: json.loads(args.config.read_text(encoding="utf-8"))}
    with TemporaryDirectory() as scratch:
        home = (args.keep or Path(scratch)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        rows = [row for name, config in configs.items() for row in cases(name, config, home, args)]
    head = ["", "model", "target", "batch", "beside", "images/s", "its images/s", "ratio", "other cores"]
    publish(args, table(head, [line(row) for row in rows]), {"machine": machine(), "rows": rows})
    sys.exit(any(row["what"] == "session" and row["ratio"]["median"] < LOWEST for row in rows))


if __name__ == "__main__":
    main()
