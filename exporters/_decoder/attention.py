"""A decoder's attention as ONNX nodes: heads, rotary embedding, cache, mask. Layers share what is equal.

A query at position p sees the slots whose token is at a position from p - window + 1 to p; a slot's position is how
many tokens of its row come before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .._onnx_writer import Draft
from .blueprint import Blueprint
from .parts import Heads, Norm
from .weights_in_graph import Store

if TYPE_CHECKING:
    import onnx_ir as ir

# What is added to the score of a key that must not be seen. Finite, in bfloat16 and float16 too, so that a query of
# padding that sees nothing gives numbers: a NaN would stay in the cache.
HIDDEN = -30_000.0


class Attention:
    """The attention of all layers of one graph. `held`: the graph's inputs for the caches, by their names."""

    def __init__(
        self,
        draft: Draft,
        plan: Blueprint,
        store: Store,
        held: Mapping[str, ir.Value],
        position_ids: ir.Value,
        attention_mask: ir.Value,
    ) -> None:
        self.draft, self.plan, self.store, self.held = draft, plan, store, held
        self.position_ids, self.attention_mask = position_ids, attention_mask
        self._rotations: dict[str, tuple[ir.Value, ir.Value]] = {}
        self._masks: dict[int | None, ir.Value] = {}

    def layer(self, number: int, layer: Heads, hidden: ir.Value) -> tuple[ir.Value, dict[str, ir.Value]]:
        """(batch, sequence, heads * head_dim) before the output projection, and the caches with the new tokens."""
        plan, draft, at = self.plan, self.draft, f"layers.{number}"
        query, key, value = self.store.together(f"{at}.qkv", {"q": layer.q, "k": layer.k, "v": layer.v}, hidden)
        query = self._heads(f"{at}.q", query, plan.heads, layer.q_norm)
        key = self._heads(f"{at}.k", key, plan.kv_heads, layer.k_norm)
        value = self._heads(f"{at}.v", value, plan.kv_heads, None)
        if layer.rope:
            query = self._rotary(f"{at}.q_rotary", layer.rope, query)
            key = self._rotary(f"{at}.k_rotary", layer.rope, key)
        key, value = self._cache(number, "key", key), self._cache(number, "value", value)
        keys, values = self._repeated(f"{at}.keys", key), self._repeated(f"{at}.values", value)
        attended = draft.op(
            "Attention",
            [query, keys, values, self._mask(layer.window)],
            {"scale": layer.scale},
            name=f"{at}.attention",
            notes={"sliding_window": str(layer.window)} if layer.window else None,
        )
        attended = draft.op("Transpose", [attended], {"perm": [0, 2, 1, 3]}, name=f"{at}.attended.turned")
        flat = draft.ints("shape.flat", 0, 0, plan.heads * plan.head_dim)
        attended = draft.op("Reshape", [attended, flat], name=f"{at}.attended")
        return attended, {f"present.{number}.key": key, f"present.{number}.value": value}

    def _heads(self, name: str, made: ir.Value, heads: int, norm: Norm | None) -> ir.Value:
        """(batch, heads, sequence, head_dim). A norm's width says whether it goes over one head or over all."""
        over_all = norm is not None and norm.width != self.plan.head_dim
        if over_all:
            made = self.store.norm(f"{name}_norm", norm, made)
        shape = self.draft.ints(f"shape.{heads}_heads", 0, 0, heads, self.plan.head_dim)
        made = self.draft.op("Reshape", [made, shape], name=f"{name}.heads")
        if not over_all:
            made = self.store.norm(f"{name}_norm", norm, made)
        return self.draft.op("Transpose", [made], {"perm": [0, 2, 1, 3]}, name=f"{name}.turned")

    def _cache(self, number: int, what: str, new: ir.Value) -> ir.Value:
        past = self.held[f"past_key_values.{number}.{what}"]
        return self.draft.op("Concat", [past, new], {"axis": 2}, name=f"layers.{number}.{what}_cache")

    def _repeated(self, name: str, value: ir.Value) -> ir.Value:
        """Each key head for all the query heads that share it."""
        draft, plan, times = self.draft, self.plan, self.plan.heads // self.plan.kv_heads
        if times == 1:
            return value
        one = draft.op("Unsqueeze", [value, draft.ints("axis.group", 2)], name=f"{name}.grouped")
        many = draft.op("Expand", [one, draft.ints("shape.group", 1, 1, times, 1, 1)], name=f"{name}.expanded")
        shape = draft.ints("shape.repeated", 0, plan.heads, -1, plan.head_dim)
        return draft.op("Reshape", [many, shape], name=f"{name}.repeated")

    def _rotary(self, name: str, kind: str, value: ir.Value) -> ir.Value:
        dim = self.plan.ropes[kind].dim
        attributes = {"rotary_embedding_dim": dim} if dim != self.plan.head_dim else {}
        return self.draft.op("RotaryEmbedding", [value, *self._rotation(kind)], attributes, name=name)

    def _rotation(self, kind: str) -> tuple[ir.Value, ir.Value]:
        """Cosines and sines for this call's positions, (batch, sequence, dim / 2) each."""
        if kind not in self._rotations:
            cos, sin = self._gathered(kind, "")
            if self.plan.ropes[kind].long is not None:
                beyond, long = self._is_long(kind), self._gathered(kind, ".long")
                cos = self.draft.op("Where", [beyond, long[0], cos], name=f"{kind}.cos.chosen")
                sin = self.draft.op("Where", [beyond, long[1], sin], name=f"{kind}.sin.chosen")
            self._rotations[kind] = cos, sin
        return self._rotations[kind]

    def _gathered(self, kind: str, which: str) -> tuple[ir.Value, ir.Value]:
        tables = self.plan.ropes[kind].tables(self.plan.context, long=which == ".long")
        cos, sin = (
            self.draft.op(
                "Gather",
                [self.draft.tensor(f"{kind}.{name}_table{which}", table), self.position_ids],
                {"axis": 0},
                name=f"{kind}.{name}{which}",
            )
            for name, table in zip(("cos", "sin"), tables, strict=True)
        )
        return cos, sin

    def _is_long(self, kind: str) -> ir.Value:
        """(batch, 1, 1): whether a row's furthest position in this call is beyond the original length."""
        draft, switch = self.draft, self.plan.ropes[kind].switch
        axis = draft.ints("axis.sequence", 1)
        furthest = draft.op("ReduceMax", [self.position_ids, axis], {"keepdims": 1}, name=f"{kind}.furthest")
        beyond = draft.op("Greater", [furthest, draft.ints(f"{kind}.switch", switch - 1)], name=f"{kind}.beyond")
        return draft.op("Unsqueeze", [beyond, draft.ints("axis.last", -1)], name=f"{kind}.is_long")

    def _mask(self, window: int | None) -> ir.Value:
        """What is added to the scores, (batch, 1, sequence, total); one for each length of window."""
        if not self._masks:
            self._compare()
        if window not in self._masks:
            draft, name = self.draft, f"mask.window_{window}" if window else "mask"
            visible = self._visible
            if window:
                oldest = draft.op("Sub", [self._queries, draft.ints(f"{name}.length", window)], name=f"{name}.before")
                near = draft.op("Greater", [self._keys, oldest], name=f"{name}.near")
                visible = draft.op("And", [visible, near], name=f"{name}.visible")
            scores = [draft.number("mask.seen", 0.0), draft.number("mask.hidden", HIDDEN)]
            self._masks[window] = draft.op("Where", [visible, *scores], name=name)
        return self._masks[window]

    def _compare(self) -> None:
        """What all masks need: where keys and queries are, and which keys come before which queries."""
        import onnx_ir as ir

        draft, mask = self.draft, self.attention_mask
        for_keys, for_queries = draft.ints("axes.keys", 1, 2), draft.ints("axes.queries", 1, 3)
        counted = draft.op("CumSum", [mask, draft.ints("axis.total", 1)], name="mask.counted")
        places = draft.op("Sub", [counted, draft.ints("one", 1)], name="mask.places")
        self._keys = draft.op("Unsqueeze", [places, for_keys], name="mask.keys")
        self._queries = draft.op("Unsqueeze", [self.position_ids, for_queries], name="mask.queries")
        filled = draft.op("Cast", [mask], {"to": ir.DataType.BOOL}, name="mask.filled")
        filled = draft.op("Unsqueeze", [filled, for_keys], name="mask.filled_keys")
        past = draft.op("LessOrEqual", [self._keys, self._queries], name="mask.past")
        self._visible = draft.op("And", [filled, past], name="mask.visible")
