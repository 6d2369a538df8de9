"""Diagnose this installation: packages that are missing or in conflict, and the remedy for each.

Reads package metadata, asks each target whether its engine works, and looks at the machine (`edgekit.machine.device`).
What EdgeKit needs is read from its own metadata, so that pyproject.toml stays the one place that says it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import edgekit
from edgekit import distribution, registry, telemetry
from edgekit.core import Availability
from edgekit.machine import device

EXTRAS = ("", "export-lm", "export", "openvino", "cuda", "vision")
# Wheels that all unpack into the folder onnxruntime/: the one installed last wins, and the other's metadata lies.
ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
NEEDED = re.compile(r"""^([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)(?:;.*extra == ["']([\w-]+)["'])?""")
LIMIT = re.compile(r"(>=|<)\s*([\d.]+)")


@dataclass(frozen=True)
class Package:
    """`version` is None where it is not installed; `extra` is the one that brings it, empty for the runtime's own."""

    name: str
    version: str | None
    wanted: str
    extra: str


@dataclass(frozen=True)
class Finding:
    """`level`: "error" (nothing runs), "warning" (something will go wrong), "note" (something cannot be done here)."""

    level: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class Cache:
    """A folder that need not exist yet; `free` in bytes, None where it cannot be told."""

    holds: str
    folder: Path
    free: int | None


@dataclass(frozen=True)
class Diagnosis:
    """All that was found; what is wrong is in `findings`."""

    version: str
    python: str
    packages: tuple[Package, ...]
    targets: tuple[Availability, ...]
    device: device.Device
    caches: tuple[Cache, ...]
    telemetry: tuple[str, ...]  # engines whose telemetry is on in this process
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        return any(target.available for target in self.targets)


def examine() -> Diagnosis:
    """This machine and this installation, looked at afresh."""
    found, engines, kept = packages(), targets(), caches(os.environ)
    return Diagnosis(
        version=edgekit.__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=found,
        targets=engines,
        device=device.describe(),
        caches=kept,
        telemetry=telemetry.started(),
        findings=(
            *engine_findings(engines),
            *telemetry_findings(telemetry.started()),
            *package_findings(found, _installed()),
            *cache_findings(kept),
        ),
    )


def targets() -> tuple[Availability, ...]:
    """Every target that EdgeKit knows, and whether its engine works on this machine."""
    return tuple(registry.find("targets", name).probe() for name in registry.names("targets"))


def packages() -> tuple[Package, ...]:
    """What EdgeKit's metadata asks for, with the version that is installed; empty when EdgeKit is not installed."""
    try:
        lines = metadata.requires(distribution.NAME) or []
    except metadata.PackageNotFoundError:
        return ()
    installed = _installed()
    found = []
    for line in lines:
        matched = NEEDED.match(line)
        assert matched, line
        name, wanted, extra = matched[1].lower(), matched[2].strip(), matched[3] or ""
        if extra in EXTRAS:
            found.append(Package(name, installed.get(name), wanted, extra))
    small = {package.name for package in found if package.extra == "export-lm"}  # `export` contains it
    return tuple(package for package in found if package.extra != "export" or package.name not in small)


def caches(environment: Mapping[str, str]) -> tuple[Cache, ...]:
    """Where huggingface_hub keeps models, by its own rules (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME), and EdgeKit's."""
    from edgekit.cache.digests import cache_folder

    home = environment.get("XDG_CACHE_HOME") or os.path.join(environment.get("HOME", "~"), ".cache")
    hub = environment.get("HF_HOME") or os.path.join(home, "huggingface")
    models = Path(environment.get("HF_HUB_CACHE") or os.path.join(hub, "hub")).expanduser()
    own = cache_folder()
    kept = {"downloaded models": models, "compiled graphs": own}
    return tuple(Cache(holds, folder, _free(folder)) for holds, folder in kept.items() if folder is not None)


def within(version: str, wanted: str) -> bool:
    """Whether a version keeps the lower and upper bounds of a specifier like `>=2.13,<2.15`."""
    have = _release(version)
    bounds = [(sign, _release(bound)) for sign, bound in LIMIT.findall(wanted)]
    return all(have >= bound if sign == ">=" else have < bound for sign, bound in bounds)


def engine_findings(engines: tuple[Availability, ...]) -> list[Finding]:
    """An error where no engine works."""
    if any(engine.available for engine in engines):
        return []
    remedy = next((engine.hint for engine in engines if engine.hint), "pip install onnxruntime")
    return [Finding("error", "no target can run on this machine", remedy)]


def telemetry_findings(engines: tuple[str, ...]) -> list[Finding]:
    """A warning for each engine that was imported before EdgeKit could switch off its telemetry."""
    remedy = "import edgekit before the engine, as it switches telemetry off"
    problem = "{} was imported before edgekit, with its telemetry on"
    return [Finding("warning", problem.format(engine), remedy) for engine in engines]


def package_findings(found: tuple[Package, ...], installed: Mapping[str, str]) -> list[Finding]:
    """Wheels that overwrite each other, versions out of bounds, and what exporting lacks."""
    findings = []
    together = [name for name in ONNXRUNTIMES if name in installed]
    if len(together) > 1:
        names = " ".join(together)
        remedy = f"pip uninstall -y {names} && pip install {together[-1]}"
        findings.append(Finding("warning", f"{' and '.join(together)} overwrite each other's files", remedy))
    for package in found:
        if package.version is not None and not within(package.version, package.wanted):
            problem = f"{package.name} {package.version} is installed, {package.wanted} is needed"
            findings.append(Finding("warning", problem, f"pip install '{package.name}{package.wanted}'"))
    return [*findings, *name_findings(installed), *export_findings(found)]


def name_findings(installed: Mapping[str, str]) -> list[Finding]:
    """A warning where another project's `edgekit`, which unpacks into the same folder, is installed too."""
    other = installed.get(distribution.OTHER_PROJECT)
    if other is None:
        return []
    problem = f"the package {distribution.OTHER_PROJECT} {other} is another project and overwrites files of this one"
    both = f"pip uninstall -y {distribution.OTHER_PROJECT} {distribution.NAME}"
    return [Finding("warning", problem, f"{both} && {distribution.install()}")]


def export_findings(found: tuple[Package, ...]) -> list[Finding]:
    """Notes on the models that cannot be exported here, and the packages that are missing for them."""
    missing = {extra: [each.name for each in found if (each.extra, each.version) == (extra, None)] for extra in EXTRAS}
    if names := missing["export-lm"]:
        problem = f"cannot export models here: {', '.join(names)} not installed"
        remedy = f"for language models: {distribution.install('export-lm')}; for all: {distribution.install('export')}"
        return [Finding("note", problem, remedy)]
    if names := missing["export"]:
        problem = f"can export language and recurrent models only: {', '.join(names)} not installed"
        return [Finding("note", problem, distribution.install("export"))]
    return []


def cache_findings(kept: tuple[Cache, ...]) -> list[Finding]:
    """Folders that cannot be written, or made."""
    remedy = "set HF_HOME and XDG_CACHE_HOME to folders that you may write to"
    closed = (cache for cache in kept if not os.access(_nearest(cache.folder), os.W_OK | os.X_OK))
    return [Finding("warning", f"{cache.folder} (for {cache.holds}) cannot be written", remedy) for cache in closed]


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(_nearest(folder)).free
    except OSError:
        return None


def _nearest(folder: Path) -> Path:
    """`folder`, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _installed() -> dict[str, str]:
    """Version by name of every installed package; a folder with broken metadata has neither."""
    names = ((found.name, found.version) for found in metadata.distributions() if found.metadata is not None)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in names if name and version}


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version's release, without trailing zeros: 2.13.0+cpu is (2, 13), as PEP 440 compares them."""
    matched = re.match(r"[\d.]*\d", version)
    numbers = [int(number) for number in matched[0].split(".")] if matched else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
