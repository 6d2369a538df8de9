"""Find a model's weight files, and check them before anything loads them.

Only safetensors are read. Pickle runs code when it is loaded: a folder that has nothing else is refused. Knows no
architecture; one file's bytes are `edgekit.source.safetensors`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.bundle import strict_json
from edgekit.errors import BundleError
from edgekit.source.safetensors import Tensor, header, is_nonfinite

MAX_INDEX = 64 << 20

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SUFFIX, INDEX = ".safetensors", ".safetensors.index.json"
# Folders in which repositories keep the same weights again, for other programs.
ASIDE = {".git", ".cache", "onnx", "openvino", "coreml", "flax", "gguf", "metal", "original", "runs"}


def check(folder: Path) -> None:
    """Every weight file is whole, honest about its bytes, and named by the index that belongs to it.

    Raises BundleError. Reads headers only: tens of milliseconds for a model of many gigabytes.
    """
    names = _names(folder)
    refuse_pickles(names)
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


def refuse_pickles(names: Iterable[str]) -> None:
    """Raises BundleError where files of these names hold no safetensors; the hint differs for pickled weights."""
    known = list(names)
    if any(name.endswith(SUFFIX) for name in known):
        return
    pickles = sorted(name for name in known if name.endswith(PICKLES))
    if not pickles:
        raise BundleError("no weights: there is no .safetensors file", hint="random:PATH exports with random weights")
    raise BundleError(
        f"only pickled weights ({', '.join(pickles[:3])}): loading them can run any code, so EdgeKit does not",
        hint="on the hub, look for a revision with safetensors (often --revision refs/pr/1); or convert the file in a "
        "container without network: torch.load(FILE, weights_only=True), then safetensors.torch.save_file",
        files=pickles,
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
