"""Prove a variant on this device when it is loaded there for the first time.

An engine may compute something else on another processor, without any error. So the first load runs some of the
bundle's goldens, and refuses a variant whose outputs are wrong. The verdict is kept in the user's cache; a new engine
version or another processor proves again. `edgekit.verify` compares all goldens, and the reference too.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Literal

from edgekit import registry
from edgekit.cache import verdicts
from edgekit.checks import samples
from edgekit.checks.goldens import ENCODED, largest_difference, read_arrays
from edgekit.errors import VerificationError

if TYPE_CHECKING:
    from edgekit.core import Array, Bundle, Variant
    from edgekit.model import Model

Prove = Literal["first", "always", "never"]
SECONDS = 0.5  # after which no further golden begins

log = logging.getLogger("edgekit")


def is_proven(bundle: Bundle, variant: Variant, prove: Prove) -> bool:
    """Whether nothing needs to run: the variant is known to be right on this device, or nobody asks.

    Raises VerificationError for one that is known to be wrong, before it is opened.
    """
    verdict = verdicts.recall(bundle, variant) if prove == "first" and bundle.goldens is not None else None
    if verdict is not None and not verdict.right:
        raise _wrong(bundle, variant, verdict.why)
    return prove == "never" or bundle.goldens is None or verdict is not None


def check(model: Model) -> None:
    """Run some goldens of an open model, and keep the verdict. Raises VerificationError, BundleError."""
    bundle, variant = model.bundle, model.variant
    if registry.task_of(type(model)) != bundle.task:
        return  # goldens are those of the first task
    begun = time.perf_counter()
    why, count = _difference(model)
    took = time.perf_counter() - begun
    if why or count:  # a limit of memory may have cut all goldens: then nothing is known
        verdicts.remember(bundle, variant, why)
    if why:
        raise _wrong(bundle, variant, why)
    log.info("%s gave %d known answers on this device, in %.2f s", variant.name, count, took)


def _difference(model: Model) -> tuple[str, int]:
    """What is wrong with the model's outputs, empty if nothing is, and how many goldens were run, the short ones first.

    A limit of memory bounds the inputs: goldens that it cuts are left out.
    """
    goldens, name = model.bundle.goldens, model.variant.name
    assert goldens is not None
    file = model.bundle.folder / goldens.file
    inputs = samples.read(file, goldens.inputs)
    kept = read_arrays(file, (ENCODED, name), len(inputs))
    begun, count = time.perf_counter(), 0
    for number in sorted(range(len(inputs)), key=lambda number: kept[ENCODED][number].size):
        sample = inputs[number]
        if not _same(model.encode([sample])[0], kept[ENCODED][number]):
            if model.memory_limit is not None:
                continue
            return f"golden {number} is read in another way than when the bundle was made", count
        difference = largest_difference([kept[name][number]], model.outputs([sample]))
        count += 1
        if not difference <= goldens.tolerances[name]:
            moved = f"outputs moved by {difference:.2g}, and {goldens.tolerances[name]:.2g} is allowed"
            return f"golden {number}: {moved}", count
        if time.perf_counter() - begun > SECONDS:
            break
    return "", count


def _same(now: Array, then: Array) -> bool:
    return now.shape == then.shape and bool((now == then).all())


def _wrong(bundle: Bundle, variant: Variant, why: str) -> VerificationError:
    others = [each.name for each in bundle.variants if each.name != variant.name]
    instead = f"another variant may be right: {', '.join(others)} (--target, --precision); " if others else ""
    return VerificationError(
        f"{bundle.name} {variant.name} is wrong on this device: {why}",
        hint=f"{instead}update the engine, or export the model on this machine; `edgekit verify` shows all variants",
        variant=variant.name,
    )
