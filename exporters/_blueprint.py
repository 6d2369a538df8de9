"""What a decoder is made of, with every size filled in: the list of parts from which `_build` makes the graph.

Plain values. The names of tensors are those in the weight files, without `.weight` and `.bias`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ._rope import Rope


@dataclass(frozen=True)
class Linear:
    """Outputs `first` to `first + outputs` of the stored layer `name`, which may hold more: several, fused."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    first: int = 0
    stored: int = 0  # outputs of the stored layer; 0: no more than these


@dataclass(frozen=True)
class Norm:
    name: str
    width: int


@dataclass(frozen=True)
class Layer:
    """One decoder layer. The four norms stand before and after attention and MLP; most models have two of them."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    gate: Linear | None  # None: the MLP has no gate
    up: Linear
    down: Linear
    before_attention: Norm | None
    after_attention: Norm | None
    before_mlp: Norm | None
    after_mlp: Norm | None
    q_norm: Norm | None
    k_norm: Norm | None
    window: int | None  # keys that a query sees, itself included; None: all
    rope: str  # which of the blueprint's; empty: this layer has none
    scale: float  # of a query's product with a key


@dataclass(frozen=True)
class Blueprint:
    """A whole decoder."""

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
            yield from (each for each in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down) if each)

    def norms(self) -> Iterator[Norm]:
        for layer in self.layers:
            around = (layer.before_attention, layer.after_attention, layer.before_mlp, layer.after_mlp)
            yield from (each for each in (*around, layer.q_norm, layer.k_norm) if each)
        yield self.norm

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the weight files must hold, by its full name."""
        found: dict[str, tuple[int, ...]] = {f"{self.embed}.weight": (self.vocabulary, self.hidden)}
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
        found[f"{self.head}.weight"] = (self.vocabulary, self.hidden)
        return found
