"""What results in the user's cache depend on: this machine's processor, and the version of each target's engine."""

from __future__ import annotations

import hashlib
import os

from edgekit import registry
from edgekit.machine import device


def processor() -> str:
    """A digest of what the kernels of an engine are chosen by: the processor and its instruction sets."""
    return _digest(device.cpu_model(), sorted(device.cpu_features()))


def processor_and_cores() -> str:
    """A digest of what speed depends on: the processor, and the cores that this process may use."""
    cores = os.cpu_count(), device.affinity(), device.cpu_quota()
    return _digest(device.cpu_model(), sorted(device.cpu_features()), *cores)


def engine(target: str) -> str:
    """The target's engine with its version, as it is installed: "ONNX Runtime 1.31.1"."""
    found = registry.find("targets", target).probe()
    return f"{found.engine} {found.version}"


def _digest(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
