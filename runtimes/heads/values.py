"""Outputs of a recurrent model to numbers in physical units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._series import Settings as Settings
from ._series import check, last_or_all, names, restored
from ._series import compare as compare
from ._series import numbers as numbers

if TYPE_CHECKING:
    from edgekit.core import Floats


def open(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked. Raises BundleError."""
    return check(settings, len(names(settings)))


def results(y: Floats, settings: Mapping[str, Any]) -> Floats:
    """Results (n, outputs) of n steps, in the user's units. Raises VerificationError."""
    return restored(y, settings)


def answers(numbers: Sequence[Floats], encodings: Sequence[object], settings: Mapping[str, Any]) -> list[Floats]:
    """For each series float32 (time, outputs), or (outputs,) where it has one result. Raises VerificationError."""
    return [last_or_all(results(y, settings), settings) for y in numbers]
