"""A decoder in the portable form, written node by node: small, random, and with every part that a target rewrites."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.core import Graph, Port, State

HIDDEN, HEAD, VOCABULARY, TABLE = 64, 32, 96, 160
GROUP = 16  # weights that share a scale
INTEGERS = {"int4": (TensorProto.INT4, 7), "int8": (TensorProto.INT8, 127)}  # and the largest
PORTS = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


@dataclass(frozen=True)
class Shape:
    """What differs between families. `windows`: one entry a layer, None where it sees all."""

    heads: int = 4
    kv_heads: int = 2
    windows: tuple[int | None, ...] = (None, None)
    head_norm: bool = False
    softcap: float = 0.0
    scale: float = 0.0
    rotary: int = HEAD  # dimensions that turn; 0: positions are learned
    interleaved: bool = False
    stretched: int = 0  # rows that reach this position turn by other angles, as in longrope; 0: all by the tables
    bias: bool = False
    together: bool = False  # queries, keys and values are one product
    weights: str = "float32"
    tied: bool = False  # the head is the embedding table


class _Writer:
    def __init__(self, shape: Shape) -> None:
        self.shape, self.nodes, self.tensors = shape, list[Any](), list[Any]()
        self.random = np.random.default_rng(7)
        self.names: set[str] = set()

    def constant(self, array: Any, name: str) -> str:
        if name not in self.names:
            self.names.add(name)
            self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64), "ints." + ".".join(map(str, numbers)))

    def add(self, kind: str, *inputs: str, name: str = "", out: str = "", **attributes: Any) -> str:
        name = name or f"node.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out or f"{name}.out"], name, **attributes))
        return out or f"{name}.out"

    def normal(self, *shape: int, spread: float = 0.2) -> Any:
        return self.random.normal(0, spread, shape).astype(np.float32)

    def linear(self, x: str, inner: int, outer: int, name: str, bias: bool = False) -> str:
        weight = self.normal(inner, outer)
        if self.shape.weights == "float32":
            product = self.add("MatMul", x, self.constant(weight, f"{name}.weight"), name=name)
        else:
            product = self.add("MatMul", x, self._quantized(weight, name), name=name)
        return self.add("Add", product, self.constant(self.normal(outer), f"{name}.bias")) if bias else product

    def _quantized(self, weight: Any, name: str, axis: int = 0) -> str:
        kind, largest = INTEGERS[self.shape.weights]
        blocks = np.split(weight, weight.shape[axis] // GROUP, axis)
        scale = np.stack([np.abs(block).max(axis) for block in blocks], axis) / largest
        scale[1::2] *= -1  # a scale has the sign that uses int4's range best
        whole = np.round(weight / np.repeat(scale, GROUP, axis)).astype(np.int8)
        self.tensors.append(helper.make_tensor(f"{name}.weight", kind, weight.shape, whole.flatten()))
        inputs = f"{name}.weight", self.constant(scale.astype(np.float32), f"{name}.scale")
        return self.add("DequantizeLinear", *inputs, name=f"{name}.dequantize", axis=axis, block_size=GROUP)

    def table(self) -> str:
        """(vocabulary, hidden), quantized if it is the head as well."""
        weight = self.normal(VOCABULARY, HIDDEN, spread=0.5)
        if self.shape.tied and self.shape.weights != "float32":
            return self._quantized(weight, "embed", axis=1)
        return self.constant(weight, "embed.weight")

    def norm(self, x: str, width: int, name: str) -> str:
        weight = self.constant(1 + self.normal(width), f"{name}.weight")
        return self.add("RMSNormalization", x, weight, name=name, axis=-1, epsilon=1e-6)

    def masks(self) -> dict[int | None, str]:
        """One mask for each kind of layer: bool (batch, 1, sequence, total)."""
        there = self.add("Cast", "attention_mask", to=TensorProto.BOOL)
        keys = self.add("Sub", self.add("CumSum", "attention_mask", self.constant(np.int64(1), "axis")), self.ints(1))
        keys, there = (self.add("Unsqueeze", each, self.ints(1, 2)) for each in (keys, there))
        queries = self.add("Unsqueeze", "position_ids", self.ints(1, 3))
        full = self.add("And", there, self.add("LessOrEqual", keys, queries))
        made: dict[int | None, str] = {None: full}
        for window in self.shape.windows:
            if window not in made:
                near = self.add("Greater", keys, self.add("Sub", queries, self.ints(window or 0)))
                made[window] = self.add("And", full, near)
        return made

    def angles(self) -> tuple[str, str]:
        """cos and sin for each position: float32 (batch, sequence, rotary / 2)."""
        rate = 1 / 100 ** (np.arange(0, self.shape.rotary, 2) / self.shape.rotary)
        angle = (np.arange(TABLE)[:, None] * rate).astype(np.float32)
        found = []
        for name, table in (("cos", np.cos(angle)), ("sin", np.sin(angle))):
            looked_up = self.add("Gather", self.constant(table, f"{name}.table"), "position_ids", name=name)
            if self.shape.stretched:
                looked_up = self.add("Mul", looked_up, self.stretch())
            found.append(looked_up)
        return found[0], found[1]

    def stretch(self) -> str:
        """A factor for each row, (batch, 1, 1), by the furthest of its positions."""
        furthest = self.add("ReduceMax", "position_ids", self.ints(1), keepdims=1)
        far = self.add("Unsqueeze", self.add("Less", self.ints(self.shape.stretched - 1), furthest), self.ints(2))
        factors = (self.constant(np.float32(factor), f"factor.{factor}") for factor in (1.25, 1.0))
        return self.add("Where", far, *factors)

    def heads(self, x: str, count: int, name: str, norm: bool) -> str:
        split = self.add("Reshape", x, self.ints(0, 0, count, HEAD))
        return self.add(
            "Transpose", self.norm(split, HEAD, f"{name}_norm") if norm else split, perm=[0, 2, 1, 3], name=name
        )

    def projections(self, x: str, at: str) -> list[str]:
        counts = {"q": self.shape.heads, "k": self.shape.kv_heads, "v": self.shape.kv_heads}
        if not self.shape.together:
            return [
                self.linear(x, HIDDEN, count * HEAD, f"{at}.{name}_proj", self.shape.bias)
                for name, count in counts.items()
            ]
        whole = self.linear(x, HIDDEN, sum(counts.values()) * HEAD, f"{at}.qkv", self.shape.bias)
        parts = [f"{at}.qkv.{name}" for name in counts]
        sizes = self.ints(*(count * HEAD for count in counts.values()))
        self.nodes.append(helper.make_node("Split", [whole, sizes], parts, f"{at}.qkv.parts", axis=-1))
        return parts

    def repeated(self, x: str) -> str:
        times = self.shape.heads // self.shape.kv_heads
        if times == 1:
            return x
        wide = self.add("Expand", self.add("Unsqueeze", x, self.ints(2)), self.ints(1, 1, times, 1, 1))
        return self.add("Reshape", wide, self.ints(0, self.shape.heads, -1, HEAD))

    def attention(self, x: str, layer: int, mask: str, angles: tuple[str, str] | None) -> str:
        at, shape = f"layers.{layer}", self.shape
        q, k, v = self.projections(x, at)
        q = self.heads(q, shape.heads, f"{at}.q", shape.head_norm)
        k = self.heads(k, shape.kv_heads, f"{at}.k", shape.head_norm)
        v = self.heads(v, shape.kv_heads, f"{at}.v", False)
        if angles is not None:
            turn: dict[str, Any] = {"interleaved": int(shape.interleaved), "rotary_embedding_dim": shape.rotary % HEAD}
            q = self.add("RotaryEmbedding", q, *angles, name=f"{at}.q_rotary", **turn)
            k = self.add("RotaryEmbedding", k, *angles, name=f"{at}.k_rotary", **turn)
        k, v = (
            self.add(
                "Concat",
                f"past_key_values.{layer}.{name}",
                new,
                name=f"{at}.{name}_cache",
                out=f"present.{layer}.{name}",
                axis=2,
            )
            for name, new in (("key", k), ("value", v))
        )
        more: dict[str, Any] = {
            name: value for name, value in (("scale", shape.scale), ("softcap", shape.softcap)) if value
        }
        out = self.add(
            "Attention",
            q,
            self.repeated(k),
            self.repeated(v),
            mask,
            name=f"{at}.attention",
            **more,
        )
        if shape.windows[layer] is not None:
            self.nodes[-1].metadata_props.add(key="sliding_window", value=str(shape.windows[layer]))
        flat = self.add("Reshape", self.add("Transpose", out, perm=[0, 2, 1, 3]), self.ints(0, 0, -1))
        return self.linear(flat, shape.heads * HEAD, HIDDEN, f"{at}.o_proj")

    def model(self) -> Any:
        table = self.table()
        x = self.add("Gather", table, "input_ids", name="embed")
        if not self.shape.rotary:
            x = self.add("Add", x, self.add("Gather", self.constant(self.normal(TABLE, HIDDEN), "wpe"), "position_ids"))
        angles, masks = self.angles() if self.shape.rotary else None, self.masks()
        for layer, window in enumerate(self.shape.windows):
            normed = self.norm(x, HIDDEN, f"layers.{layer}.norm")
            x = self.add("Add", x, self.attention(normed, layer, masks[window], angles))
            up = self.linear(self.norm(x, HIDDEN, f"layers.{layer}.mlp_norm"), HIDDEN, 96, f"layers.{layer}.up")
            x = self.add(
                "Add", x, self.linear(self.add("Mul", up, self.add("Sigmoid", up)), 96, HIDDEN, f"layers.{layer}.down")
            )
        wanted = self.add("GatherND", x, self.add("Unsqueeze", "logit_positions", self.ints(-1)), batch_dims=1)
        head = (
            self.add("Transpose", table, perm=[1, 0])
            if self.shape.tied
            else self.constant(self.normal(HIDDEN, VOCABULARY), "head")
        )
        self.add("MatMul", self.norm(wanted, HIDDEN, "norm"), head, name="lm_head", out="logits")
        return self.finished()

    def finished(self) -> Any:
        noun = describe(self.shape)
        inputs, outputs = (
            [helper.make_tensor_value_info(port.name, PORTS[port.dtype], port.shape) for port in side]
            for side in (noun.inputs, noun.outputs)
        )
        made = helper.make_graph(self.nodes, "decoder", inputs, outputs, self.tensors)
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def describe(shape: Shape) -> Graph:
    """The portable graph's ports and states."""
    caches = [f"{layer}.{kind}" for layer in range(len(shape.windows)) for kind in ("key", "value")]
    inputs = (
        Port("input_ids", "int64", ("batch", "sequence")),
        Port("position_ids", "int64", ("batch", "sequence")),
        Port("attention_mask", "int64", ("batch", "total")),
        Port("logit_positions", "int64", ("batch", "outputs")),
        *(Port(f"past_key_values.{cache}", "float32", ("batch", shape.kv_heads, "past", HEAD)) for cache in caches),
    )
    outputs = (
        Port("logits", "float32", ("batch", "outputs", VOCABULARY)),
        *(Port(f"present.{cache}", "float32", ("batch", shape.kv_heads, "total", HEAD)) for cache in caches),
    )
    states = tuple(State(f"past_key_values.{cache}", f"present.{cache}", 2) for cache in caches)
    return Graph("model", "portable.onnx", inputs, outputs, states)


def write(folder: Path, shape: Shape) -> Graph:
    """`portable.onnx` in `folder`, and its noun."""
    noun = describe(shape)
    onnx.save(_Writer(shape).model(), folder / noun.path)
    return noun
