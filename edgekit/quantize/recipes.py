"""Apply a Recipe to a graph. The result is portable: standard ONNX, weights behind DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit.core import PRECISIONS, QUANTIZED, Recipe
from edgekit.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

METHODS = ("dynamic",)
GROUP = 32  # weights of a built model that share a scale: what every engine's int4 kernels take


def recipe(
    precision: str,
    *,
    method: str | None = None,
    group_size: int | None = None,
    blocks: bool = False,
    usual: Mapping[str, int | None] | None = None,
) -> Recipe:
    """The recipe that a precision stands for.

    `blocks`: the exporter writes weights in blocks of `group_size`, and may have `usual` sizes by precision (None: one
    scale for each output). Raises UnsupportedError for what is not there.
    """
    if precision not in PRECISIONS:
        raise UnsupportedError(f"no precision {precision!r}", hint=f"known: {', '.join(PRECISIONS)}")
    if precision not in QUANTIZED:
        if method or group_size:
            raise UnsupportedError(f"{precision} quantizes nothing, so --method and --group-size have no meaning")
        return Recipe(weights=precision, activations=precision)
    if blocks:
        return _blocks(precision, method, group_size or (usual or {}).get(precision, GROUP))
    if precision != "int8":
        raise UnsupportedError(f"{precision} is not supported for this model", hint="use fp32, bf16 or int8")
    if method not in (None, *METHODS):
        raise UnsupportedError(f"int8 by {method!r} is not supported", hint=f"known methods: {', '.join(METHODS)}")
    if group_size is not None:
        raise UnsupportedError("int8 has one scale per output channel", hint="leave --group-size out")
    return Recipe(weights="int8", activations="int8", method="dynamic", calibration="samples")


def _blocks(precision: str, method: str | None, size: int | None) -> Recipe:
    """Weights rounded to nearest in blocks, as the exporter writes them; activations become int8 as they come."""
    if method not in (None, "rtn"):
        raise UnsupportedError(f"{precision} by {method!r} is not supported for this model", hint="known methods: rtn")
    if size not in (None, 16, 32, 64, 128, 256):
        raise UnsupportedError(f"groups of {size} weights", hint="engines take 16, 32, 64, 128 or 256")
    return Recipe(weights=precision, activations="int8", group_size=size, method="rtn")


def apply(model: ir.Model, recipe: Recipe, largest: Mapping[str, Array] | None = None) -> ir.Model:
    """The model as the recipe wants it, changed in place; untouched where it quantizes nothing.

    `largest`: the largest magnitude in each channel of the values that are smoothed first (`edgekit.quantize.smooth`).
    """
    if recipe.weights != "int8":
        return model
    from edgekit.quantize.int8 import quantize
    from edgekit.quantize.smooth import smooth

    if largest:
        smooth(model, largest)
    return quantize(model, recipe)
