"""The traced graph -> every graph of a bundle: quantized for each recipe, compiled for each target, packed.

Runs in a worker process, as graph surgery on a hostile or huge model may crash or eat all memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgekit import graph, quantize, registry
from edgekit.core import Recipe


def work(payload: dict[str, Any], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The worker's job: for each of `payload["variants"]` (target, recipe) its graphs, written into the folder.

    Variants whose graphs come out alike share one file, and all share one file of weights.
    """
    traced, folder = Path(payload["traced"]), Path(payload["folder"])
    proven = {axis: tuple(lengths) for axis, lengths in payload["proven"].items()}
    models: dict[str, Any] = {}
    paths: list[str] = []
    for target, built in payload["variants"]:
        recipe = msgspec.convert(built, Recipe)
        say(f"{target}: {recipe.name}")
        portable = quantize.apply(graph.load(traced), recipe)
        before = graph.fingerprint(portable)
        compiled = registry.find("targets", target).compile(portable, recipe)
        after = graph.fingerprint(compiled)
        stem = "model" if recipe.method == "none" else f"model-{recipe.name}"
        path = f"{stem}.onnx" if before == after else f"{stem}-{target}.onnx"
        models.setdefault(path, compiled)
        paths.append(path)
    say("packing weights")
    graph.pack(models, folder)
    graphs = {path: graph.describe(model, "model", path, proven) for path, model in models.items()}
    return [msgspec.to_builtins(graphs[path]) for path in paths]
