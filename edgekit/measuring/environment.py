"""Record the environment of a measurement: machine, engines and software.

Never the machine's name or its user's. Measures nothing: how fast memory is read is given to it.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import edgekit
from edgekit import registry
from edgekit.machine import device
from edgekit.reporting.record import Environment

# What computes around the engines, and what the bundles were made with where that is installed.
PACKAGES = ("numpy", "tokenizers", "msgspec", "onnx", "torch", "transformers")


def describe(load_before: float, bandwidth: float | None, root: Path = device.ROOT) -> Environment:
    """This device now. `load_before`: its load average before the first row, as this is not called before the last;
    `bandwidth`: bytes a second, see `edgekit.measuring.bandwidth`."""
    here = device.describe(root)
    return Environment(
        system=here.system,
        kernel=here.kernel,
        libc=here.libc,
        machine=here.machine,
        cpu=here.cpu,
        features=here.features,
        cores=here.cores,
        affinity=here.affinity,
        quota=here.quota,
        memory=here.memory,
        memory_limit=here.memory_limit,
        governor=device.governor(root),
        frequencies=device.frequencies(root),
        hypervisor=device.hypervisor(root),
        gpu=device.gpus(root),
        load_before=load_before,
        load_after=os.getloadavg()[0],
        bandwidth=bandwidth,
        engines=engines(),
        software=software(),
    )


def engines() -> dict[str, str]:
    """What each target of this machine runs on: `{"cpu": "ONNX Runtime 1.31.1"}`. Imports none of them."""
    found = [registry.find("targets", name).probe() for name in registry.names("targets")]
    return {each.target: f"{each.engine} {each.version}" for each in found if each.available}


def software() -> dict[str, str]:
    """EdgeKit's own version, Python's, and those of the packages that are installed."""
    found = {"edgekit": edgekit.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # a device needs neither torch nor onnx
    return found
