"""The base and the types of settings: each ingest and head declares a struct of the settings that it reads.

A field is a setting; its type has the range (`msgspec.Meta`). A field without a default must be in every bundle. What
depends on several fields is checked in `__post_init__`, by a ValueError. A task has the structs of its `SETTINGS` and
of its head; `edgekit.bundle.settings` checks a bundle's settings against them at export and at every load.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgekit import limits

Text = Annotated[str, msgspec.Meta(max_length=limits.SETTING_CHARACTERS)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.SETTING_CHARACTERS)]
FileName = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.PATH_BYTES)]
Names = Annotated[list[Name], msgspec.Meta(min_length=1, max_length=limits.SETTING_ITEMS)]
# A class may have the empty text as its name: the labels are a model's own.
Labels = Annotated[list[Text], msgspec.Meta(min_length=1, max_length=limits.SETTING_ITEMS)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=limits.VOCABULARY)]
Vocabulary = Annotated[int, msgspec.Meta(ge=1, le=limits.VOCABULARY)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=limits.CONTEXT)]
Size = Annotated[int, msgspec.Meta(ge=1, le=limits.TENSOR_DIM)]
Count = Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER)]
Number = Annotated[float, msgspec.Meta(ge=-limits.SETTING_NUMBER, le=limits.SETTING_NUMBER)]
Positive = Annotated[float, msgspec.Meta(ge=limits.SETTING_DEVIATION, le=limits.SETTING_NUMBER)]


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """Settings that one part of a task reads."""


class Scale(Settings):
    """A mean and a deviation of each number."""

    mean: Annotated[list[Number], msgspec.Meta(min_length=1, max_length=limits.SETTING_ITEMS)]
    std: Annotated[list[Positive], msgspec.Meta(min_length=1, max_length=limits.SETTING_ITEMS)]

    def check(self, name: str, *counts: int) -> None:
        """Raise ValueError unless there are as many means and deviations as one of `counts`."""
        if len(self.mean) != len(self.std) or len(self.mean) not in counts:
            raise ValueError(f"`{name}` needs {counts[0]} means, and as many deviations")
