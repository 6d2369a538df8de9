"""Make a blueprint from a `Decoder` declaration and a config.json: every part with its name and sizes.

Raises BundleError for a config that makes no sense and UnsupportedError for one that asks for what EdgeKit does not
know. Opens no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.core import Source
from edgekit.errors import BundleError, UnsupportedError

from .blueprint import Blueprint, Layer
from .config import AGAIN, Config
from .parts import Heads, Linear, Mlp, Norm
from .rope import LONGEST, context_length, parameters, rope

if TYPE_CHECKING:
    from .exporter import Decoder

DEEPEST = 1000  # layers: more than anybody has trained; a number without bound would be a graph without bound
ROTARY = "rotary"  # the rotation of an architecture that has one only
# transformers' names -> what the graph computes
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def read(decoder: Decoder, source: Source) -> Blueprint:
    """Everything that the graph is made of."""
    config = Config(source.config, decoder.defaults, decoder.words)
    _refuse(decoder, config)
    count, hidden = config.size("num_hidden_layers", DEEPEST), config.size("hidden_size")
    attends = decoder.attends(config, count)
    heads, kv_heads, head_dim = _heads(config, hidden) if any(attends) else (0, 0, 0)
    # Without attention there are no positions, and a text may be as long as anybody likes.
    stated = config.size("max_position_embeddings") if any(attends) else LONGEST
    told = _rotations(decoder, config) if any(attends) else {}
    context = max((context_length(each, stated) for each in told.values()), default=stated)
    return Blueprint(
        embed=decoder.prefix + decoder.embed,
        vocabulary=config.size("vocab_size"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=context if decoder.positions else min(context, LONGEST),
        positions=decoder.prefix + decoder.positions if decoder.positions else "",
        layers=_Layers(decoder, config, heads, kv_heads, head_dim).all(attends),
        norm=Norm(decoder.prefix + decoder.norm, hidden),
        head="lm_head",
        tied=config.flag("tie_word_embeddings"),
        ropes={name: rope(each, head_dim, stated, partial=decoder.partial_rotary) for name, each in told.items()},
        norm_kind=decoder.norm_kind,
        epsilon=config.number(decoder.epsilon),
        norm_offset=decoder.norm_offset,
        activation=_activation(config.text(decoder.activation)),
        conv1d=decoder.conv1d,
        embedding_scale=decoder.embedding_scale(config),
        residual_scale=decoder.residual_scale(config),
        logits_divisor=decoder.logits_divisor(config),
        logits_softcap=(decoder.logits_softcap and config.number_or_none(decoder.logits_softcap)) or 0.0,
    )


def _heads(config: Config, hidden: int) -> tuple[int, int, int]:
    """How many attention heads, how many of keys and values, and their width."""
    heads = config.size("num_attention_heads")
    kv_heads = config.size_or_none("num_key_value_heads") or heads
    head_dim = config.size_or_none("head_dim") or hidden // heads
    if heads % kv_heads or not head_dim:
        raise BundleError(f"config.json: {kv_heads} key heads do not serve {heads} attention heads", hint=AGAIN)
    return heads, kv_heads, head_dim


def _refuse(decoder: Decoder, config: Config) -> None:
    for key in decoder.refuse:
        if config.get(key):
            raise UnsupportedError(
                f"config.json sets {key}, which EdgeKit does not know", hint="choose a model without it", key=key
            )


def _rotations(decoder: Decoder, config: Config) -> Mapping[str, dict[str, Any]]:
    if not decoder.rotary:
        return {}
    if decoder.rope_parameters is not None:
        return decoder.rope_parameters(config, decoder.theta)
    return {ROTARY: parameters(config, decoder.theta)}


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise UnsupportedError(f"the activation {name!r:.60} is not known", hint=f"known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class _Layers:
    """The layers of one config."""

    def __init__(self, decoder: Decoder, config: Config, heads: int, kv_heads: int, head_dim: int) -> None:
        self.decoder, self.config, self.head_dim = decoder, config, head_dim
        self.hidden, self.q, self.kv = config.size("hidden_size"), heads * head_dim, kv_heads * head_dim
        self.factors = decoder.factors(config)

    def all(self, attends: list[bool]) -> tuple[Layer, ...]:
        count = len(attends)
        windows = self.decoder.windows(self.config, count)
        ropes = [ROTARY if self.decoder.rotary else ""] * count
        if self.decoder.ropes is not None:
            ropes = self.decoder.ropes(self.config, count)
        return tuple(self._layer(number, attends[number], windows[number], ropes[number]) for number in range(count))

    def _layer(self, number: int, attends: bool, window: int | None, kind: str) -> Layer:
        decoder, home = self.decoder, self.decoder.prefix + self.decoder.layer.format(number)
        return Layer(
            attention=self._attention(number, home, window, kind) if attends else None,
            recurrent=decoder.recurrent(self.config, home, attends),
            mlp=self._mlp(home) if decoder.mlp else None,
            before_mixer=_norm(home, decoder.before_mixer, self.hidden),
            after_mixer=_norm(home, decoder.after_mixer, self.hidden),
            before_mlp=_norm(home, decoder.before_mlp if decoder.mlp else "", self.hidden),
            after_mlp=_norm(home, decoder.after_mlp if decoder.mlp else "", self.hidden),
        )

    def _attention(self, number: int, home: str, window: int | None, kind: str) -> Heads:
        decoder = self.decoder
        q, k, v = _split(home, decoder.qkv, self.hidden, (self.q, self.kv, self.kv), self._bias(decoder.qkv_bias))
        q_norm, k_norm = {"": (0, 0), "head": (self.head_dim,) * 2, "width": (self.q, self.kv)}[decoder.qk_norm]
        scale = decoder.attention_scale
        return Heads(
            self._scaled("q", q),
            self._scaled("k", k),
            self._scaled("v", v),
            self._scaled("o", Linear(home + decoder.o, self.q, self.hidden, self._bias(decoder.o_bias))),
            q_norm=_norm(home, decoder.q_norm, q_norm),
            k_norm=_norm(home, decoder.k_norm, k_norm),
            window=window,
            rope=kind,
            scale=self.head_dim**-0.5 if scale is None else scale(self.config, number),
        )

    def _mlp(self, home: str) -> Mlp:
        decoder, inner, bias = self.decoder, self.decoder.inner(self.config), self._bias(self.decoder.mlp_bias)
        *gate, up = _split(home, decoder.gate_up, self.hidden, (inner,) * (1 + decoder.gated), bias)
        return Mlp(
            self._scaled("gate", gate[0]) if gate else None,
            self._scaled("up", up),
            self._scaled("down", Linear(home + decoder.down, inner, self.hidden, bias)),
        )

    def _scaled(self, part: str, linear: Linear) -> Linear:
        if part not in self.factors:
            return linear
        inward, outward = self.factors[part]
        return replace(linear, inward=inward, factors=((linear.outputs, outward),))

    def _bias(self, said: bool | str) -> bool:
        return self.config.flag(said) if isinstance(said, str) else said


def _split(home: str, names: tuple[str, ...], inputs: int, outputs: tuple[int, ...], bias: bool) -> list[Linear]:
    """A Linear for each of `outputs`: each by its own name, or one after the other in the one that is named."""
    if len(names) == len(outputs):
        return [Linear(home + name, inputs, count, bias) for name, count in zip(names, outputs, strict=True)]
    firsts = [sum(outputs[:place]) for place in range(len(outputs))]
    return [
        Linear(home + names[0], inputs, count, bias, first, sum(outputs))
        for first, count in zip(firsts, outputs, strict=True)
    ]


def _norm(home: str, name: str, width: int) -> Norm | None:
    return Norm(home + name, width) if name and width else None
