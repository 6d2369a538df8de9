"""Forecast the peak memory of a run from the bundle's files, before anything is allocated.

    told = forecast(bundle, variant, batch=1, tokens=640)
    told.total                                             # bytes: the peak RSS of a fresh process

Adds up what an engine makes of weights, states and activations; how much that is, each target says of itself
(`footprint`), and tests/benchmarks/forecast_fit.py holds all of it against what processes really take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit import registry
from edgekit.bundle import onnx_file
from edgekit.bundle.safe_files import size_text
from edgekit.errors import ResourceError, UnsupportedError, UsageError
from edgekit.footprint import ANY, Footprint
from edgekit.machine import device
from edgekit.reporting.record import Forecast

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekit.bundle.onnx_file import External
    from edgekit.core import Bundle, Graph, Port, Variant

TOKENIZER = "tokenizer.json"
CONTEXT, LENGTH = "context_length", "max_length"  # settings: the most tokens of a decoder's row, of a text
CHUNK = "chunk_steps"  # setting: samples of a series that go through the graph at once
BATCH = "batch"  # the axis of rows, by its name
# Measured by tests/benchmarks/forecast_fit.py, as the targets' figures are.
TEXT = 7_000_000  # the package tokenizers
TOKENIZED = 13  # bytes in memory for one of tokenizer.json
THREAD = 300_000  # for each of the engine's
ANSWER = 750  # a sample's result as Python has it
COPIES = 3  # of outputs: the engine's, the session's, the head's
SERIES_CHUNK = 64  # samples that the ingest gives at once where the bundle does not say
WORTH = 32  # tokens of a prompt that the form for prompts is used for
# A forecast guards a limit, so it must not be too low. The sum of the parts was measured up to 10 % too low without
# the libraries (MiniLM in float32 on cpu: 156 of 172 MB), whose resident code varies by a sixth with the page cache.
MARGIN, LIBRARIES_VARY = 0.1, 1 / 6
BITS = dict(onnx_file.DTYPES.values())  # of a number, by the name of its type
HEADS = ("num_attention_heads", "n_head", "n_heads")  # in config.json


@dataclass(frozen=True)
class Fit:
    """What can be run within a limit."""

    batch: int
    tokens: int
    forecast: Forecast


def forecast(bundle: Bundle, variant: Variant, *, batch: int, tokens: int, threads: int | None = None) -> Forecast:
    """The most that a fresh process takes which opens this variant and runs `batch` rows of `tokens` tokens.

    `tokens`: of a decoder's prompt and answer together, of a text, or the samples of a series. Opens nothing but the
    graphs' files. Raises UsageError, BundleError; UnsupportedError for a target that has no figures.
    """
    if batch < 1 or tokens < 1:
        raise UsageError(f"a forecast for {batch} rows of {tokens} tokens", hint="give 1 or more of each")
    return _Costs(bundle, variant, threads or device.threads()).of(batch, tokens)


def states(graph: Graph, batch: int, tokens: int, state: float = 1.0, fixed: float = 2.0) -> int:
    """Bytes of a graph's states for `batch` rows with room for `tokens` tokens each, as its ports have them.

    `state`, `fixed`: what an engine makes of one that grows, and of one that does not.
    """
    ports = {port.name: port for port in graph.inputs}
    found = 0.0
    for each in graph.states:
        port = ports[each.into]
        sizes = [tokens if place == each.axis else _length(axis, batch) for place, axis in enumerate(port.shape)]
        found += (fixed if each.axis is None else state) * math.prod(sizes) * _item(port)
    return round(found)


def fit(bundle: Bundle, variant: Variant, limit: int, *, batch: int, tokens: int) -> Fit:
    """What was asked for, if it fits into `limit` bytes. Raises ResourceError with what would; and as `forecast`."""
    return _fit(_Costs(bundle, variant, device.threads()), limit, batch, tokens)


def bounded(bundle: Bundle, variant: Variant, limit: int) -> Bundle:
    """The bundle with no longer context than one row may have within `limit` bytes: its ingest refuses what is longer.

    A bundle that sets none, and whose rows may have any length, is only checked. Raises as `fit` for one token.
    """
    costs = _Costs(bundle, variant, device.threads())
    _fit(costs, limit, 1, 1)
    name = next((name for name in (CONTEXT, LENGTH) if isinstance(bundle.settings.get(name), int)), None)
    if name is None:
        return bundle
    longest = _most(bundle.settings[name], lambda tokens: costs.of(1, tokens).total <= limit)
    return replace(bundle, settings={**bundle.settings, name: longest})


def _fit(costs: _Costs, limit: int, batch: int, tokens: int) -> Fit:
    told = costs.of(batch, tokens)
    if told.total <= limit:
        return Fit(batch, tokens, told)
    name = f"{costs.bundle.name} {costs.variant.name}"
    asked = f"{name} needs {size_text(told.total)} for {_rows(batch, tokens)} and {size_text(limit)} are allowed"
    best = _best(costs, limit, batch, tokens)
    if best is None:
        least = costs.of(1, 1).total
        hint = "use fewer bits (--precision), or allow more memory"
        message = f"{asked}; one row of 1 token already needs {size_text(least)}"
        raise ResourceError(message, hint=hint, needed=told.total, allowed=limit, least=least)
    raise ResourceError(
        f"{asked}; {_rows(best.batch, best.tokens)} {'fit' if best.batch > 1 else 'fits'}",
        hint=f"{_options(costs.bundle, best)}, or allow more memory",
        needed=told.total, allowed=limit, batch=best.batch, tokens=best.tokens,
    )  # fmt: skip


class _Costs:
    """One variant's files, read once for any number of forecasts: the sum over its graphs."""

    def __init__(self, bundle: Bundle, variant: Variant, threads: int) -> None:
        self.bundle, self.variant, self.threads = bundle, variant, threads
        self.graphs = [_GraphCosts(bundle, variant, graph) for graph in variant.graphs]

    def of(self, batch: int, tokens: int) -> Forecast:
        parts = [graph.of(batch, tokens) for graph in self.graphs]
        base, libraries = self._base(), max(part.libraries for part in parts)
        weights, states_, arena, spike = (
            sum(getattr(part, name) for part in parts) for name in ("weights", "states", "arena", "spike")
        )
        own = base + weights + states_ + arena + spike
        margin = round(LIBRARIES_VARY * libraries + MARGIN * own)
        total = libraries + own + margin
        return Forecast(
            base=base, libraries=libraries, weights=weights, states=states_, arena=arena, spike=spike, margin=margin,
            total=total,
        )  # fmt: skip

    def _base(self) -> int:
        """The process, the engine's nodes and threads, what reads the input, and the tokenizer where there is one."""
        nodes = sum(graph.held.node * graph.nodes for graph in self.graphs)
        reader: int = registry.task(self.bundle.task).READER
        base = max(graph.held.base for graph in self.graphs) + reader + nodes + THREAD * self.threads
        file = self.bundle.folder / TOKENIZER
        return base + (TEXT + TOKENIZED * file.stat().st_size if file.is_file() else 0)


class _GraphCosts:
    """One graph's part of a forecast."""

    def __init__(self, bundle: Bundle, variant: Variant, graph: Graph) -> None:
        self.graph = graph
        self.held = _footprint(variant, graph)
        self.decodes = graph.kind == "decoder"
        facts = onnx_file.read(bundle.folder, graph.path)
        self.nodes = facts.nodes
        if graph.prompt is not None:
            self.nodes += onnx_file.read(bundle.folder, graph.prompt.path).nodes
        self.chunked = CHUNK in bundle.settings
        self.chunk = bundle.settings.get(CHUNK) or SERIES_CHUNK if self.chunked else ANY
        self.facts = facts
        self.weights = {(tensor.location, tensor.offset): tensor for tensor in facts.external}
        self.rows_only = all(isinstance(axis, int) for port in graph.inputs for axis in port.shape[1:])
        self.looked_up = any(port.dtype.startswith("int") for port in graph.inputs)
        config = bundle.source.config
        self.heads = next((int(config[name]) for name in HEADS if isinstance(config.get(name), int)), 0)

    def of(self, batch: int, tokens: int) -> Forecast:
        held = self.held
        kept = tokens - 1 if self.decodes else tokens  # nobody computes the last one
        states_ = states(self.graph, batch, max(kept, 1), held.state, held.fixed)
        weights = self._weights(tokens)
        arena = self._arena(batch, tokens) + round(held.copied * states_)
        mapped = round(held.mapped * sum(tensor.size for tensor in self.weights.values()))
        spike = held.opening + max(0, mapped - states_ - arena)  # which come when that has gone
        total = weights + states_ + arena + spike
        return Forecast(
            base=0, libraries=held.libraries, weights=weights, states=states_, arena=arena, spike=spike, total=total
        )

    def _weights(self, tokens: int) -> int:
        sizes = sorted(tensor.size for tensor in self.weights.values())
        if not sizes:
            return 0
        largest, held = sizes[-1], self.held
        if self.decodes:
            tied = largest if len(sizes) < 2 or sizes[-2] < largest else 0
            prompt = held.prompt * _given(self.graph.prompt) if tokens > WORTH else 0
            return round(held.weights * sum(sizes) + held.tied * tied + prompt)
        # The largest weight of an encoder of tokens is a table that they are looked up in: nobody multiplies with it.
        table = largest if self.looked_up else 0
        return round(held.weights * sum(sizes) - table + sum(map(self._floats_of, self.weights.values())))

    def _floats_of(self, tensor: External) -> float:
        """Bytes that an engine makes of a weight, beside those of the file."""
        floats, small = 4 * math.prod(tensor.shape), tensor.tensor in self.facts.dequantized
        if len(tensor.shape) > 2 and ("", "Conv") in self.facts.ops:
            return floats * (self.held.kernels + small)
        return floats * self.held.unpacked * small

    def _arena(self, batch: int, tokens: int) -> int:
        held = self.held
        if self.rows_only and not self.graph.states:
            return self._rows(batch)
        each = min(tokens, held.chunk, self.chunk)
        at_once = max(each, min(batch * each, held.together), held.asked)
        free = sum(self._each(port) for port in self.graph.outputs if not self._is_state(port))
        scores = held.scores * held.item * self.heads * at_once * tokens
        activations = held.live * held.item * self._widest() * at_once
        rows = batch if self.decodes else at_once
        answers = ANSWER * batch * tokens if self.chunked else 0
        return round(activations + scores + COPIES * free * rows + answers + self._floats(tokens))

    def _rows(self, batch: int) -> int:
        """Activations where nothing but the number of rows is free: a row's values, inputs and outputs."""
        inputs, outputs = (sum(map(self._each, ports)) for ports in (self.graph.inputs, self.graph.outputs))
        return round(batch * (self.held.row * self.facts.widest + COPIES * (inputs + outputs)))

    def _widest(self) -> int:
        """Numbers that the widest layer makes of a token: the longest last axis of a matrix that is no output's."""
        outputs = {port.shape[-1] for port in self.graph.outputs if port.shape}
        shapes = (tensor.shape for tensor in self.weights.values() if len(tensor.shape) > 1)
        return max((shape[-1] for shape in shapes if shape[-1] not in outputs), default=0)

    def _each(self, port: Port) -> int:
        """Bytes of a port for one token or row."""
        return math.prod(axis for axis in port.shape if isinstance(axis, int)) * _item(port)

    def _is_state(self, port: Port) -> bool:
        return any(port.name == state.out for state in self.graph.states)

    def _floats(self, tokens: int) -> int:
        """Caches in 8 bits are filled from floats, a row at a time."""
        ports = {port.name: port for port in self.graph.inputs}
        small = any(ports[state.into].dtype == "int8" for state in self.graph.states if state.axis is not None)
        return 4 * states(self.graph, 1, tokens) if small else 0


def _footprint(variant: Variant, graph: Graph) -> Footprint:
    target = registry.find("targets", variant.target)
    if not hasattr(target, "footprint"):
        raise UnsupportedError(f"there is no memory forecast for the target {variant.target}")
    found: Footprint = target.footprint(graph, variant.recipe.of(graph.name), variant.options)
    return found


def _given(prompt: Graph | None) -> int:
    """Bytes of a graph's inputs that stand for weights: those without a free axis."""
    ports = prompt.inputs if prompt else ()
    fixed = [port for port in ports if port.shape and all(isinstance(axis, int) for axis in port.shape)]
    return sum(math.prod(int(axis) for axis in port.shape) * _item(port) for port in fixed)


def _item(port: Port) -> int:
    """Bytes of one number."""
    return max(1, BITS[port.dtype] // 8)


def _length(axis: int | str, batch: int) -> int:
    return axis if isinstance(axis, int) else batch if axis == BATCH else 1


def _best(costs: _Costs, limit: int, batch: int, tokens: int) -> Fit | None:
    """The longest rows that fit, and as many of them as do; None where not one token does."""
    longest = _most(tokens, lambda size: costs.of(1, size).total <= limit)
    rows = _most(batch, lambda count: costs.of(count, longest).total <= limit) if longest else 0
    return Fit(rows, longest, costs.of(rows, longest)) if rows else None


def _most(asked: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to the one that was asked for; what is larger takes more."""
    low, high = 0, asked
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _rows(batch: int, tokens: int) -> str:
    return f"{batch} row{'s' * (batch > 1)} of {tokens} token{'s' * (tokens > 1)}"


def _options(bundle: Bundle, best: Fit) -> str:
    """The command's own, for what fits."""
    if CONTEXT not in bundle.settings or best.tokens < 2:
        return f"-b {best.batch} -p {best.tokens}"
    prompt = best.tokens // 2
    return f"-b {best.batch} -p {prompt} -n {best.tokens - prompt}"
