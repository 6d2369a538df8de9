"""The nouns: what every part of EdgeKit hands to the next.

Plain frozen values that know no architecture, no engine and no file format. `edgekit.bundle.manifest` writes them down,
`edgekit.registry` finds the parts that make and use them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import BundleError, EdgeKitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Floats = NDArray[np.float32]
    Arrays = Mapping[str, Array]

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int4")
QUANTIZED = ("int8", "int4")
KINDS = ("plain", "decoder", "stream")  # of graphs
SCENARIOS = ("llm", "stream", "single-stream", "offline")  # to measure a bundle in: its first of these decides


@dataclass(frozen=True)
class Port:
    """One input or output of a graph. `shape`: an int is fixed, a str names a free axis."""

    name: str
    dtype: str  # numpy's name: "int64", "float32"
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class State:
    """Output `out` of one step is input `into` of the next; `axis` is the one that grows, None where none does.

    `out` is None for a held state, given once with the first step: the cross caches of an encoder-decoder, an image's
    embedding. A KV cache, an LSTM cell and a Mamba state come out of each step.
    """

    into: str
    out: str | None = None
    axis: int | None = None
    init: float = 0.0


@dataclass(frozen=True)
class Graph:
    """One ONNX file and its ports; `path` is relative to the bundle's folder, with forward slashes."""

    name: str
    path: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[State, ...] = ()
    # Every axis name in the ports with the lengths at which the graph was proved against the reference.
    proven: dict[str, tuple[int, ...]] = field(default_factory=dict)
    prompt: Graph | None = None  # of a decoder whose target fills its caches with another form of it, if one does
    # The exporter says it: "plain", "decoder" (tokens and caches), "stream" (states of fixed size, fed step by step).
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
    overrides: dict[str, str] = field(default_factory=dict)
    calibration: str = ""

    def __post_init__(self) -> None:
        if self.weights not in PRECISIONS:
            raise ValueError(f"weights in {self.weights!r}: known are {', '.join(PRECISIONS)}")
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"a group of {self.group_size} weights")

    @property
    def name(self) -> str:
        """Short and stable: `fp32`, `int8-dynamic`, `int4-g32-hqq`."""
        parts = [self.weights]
        if self.group_size is not None:
            parts.append(f"g{self.group_size}")
        if self.method != "none":
            parts.append(self.method)
        if self.skip or self.overrides:
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
    """Inputs with known answers. `file` holds arrays: `reference/N` and `VARIANT/N` for input number N.

    `tolerances[variant]` bounds the largest absolute difference from that variant's own arrays;
    `losses[variant]` bounds the head's loss against the reference (see `Measure`).
    """

    inputs: tuple[Any, ...]
    file: str
    tolerances: dict[str, float]
    losses: dict[str, float]


@dataclass(frozen=True)
class Bundle:
    """A model that a device can run: exported, quantized and compiled are all this one type."""

    folder: Path
    source: Source
    task: str
    ingest: str
    loop: str
    head: str
    settings: dict[str, Any]
    variants: tuple[Variant, ...]
    goldens: Goldens | None = None

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Measure:
    """How near `candidate` is to `reference`: `value` for people, `loss` (0 is equal) for the gate."""

    metric: str
    value: float
    loss: float


@dataclass(frozen=True)
class Check:
    """One variant held against its goldens on this device."""

    variant: str
    ok: bool
    difference: float  # largest absolute difference from what this variant gave when it was made
    tolerance: float
    agreement: Measure  # against the reference, not against itself
    allowed_loss: float
    seconds: float
    why: str = ""  # what is out of tolerance, for a person


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
Results = Iterator[tuple[Any, dict[str, Any]]]


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
