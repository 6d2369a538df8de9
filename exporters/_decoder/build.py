"""Build the portable graph from a blueprint and weights: standard ONNX, no torch, one tensor at a time.

Inputs: `input_ids` (batch, sequence); if any layer is recurrent, `counts` (batch: how many of a row's ids are real,
padding on the right); if any has attention, `position_ids` (batch, sequence) and `attention_mask` (batch, total: past
and sequence; 1 where a slot of the cache holds a token, holes allowed); `logit_positions` (batch, outputs: indices
into the sequence); the `past_key_values.N.key` and `.value` (batch, kv_heads, past, head_dim) of the layers with
attention, and of those that are recurrent `past_conv.N` (batch, channels, window - 1) and, for a state space,
`past_ssm.N` (batch, …), which begin as zeros. Outputs: `logits` (batch, outputs, vocabulary), `present.N.key` and
`.value` (batch, kv_heads, total, head_dim), and `present_conv.N` and `present_ssm.N`, of the shapes that went in.

Rewriters may count on the names of nodes: `embed`, `lm_head`, and for each layer N `layers.N.attention`, `.q_rotary`,
`.k_rotary`, `.key_cache`, `.value_cache`; an attention with a window has it as its metadata `sliding_window`. Knows no
architecture and no engine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.core import Graph, Recipe, Source, State

from .._onnx_writer import Draft
from .activations import activation
from .attention import Attention
from .blueprint import Blueprint, Layer
from .blueprint_from_config import read
from .conv_state import Run
from .mamba import selective
from .mamba2 import dual
from .parts import Dual, Mlp, Recurrent, Selective, ShortConv
from .short_conv import short_conv
from .tensors import MadeUp, Weights, stored
from .weights_as_stored import AsStored
from .weights_in_graph import Store

if TYPE_CHECKING:
    import onnx_ir as ir

    from .exporter import Decoder


def build(source: Source, decoder: Decoder, recipe: Recipe, path: Path, say: Callable[[str], None]) -> Graph:
    """The portable graph in the file `path`, its weights beside it with the suffix .bin; older files are replaced.

    `recipe` says how weights are held: int4 and int8 in blocks of `group_size` inputs (None: one scale for each
    output), everything else as float32. `say` hears of every layer. Holds one tensor as float32 at a time.
    Raises BundleError, UnsupportedError, VerificationError (a NaN); then no file is left.
    """
    return _written(source, decoder, recipe, path, say, Store)


def reference(source: Source, decoder: Decoder, path: Path, say: Callable[[str], None]) -> Graph:
    """As `build` without quantizing, but matrices stay as they are in their files, which only the CPU can run.

    Raises BundleError, UnsupportedError, VerificationError (a NaN); then no file is left.
    """
    return _written(source, decoder, Recipe(), path, say, AsStored)


def _written(
    source: Source, decoder: Decoder, recipe: Recipe, path: Path, say: Callable[[str], None], kind: type[Store]
) -> Graph:
    plan = read(decoder, source)
    weights, tied = open_weights(source, decoder, plan)
    with Draft(path) as draft:
        _Body(draft, plan, kind(draft, plan, weights, recipe, tied), say).write()
        draft.write(source.arch)
    states = tuple(State(into=held.into, out=held.out, axis=held.axis) for held in plan.held())
    return Graph("model", path.name, tuple(draft.inputs), tuple(draft.outputs), states, kind="decoder")


def open_weights(source: Source, decoder: Decoder, plan: Blueprint) -> tuple[Weights, bool]:
    """The model's weights, checked, and whether its head is its embedding table. Raises BundleError, UnsupportedError.

    As transformers does it: where the files hold both, and they differ, they are not tied, whatever the config says.
    """
    shapes = plan.shapes()
    table, head = f"{plan.embed}.weight", f"{plan.head}.weight"
    if source.random:
        ones = {f"{norm.name}.weight": 1 - plan.norm_offset for norm in plan.norms()}
        ones |= {part.d: 1.0 for _, part in plan.recurrent() if isinstance(part, Dual | Selective)}
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
        self._inputs()
        self.say("embedding table")
        hidden = self._embedding()
        kept: dict[str, ir.Value] = {}
        for number, layer in enumerate(plan.layers):
            self.say(f"layer {number + 1} of {len(plan.layers)}")
            hidden, states = self._layer(number, layer, hidden)
            kept |= states
        self.say("output head")
        draft.output("logits", self._head(hidden), ("batch", "outputs", plan.vocabulary))
        for held in plan.held():
            draft.output(held.out, kept[held.out], held.grown)

    def _inputs(self) -> None:
        """In the order in which the module's docstring has them."""
        plan, draft, store, recurrent = self.plan, self.draft, self.store, any(self.plan.recurrent())
        self.ids = draft.input("input_ids", "int64", ("batch", "sequence"))
        if recurrent:
            counts = draft.input("counts", "int64", ("batch",))
        if plan.attending:
            self.places = draft.input("position_ids", "int64", ("batch", "sequence"))
            mask = draft.input("attention_mask", "int64", ("batch", "total"))
        wanted = draft.input("logit_positions", "int64", ("batch", "outputs"))
        self.wanted = draft.op("Unsqueeze", [wanted, draft.ints("axis.last", -1)], name="logit_indices")
        held = {each.into: draft.input(each.into, "float32", each.shape) for each in plan.held()}
        if recurrent:
            self.run = Run(draft, store, held, self.ids, counts)
        if plan.attending:
            self.attention = Attention(draft, plan, store, held, self.places, mask)

    def _embedding(self) -> ir.Value:
        draft, plan = self.draft, self.plan
        hidden = self.store.embedding(self.ids)
        if plan.embedding_scale != 1:
            scale = draft.number("embedding_scale", plan.embedding_scale)
            hidden = draft.op("Mul", [hidden, scale], name="embed.scaled")
        if plan.positions:
            places = draft.op("Gather", [self.store.positions(), self.places], {"axis": 0}, name="positions")
            hidden = draft.op("Add", [hidden, places], name="embed.placed")
        return hidden

    def _layer(self, number: int, layer: Layer, hidden: ir.Value) -> tuple[ir.Value, dict[str, ir.Value]]:
        """Hidden states behind the layer, and by output what it holds for the next run."""
        norm, at = self.store.norm, f"layers.{number}"
        last = number + 1 == len(self.plan.layers)
        made, kept = self._mixed(number, layer, norm(f"{at}.before_mixer", layer.before_mixer, hidden), last)
        if last:
            hidden = self._chosen(f"{at}.hidden.chosen", hidden)
        hidden = self._residual(f"{at}.mid", hidden, norm(f"{at}.after_mixer", layer.after_mixer, made))
        if layer.mlp:
            made = self._mlp(at, layer.mlp, norm(f"{at}.before_mlp", layer.before_mlp, hidden))
            hidden = self._residual(f"{at}.out", hidden, norm(f"{at}.after_mlp", layer.after_mlp, made))
        return hidden, kept

    def _mixed(self, number: int, layer: Layer, hidden: ir.Value, last: bool) -> tuple[ir.Value, dict[str, ir.Value]]:
        """What attention, the recurrent part, or both together make of the tokens.

        Behind the last layer's, nothing is read of positions whose logits nobody wants: not of a prompt but its last
        token.
        """
        at = f"layers.{number}"
        kept: dict[str, ir.Value] = {}
        made: list[ir.Value] = []
        if layer.attention:
            value, kept = self.attention.layer(number, layer.attention, hidden)
            value = self._chosen(f"{at}.attended.chosen", value) if last else value
            made.append(self.store.linear(f"{at}.o", layer.attention.o, value))
        if layer.recurrent:
            value, states = _recurred(self.run, number, layer.recurrent, hidden)
            value = self._chosen(f"{at}.mixer.chosen", value) if last else value
            made.append(self.store.linear(f"{at}.mixer.out_proj", layer.recurrent.out, value))
            kept |= states
        return made[0] if len(made) == 1 else self.draft.op("Add", made, name=f"{at}.mixed"), kept

    def _chosen(self, name: str, value: ir.Value) -> ir.Value:
        """The rows of (batch, sequence, width) that `logit_positions` names."""
        return self.draft.op("GatherND", [value, self.wanted], {"batch_dims": 1}, name=name)

    def _residual(self, name: str, hidden: ir.Value, made: ir.Value) -> ir.Value:
        if self.plan.residual_scale != 1:
            scale = self.draft.number("residual_scale", self.plan.residual_scale)
            made = self.draft.op("Mul", [made, scale], name=f"{name}.scaled")
        return self.draft.op("Add", [hidden, made], name=name)

    def _mlp(self, at: str, mlp: Mlp, hidden: ir.Value) -> ir.Value:
        made = self.store.linear(f"{at}.up", mlp.up, hidden)
        if mlp.gate is None:
            made = self._activation(f"{at}.activation", made)
        else:
            gate = self._activation(f"{at}.activation", self.store.linear(f"{at}.gate", mlp.gate, hidden))
            made = self.draft.op("Mul", [gate, made], name=f"{at}.gated")
        return self.store.linear(f"{at}.down", mlp.down, made)

    def _activation(self, name: str, value: ir.Value) -> ir.Value:
        return activation(self.draft, self.plan.activation, value, name=name)

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


def _recurred(run: Run, number: int, part: Recurrent, hidden: ir.Value) -> tuple[ir.Value, dict[str, ir.Value]]:
    match part:
        case Selective():
            return selective(run, number, part, hidden)
        case Dual():
            return dual(run, number, part, hidden)
    assert isinstance(part, ShortConv)
    return short_conv(run, number, part, hidden)
