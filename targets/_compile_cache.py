"""OpenVINO's compile cache, with a check that what comes out of it is what went in.

OpenVINO 2026.4 gives wrong numbers, without an error, for a graph with rotary positions that it loads from its cache
(nomic_bert and modernbert: off by their own size). So a freshly compiled model answers a fixed question, the answer is
kept beside the cache, and a model from the cache must give it again; one that does not is compiled anew, and never
cached after that.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph

if TYPE_CHECKING:
    from edgekit.core import Array

log = logging.getLogger("edgekit")

ANSWER = "answer.npz"
REFUSED = "do-not-cache"
LENGTH = 16  # of every free axis in the question
SAME = 1e-4  # of the largest number: the same kernels on the same machine repeat themselves


def compile_cached(core: Any, model: Path, device: str, options: dict[str, Any], graph: Graph, cache: Path) -> Any:
    """The compiled model, from `cache` where that is right. What cannot be cached is compiled each time."""
    if (cache / REFUSED).exists():
        return core.compile_model(model, device, options)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        compiled = core.compile_model(model, device, options | {"CACHE_DIR": str(cache)})
        answer = ask(compiled, graph)
        if not compiled.get_property("LOADED_FROM_CACHE"):
            np.savez(cache / ANSWER, **answer)
            return compiled
        if repeats(answer, cache / ANSWER):
            return compiled
    except OSError as error:  # an unwritable or full disk
        log.debug("nothing that is compiled can be kept in %s: %s", cache, error)
        return core.compile_model(model, device, options)
    del compiled
    log.warning("OpenVINO's compile cache is wrong for %s; compiling without it from now on", graph.path)
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    (cache / REFUSED).touch()
    return core.compile_model(model, device, options)


def ask(compiled: Any, graph: Graph) -> dict[str, Any]:
    """What the model gives for numbers drawn once and for all; bits in integer inputs, which suit ids and masks."""
    drawn = np.random.default_rng(0)
    feeds = {}
    for port in graph.inputs:
        shape = [LENGTH if isinstance(axis, str) else axis for axis in port.shape]
        numbers = drawn.standard_normal(shape) if port.dtype.startswith("float") else drawn.integers(0, 2, shape)
        feeds[port.name] = numbers.astype(port.dtype)
    request = compiled.create_infer_request()
    request.infer(feeds)
    return {port.name: request.get_tensor(port.name).data.astype(np.float32) for port in graph.outputs}


def repeats(answer: dict[str, Array], file: Path) -> bool:
    """Whether the answer is the one in `file`; a file that is missing or torn says no."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            return all(
                np.abs(kept[name] - found).max() <= SAME * max(float(np.abs(kept[name]).max()), 1e-6)
                for name, found in answer.items()
            )
    except (OSError, KeyError, ValueError):
        return False
