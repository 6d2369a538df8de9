"""The nouns: frozen dataclasses that every part of EdgeKit passes to the next.

Plain frozen values that know no architecture, no engine and no file format. `edgekit.bundle.manifest` writes them down,
`edgekit.registry` finds the parts that make and use them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from edgekit.errors import BundleError, EdgeKitError
from edgekit.results import Anomaly as Anomaly
from edgekit.results import Forecast as Forecast
from edgekit.results import Label as Label
from edgekit.results import Piece as Piece
from edgekit.results import Ranked as Ranked
from edgekit.results import Result as Result
from edgekit.results import Span as Span
from edgekit.results import Token as Token

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Floats = NDArray[np.float32]
    Arrays = Mapping[str, Array]

Precision = Literal["fp32", "bf16", "fp16", "int8", "int4"]
Target = Literal["cpu", "cuda", "openvino"]  # the files of targets/, for type checkers
Method = Literal["dynamic", "rtn"]
Scenario = Literal["llm", "stream", "single-stream", "offline"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
QUANTIZED = ("int8", "int4")
SCENARIOS: tuple[str, ...] = get_args(Scenario)  # ways to measure a bundle
KINDS = ("plain", "decoder", "stream")  # of graphs


@dataclass(frozen=True)
class Port:
    """One input or output of a graph. `shape`: an int is fixed, a str names a free axis."""

    name: str
    dtype: str  # numpy's name: "int64", "float32"
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class State:
    """Output `out` of one step is input `into` of the next. `axis` is the one that grows, None where none does.

    A KV cache, an LSTM cell and a Mamba state are all States. `out=None`: the input is given once, with the first
    step, and kept: an encoder's keys and values, an image's embedding.
    """

    into: str
    out: str | None = None
    axis: int | None = None
    init: float = 0.0


@dataclass(frozen=True)
class Graph:
    """One ONNX file and its ports; `path` is relative to the bundle's folder, with forward slashes.

    `name` is its role, unique in a variant: "model", "encoder", "decoder", "unet". `kind`: "plain" (one run, no
    state), "decoder" (tokens and caches) or "stream" (states of a fixed size, fed step by step).
    """

    name: str
    path: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[State, ...] = ()
    # Axis name -> lengths at which the outputs matched the reference.
    proven: dict[str, tuple[int, ...]] = field(default_factory=dict)
    prompt: Graph | None = None  # of a decoder whose target reads prompts with another form of it
    kind: str = "plain"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a graph of kind {self.kind!r}: known are {', '.join(KINDS)}")

    @property
    def files(self) -> tuple[str, ...]:
        """Its path, and that of its other form."""
        return (self.path, *(self.prompt.files if self.prompt else ()))

    @property
    def fed(self) -> tuple[str, ...]:
        """The inputs that are not states."""
        states = {state.into for state in self.states}
        return tuple(port.name for port in self.inputs if port.name not in states)

    @property
    def batched(self) -> bool:
        """Whether it takes any number of rows at once: each input has an axis of that name."""
        return all("batch" in port.shape for port in self.inputs)


@dataclass(frozen=True)
class Source:
    """A resolved model: where its files are and what its config says. Nothing is loaded."""

    id: str  # as the user typed it
    arch: str  # config.json's model_type
    folder: Path
    revision: str  # 40 hex digits of a hub commit, else the empty string
    config: dict[str, Any]
    random: bool = False  # weights are made up: never called correct


@dataclass(frozen=True)
class Recipe:
    """What to quantize and how. `Recipe()` quantizes nothing."""

    weights: str = "fp32"
    activations: str = "fp32"  # "int8": quantized at run time
    group_size: int | None = None  # None: one scale per output channel
    method: str = "none"  # none, dynamic, static, rtn, hqq, awq, gptq
    symmetric: bool = True
    skip: tuple[str, ...] = ()  # names of weights that stay as they are
    overrides: dict[str, str] = field(default_factory=dict)  # weight name -> precision
    calibration: str = ""
    graphs: dict[str, str] = field(default_factory=dict)  # graph name -> the float precision that it keeps

    def __post_init__(self) -> None:
        if self.weights not in PRECISIONS:
            raise ValueError(f"weights in {self.weights!r}: known are {', '.join(PRECISIONS)}")
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"a group of {self.group_size} weights")
        for graph, precision in self.graphs.items():
            if precision not in PRECISIONS or precision in QUANTIZED:
                raise ValueError(f"graph {graph!r} in {precision!r}: a graph keeps a float precision")

    def of(self, graph: str) -> Recipe:
        """The recipe of one graph of a variant: this one, unless `graphs` names its float precision."""
        precision = self.graphs.get(graph)
        if precision is None:
            return replace(self, graphs={}) if self.graphs else self
        return Recipe(weights=precision, activations=precision)

    @property
    def name(self) -> str:
        """Short and stable: `fp32`, `int8-dynamic`, `int4-g32-hqq`."""
        parts = [self.weights]
        if self.group_size is not None:
            parts.append(f"g{self.group_size}")
        if self.method != "none":
            parts.append(self.method)
        if self.skip or self.overrides or self.graphs:
            parts.append("mixed")
        return "-".join(parts)


@dataclass(frozen=True)
class Variant:
    """One way to run the model on one kind of device."""

    target: str
    recipe: Recipe
    graphs: tuple[Graph, ...]
    compiled: dict[str, Any] = field(default_factory=dict)  # the target's own notes: engine, version, CPU features
    measured: dict[str, Any] = field(default_factory=dict)  # the gate's figures: size, latency, agreement
    options: dict[str, str] = field(default_factory=dict)  # the engine's, where not the target's own choice

    @property
    def name(self) -> str:
        """What a user picks it by: `cpu/int8-dynamic`."""
        return f"{self.target}/{self.recipe.name}"


@dataclass(frozen=True)
class Goldens:
    """Inputs with known answers. `file` holds arrays, see `edgekit.checks.goldens`.

    `tolerances[variant]` bounds the largest absolute difference from that variant's own arrays;
    `losses[variant]` bounds the task's loss against the reference (see `Measure`).
    """

    inputs: tuple[Any, ...]
    file: str
    tolerances: dict[str, float]
    losses: dict[str, float]


@dataclass(frozen=True, repr=False)
class Bundle:
    """A model that a device can run: exported, quantized and compiled are all this one type."""

    folder: Path
    source: Source
    tasks: tuple[str, ...]  # the first is what `load` opens unless another is named
    settings: dict[str, Any]
    variants: tuple[Variant, ...]
    goldens: Goldens | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def task(self) -> str:
        """Its first task."""
        return self.tasks[0]

    def __repr__(self) -> str:
        variants = ", ".join(variant.name for variant in self.variants)
        return f"Bundle({str(self.folder)!r}, {self.source.arch}, {self.task}, variants: {variants})"


@dataclass(frozen=True)
class Measure:
    """How near `candidate` is to `reference`: `value` for people, `loss` (0 is equal) for the gate."""

    metric: str
    value: float
    loss: float


@dataclass(frozen=True)
class Check:
    """One variant compared with its goldens on this device."""

    variant: str
    ok: bool
    difference: float  # largest absolute difference from what this variant gave when it was made
    tolerance: float
    agreement: Measure  # against the reference, not against itself
    allowed_loss: float
    seconds: float
    why: str = ""  # what is out of tolerance, for a person
    batch_invariant: bool | None = None  # whether an item's outputs in a batch are those of the item alone
    batch_difference: float | None = None  # else how far they are from them, see `edgekit.checks.invariance`


@dataclass(frozen=True)
class Availability:
    """Whether a target can run on this machine, and if not, why and what to do."""

    target: str
    available: bool
    engine: str
    version: str
    why: str = ""
    hint: str = ""


def mangle(name: str) -> str:
    """`name` as part of a file's name: letters, digits, dot, dash and underscore only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "model"


Progress = Callable[[str, str], None]  # stage, what is being done
Say = Callable[[str], None]  # what a stage is doing


class Exporter(Protocol):
    """What an exporter's file gives: `EXPORTER`, with all that a workbench asks of an architecture.

    `graphs` and `reference` write into `folder`, which is theirs, and may leave `proof-NAME.npz` there: feeds and the
    outputs of the reference implementation, which each form of graph NAME is compared with.
    """

    tasks: tuple[str, ...]
    needs_torch: bool  # to make the graphs; settings are then made in a worker, too
    quantizes: bool  # `graphs` writes quantized weights itself; else `edgekit.quantize` does it to float graphs
    as_stored: bool  # `reference` reads weights as the files have them, and writes no float32
    kind: str  # of its main graph, which decides in what precisions a target computes
    precision: str  # the default
    group_sizes: Mapping[str, int | None]  # precision -> weights that share a scale, where it is not the recipe's own

    def task(self, source: Source) -> str:
        """The task that the source was made for. Raises UnsupportedError."""

    def settings(self, source: Source, task: str, folder: Path) -> dict[str, Any]:
        """All that the device must know, as JSON; the files that it needs are written into `folder`."""

    def graphs(self, source: Source, task: str, recipe: Recipe, folder: Path, say: Say) -> tuple[Graph, ...]:
        """Portable graphs, built or traced, at paths relative to `folder`. Raises UnsupportedError, BundleError."""

    def reference(self, source: Source, task: str, folder: Path, say: Say) -> Mapping[str, Any] | tuple[Graph, ...]:
        """The unquantized model: sessions by graph name, or float graphs at paths relative to `folder`."""


def check_options(
    given: Mapping[str, str],
    allowed: Mapping[str, tuple[str, ...] | range],
    target: str,
    error: type[EdgeKitError] = BundleError,
) -> None:
    """Raise `error` for an engine option that a bundle may not set, or not to this."""
    for name, value in given.items():
        if name not in allowed:
            raise error(f"{target} has no option {name!r} to set", hint=f"it has {', '.join(allowed)}")
        wanted = allowed[name]
        if isinstance(wanted, range):
            known, fits = f"{wanted[0]} to {wanted[-1]}", value.isdecimal() and int(value) in wanted
        else:
            known, fits = ", ".join(wanted), value in wanted
        if fits:
            continue
        raise error(f"{target}'s option {name} is {value!r}", hint=f"it takes {known}")
