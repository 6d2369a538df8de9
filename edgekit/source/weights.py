"""Find a model's weight files, and check them before anything loads them.

Only safetensors are read. Pickle runs code when it is loaded: a folder that has nothing else is refused. Knows no
architecture; one file's bytes are `edgekit.source.safetensors`'s.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.bundle import strict_json
from edgekit.errors import BundleError
from edgekit.source.refusals import SUFFIX, require_safetensors
from edgekit.source.safetensors import Tensor, header, is_nonfinite

MAX_INDEX = 64 << 20

# What torch.compile, DataParallel and peft put before the name of every tensor that they save.
WRAPPERS = ("_orig_mod.", "module.", "base_model.model.")
INDEX = ".safetensors.index.json"
# Folders in which repositories keep the same weights again, for other programs.
ASIDE = {".git", ".cache", "onnx", "openvino", "coreml", "flax", "gguf", "metal", "original", "runs"}


def check(folder: Path) -> None:
    """Every weight file is whole, honest about its bytes, and named by the index that belongs to it.

    Raises BundleError. Reads headers only: tens of milliseconds for a model of many gigabytes.
    """
    names = _names(folder)
    require_safetensors(names)
    for home, chosen in _homes(names, folder).items():
        owner: dict[str, str] = {}
        for name in chosen.files:
            for tensor in header(folder / home / name):
                if tensor.name in owner:
                    raise _bad(folder / home / name, f"holds {tensor.name!r}, and so does {owner[tensor.name]}")
                owner[tensor.name] = name
        for tensor_name, shard in chosen.promised.items():
            if owner.get(tensor_name) != shard:
                raise _bad(folder / home / shard, f"does not hold {tensor_name!r}, although the index says so")


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every tensor that would be loaded, by name; a sub-folder's tensors as `2_Dense/linear.weight`."""
    return {name: tensor.end - tensor.begin for name, _, tensor in _all(folder)}


def nonfinite(folder: Path) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity. Streams every weight once, 16 MiB at a time."""
    return [name for name, path, tensor in _all(folder) if is_nonfinite(path, tensor)]


def names(folder: Path) -> list[str]:
    """Names of the tensors that would be loaded."""
    return [name for name, *_ in _all(folder)]


def wrapper(names: Collection[str]) -> str:
    """What torch.compile, DataParallel or a merged adapter put before every name; empty where nothing did."""
    found = ""
    while names:
        before = next((each for each in WRAPPERS if all(name.startswith(found + each) for name in names)), "")
        if not before:
            break
        found += before
    return found


def missing(name: str, names: Collection[str]) -> BundleError:
    """The error for a tensor that the model needs and the files, which hold `names`, have not."""
    prefixed = next((stored for stored in sorted(names) if stored.endswith("." + name)), "")
    if prefixed:
        prefix = prefixed.removesuffix(name)
        hint = f"there is {prefixed!r}: rename the tensors without {prefix!r}, or save the inner model"
    else:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"there is {near[0]!r}; is config.json of another model?" if near else "download the model again"
    return BundleError(f"the weights have no {name!r}", hint=hint, tensor=name)


def misfit(name: str, stored: Sequence[int], needed: Sequence[int]) -> BundleError:
    """The error for a tensor whose shape is not the one that config.json asks for."""
    return BundleError(
        f"{name!r} has shape {list(stored)}; config.json needs {list(needed)}",
        hint="config.json and the weights belong to different models: download both again",
        tensor=name,
    )


def choose(names: Iterable[str], folder: Path) -> list[str]:
    """Which of a repository's files are the weights to load; an index among `names` must lie in `folder` already.

    Per folder it is what transformers takes: `model.safetensors`, else the shards of an index, else what there is
    (a diffusers part, an adapter), where `x.fp16.safetensors` is a copy of `x`. Raises BundleError for a bad index.
    """
    homes = _homes(list(names), folder).items()
    return [(home / name).as_posix() for home, chosen in homes for name in chosen.files]


def is_aside(name: str) -> bool:
    """Whether a file of that relative name lies in a folder that is not part of the model itself."""
    return any(part in ASIDE or part.startswith("checkpoint-") for part in name.split("/")[:-1])


@dataclass(frozen=True)
class _Chosen:
    files: list[str]
    promised: dict[str, str]  # tensor -> file, as an index says; empty without one


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _homes(names: list[str], folder: Path) -> dict[PurePosixPath, _Chosen]:
    """Sub-folder -> its weights; a model's parts (`2_Dense`, `unet`) have one each."""
    homes: dict[PurePosixPath, list[str]] = {}
    for path in (PurePosixPath(name) for name in names if not is_aside(name)):
        if path.name.endswith((SUFFIX, INDEX)):
            homes.setdefault(path.parent, []).append(path.name)
    return {home: _chosen(sorted(homes[home]), folder / home) for home in sorted(homes)}


def _chosen(names: list[str], home: Path) -> _Chosen:
    if "model" + SUFFIX in names:
        return _Chosen(["model" + SUFFIX], {})
    for name in names:
        if name.endswith(INDEX) and "." not in name.removesuffix(INDEX):
            promised = _weight_map(home / name, names)
            return _Chosen(sorted(set(promised.values())), promised)
    files = [name for name in names if name.endswith(SUFFIX)]
    return _Chosen([name for name in files if name.count(".") == 1] or files, {})


def _weight_map(index: Path, names: list[str]) -> dict[str, str]:
    """Tensor -> shard; every shard is among `names`, the files beside the index. Raises BundleError."""
    found = strict_json.read(index, MAX_INDEX).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise _bad(index, "has no weight_map")
    for shard in set(map(str, found.values())):
        if not shard.endswith(SUFFIX):
            raise _bad(index, f"names {shard!r}, which is not a safetensors file")
        if shard not in names:  # so neither can it lead out of the folder
            raise _bad(index, f"names {shard!r}, which is not in the same folder")
    return {name: str(shard) for name, shard in found.items()}


def _all(folder: Path) -> Iterator[tuple[str, Path, Tensor]]:
    for name in choose(_names(folder), folder):
        inside = name.rpartition("/")[0]
        for tensor in header(folder / name):
            yield (f"{inside}/{tensor.name}" if inside else tensor.name), folder / name, tensor


def _bad(path: Path, what: str) -> BundleError:
    return BundleError(f"{path.name} {what}", hint="download or save the model again", file=str(path))
