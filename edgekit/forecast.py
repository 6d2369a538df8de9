"""How much memory a run will take, from the bundle's files alone, before any of it is allocated.

    told = forecast(bundle, variant, batch=1, tokens=640)
    told.total                                             # bytes: the peak RSS of a fresh process

Adds up what an engine makes of weights, states and activations; how much that is, each target says of itself
(`footprint`), and tests/benchmarks/forecast_fit.py holds all of it against what processes really take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit import device, registry
from edgekit.bundle import onnx_file
from edgekit.bundle.safe_files import size_text
from edgekit.errors import ResourceError, UnsupportedError, UsageError
from edgekit.footprint import ANY, Footprint
from edgekit.reporting.record import Forecast

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekit.core import Bundle, Graph, Port, Variant

TOKENIZER = "tokenizer.json"
CONTEXT, LENGTH = "context_length", "max_length"  # settings: the most tokens of a decoder's row, of a text
BATCH = "batch"  # the axis of rows, by its name
# Measured by tests/benchmarks/forecast_fit.py, as the targets' figures are.
TEXT = 7_000_000  # the package tokenizers
TOKENIZED = 13  # bytes in memory for one of tokenizer.json
THREAD = 300_000  # for each of the engine's
ANSWER = 750  # a sample's result as Python has it
COPIES = 3  # of outputs: the engine's, the session's, the head's
SERIES_CHUNK = 64  # samples that the ingest gives at once where the bundle does not say
WORTH = 32  # tokens of a prompt that the form for prompts is used for
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
    name = CONTEXT if bundle.loop == "decode" else LENGTH
    if not isinstance(bundle.settings.get(name), int):
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
    """One variant's files, read once for any number of forecasts."""

    def __init__(self, bundle: Bundle, variant: Variant, threads: int) -> None:
        self.bundle, self.variant, self.threads = bundle, variant, threads
        (self.graph,) = variant.graphs
        self.held = _footprint(variant)
        facts = onnx_file.read(bundle.folder, self.graph.path)
        self.nodes = facts.nodes
        if self.graph.prompt is not None:
            self.nodes += onnx_file.read(bundle.folder, self.graph.prompt.path).nodes
        series = bundle.ingest == "series"
        self.chunk = bundle.settings.get("chunk_steps") or SERIES_CHUNK if series else ANY
        self.weights = {(tensor.location, tensor.offset): tensor for tensor in facts.external}
        config = bundle.source.config
        self.heads = next((int(config[name]) for name in HEADS if isinstance(config.get(name), int)), 0)

    def of(self, batch: int, tokens: int) -> Forecast:
        held = self.held
        kept = tokens - 1 if self.bundle.loop == "decode" else tokens  # nobody computes the last one
        states_ = states(self.graph, batch, max(kept, 1), held.state, held.fixed)
        base, weights = self._base(), self._weights(tokens)
        arena = self._arena(batch, tokens) + round(held.copied * states_)
        mapped = round(held.mapped * sum(tensor.size for tensor in self.weights.values()))
        spike = held.opening + max(0, mapped - states_ - arena)  # which come when that has gone
        return Forecast(
            base=base,
            libraries=held.libraries,
            weights=weights,
            states=states_,
            arena=arena,
            spike=spike,
            total=base + held.libraries + weights + states_ + arena + spike,
        )

    def _base(self) -> int:
        found = self.held.base + self.held.node * self.nodes + THREAD * self.threads
        if self.bundle.ingest == "series":
            return found
        file = self.bundle.folder / TOKENIZER
        return found + TEXT + TOKENIZED * (file.stat().st_size if file.is_file() else 0)

    def _weights(self, tokens: int) -> int:
        sizes = sorted(tensor.size for tensor in self.weights.values())
        if not sizes:
            return 0
        largest, held = sizes[-1], self.held
        if self.bundle.loop == "decode":
            tied = largest if len(sizes) < 2 or sizes[-2] < largest else 0
            prompt = held.prompt * _given(self.graph.prompt) if tokens > WORTH else 0
            return round(held.weights * sum(sizes) + held.tied * tied + prompt)
        # The largest weight of an encoder is a table that tokens are looked up in, which nobody multiplies with.
        return round(held.weights * sum(sizes[:-1]) + (held.weights - 1) * largest)

    def _arena(self, batch: int, tokens: int) -> int:
        held = self.held
        each = min(tokens, held.chunk, self.chunk)
        at_once = max(each, min(batch * each, held.together), held.asked)
        free = sum(self._outputs(port) for port in self.graph.outputs if not self._is_state(port))
        scores = held.scores * held.item * self.heads * at_once * tokens
        activations = held.live * held.item * self._widest() * at_once
        rows = batch if self.bundle.loop == "decode" else at_once
        answers = ANSWER * batch * tokens if self.bundle.ingest == "series" else 0
        return round(activations + scores + COPIES * free * rows + answers + self._floats(tokens))

    def _widest(self) -> int:
        """Numbers that the widest layer makes of a token: the longest last axis of a matrix that is no output's."""
        outputs = {port.shape[-1] for port in self.graph.outputs if port.shape}
        shapes = (tensor.shape for tensor in self.weights.values() if len(tensor.shape) > 1)
        return max((shape[-1] for shape in shapes if shape[-1] not in outputs), default=0)

    def _outputs(self, port: Port) -> int:
        """Bytes of an output for one token or row."""
        return math.prod(axis for axis in port.shape if isinstance(axis, int)) * _item(port)

    def _is_state(self, port: Port) -> bool:
        return any(port.name == state.out for state in self.graph.states)

    def _floats(self, tokens: int) -> int:
        """Caches in 8 bits are filled from floats, a row at a time."""
        ports = {port.name: port for port in self.graph.inputs}
        small = any(ports[state.into].dtype == "int8" for state in self.graph.states if state.axis is not None)
        return 4 * states(self.graph, 1, tokens) if small else 0


def _footprint(variant: Variant) -> Footprint:
    target = registry.find("targets", variant.target)
    if not hasattr(target, "footprint"):
        raise UnsupportedError(f"nobody has measured what {variant.target} makes of a model in memory")
    found: Footprint = target.footprint(variant.graphs[0], variant.recipe, variant.options)
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
    if bundle.loop != "decode" or best.tokens < 2:
        return f"-b {best.batch} -p {best.tokens}"
    prompt = best.tokens // 2
    return f"-b {best.batch} -p {prompt} -n {best.tokens - prompt}"
