"""Which variant of a bundle to run, and on which target: what this machine has, the fastest first.

Opens nothing; `edgekit.model` does.
"""

from __future__ import annotations

import logging

from edgekit import registry
from edgekit.core import Bundle, Variant
from edgekit.errors import DeviceError, UsageError

log = logging.getLogger("edgekit")


def choose(bundle: Bundle, target: str, precision: str | None) -> Variant:
    """The variant to run: those asked for, on a target that this machine has, the fastest first.

    Raises DeviceError when this machine has not the target, UsageError when the bundle has no such variant.
    """
    if target != "auto" and (missing := probe(target)) is not None:
        raise missing
    asked = [
        variant
        for variant in bundle.variants
        if target in ("auto", variant.target) and precision in (None, variant.recipe.weights, variant.recipe.name)
    ]
    if not asked:
        have = ", ".join(variant.name for variant in bundle.variants)
        wanted = "/".join(filter(None, [target if target != "auto" else "", precision]))
        raise UsageError(f"{bundle.name} has no variant {wanted!r}", hint=f"it has {have}; export again for another")
    why = {variant.target: probe(variant.target) for variant in asked}
    able = [variant for variant in asked if why[variant.target] is None]
    if not able:
        raise next(error for error in why.values() if error is not None)
    best = min(able, key=lambda variant: variant.measured.get("milliseconds") or float("inf"))
    if len(able) > 1:
        log.info("picked %s of %s: the fastest when the bundle was made", best.name, ", ".join(v.name for v in able))
    return best


def probe(target: str) -> DeviceError | None:
    """Why a target cannot run on this machine; None if it can."""
    found = registry.find("targets", target).probe()
    return None if found.available else DeviceError(f"no {target} on this machine: {found.why}", hint=found.hint)
