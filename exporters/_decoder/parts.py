"""The parts of a decoder's layers, with every size filled in. Plain values.

The names of tensors are those in the weight files; of linear layers, norms and convolutions without `.weight` and
`.bias`. What stands between the tokens is either attention, whose cache grows, or recurrent: Mamba's blocks and short
convolutions, which hold the same few numbers however long the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Linear:
    """Outputs `first` to `first + outputs` of the stored layer `name`, which may hold more: several, fused."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    first: int = 0
    stored: int = 0  # outputs of the stored layer; 0: no more than these
    factors: tuple[tuple[int, float], ...] = ()  # so many outputs, one after the other, times that; none: all times 1
    inward: float = 1.0  # what the inputs are multiplied by
    narrow: bool = False  # so few inputs that a group of weights need not divide them


@dataclass(frozen=True)
class Norm:
    name: str
    width: int


@dataclass(frozen=True)
class Heads:
    """Attention."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    window: int | None  # keys that a query sees, itself included; None: all
    rope: str  # which of the blueprint's; empty: this layer has none
    scale: float  # of a query's product with a key

    @property
    def linears(self) -> tuple[Linear, ...]:
        return self.q, self.k, self.v, self.o

    @property
    def norms(self) -> tuple[Norm, ...]:
        return tuple(norm for norm in (self.q_norm, self.k_norm) if norm)


@dataclass(frozen=True)
class Mlp:
    gate: Linear | None  # None: there is no gate
    up: Linear
    down: Linear

    @property
    def linears(self) -> tuple[Linear, ...]:
        return (self.gate, self.up, self.down) if self.gate else (self.up, self.down)


@dataclass(frozen=True)
class Convolution:
    """Each channel by itself, over its last `window` values, the newest included."""

    name: str
    channels: int
    window: int
    bias: bool

    @property
    def shapes(self) -> Shapes:
        found: Shapes = {f"{self.name}.weight": (self.channels, 1, self.window)}
        return found | {f"{self.name}.bias": (self.channels,)} if self.bias else found


@dataclass(frozen=True)
class Recurrent:
    """What all recurrent parts have: a linear layer on either side, and a convolution."""

    into: Linear
    conv: Convolution
    out: Linear

    @property
    def linears(self) -> tuple[Linear, ...]:
        return self.into, self.out

    @property
    def norms(self) -> tuple[Norm, ...]:
        return ()

    @property
    def tensors(self) -> Shapes:
        """What is neither a linear layer nor a norm, by its full name."""
        return self.conv.shapes

    @property
    def states(self) -> Mapping[str, tuple[int, ...]]:
        """What a row holds between two runs: `conv`, the convolution's last inputs, and `ssm`."""
        return {"conv": (self.conv.channels, self.conv.window - 1)}


@dataclass(frozen=True)
class ShortConv(Recurrent):
    """LFM2's: `into` gives two gates and what they let into and out of the convolution."""


@dataclass(frozen=True)
class Selective(Recurrent):
    """Mamba's: every channel has `states` numbers, and each its own decay. `into` gives the channels and a gate."""

    x: Linear  # of a token: `rank` numbers that say how long its time step is, then B, then C
    dt: Linear
    states_each: int
    log_a: str  # (channels, states_each)
    d: str  # (channels,)
    epsilon: float | None  # of norms without weights over each part of `x`; None: there are none

    @property
    def linears(self) -> tuple[Linear, ...]:
        return self.into, self.x, self.dt, self.out

    @property
    def tensors(self) -> Shapes:
        channels = self.conv.channels
        return {**self.conv.shapes, self.log_a: (channels, self.states_each), self.d: (channels,)}

    @property
    def states(self) -> Mapping[str, tuple[int, ...]]:
        return {**super().states, "ssm": (self.states_each, self.conv.channels)}


@dataclass(frozen=True)
class Dual(Recurrent):
    """Mamba 2's: each of `heads` has one decay; the heads of a group share B and C. `into` gives a gate, what the
    convolution takes (the heads' channels, B, C), and each head's time step.
    """

    heads: int
    head_dim: int
    groups: int
    states_each: int
    log_a: str  # (heads,)
    d: str  # (heads,)
    dt_bias: str  # (heads,)
    limit: tuple[float, float]  # of a time step
    norm: Norm | None  # over each group's channels
    gate_first: bool  # before the norm

    @property
    def channels(self) -> int:
        return self.heads * self.head_dim

    @property
    def norms(self) -> tuple[Norm, ...]:
        return (self.norm,) if self.norm else ()

    @property
    def tensors(self) -> Shapes:
        return {**self.conv.shapes, **dict.fromkeys((self.log_a, self.d, self.dt_bias), (self.heads,))}

    @property
    def states(self) -> Mapping[str, tuple[int, ...]]:
        return {**super().states, "ssm": (self.groups, self.states_each, self.channels // self.groups)}
