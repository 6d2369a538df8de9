"""What a variant's figures and its target's notes may be: a field is a fact, and an unknown one is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from edgekit import limits
from edgekit.core import Variant
from edgekit.errors import BundleError

Text = Annotated[str, msgspec.Meta(max_length=limits.SETTING_CHARACTERS)]
Count = Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER)]
Number = Annotated[float, msgspec.Meta(ge=-limits.SETTING_NUMBER, le=limits.SETTING_NUMBER)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=limits.SETTING_NUMBER)]


class Measured(msgspec.Struct, forbid_unknown_fields=True):
    """The gate's figures."""

    metric: Text | None = None
    agreement: Number | None = None
    loss: Amount | None = None
    samples: Count | None = None
    bytes: Count | None = None
    fp32_bytes: Count | None = None
    milliseconds: Amount | None = None
    fp32_milliseconds: Amount | None = None
    proof_difference: Amount | None = None
    batch_invariant: bool | None = None  # an item's outputs do not depend on the others of its batch
    batch_difference: Amount | None = None


class Compiled(msgspec.Struct, forbid_unknown_fields=True):
    """The target's notes."""

    engine: Text | None = None
    version: Text | None = None
    provider: Text | None = None
    device: Text | None = None
    computes: Text | None = None


def check(variants: Sequence[Variant], hint: str) -> None:
    """Raise BundleError for a figure or a note that is unknown, or of the wrong type or range."""
    for number, variant in enumerate(variants):
        for name, stated, struct in (
            ("measured", variant.measured, Measured),
            ("compiled", variant.compiled, Compiled),
        ):
            try:
                msgspec.convert(stated, struct)
            except msgspec.ValidationError as error:
                raise BundleError(f"edgekit.json: variants[{number}].{name}: {error}", hint=hint) from None
