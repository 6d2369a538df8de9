"""The blueprint of a decoder: the list of its parts with every size, from which `build` makes the graph.

Plain values. The names of tensors are those in the weight files, without `.weight` and `.bias`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .parts import Heads, Linear, Mlp, Norm, Recurrent, Shapes
from .rope import Rope

Axes = tuple[int | str, ...]


@dataclass(frozen=True)
class Layer:
    """One decoder layer: a mixer, which is attention, a recurrent part, or both side by side, and most often an MLP.

    The four norms stand before and after each of the two; most models have two of them.
    """

    attention: Heads | None
    recurrent: Recurrent | None
    mlp: Mlp | None
    before_mixer: Norm | None
    after_mixer: Norm | None
    before_mlp: Norm | None
    after_mlp: Norm | None

    def linears(self) -> Iterator[Linear]:
        for part in (self.attention, self.recurrent, self.mlp):
            yield from part.linears if part else ()

    def norms(self) -> Iterator[Norm]:
        around = (self.before_mixer, self.after_mixer, self.before_mlp, self.after_mlp)
        yield from (each for each in around if each)
        for part in (self.attention, self.recurrent):
            yield from part.norms if part else ()


@dataclass(frozen=True)
class Held:
    """What the graph takes as `into` and gives as `out` for its next run; `axis`, where it grows."""

    into: str
    out: str
    shape: Axes
    grown: Axes  # as it comes out
    axis: int | None


@dataclass(frozen=True)
class Blueprint:
    """A whole decoder. Without any attention, `heads`, `kv_heads` and `head_dim` are 0."""

    embed: str
    vocabulary: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int  # positions
    positions: str  # the table of learned positions; empty: none
    layers: tuple[Layer, ...]
    norm: Norm
    head: str
    tied: bool
    ropes: Mapping[str, Rope]
    norm_kind: str  # "rms" or "layer"
    epsilon: float
    norm_offset: float  # added to every norm's weight
    activation: str
    conv1d: bool  # linear layers are stored as (inputs, outputs)
    embedding_scale: float
    residual_scale: float
    logits_divisor: float
    logits_softcap: float  # 0: none

    def linears(self) -> Iterator[Linear]:
        for layer in self.layers:
            yield from layer.linears()

    def norms(self) -> Iterator[Norm]:
        for layer in self.layers:
            yield from layer.norms()
        yield self.norm

    def recurrent(self) -> Iterator[tuple[int, Recurrent]]:
        """The layers with states of a fixed size, by their number."""
        yield from ((number, layer.recurrent) for number, layer in enumerate(self.layers) if layer.recurrent)

    @property
    def attending(self) -> tuple[int, ...]:
        """The layers with a cache that grows, by their number."""
        return tuple(number for number, layer in enumerate(self.layers) if layer.attention)

    def held(self) -> Iterator[Held]:
        """All that lasts from one run to the next: first what grows, then what does not."""
        for number in self.attending:
            for what in ("key", "value"):
                yield Held(
                    f"past_key_values.{number}.{what}",
                    f"present.{number}.{what}",
                    shape=("batch", self.kv_heads, "past", self.head_dim),
                    grown=("batch", self.kv_heads, "total", self.head_dim),
                    axis=2,
                )
        for number, part in self.recurrent():
            for what, shape in part.states.items():
                fixed: Axes = ("batch", *shape)
                yield Held(f"past_{what}.{number}", f"present_{what}.{number}", fixed, fixed, None)

    @property
    def state_bytes(self) -> int:
        """What the states of a fixed size take for each row."""
        return sum(4 * math.prod(shape) for _, part in self.recurrent() for shape in part.states.values())

    def shapes(self) -> Shapes:
        """Every tensor that the weight files must hold, by its full name."""
        found: Shapes = {f"{self.embed}.weight": (self.vocabulary, self.hidden)}
        if self.positions:
            found[f"{self.positions}.weight"] = (self.context, self.hidden)
        for linear in self.linears():
            outputs = linear.stored or linear.outputs
            found[f"{linear.name}.weight"] = (linear.inputs, outputs) if self.conv1d else (outputs, linear.inputs)
            if linear.bias:
                found[f"{linear.name}.bias"] = (outputs,)
        for norm in self.norms():
            found[f"{norm.name}.weight"] = (norm.width,)
            if self.norm_kind == "layer":
                found[f"{norm.name}.bias"] = (norm.width,)
        for _, part in self.recurrent():
            found |= part.tensors
        found[f"{self.head}.weight"] = (self.vocabulary, self.hidden)
        return found
