"""`edgekit doctor`: the machine, the installed packages, and a remedy for each problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.bundle.safe_files import size_text
from edgekit.cli.console import Console
from edgekit.cli.listing import targets_text
from edgekit.cli.options import Command, output_switches
from edgekit.errors import DeviceError
from edgekit.text_table import pairs, table

if TYPE_CHECKING:
    from edgekit.doctor import Diagnosis


@click.command(cls=Command)
@output_switches
@click.pass_obj
def doctor(console: Console) -> None:
    """Check this installation, and say how to repair each problem.

    $ edgekit doctor
    $ edgekit doctor --json

    The exit code is 8 when no target can run here.
    """
    from edgekit.doctor import examine

    diagnosis = examine()
    error = None
    if not diagnosis.usable:
        error = DeviceError("no target can run on this machine", hint=diagnosis.findings[0].remedy)
    console.answer(diagnosis, diagnosis_text(diagnosis), error)


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """The machine, the targets, the packages and the findings, for a person."""
    packages = [(package.name, package.version or "-", package.wanted, package.extra) for package in diagnosis.packages]
    findings = "\n".join(f"{each.level}: {each.problem}\n  {each.remedy}" for each in diagnosis.findings)
    parts = (
        pairs(_machine(diagnosis)),
        targets_text(diagnosis.targets),
        table(("package", "installed", "wanted", "extra"), packages),
        findings or "no problem found",
    )
    return "\n\n".join(filter(None, parts))


def _machine(diagnosis: Diagnosis) -> dict[str, object]:
    device = diagnosis.device
    caches = {
        cache.holds: f"{cache.folder}, {'unknown' if cache.free is None else size_text(cache.free)} free"
        for cache in diagnosis.caches
    }
    return {
        "edgekit": diagnosis.version,
        "python": diagnosis.python,
        "system": f"{device.system} {device.kernel} {device.machine} {device.libc}".strip(),
        "cpu": device.cpu,
        "features": " ".join(device.features) or device.features_why,
        "cores": f"{device.cores}, this process may use {device.affinity}",
        "quota": device.quota,
        "threads": device.threads,
        "memory": device.memory and size_text(device.memory),
        "memory limit": device.memory_limit and size_text(device.memory_limit),
        "memory free": device.available and size_text(device.available),
        "telemetry": f"on in {', '.join(diagnosis.telemetry)}" if diagnosis.telemetry else "off in all engines",
        **caches,
    }
