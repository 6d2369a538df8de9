"""Export models that `edgekit bench` is given in place of bundles: `edgekit bench random:CONFIG`.

Knows what a bundle's folder looks like, and how a model's name becomes one; the work is `edgekit.export`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.bundle.manifest import MANIFEST
from edgekit.core import Precision, Progress, Target, mangle
from edgekit.errors import UsageError

SUFFIX = ".ek"
MADE_UP, ZOO = "random:", "zoo:"


def prepared(
    model: str,
    *,
    targets: Sequence[Target],
    precisions: Sequence[Precision],
    folder: Path,
    progress: Progress | None = None,
) -> Path:
    """The bundle that `model` names, or one that is made of it in `folder`, which the caller removes.

    `model`: a bundle, or whatever `edgekit export` takes. Raises UsageError for two models of one name, and what an
    export raises: DeviceError where the extra `export` is not installed, SourceError, VerificationError.
    """
    if is_bundle(model):
        return Path(model)
    made = folder / name_of(model)
    if made.exists():
        raise UsageError(f"two of the models have the name {made.name}", hint="measure one after the other")
    from edgekit.export import export

    export(model, made, targets=targets, precision=precisions, progress=progress)
    return made


def is_bundle(model: str) -> bool:
    """Whether it lies there as a bundle, or is called like one: then it is opened, and that says what is wrong."""
    if model.startswith((MADE_UP, ZOO)):
        return False
    path = Path(model)
    return (path / MANIFEST).is_file() or path.suffix == SUFFIX


def name_of(model: str) -> str:
    """The folder's name for a model: `random:configs/qwen3-0.6b/config.json` is `qwen3-0.6b.ek`."""
    path = Path(model.removeprefix(MADE_UP).removeprefix(ZOO)).expanduser()
    known = path.parent if path.suffix == ".json" and path.parent.name else path
    return mangle(known.stem if known.suffix in (".onnx", ".json") else known.name) + SUFFIX
