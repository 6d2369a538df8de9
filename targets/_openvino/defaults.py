"""OpenVINO's properties for a graph, unless its bundle sets others: by the recipe, the kind of graph and the processor.

The processor comes in as the list that OpenVINO calls OPTIMIZATION_CAPABILITIES.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edgekit.core import Graph, Recipe

GROUP = 128  # activations that share a scale: as fast as 192 on AVX-512, nearer to float; 384 loses twice as much
KEPT = 64  # kernels made for shapes that were met; its own 5,000 are memory that only grows
HINT = {"fp32": "f32", "bf16": "bf16", "int8": "f32", "int4": "bf16"}
CACHE = {"fp32": "f32", "bf16": "bf16", "int8": "f16", "int4": "f16"}  # what keys and values are kept in


def computes(recipe: Recipe, graph: Graph) -> str:
    """OpenVINO's name of what it computes in.

    A state of fixed size is added to with every step, which bf16 cannot do for long: what is small would be lost.
    """
    carried = any(state.axis is None and state.out is not None for state in graph.states)
    return "f32" if carried and recipe.weights != "bf16" else HINT[recipe.weights]


def arithmetic(recipe: Recipe, graph: Graph, capabilities: Collection[str]) -> str:
    """What `computes` comes to on this processor: bf16 only where it has instructions for that."""
    return "bf16" if "BF16" in capabilities and computes(recipe, graph) == "bf16" else "f32"


def properties(recipe: Recipe, graph: Graph, threads: int, capabilities: Collection[str]) -> dict[str, Any]:
    """What the model is compiled with: name -> value."""
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": computes(recipe, graph),
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "CPU_RUNTIME_CACHE_CAPACITY": KEPT,
    }
    if graph.kind == "decoder":
        config["KV_CACHE_PRECISION"] = caches(recipe, graph, capabilities)
    if recipe.activations == "int8":
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = group(recipe, graph)
    return config


def caches(recipe: Recipe, graph: Graph, capabilities: Collection[str]) -> str:
    """What a decoder's keys and values are kept in.

    Where the engine computes in bf16, keys and values have no more bits than that, and its kernels for blocks do not
    take f16. With f16, and so without blocks, Qwen3-0.6B in int4 decoded 29.5 tokens/s on a Zen 4 and took 1.49 s for a
    prompt of 512; with bf16 in blocks and `group` 42.4 and 1.03 s.
    """
    return "bf16" if arithmetic(recipe, graph, capabilities) == "bf16" else CACHE[recipe.weights]


def group(recipe: Recipe, graph: Graph) -> int:
    """How many activations of a row share a scale.

    In a decoder whose weights are in groups, as many as weights do, and never more than elsewhere: fewer are nearer to
    float. See `caches` for what it gains. Only processors with VNNI have kernels for that. On others the engine leaves
    activations as they are, and every logit is the same with 0, 32 and 128 (an AVX2 EPYC, by
    tests/benchmarks/openvino_options.py): so this asks for no feature of the processor.
    """
    if graph.kind == "decoder" and recipe.group_size is not None:
        return min(recipe.group_size, GROUP)
    return GROUP
