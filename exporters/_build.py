"""A decoder's blueprint and its weights -> the portable graph: standard ONNX, no torch, one tensor at a time.

Inputs: `input_ids` and `position_ids` (batch, sequence), `attention_mask` (batch, total: past and sequence; 1 where a
slot of the cache holds a token, holes allowed), `logit_positions` (batch, outputs: indices into the sequence), and
each layer's `past_key_values.N.key` and `.value` (batch, kv_heads, past, head_dim). Outputs: `logits` (batch, outputs,
vocabulary) and `present.N.key` and `.value` (batch, kv_heads, total, head_dim).

Rewriters may count on the names of nodes: `embed`, `lm_head`, and for each layer N `layers.N.attention`, `.q_rotary`,
`.k_rotary`, `.key_cache`, `.value_cache`; an attention with a window has it as its metadata `sliding_window`. Knows no
architecture and no engine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.core import Graph, Recipe, Source, State

from ._attention import Attention
from ._blueprint import Blueprint, Layer
from ._onnx import Draft
from ._reading import read
from ._store import Store
from ._tensors import MadeUp, Weights, stored

if TYPE_CHECKING:
    import onnx_ir as ir

    from ._decoder import Decoder


def build(source: Source, decoder: Decoder, recipe: Recipe, path: Path, say: Callable[[str], None]) -> Graph:
    """The portable graph in the file `path`, its weights beside it with the suffix .bin; older files are replaced.

    `recipe` says how weights are held: int4 and int8 in blocks of `group_size` inputs (None: one scale for each
    output), everything else as float32. `say` hears of every layer. Holds one tensor as float32 at a time.
    Raises BundleError, UnsupportedError, VerificationError (a NaN); then no file is left.
    """
    plan = read(decoder, source)
    weights, tied = open_weights(source, decoder, plan)
    with Draft(path) as draft:
        _Body(draft, plan, Store(draft, plan, weights, recipe, tied), say).write()
        draft.write(source.arch)
    states = tuple(
        State(into=f"past_key_values.{number}.{what}", out=f"present.{number}.{what}", axis=2)
        for number in range(len(plan.layers))
        for what in ("key", "value")
    )
    return Graph("model", path.name, tuple(draft.inputs), tuple(draft.outputs), states)


def open_weights(source: Source, decoder: Decoder, plan: Blueprint) -> tuple[Weights, bool]:
    """The model's weights, checked, and whether its head is its embedding table. Raises BundleError, UnsupportedError.

    As transformers does it: where the files hold both, and they differ, they are not tied, whatever the config says.
    """
    shapes = plan.shapes()
    table, head = f"{plan.embed}.weight", f"{plan.head}.weight"
    if source.random:
        ones = {f"{norm.name}.weight": 1 - plan.norm_offset for norm in plan.norms()}
        fill = {name: ones.get(name, 0.0) for name, shape in shapes.items() if len(shape) == 1}
        deviation = source.config.get("initializer_range")
        return MadeUp(shapes, fill, deviation if isinstance(deviation, float) else 0.02), plan.tied
    found = stored(source.folder, decoder.prefix, shapes, {head} if plan.tied else (), decoder.unused)
    return found, plan.tied and (head not in found.places or found.equal(table, head))


class _Body:
    """The nodes of one graph, from token ids to logits."""

    def __init__(self, draft: Draft, plan: Blueprint, store: Store, say: Callable[[str], None]) -> None:
        self.draft, self.plan, self.store, self.say = draft, plan, store, say

    def write(self) -> None:
        """Everything, inputs and outputs too."""
        plan, draft = self.plan, self.draft
        ids = draft.input("input_ids", "int64", ("batch", "sequence"))
        position_ids = draft.input("position_ids", "int64", ("batch", "sequence"))
        mask = draft.input("attention_mask", "int64", ("batch", "total"))
        wanted = draft.input("logit_positions", "int64", ("batch", "outputs"))
        self.wanted = draft.op("Unsqueeze", [wanted, draft.ints("axis.last", -1)], name="logit_indices")
        self.attention = Attention(draft, plan, self.store, position_ids, mask)
        self.say("embedding table")
        hidden, caches = self._embedding(ids, position_ids), []
        for number, layer in enumerate(plan.layers):
            self.say(f"layer {number + 1} of {len(plan.layers)}")
            hidden, *cache = self._layer(number, layer, hidden)
            caches.append(cache)
        self.say("output head")
        draft.output("logits", self._head(hidden), ("batch", "outputs", plan.vocabulary))
        for number, cache in enumerate(caches):
            for what, value in zip(("key", "value"), cache, strict=True):
                shape = ("batch", plan.kv_heads, "total", plan.head_dim)
                draft.output(f"present.{number}.{what}", value, shape)

    def _embedding(self, ids: ir.Value, position_ids: ir.Value) -> ir.Value:
        draft, plan = self.draft, self.plan
        hidden = self.store.embedding(ids)
        if plan.embedding_scale != 1:
            scale = draft.number("embedding_scale", plan.embedding_scale)
            hidden = draft.op("Mul", [hidden, scale], name="embed.scaled")
        if plan.positions:
            places = draft.op("Gather", [self.store.positions(), position_ids], {"axis": 0}, name="positions")
            hidden = draft.op("Add", [hidden, places], name="embed.placed")
        return hidden

    def _layer(self, number: int, layer: Layer, hidden: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Hidden states behind the layer, and its caches."""
        norm, at = self.store.norm, f"layers.{number}"
        attended, keys, values = self.attention.layer(
            number, layer, norm(f"{at}.before_attention", layer.before_attention, hidden)
        )
        if number + 1 == len(self.plan.layers):
            # From here on nothing is read of positions whose logits nobody wants: not of a prompt but its last token.
            attended = self._chosen(f"{at}.attended.chosen", attended)
            hidden = self._chosen(f"{at}.hidden.chosen", hidden)
        made = self.store.linear(f"{at}.o", layer.o, attended)
        hidden = self._residual(f"{at}.mid", hidden, norm(f"{at}.after_attention", layer.after_attention, made))
        made = self._mlp(at, layer, norm(f"{at}.before_mlp", layer.before_mlp, hidden))
        hidden = self._residual(f"{at}.out", hidden, norm(f"{at}.after_mlp", layer.after_mlp, made))
        return hidden, keys, values

    def _chosen(self, name: str, value: ir.Value) -> ir.Value:
        """The rows of (batch, sequence, width) that `logit_positions` names."""
        return self.draft.op("GatherND", [value, self.wanted], {"batch_dims": 1}, name=name)

    def _residual(self, name: str, hidden: ir.Value, made: ir.Value) -> ir.Value:
        if self.plan.residual_scale != 1:
            scale = self.draft.number("residual_scale", self.plan.residual_scale)
            made = self.draft.op("Mul", [made, scale], name=f"{name}.scaled")
        return self.draft.op("Add", [hidden, made], name=name)

    def _mlp(self, at: str, layer: Layer, hidden: ir.Value) -> ir.Value:
        made = self.store.linear(f"{at}.up", layer.up, hidden)
        if layer.gate is None:
            made = self._activation(f"{at}.activation", made)
        else:
            gate = self._activation(f"{at}.activation", self.store.linear(f"{at}.gate", layer.gate, hidden))
            made = self.draft.op("Mul", [gate, made], name=f"{at}.gated")
        return self.store.linear(f"{at}.down", layer.down, made)

    def _activation(self, name: str, value: ir.Value) -> ir.Value:
        draft, kind = self.draft, self.plan.activation
        if kind == "silu":
            return draft.op("Mul", [value, draft.op("Sigmoid", [value], name=f"{name}.sigmoid")], name=name)
        if kind == "relu":
            return draft.op("Relu", [value], name=name)
        return draft.op("Gelu", [value], {"approximate": "tanh" if kind == "gelu_tanh" else "none"}, name=name)

    def _head(self, hidden: ir.Value) -> ir.Value:
        """Logits of the positions that the last layer let through."""
        plan, draft = self.plan, self.draft
        hidden = self.store.norm("norm", plan.norm, hidden)
        logits = draft.op("MatMul", [hidden, self.store.head()], name="lm_head")
        if plan.logits_divisor != 1:
            divisor = draft.number("logits_divisor", plan.logits_divisor)
            logits = draft.op("Div", [logits, divisor], name="logits.scaled")
        if plan.logits_softcap:
            cap = draft.number("logits_softcap", plan.logits_softcap)
            bent = draft.op("Tanh", [draft.op("Div", [logits, cap], name="logits.small")], name="logits.bent")
            logits = draft.op("Mul", [bent, cap], name="logits.capped")
        return logits
