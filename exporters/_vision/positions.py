"""Resize learned position tables to another image size, as a constant. Knows no architecture by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

OPTION = "interpolate_pos_encoding"  # what transformers calls both the method that does it and the option to ask for it


def fix_positions(model: torch.nn.Module, height: int, width: int) -> dict[str, Any]:
    """Replace tables of positions by those for this image size, as the model itself interpolates them.

    Returns the options that the model's forward then takes. Nothing is changed where the model was made for this size.
    """
    if (height, width) == _pair(getattr(model.config, "image_size", (height, width))):
        return {}
    for module in _tables(model):
        _fix(module, height, width)
    return {OPTION: True} if OPTION in inspect.signature(model.forward).parameters else {}


def _tables(model: torch.nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if hasattr(module, OPTION) and getattr(module, "position_embeddings", None) is not None:
            yield module


def _fix(module: Any, height: int, width: int) -> None:
    """The module's table for this size; tokens that are no patches (CLS) keep their rows."""
    import torch

    table, patches = module.position_embeddings, module.patch_embeddings
    rows, columns = _pair(patches.patch_size)
    count = table.shape[1] - patches.num_patches + (height // rows) * (width // columns)
    with torch.no_grad():
        fixed = getattr(module, OPTION)(table.new_zeros(1, count, table.shape[2]), height, width)
    module.position_embeddings = torch.nn.Parameter(fixed.contiguous(), requires_grad=False)
    setattr(module, OPTION, lambda *sizes: module.position_embeddings)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
