"""Check a bundle's settings against what its tasks declare, at export and at every load.

A task's class and its head declare structs (see `runtimes/settings.py`). A setting is known if one of them has a field
of its name; each struct is checked on its own fields, so several tasks may share a setting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edgekit import registry
from edgekit.errors import BundleError


def check(tasks: Sequence[str], settings: Mapping[str, Any], hint: str) -> None:
    """Raise BundleError for a setting that is unknown, missing, or of the wrong type or range; UnsupportedError for a
    task that does not exist."""
    structs = list(dict.fromkeys(struct for task in tasks for struct in registry.task(task).settings_structs()))
    known = {field for struct in structs for field in struct.__struct_fields__}
    for name in settings:
        if name not in known:
            raise _wrong(f"the setting {name!r:.80} is not one of {', '.join(tasks)}", hint)
    for struct in structs:
        own = {name: settings[name] for name in struct.__struct_fields__ if name in settings}
        try:
            msgspec.convert(own, struct)
        except msgspec.ValidationError as error:
            # msgspec says where by a path: `$.labels[3]`
            raise _wrong(re.sub(r" - at `\$(.*)`$", r" - at `$.settings\1`", str(error)), hint) from None


def _wrong(what: str, hint: str) -> BundleError:
    return BundleError(f"bad settings: {what}", hint=hint)
