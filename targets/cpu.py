"""Target cpu: ONNX Runtime on the CPU.

int8 computes in int8: activations are quantized as they come (one scale a row), multiplied with int8 weights by
ONNX Runtime's integer kernels, and brought back to float32 with one scale a channel.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core import Availability, Graph, Recipe, check_options
from edgekit.errors import UnsupportedError
from edgekit.footprint import Footprint
from edgekit.machine import device
from edgekit.machine.memory_pages import give_back
from edgekit.session import Session

from ._ort.decoder import DecoderSession
from ._ort.decoder_int8_cache import Int8DecoderSession, is_quantized
from ._ort.engine import onnxruntime
from ._ort.passes.decoder_graph import MASK
from ._ort.plain_decoder import PlainDecoderSession
from ._ort.prompt_reader import CHUNK as PROMPT
from ._ort.prompt_reader import PromptReader
from ._ort.prompt_weights import HALF, WHOLE, prepare
from ._ort.session import OnnxRuntimeSession
from ._states.decoder_feeds import CHUNK
from ._states.held_session import HeldSession
from ._states.large_pages import large_pages
from ._states.stream_session import StreamSession

if TYPE_CHECKING:
    import onnx_ir as ir

log = logging.getLogger("edgekit")

PRECISIONS = ("fp32", "int8", "int4")
PROVIDER = "CPUExecutionProvider"
# All that is x86's alone: instructions that add products of unsigned and signed bytes up in 32 bits, and the way of its
# kernels to do without them. Else they add two products up in 16, which two of 255 by 127 overflow. ONNX Runtime's
# kernels for Arm never overflow with weights from -127 to 127: tests/arm/README.md names them.
X86_INTEGER = {"avx512_vnni", "avx_vnni"}
X86_PRECISION = "session.x64quantprecision"
# Its CPU kernel adds and normalizes one number at a time; the two nodes that it replaces are vectorized.
SLOW_FUSIONS = ("SkipLayerNormFusion",)
PROMPT_FORM = "edgekit.prompt"  # what `compile` leaves in a model's `meta`
KV_CACHE = "kv_cache"  # what keys and values are kept in: the graph is made for it
# What a bundle may set, with ONNX Runtime's names but for the first.
OPTIONS = {
    KV_CACHE: ("float32", "int8"),
    "enable_cpu_mem_arena": ("0", "1"),
    "session.disable_prepacking": ("0", "1"),
    "session.force_spinning_stop": ("0", "1"),
    "session.intra_op.allow_spinning": ("0", "1"),
    "session.set_denormal_as_zero": ("0", "1"),
}


def probe() -> Availability:
    """Whether ONNX Runtime is installed; nothing is imported."""
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return Availability("cpu", True, "ONNX Runtime", version(package))
        except PackageNotFoundError:
            continue
    return Availability("cpu", False, "ONNX Runtime", "", "onnxruntime is not installed", "pip install onnxruntime")


def compile(model: ir.Model, recipe: Recipe, options: Mapping[str, str] | None = None, *, kind: str) -> ir.Model:
    """The portable graph, of that kind, in the form that ONNX Runtime runs fastest; in place.

    Raises UnsupportedError where the `options` want caches in 8 bits that cannot be.
    """
    from ._ort.passes.attention_kernel import scale_before, write_down
    from ._ort.passes.decoder_graph import group_queries, is_shareable
    from ._ort.passes.kv_int8_graph import quantize_caches
    from ._ort.passes.nbits import transposed_tables
    from ._ort.passes.packed_attention import pack
    from ._ort.passes.prompt_graph import reading

    if kind == "decoder":
        if is_shareable(model):
            group_queries(model)
        transposed_tables(model)
    else:
        from ._ort.passes.recurrent import quantized_cells
        from ._ort.passes.recurrent_lengths import heed_counts

        quantized_cells(model)
        heed_counts(model)
        if recipe.activations == "int8":
            from ._ort.passes.integer import integer_matmuls

            integer_matmuls(model)
    write_down(model)
    model.meta[PROMPT_FORM] = reading(model) if kind == "decoder" else None
    eight = (options or {}).get(KV_CACHE) == "int8"
    if eight or prompt(model) is not None:  # what is left to this form are single tokens
        pack(model)
    if eight:
        quantize_caches(model)
    if eight and prompt(model) is None:
        hint = "export it in int4 or int8, or without kv_cache=int8"
        raise UnsupportedError("caches in 8 bits are filled by a form that needs weights in blocks", hint=hint)
    scale_before(model)
    return model


def prompt(model: ir.Model) -> ir.Model | None:
    """The form of a compiled decoder that reads prompts; None for other models, and weights that are not in blocks."""
    form: ir.Model | None = model.meta[PROMPT_FORM]
    return form


def open(
    folder: Path,
    graph: Graph,
    recipe: Recipe,
    *,
    threads: int,
    cache: Path | None = None,
    options: Mapping[str, str] | None = None,
) -> Session:
    """A session of `threads` threads that do not spin once a run has ended, unless the bundle's `options` say so.

    Raises BundleError for an option that a bundle may not set.
    """
    check_options(options or {}, OPTIONS, "cpu")
    config = session_options(recipe, threads, options or {})
    if graph.kind != "decoder":
        plain = OnnxRuntimeSession(folder, graph, PROVIDER, config, without=SLOW_FUSIONS)
        if graph.kind == "stream":
            return StreamSession(graph, plain.bind, plain.placement, plain.close)
        return HeldSession(graph, plain) if graph.states else plain
    if any(port.name == MASK for port in graph.inputs):
        log.warning("ONNX Runtime has no kernel for the attention of %s: long texts are slow", graph.path)
        return PlainDecoderSession(folder, graph, PROVIDER, config, without=SLOW_FUSIONS)
    with large_pages():
        reader = None
        if graph.prompt is not None:
            weights = prepare(folder, graph, threads, cache, WHOLE if multiplies_bytes() else HALF)
            if cache is not None:  # they were looked at, or made; until a prompt needs them they take no memory
                give_back(cache)
            reader = PromptReader(folder, graph.prompt, PROVIDER, config, SLOW_FUSIONS, weights, cache)
            if is_quantized(graph):
                return Int8DecoderSession(folder, graph, PROVIDER, config, SLOW_FUSIONS, reader)
        return DecoderSession(folder, graph, PROVIDER, config, without=SLOW_FUSIONS, reader=reader)


def session_options(recipe: Recipe, threads: int, told: Mapping[str, str]) -> Any:
    """What ONNX Runtime is told; `told` are options of a bundle."""
    entries: dict[str, str] = {"session.force_spinning_stop": "1", **told}
    entries.pop(KV_CACHE, None)  # what the graph's ports say
    config = onnxruntime().SessionOptions()
    config.intra_op_num_threads = threads
    config.inter_op_num_threads = 1
    config.enable_cpu_mem_arena = entries.pop("enable_cpu_mem_arena", "0") == "1"
    for name, value in entries.items():
        config.add_session_config_entry(name, value)
    if recipe.method == "dynamic":
        # Weights that no integer kernel takes (of a Conv, a Gemm) become float32 once, when the model is opened, not
        # with every run.
        config.add_session_config_entry("session.disable_quant_qdq", "1")
    if recipe.activations == "int8" and recipe.group_size is None and not multiplies_bytes():
        # The kernels would cut off what 16 bits do not hold, unless they are told to take the slow way. That of blocks
        # does not, and could not be told.
        config.add_session_config_entry(X86_PRECISION, "1")
    return config


def multiplies_bytes() -> bool:
    """Whether sums of products of bytes are exact, whatever the bytes are."""
    return device.is_arm() or bool(device.cpu_features() & X86_INTEGER)


def facts(recipe: Recipe, graph: Graph) -> dict[str, Any]:
    """What a report says of the engine."""
    return {"engine": "ONNX Runtime", "version": probe().version, "provider": PROVIDER}


def footprint(graph: Graph, recipe: Recipe, options: Mapping[str, str]) -> Footprint:
    """In memory: weights that are multiplied are packed, beside tables, of which only what is read is there.

    MatMulNBits keeps what it packs it from, and the form for prompts maps weights of its own.
    """
    held = Footprint(
        base=28_000_000,
        libraries=56_000_000,
        node=8_000,
        opening=2_000_000,
        weights=1.0,
        tied=0.0,
        kernels=1.0,
        unpacked=1.0,
        live=11.0,
        row=5.0,
        scores=3.0,
        together=OnnxRuntimeSession.batch_tokens,
    )
    if graph.kind == "plain":
        return held
    if graph.kind == "stream":
        return replace(held, live=4.0)
    if any(port.name == MASK for port in graph.inputs):  # a step copies caches
        return replace(held, tied=1.0, copied=1.0, chunk=CHUNK, together=CHUNK)
    if graph.prompt is None:
        return replace(held, tied=1.0, scores=2.0, chunk=CHUNK, together=CHUNK)
    weights, tied = {"int8": (1.6, 0.4), "int4": (2.0, 0.2)}.get(recipe.weights, (1.0, 1.0))
    return replace(held, weights=weights, tied=tied, prompt=1.0, live=45.0, scores=1.0, chunk=PROMPT, together=PROMPT)
