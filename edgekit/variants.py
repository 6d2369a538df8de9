"""Choose the variant of a bundle to run, and its target: of those that can run here, the fastest first.

What was measured on this machine says which is the fastest; where it says nothing of two of them, the figures of the
machine that made the bundle do. Opens nothing; `edgekit.model` does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edgekit import registry
from edgekit.bundle import manifest
from edgekit.cache import measurements
from edgekit.core import SCENARIOS, Bundle, Variant
from edgekit.errors import DeviceError, UsageError

log = logging.getLogger("edgekit")


class Chosen(NamedTuple):
    """A variant, and why it and no other."""

    variant: Variant
    why: str


def choose(bundle: Bundle, target: str, precision: str | None) -> Chosen:
    """The variant to run: of those asked for, on a target that this machine has, the fastest.

    One that gave wrong answers on this machine is not taken as long as there is another. Raises DeviceError when this
    machine has not the target, UsageError when the bundle has no such variant.
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
    if len(able) == 1:
        return Chosen(able[0], "the only one that was asked for and runs on this machine")
    found = _fastest(able, measurements.recall(manifest.fingerprint(bundle)))
    log.info("picked %s of %s: %s", found.variant.name, ", ".join(variant.name for variant in able), found.why)
    return found


def _fastest(able: Sequence[Variant], known: Sequence[measurements.Entry]) -> Chosen:
    newest = {(entry.variant, entry.same): entry for entry in known}
    wrong = {entry.variant for entry in newest.values() if entry.wrong}
    right = [variant for variant in able if variant.name not in wrong] or list(able)
    names = {variant.name: variant for variant in right}
    entries = _together([entry for entry in newest.values() if entry.variant in names])
    if len(entries) > 1:
        best = min(entries, key=lambda entry: entry.seconds)
        why = f"the fastest of {len(entries)} measured on this machine on {best.when[:10]}, in {best.test}"
        return Chosen(names[best.variant], why + _besides(able, right))
    first = min(right, key=lambda variant: variant.measured.get("milliseconds") or float("inf"))
    return Chosen(first, "the fastest when the bundle was made" + _besides(able, right))


def _together(entries: Iterable[measurements.Entry]) -> list[measurements.Entry]:
    """Those of one test with as many threads: of the test that most variants had, in the scenario that decides, the
    newest."""
    tests: dict[tuple[str, str, int], list[measurements.Entry]] = {}
    for entry in entries:
        tests.setdefault(entry.same, []).append(entry)
    rank = {name: number for number, name in enumerate(SCENARIOS)}

    def better(test: list[measurements.Entry]) -> tuple[int, int, str]:
        return len(test), -rank.get(test[0].scenario, len(rank)), max(entry.when for entry in test)

    return max(tests.values(), key=better, default=[])


def _besides(able: Sequence[Variant], right: Sequence[Variant]) -> str:
    wrong = [variant.name for variant in able if variant not in right]
    return f"; {', '.join(wrong)} gave wrong answers here" if wrong else ""


def probe(target: str) -> DeviceError | None:
    """Why a target cannot run on this machine; None if it can."""
    found = registry.find("targets", target).probe()
    return None if found.available else DeviceError(f"no {target} on this machine: {found.why}", hint=found.hint)
