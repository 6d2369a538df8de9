"""Write a decoder's weights into the graph: float32, or int4 and int8 with their scales.

A layer's matrix lies as (inputs, outputs), straight into its MatMul; blocks run along the inputs. The embedding table
lies as it is stored, (vocabulary, hidden): its rows are gathered. Where the head is the same table, it is there once,
and the head multiplies by its transpose. Knows no architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgekit.core import QUANTIZED, Recipe
from edgekit.errors import UnsupportedError
from edgekit.quantize import blocks
from edgekit.quantize.parallel import at_once

from .._onnx_writer import Draft
from .blueprint import Blueprint
from .parts import Convolution, Linear, Norm
from .tensors import Weights, chunks

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array, Floats


# Of the inputs of a narrow layer, the fewest that may share a scale: with less, the scales weigh more than is saved.
NARROWEST = 16


@dataclass(frozen=True)
class Piece:
    """A part of a matrix (inputs, outputs): where it belongs, and what reads it."""

    rows: slice
    columns: slice
    read: Callable[[], Floats]


class Store:
    """Reads each tensor once, in the order in which the graph is made, and writes it to the draft.

    A recipe's `skip` and `overrides` go by the names of the weights in their files, with or without `.weight`; a head
    that is the embedding table goes by both names. With int4 weights a table of its own is held in int8: it is only
    looked up, so that the better half costs space and no time.
    """

    def __init__(self, draft: Draft, plan: Blueprint, weights: Weights, recipe: Recipe, tied: bool) -> None:
        self.draft, self.plan, self.weights, self.recipe, self.tied = draft, plan, weights, recipe, tied
        self._table: tuple[ir.Value, ir.Value | None] | None = None

    def linear(self, name: str, linear: Linear, value: ir.Value) -> ir.Value:
        """(batch, sequence, inputs) -> (batch, sequence, outputs)."""
        return self._product(name, (linear,), value)

    def together(self, name: str, linears: Mapping[str, Linear], value: ir.Value) -> Sequence[ir.Value]:
        """What several layers make of one value: (batch, sequence, outputs) of each, in order.

        One product, where the recipe and the files have them alike: an engine starts less often, and a device with few
        cores reads what lies together faster.
        """
        layers = tuple(linears.values())
        if len({(self._told(layer), layer.bias) for layer in layers}) > 1:
            return [self.linear(f"{name}.{part}", layer, value) for part, layer in linears.items()]
        made = self._product(name, layers, value)
        return self.draft.split(made, [layer.outputs for layer in layers], name=f"{name}.parts")

    def _product(self, name: str, linears: tuple[Linear, ...], value: ir.Value) -> ir.Value:
        """Of layers that are alike, one's outputs after the other's."""
        made = self.draft.op("MatMul", [value, self._matrix(linears, self._told(linears[0]))], name=name)
        if not linears[0].bias:
            return made
        bias = np.concatenate([self._bias(linear) for linear in linears])
        return self.draft.op("Add", [made, self.draft.tensor(named(linears, "bias"), bias)], name=f"{name}.biased")

    def _told(self, linear: Linear) -> str:
        return self._precision((linear.name,), self.recipe.weights)

    def _bias(self, linear: Linear) -> Floats:
        rows = self.weights.rows(f"{linear.name}.bias", linear.first, linear.first + linear.outputs)
        return rows * outward(linear)

    def norm(self, name: str, norm: Norm | None, value: ir.Value) -> ir.Value:
        """Over the last axis; without a norm, the value itself."""
        if norm is None:
            return value
        attributes = {"axis": -1, "epsilon": self.plan.epsilon}
        offset = np.float32(self.plan.norm_offset)
        weight = self.whole(f"{norm.name}.weight", norm.width, lambda found: found + offset)
        if self.plan.norm_kind == "rms":
            return self.draft.op("RMSNormalization", [value, weight], attributes, name=name)
        bias = self.whole(f"{norm.name}.bias", norm.width)
        return self.draft.op("LayerNormalization", [value, weight, bias], attributes, name=name)

    def whole(self, name: str, length: int, turn: Callable[[Floats], Floats] = lambda found: found) -> ir.Value:
        """A small tensor as float32, or what `turn` makes of it."""
        return self.draft.tensor(name, turn(self.weights.rows(name, 0, length)))

    def taps(self, conv: Convolution) -> list[ir.Value]:
        """A convolution's weights (channels,), the one for the oldest value first."""
        found = self.weights.rows(f"{conv.name}.weight", 0, conv.channels)
        return [self.draft.tensor(f"{conv.name}.weight.{age}", found[:, 0, age]) for age in range(conv.window)]

    def positions(self) -> ir.Value:
        """The table of learned positions, float32 (positions, hidden)."""
        plan, name = self.plan, f"{self.plan.positions}.weight"
        return self.draft.stream(name, "float32", (plan.context, plan.hidden), self._rows(name, plan.context))

    def embedding(self, ids: ir.Value) -> ir.Value:
        """The rows of the embedding table for `ids`, (batch, sequence, hidden)."""
        table, scale = self._embedding_table()
        if scale is None:
            return self.draft.op("Gather", [table, ids], {"axis": 0}, name="embed")
        return self._gathered(table, scale, ids)

    def head(self) -> ir.Value:
        """What turns hidden states into logits, (hidden, vocabulary)."""
        plan = self.plan
        if not self.tied:
            linear = Linear(plan.head, plan.hidden, plan.vocabulary)
            precision = self._precision((plan.head,), self.recipe.weights)
            return self._matrix((linear,), precision)
        table, scale = self._embedding_table()
        if scale is not None:
            attributes = {"axis": 1, "block_size": plan.hidden // _groups(scale)}
            table = self.draft.op("DequantizeLinear", [table, scale], attributes, name="lm_head.dequantized")
        return self.draft.op("Transpose", [table], {"perm": [1, 0]}, name="lm_head.turned")

    def _precision(self, names: tuple[str, ...], otherwise: str) -> str:
        """int4, int8 or fp32."""
        known = [*names, *(f"{name}.weight" for name in names)]
        if any(name in self.recipe.skip for name in known):
            return "fp32"
        said = next((self.recipe.overrides[name] for name in known if name in self.recipe.overrides), otherwise)
        return said if said in QUANTIZED else "fp32"

    def _block(self, name: str, inputs: int, narrow: bool = False) -> int:
        """How many inputs share a scale; 0: too few for one. Raises UnsupportedError."""
        block = self.recipe.group_size or inputs
        if narrow:
            shared = math.gcd(block, inputs)
            return shared if shared % NARROWEST == 0 else 0
        if inputs % block or block % 2:
            raise UnsupportedError(
                f"{name!r} has {inputs} inputs, which cannot be quantized in groups of {block}",
                hint=f"choose an even --group-size that divides {inputs}: 32 fits most models",
            )
        return block

    def _matrix(self, linears: tuple[Linear, ...], precision: str) -> ir.Value:
        """(inputs, outputs of all)."""
        at, first = named(linears, "weight"), linears[0]
        shape = inputs, outputs = first.inputs, sum(linear.outputs for linear in linears)
        block = 0 if precision == "fp32" else self._block(at, inputs, first.narrow)
        if not block:
            made = np.empty(shape, np.float32)

            def copy(piece: Piece) -> None:
                made[piece.rows, piece.columns] = piece.read()

            at_once(copy, self._pieces(linears, 1))
            return self.draft.stream(at, "float32", shape, [made])
        values, scale = np.empty(shape, np.int8), np.empty((inputs // block, outputs), np.float32)

        def quantize(piece: Piece) -> None:
            groups = slice(piece.rows.start // block, piece.rows.stop // block)
            found = blocks.quantize(piece.read(), blocks.BITS[precision], block, 0)
            values[piece.rows, piece.columns], scale[groups, piece.columns] = found

        at_once(quantize, self._pieces(linears, block))
        stored = self.draft.stream(at, precision, shape, packed(values, precision))
        per_output = block == inputs
        scales = self.draft.tensor(f"{at}.scale", scale[0] if per_output else scale)
        attributes = {"axis": 1} if per_output else {"axis": 0, "block_size": block}
        return self.draft.op("DequantizeLinear", [stored, scales], attributes, name=f"{at}.dequantized")

    def _pieces(self, linears: tuple[Linear, ...], block: int) -> Iterator[Piece]:
        """The matrix (inputs, outputs) in pieces of whole blocks."""
        first = 0
        for linear in linears:
            yield from self._pieces_of(linear, block, first)
            first += linear.outputs

    def _pieces_of(self, linear: Linear, block: int, first: int) -> Iterator[Piece]:
        """One layer's, whose columns begin with the `first`."""
        name, times = f"{linear.name}.weight", outward(linear) * np.float32(linear.inward)
        if self.plan.conv1d and linear.name != self.plan.head:
            columns = slice(linear.first, linear.first + linear.outputs)

            def rows(begin: int, end: int) -> Floats:
                return self.weights.rows(name, begin, end)[:, columns] * times

            for begin, end in chunks(0, linear.inputs, linear.stored or linear.outputs, block):
                yield Piece(slice(begin, end), slice(first, first + linear.outputs), partial(rows, begin, end))
            return

        def turned(begin: int, end: int) -> Floats:
            found = self.weights.rows(name, linear.first + begin, linear.first + end)
            return np.ascontiguousarray(found.T) * times[begin:end]

        for begin, end in chunks(0, linear.outputs, linear.inputs, 1):
            yield Piece(slice(0, linear.inputs), slice(first + begin, first + end), partial(turned, begin, end))

    def _rows(self, name: str, count: int) -> Iterator[Floats]:
        for begin, end in chunks(0, count, self.plan.hidden, 2):
            yield self.weights.rows(name, begin, end)

    def _embedding_table(self) -> tuple[ir.Value, ir.Value | None]:
        """(vocabulary, hidden), and its scales where it is quantized; made once."""
        if self._table is None:
            self._table = self._new_table()
        return self._table

    def _new_table(self) -> tuple[ir.Value, ir.Value | None]:
        plan, name, usual = self.plan, f"{self.plan.embed}.weight", self.recipe.weights
        if self.tied:
            precision = self._precision((plan.embed, plan.head), usual)
        else:
            precision = self._precision((plan.embed,), "int8" if usual == "int4" else usual)
        shape = plan.vocabulary, plan.hidden
        if precision == "fp32":
            return self.draft.stream(name, "float32", shape, self._rows(name, plan.vocabulary)), None
        block, scales = self._block(name, plan.hidden), []

        def values() -> Iterator[Array]:
            for rows in self._rows(name, plan.vocabulary):
                found, scale = blocks.quantize(rows, blocks.BITS[precision], block, 1)
                scales.append(scale)
                yield from packed(found, precision)

        table = self.draft.stream(name, precision, shape, values())
        return table, self.draft.tensor(f"{name}.scale", np.concatenate(scales))

    def _gathered(self, table: ir.Value, scale: ir.Value, ids: ir.Value) -> ir.Value:
        """Rows of a quantized table, multiplied out: standard DequantizeLinear takes blocks of constants only."""
        draft, plan, groups = self.draft, self.plan, _groups(scale)
        rows = self._values(table, ids)
        shape = draft.ints("shape.embed_blocks", 0, 0, groups, plan.hidden // groups)
        rows = draft.op("Reshape", [rows, shape], name="embed.blocks")
        scales = draft.op("Gather", [scale, ids], {"axis": 0}, name="embed.row_scales")
        scales = draft.op("Unsqueeze", [scales, draft.ints("axis.last", -1)], name="embed.scales")
        rows = draft.op("Mul", [rows, scales], name="embed.scaled_blocks")
        return draft.op("Reshape", [rows, draft.ints("shape.embedded", 0, 0, plan.hidden)], name="embed")

    def _values(self, table: ir.Value, ids: ir.Value) -> ir.Value:
        """The quantized numbers of the rows, as float32. Gather knows no int4: it takes bytes, then pairs by byte."""
        import onnx_ir as ir

        draft, plan = self.draft, self.plan
        if table.dtype == ir.DataType.INT8:
            rows = draft.op("Gather", [table, ids], {"axis": 0}, name="embed.rows")
            return draft.op("Cast", [rows], {"to": ir.DataType.FLOAT}, name="embed.values")
        table = draft.alias(f"{plan.embed}.weight.bytes", "uint8", (plan.vocabulary, plan.hidden // 2), table)
        rows = draft.op("Gather", [table, ids], {"axis": 0}, name="embed.rows")
        rows = draft.op("Cast", [rows], {"to": ir.DataType.INT32}, name="embed.bytes")
        return draft.op("Gather", [draft.tensor("embed.pairs", PAIRS), rows], {"axis": 0}, name="embed.values")


def named(linears: tuple[Linear, ...], what: str) -> str:
    """`self_attn.q_proj+k_proj+v_proj.weight`: of several, which lie apart in the files or one after another."""
    names = dict.fromkeys(linear.name for linear in linears)
    first, *others = names
    name = "+".join([first, *(other.rpartition(".")[2] for other in others)])
    place = linears[0].first
    return f"{name}.{what}.{place}" if place else f"{name}.{what}"


def outward(linear: Linear) -> Floats:
    """What each output is multiplied by, (outputs,)."""
    if not linear.factors:
        return np.ones(linear.outputs, np.float32)
    counts, factors = zip(*linear.factors, strict=True)
    return np.repeat(np.asarray(factors, np.float32), counts)


def _groups(scale: ir.Value) -> int:
    """Scales to a row."""
    assert scale.shape is not None
    return int(scale.shape[1])


def packed(values: Array, precision: str) -> Iterator[Array]:
    """The bytes of int8 `values` as a tensor of that precision, in pieces."""
    if precision == "int8":
        yield values
        return
    flat = values.reshape(-1)
    for begin, end in chunks(0, flat.size, 1, 2):
        piece = flat[begin:end]
        yield blocks.pack(np.append(piece, np.int8(0)) if piece.size % 2 else piece)


def _signed(nibble: int) -> int:
    return nibble - 16 if nibble > 7 else nibble


# The two int4 values in each byte.
PAIRS = np.asarray([(_signed(byte & 15), _signed(byte >> 4)) for byte in range(256)], np.float32)
