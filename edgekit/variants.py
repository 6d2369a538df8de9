"""Choose the variant of a bundle to run, and its target: of those that can run here, the fastest first.

What was measured on this machine says which is the fastest; where it says nothing of two of them, the figures of the
machine that made the bundle do. Opens nothing; `edgekit.model` does.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
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


def choose(bundle: Bundle, target: str, precision: str | None, *, without: Collection[str] = ()) -> Chosen:
    """The variant to run: of those asked for, on a target that this machine has, the fastest.

    `without`: names of variants that are not taken. One that gave wrong answers on this machine is not taken as long as
    there is another. Raises DeviceError when this
    machine has not the target, UsageError when the bundle has no such variant.
    """
    if target != "auto" and (missing := probe(target)) is not None:
        raise missing
    asked = _asked(bundle, target, precision, without)
    if not asked:
        have = ", ".join(variant.name for variant in bundle.variants)
        wanted = "/".join(filter(None, [target if target != "auto" else "", precision]))
        raise UsageError(f"{bundle.name} has no variant {wanted!r}", hint=f"it has {have}; export again for another")
    runnable = able(bundle, target, precision, without=without)
    if not runnable:
        raise next(error for variant in asked if (error := probe(variant.target)) is not None)
    if len(runnable) == 1:
        return Chosen(runnable[0], "the only one that was asked for and runs on this machine")
    found = _fastest(runnable, measurements.recall(manifest.fingerprint(bundle)))
    log.info("picked %s of %s: %s", found.variant.name, ", ".join(variant.name for variant in runnable), found.why)
    return found


def able(bundle: Bundle, target: str, precision: str | None, *, without: Collection[str] = ()) -> list[Variant]:
    """The variants that are asked for and whose target this machine has; [] if there are none."""
    asked = _asked(bundle, target, precision, without)
    missing = {variant.target: probe(variant.target) for variant in asked}
    return [variant for variant in asked if missing[variant.target] is None]


def _asked(bundle: Bundle, target: str, precision: str | None, without: Collection[str]) -> list[Variant]:
    return [
        variant
        for variant in bundle.variants
        if target in ("auto", variant.target)
        and precision in (None, variant.recipe.weights, variant.recipe.name)
        and variant.name not in without
    ]


def _fastest(runnable: Sequence[Variant], known: Sequence[measurements.Entry]) -> Chosen:
    newest = {(entry.variant, entry.same): entry for entry in known}
    wrong = {entry.variant for entry in newest.values() if entry.wrong}
    right = [variant for variant in runnable if variant.name not in wrong] or list(runnable)
    names = {variant.name: variant for variant in right}
    entries = _together([entry for entry in newest.values() if entry.variant in names])
    if len(entries) > 1:
        best = min(entries, key=lambda entry: entry.seconds)
        why = f"the fastest of {len(entries)} measured on this machine on {best.when[:10]}, in {best.test}"
        return Chosen(names[best.variant], why + _besides(runnable, right))
    first = min(right, key=lambda variant: variant.measured.get("milliseconds") or float("inf"))
    return Chosen(first, "the fastest when the bundle was made" + _besides(runnable, right))


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


def _besides(runnable: Sequence[Variant], right: Sequence[Variant]) -> str:
    wrong = [variant.name for variant in runnable if variant not in right]
    return f"; {', '.join(wrong)} gave wrong answers here" if wrong else ""


def probe(target: str) -> DeviceError | None:
    """Why a target cannot run on this machine; None if it can."""
    found = registry.find("targets", target).probe()
    return None if found.available else DeviceError(f"no {target} on this machine: {found.why}", hint=found.hint)
