"""A decoder's weights by name: read from safetensors through a memory map, or random from a seed. No torch.

Both kinds give rows as float32, a few at a time, so that nobody holds a whole model. Knows names, shapes and dtypes,
not what a weight is for.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgekit.errors import UnsupportedError, VerificationError
from edgekit.source import safetensors, weights

if TYPE_CHECKING:
    from edgekit.core import Array, Floats

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BF16_SIZE, BF16_INFINITY = np.uint16(0x7FFF), 0x7F80  # all but the sign
CHUNK = 1 << 18  # elements that are worked on at a time: 1 MB as float32, which stays in the processor's cache
SEED = 0


class Weights(Protocol):
    """Tensors of known shapes."""

    def rows(self, name: str, begin: int, end: int) -> Floats:
        """Rows of a matrix, or elements of a vector, as float32. Raises VerificationError for NaN and infinity."""


def chunks(begin: int, end: int, width: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Ranges that cover `begin` to `end`: rows of `width` elements, about `CHUNK` in all, by `multiple` rows."""
    step = max(1, CHUNK // width // multiple) * multiple
    for at in range(begin, end, step):
        yield at, min(at + step, end)


@dataclass(frozen=True)
class Stored:
    """The tensors of a folder; `places`: name -> file and entry."""

    places: Mapping[str, tuple[Path, safetensors.Tensor]]

    def rows(self, name: str, begin: int, end: int) -> Floats:
        return _floats(self._mapped(name, begin, end), self.places[name][1].dtype)

    def whole(self, name: str) -> tuple[str, tuple[int, ...], Iterator[Array]]:
        """A tensor as it is stored: the name of its dtype, its shape, and its numbers in pieces, bfloat16 as uint16.

        Pieces raise VerificationError for NaN and infinity.
        """
        tensor = self.places[name][1]
        spans = chunks(0, tensor.shape[0], math.prod(tensor.shape[1:]))
        return NAMES[tensor.dtype], tensor.shape, (self._mapped(name, *span) for span in spans)

    def _mapped(self, name: str, begin: int, end: int) -> Array:
        """Rows as they are stored. Mapped anew each time: what is unmapped no longer counts as this process's."""
        path, tensor = self.places[name]
        dtype = np.dtype(DTYPES[tensor.dtype])
        start = tensor.begin + begin * math.prod(tensor.shape[1:]) * dtype.itemsize
        found = np.memmap(path, dtype, "r", start, (end - begin, *tensor.shape[1:]))
        if not _is_finite(found, tensor.dtype):
            raise VerificationError(
                f"weight {name!r} holds a NaN or an infinity",
                hint="the file is damaged, or the training diverged; download or train the model again",
                tensors=[name],
            )
        return found

    def equal(self, one: str, other: str) -> bool:
        """Whether two matrices of one shape hold the same."""
        count, width = self.places[one][1].shape
        spans = chunks(0, count, width)
        return all(np.array_equal(self.rows(one, *span), self.rows(other, *span)) for span in spans)


def _is_finite(found: Array, dtype: str) -> bool:
    if dtype == "BF16":  # an exponent of ones
        return int((found & BF16_SIZE).max()) < BF16_INFINITY
    return bool(np.isfinite(found.max()) and np.isfinite(found.min()))


def _floats(found: Array, dtype: str) -> Floats:
    if dtype == "BF16":  # the upper half of a float32
        return (found.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return found.astype(np.float32)


@dataclass(frozen=True)
class MadeUp:
    """Random weights: normal with deviation `std`, vectors what `fill` says. Same name, same weights."""

    shapes: Mapping[str, tuple[int, ...]]
    fill: Mapping[str, float]
    std: float

    def rows(self, name: str, begin: int, end: int) -> Floats:
        if name in self.fill:
            return np.full(end - begin, self.fill[name], np.float32)
        inner = self.shapes[name][1:]
        width = math.prod(inner)
        draws = -(-width // 4)  # a row's: four numbers of 16 bits come in one of 64
        random = np.random.PCG64([SEED, zlib.crc32(name.encode())]).advance(begin * draws)
        numbers = random.random_raw((end - begin) * draws).view(np.uint16).reshape(end - begin, 4 * draws)
        return _normal(self.std).take(numbers[:, :width]).reshape(-1, *inner)


@cache
def _normal(std: float) -> Floats:
    """The normal distribution as 65,536 equally likely values: five times as fast to draw from as numpy's."""
    upper = [NormalDist().inv_cdf((2**16 + 2 * number + 1) / 2**17) for number in range(2**15)]
    return np.asarray([-value for value in reversed(upper)] + upper, np.float32) * np.float32(std)


def stored(
    folder: Path, prefix: str, shapes: Mapping[str, tuple[int, ...]], optional: Collection[str], unused: Collection[str]
) -> Stored:
    """The tensors of `folder`, held against the `shapes` that the config asks for.

    Names without `prefix` are taken as if they had it: checkpoints of the bare model lack it. What torch.compile or
    DataParallel put before every name is left out. `optional` may be
    missing; a name that ends in one of `unused` is a buffer that some versions of transformers wrote.
    Raises BundleError, UnsupportedError.
    """
    weights.check(folder)
    tensors = list(_all(folder))
    wrapper = weights.wrapper([tensor.name for _, tensor in tensors])
    places = {}
    for path, tensor in tensors:
        name = tensor.name.removeprefix(wrapper)
        bare = name not in shapes and prefix + name in shapes
        places[prefix + name if bare else name] = path, tensor
    for name, shape in shapes.items():
        if name not in places:
            if name not in optional:
                raise weights.missing(name, places)
        else:
            _check(*places[name], shape)
    extra = [name for name in places if name not in shapes and not name.endswith(tuple(unused))]
    if extra:
        raise UnsupportedError(
            f"the weights have {extra[0]!r}, which config.json does not use",
            hint="config.json names another architecture, or this is a variant of it that EdgeKit does not know",
            tensors=sorted(extra)[:20],
        )
    return Stored(places)


def _all(folder: Path) -> Iterator[tuple[Path, safetensors.Tensor]]:
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for name in weights.choose(names, folder):
        for tensor in safetensors.header(folder / name):
            yield folder / name, tensor


def _check(path: Path, tensor: safetensors.Tensor, shape: tuple[int, ...]) -> None:
    if tensor.dtype not in DTYPES:
        raise UnsupportedError(
            f"{tensor.name!r} is stored as {tensor.dtype}",
            hint="EdgeKit reads F32, F16 and BF16: export the unquantized model and let EdgeKit quantize it",
        )
    if tensor.shape != shape:
        raise weights.misfit(tensor.name, tensor.shape, shape)
