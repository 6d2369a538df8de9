"""A graph pass for ONNX Runtime: a decoder's attention on explicit caches -> GroupQueryAttention on shared buffers.

The portable form (left) appends to the cache, repeats heads and masks; GroupQueryAttention (right) writes what is new
into the buffer that holds the past, turns by rotary positions, and knows causality and windows by itself:

    q ─ Rotary ──────────────────────┐                      q ─┐
    k ─ Rotary ─ Concat ─ repeat ─ Attention                k ─ GroupQueryAttention
    v ────────── Concat ─ repeat ────┘                      v ─┘
                 past, present                              past, present, cos, sin, LENGTHS, TOTAL

Knows no architecture: attention is found by the name that the builder gives it, which stands for what its mask means
(causal, and within `sliding_window` where the node's metadata has it); what it reads is found by how it is wired.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.workbench import graph

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"
LENGTHS = "seqlens_k"  # int32 (batch,): tokens that each row holds after the step, less one
TOTAL = "total_sequence_length"  # int32 scalar: tokens that the longest row holds after the step
MASK = "attention_mask"
POSITIONS = "position_ids"
COUNTS = "counts"  # int64 (batch,): how many tokens of each row are real, where some state of the model must know
PAST = "past_key_values."  # how the names of caches that grow begin, and of no other input: what is held has another
BUILT = re.compile(r"layers\.\d+\.attention")
SWAP = (0, 2, 1, 3)  # (batch, heads, sequence, dim) <-> (batch, sequence, heads, dim)


@dataclass(frozen=True)
class Appended:
    """Keys or values: the input that holds the past, what a step adds, and the output that holds both."""

    past: ir.Value  # (batch, kv_heads, past, dim)
    new: ir.Value  # (batch, kv_heads, sequence, dim)
    present: ir.Value

    @property
    def heads(self) -> int:
        return self._axis(1)

    @property
    def dim(self) -> int:
        return self._axis(3)

    def _axis(self, number: int) -> int:
        assert self.past.shape is not None
        return int(self.past.shape[number])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rotary:
    """Positions as tables that GroupQueryAttention can look up by itself."""

    cos: ir.Value  # (positions, rotary dim / 2)
    sin: ir.Value
    interleaved: int


def is_shareable(model: ir.Model) -> bool:
    """Whether all attention over the caches says by its name what its mask means."""
    named = [node for node in model.graph if _is(node, "Attention") and BUILT.fullmatch(node.name or "")]
    return 2 * len(named) == sum(map(_is_past, model.graph.inputs))


def group_queries(model: ir.Model) -> None:
    """Rewrite every attention over a cache; in place. Raises UnsupportedError where it is wired in another way.

    LENGTHS and TOTAL become inputs; `attention_mask`, and `position_ids` if nothing else reads them, are none any more.
    A graph without such a cache stays as it is.
    """
    if not any(map(_is_past, model.graph.inputs)):
        return
    lengths, total = _new_inputs(model)
    for node in [node for node in model.graph if _is(node, "Attention")]:
        if BUILT.fullmatch(node.name or "") or _cache(node, 1) is not None:
            _rewrite(model, node, lengths, total)  # any other attends to what is held
    graph.drop_unused(model)
    unread = [value for value in model.graph.inputs if value.name in (MASK, POSITIONS) and not value.uses()]
    for value in unread:
        model.graph.inputs.remove(value)
    if any(value.name == MASK for value in model.graph.inputs):
        raise _strange(f"{MASK} is read by something else than attention")
    for value in filter(_is_past, model.graph.inputs):
        if any(use.node.op_type != "GroupQueryAttention" for use in value.uses()):
            raise _strange(f"{value.name} is read by something else than attention")
    model.graph.opset_imports[DOMAIN] = 1


def _new_inputs(model: ir.Model) -> tuple[ir.Value, ir.Value]:
    """LENGTHS and TOTAL, before the caches."""
    import onnx_ir as ir

    lengths = ir.Value(name=LENGTHS, type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape(["batch"]))
    total = ir.Value(name=TOTAL, type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape([]))
    first = next(place for place, value in enumerate(model.graph.inputs) if _is_past(value))
    for value in (total, lengths):
        model.graph.inputs.insert(first, value)
    return lengths, total


def _rewrite(model: ir.Model, node: ir.Node, lengths: ir.Value, total: ir.Value) -> None:
    import onnx_ir as ir

    if not BUILT.fullmatch(node.name or ""):
        raise _strange(f"nobody says what the mask of {node.name!r} means")
    keys, values = _appended(node, 1), _appended(node, 2)
    if keys.dim % 8:
        raise _strange(f"heads of {keys.dim} are not a multiple of 8")
    query, key = _value(node, 0), keys.new
    rotary = _rotary(query, key, keys.dim)
    if rotary is not None:
        query, key = _value(query.producer(), 0), _value(key.producer(), 0)
    read = [_flat(model, node, each) for each in (query, key, values.new)]
    attention = ir.node(
        "GroupQueryAttention",
        [*read, keys.past, values.past, lengths, total, *((rotary.cos, rotary.sin) if rotary else ())],
        attributes={
            "num_heads": _heads(query),
            "kv_num_heads": keys.heads,
            "scale": _number(node, "scale") or keys.dim**-0.5,
            "softcap": float(_number(node, "softcap")),
            "local_window_size": int(node.metadata_props.get("sliding_window", -1)),
            "do_rotary": int(rotary is not None),
            "rotary_interleaved": rotary.interleaved if rotary else 0,
        },
        domain=DOMAIN,
        name=node.name,
        num_outputs=3,
    )
    model.graph.insert_before(node, attention)
    _replace(node, attention.outputs[0])
    for cache, present in zip((keys, values), attention.outputs[1:]):
        _share(model, cache, present)


def _share(model: ir.Model, cache: Appended, present: ir.Value) -> None:
    """`present` is the graph's output from now on, of the past's shape: both are one buffer, filled in part."""
    import onnx_ir as ir

    name, shape = cache.present.name, ir.Shape(["batch", cache.heads, "capacity", cache.dim])
    place = model.graph.outputs.index(cache.present)
    model.graph.outputs[place] = present
    cache.present.name = f"{name}.appended"
    present.name, present.type = name, cache.present.type
    present.shape = cache.past.shape = shape


def _appended(node: ir.Node, place: int) -> Appended:
    """What the attention's input number `place` is made of. Raises UnsupportedError where that is no cache."""
    cache = _cache(node, place)
    if cache is None:
        raise _strange(f"{node.name} does not read a cache that it appends to")
    return cache


def _cache(node: ir.Node, place: int) -> Appended | None:
    """What the attention's input number `place` is made of, seen through the nodes that repeat heads."""
    value = _value(node, place)
    while (producer := value.producer()) is not None:
        if _is(producer, "Concat") and _is_past(producer.inputs[0]) and value.is_graph_output():
            return Appended(_value(producer, 0), _value(producer, 1), value)
        if not _is(producer, "Reshape", "Expand", "Unsqueeze"):
            break
        value = _value(producer, 0)
    return None


def _rotary(query: ir.Value, key: ir.Value, dim: int) -> Rotary | None:
    """The tables by which query and key turn, or None: they do not, or in a way that is not GroupQueryAttention's."""
    nodes = [value.producer() for value in (query, key)]
    if not all(_is(node, "RotaryEmbedding") for node in nodes):
        return None
    first, second = nodes
    assert first is not None
    assert second is not None
    if first.inputs[1:] != second.inputs[1:] or first.attributes != second.attributes:
        return None
    cos, sin = (_table(value) for value in first.inputs[1:3])
    if cos is None or sin is None or dim % 16:
        return None
    width = cos.shape[1] if cos.shape is not None else None
    if not isinstance(width, int) or width % 8:
        return None
    return Rotary(cos, sin, int(_number(first, "interleaved")))


def _table(value: ir.Value | None) -> ir.Value | None:
    """The matrix whose rows are looked up by position."""
    node = value.producer() if value is not None else None
    if node is None or not _is(node, "Gather") or _number(node, "axis") != 0:
        return None
    table, positions = node.inputs
    plain = positions is not None and positions.is_graph_input() and positions.name == POSITIONS
    return table if plain else None


def _flat(model: ir.Model, node: ir.Node, value: ir.Value) -> ir.Value:
    """(batch, heads, sequence, dim) as (batch, sequence, heads * dim): without a node where it once was that."""
    import onnx_ir as ir

    swap = value.producer()
    if swap is not None and _is(swap, "Transpose") and tuple(swap.attributes["perm"].as_ints()) == SWAP:
        apart = _value(swap, 0)
        split = apart.producer()
        if split is not None and _is(split, "Reshape") and _constant(split, 1)[:2] in ([0, 0], [0, -1]):
            flat = _value(split, 0)
            if flat.shape is None or len(flat.shape) == 3:
                return flat
    else:
        swap = ir.node("Transpose", [value], {"perm": SWAP}, name=f"{value.name}.swap")
        model.graph.insert_before(node, swap)
        apart = swap.outputs[0]
    join = graph.initializer(model, "join_heads", np.array([0, 0, -1]))
    joined = ir.node("Reshape", [apart, join], name=f"{value.name}.join")
    model.graph.insert_before(node, joined)
    return joined.outputs[0]


def _heads(query: ir.Value) -> int:
    """How many there are: as its shape says, else from where the projection is split into them."""
    if query.shape is not None and len(query.shape) == 4 and isinstance(heads := query.shape[1], int):
        return heads
    value = query
    while (producer := value.producer()) is not None:
        if _is(producer, "Reshape") and len(shape := _constant(producer, 1)) == 4:
            return shape[2]
        value = _value(producer, 0)
    raise _strange(f"nothing splits {query.name} into heads")


def _replace(node: ir.Node, joined: ir.Value) -> None:
    """Let `joined`, (batch, sequence, heads * dim), stand for the attention's swapped and joined output."""
    import onnx_ir as ir

    (swap, *others) = [use.node for use in node.outputs[0].uses()]
    (join, *more) = [use.node for use in swap.outputs[0].uses()]
    if others or more or not _is(swap, "Transpose") or not _is(join, "Reshape") or len(_constant(join, 1)) != 3:
        raise _strange(f"{node.name} is not followed by one Transpose and one Reshape")
    joined.name = f"{node.name}.joined"
    joined.type, joined.shape = join.outputs[0].type, join.outputs[0].shape
    ir.convenience.replace_all_uses_with(join.outputs[0], joined)


def _is(node: ir.Node | None, *kinds: str) -> bool:
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in kinds


def _is_past(value: ir.Value | None) -> bool:
    return value is not None and value.is_graph_input() and str(value.name).startswith(PAST)


def _value(node: ir.Node | None, place: int) -> ir.Value:
    """An input that the operator demands."""
    assert node is not None
    value = node.inputs[place]
    assert value is not None
    return value


def _constant(node: ir.Node, place: int) -> list[int]:
    """The numbers of a constant input, none if it is computed."""
    import onnx_ir as ir

    tensor = ir.convenience.get_const_tensor(node.inputs[place])
    return [] if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]


def _number(node: ir.Node, name: str) -> float:
    """A numeric attribute; 0 where it is left out, which is what these operators take then."""
    found = node.attributes.get(name)
    return 0.0 if found is None else found.value


def _strange(what: str) -> UnsupportedError:
    return UnsupportedError(f"this decoder cannot share its cache: {what}", hint="export it for another target")
