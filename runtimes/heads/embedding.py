"""Hidden states to one vector per text: pooling, dense layers, Matryoshka cut, unit length.

Equal to sentence-transformers' Pooling, Dense and Normalize modules in that order. Knows nothing of tokens or graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np

from edgekit.bundle import array_file
from edgekit.core import Measure
from edgekit.errors import BundleError, InputError

from .. import arguments
from .. import settings as types
from ..ingest.text import inside
from .classes import sigmoid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Arrays, Floats

    Lengths = NDArray[np.int64]
    Rows = Floats | Sequence[Floats]  # (n, d), or n times (d,)

    from ..ingest.text import Encoding, TextBatch

SIMILARITIES = ("cosine", "dot")
ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
}


class Dense(types.Settings):
    """A layer after pooling; `weight` names a .npy file of (out, in), `bias` one of (out,)."""

    weight: types.FileName
    bias: types.FileName | None = None
    activation: Literal["identity", "tanh", "relu", "sigmoid", "silu"] = "identity"


class Settings(types.Settings):
    """What the bundle says of the vectors."""

    output: types.Name  # of the graph: hidden states (B, T, H), or vectors (B, H) if pooling is "none"
    pooling: Literal["mean", "cls", "last", "max", "none"]
    dense: Annotated[tuple[Dense, ...], msgspec.Meta(max_length=64)] = ()
    dimensions: types.Size | None = None  # leading numbers of a vector that are kept (Matryoshka)
    normalize: bool = False  # to unit length, after the cut
    similarity: Literal["cosine", "dot"] = "cosine"
    include_prompt: bool = True  # False: pooling leaves out the tokens of the prompt, and the special ones before it


def open(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked, with the dense layers' arrays in place of their files. Raises BundleError.

    `width` in them is that of the graph's output, 0 where it is not known; in the result, that of a whole vector.
    """
    for name, value, known in (
        ("pooling", settings.get("pooling"), tuple(POOLINGS)),
        ("similarity", settings.get("similarity", "cosine"), SIMILARITIES),
    ):
        if value not in known:
            raise BundleError(f"{name} is {value!r}, not one of {', '.join(known)}", hint="export the model again")
    if not isinstance(settings.get("output"), str):
        raise BundleError("the settings do not say which output holds the hidden states", hint="export the model again")
    if not isinstance(settings.get("dimensions"), int | None):
        raise BundleError(f"dimensions is {settings['dimensions']!r}, not a number", hint="export the model again")
    dense = [_dense(folder, layer) for layer in settings.get("dense") or ()]
    return {**settings, "dense": dense, "width": len(dense[-1]["weight"]) if dense else settings.get("width") or 0}


def numbers(outputs: Arrays, batch: TextBatch, settings: Mapping[str, Any], *, dimensions: int | None = None) -> Floats:
    """One vector a row of the batch, float32 (B, d). `settings` come from `open`.

    `dimensions` cuts the vectors to their first numbers, in place of the settings' own cut.
    Raises InputError if there are fewer than that.
    """
    hidden = outputs[settings["output"]].astype(np.float32, copy=False)
    pooling = settings["pooling"]
    if pooling != "none":
        first = batch.prompt_tokens if settings.get("include_prompt") is False else np.zeros_like(batch.lengths)
        hidden = POOLINGS[pooling](hidden, first, batch.lengths)
    vectors = hidden
    for layer in settings.get("dense") or ():
        vectors = vectors @ layer["weight"].T
        if layer["bias"] is not None:
            vectors += layer["bias"]
        vectors = ACTIVATIONS[layer["activation"]](vectors)
    vectors = _cut(vectors, settings.get("dimensions") if dimensions is None else dimensions)
    return _unit(vectors) if settings.get("normalize") else np.array(vectors)  # no view of the hidden states


def answers(numbers: Rows, encodings: Sequence[Encoding], settings: Mapping[str, Any]) -> Floats:
    """The vectors as one float32 array (n, d); (0, d) for no texts or images."""
    if len(numbers) == 0:
        width, dimensions = settings.get("width") or 0, settings.get("dimensions")
        return _cut(np.empty((0, width or dimensions or 0), np.float32), dimensions)
    return np.asarray(numbers, np.float32)


def similarity(a: Floats, b: Floats, settings: Mapping[str, Any]) -> Floats:
    """How alike each vector of `a` (n, d) is to each of `b` (m, d): float32 (n, m), by the model's own measure."""
    if settings.get("similarity", "cosine") == "dot":
        return a @ b.T
    return _unit(a) @ _unit(b).T


def compare(reference: Rows, candidate: Rows, settings: Mapping[str, Any] | None = None) -> Measure:
    """Mean cosine of the vectors; loss is 1 - cosine. A vector that is not finite counts as opposite."""
    a, b = _unit(np.asarray(reference, np.float32)), _unit(np.asarray(candidate, np.float32))
    cosine = float(np.nan_to_num(np.einsum("ij,ij->i", a, b), nan=-1.0).mean())
    return Measure("cosine", cosine, max(0.0, 1.0 - cosine))


def _mean(hidden: Floats, first: Lengths, end: Lengths) -> Floats:
    weights = _mask(hidden, first, end) / np.maximum(end - first, 1).astype(np.float32)[:, None]  # float32
    pooled: Floats = np.matmul(weights[:, None], hidden)[:, 0]
    return pooled


def _cls(hidden: Floats, first: Lengths, end: Lengths) -> Floats:
    if not first.any():
        return hidden[:, 0]
    pooled: Floats = hidden[np.arange(len(hidden)), np.where(first < end, first, 0)]
    return pooled


def _last(hidden: Floats, first: Lengths, end: Lengths) -> Floats:
    pooled: Floats = hidden[np.arange(len(hidden)), np.maximum(end, 1) - 1]
    return pooled


def _max(hidden: Floats, first: Lengths, end: Lengths) -> Floats:
    pooled: Floats = np.where(_mask(hidden, first, end)[..., None], hidden, np.float32(-np.inf)).max(axis=1)
    return pooled


def _mask(hidden: Floats, first: Lengths, end: Lengths) -> NDArray[np.bool_]:
    places = np.arange(hidden.shape[1])
    return (places >= first[:, None]) & (places < end[:, None])


def _none(vectors: Floats, first: Lengths, end: Lengths) -> Floats:
    return vectors


# Hidden states (B, T, H) to vectors (B, H): of each row, padded on the right, tokens `first` to `end` (B,).
POOLINGS = {"mean": _mean, "cls": _cls, "last": _last, "max": _max, "none": _none}


def _dense(folder: Path, layer: Mapping[str, Any]) -> dict[str, Any]:
    activation = str(layer.get("activation") or "identity").rpartition(".")[2].lower()
    if activation not in ACTIVATIONS:
        raise BundleError(
            f"unknown activation {activation!r} of a dense layer", hint=f"known: {', '.join(ACTIVATIONS)}"
        )
    bias = layer.get("bias")
    return {
        "weight": _array(folder, layer.get("weight"), 2),
        "bias": None if bias is None else _array(folder, bias, 1),
        "activation": activation,
    }


def _array(folder: Path, name: object, axes: int) -> Floats:
    path = inside(folder, name)
    array = array_file.read_npy(path)
    if array.ndim != axes:
        raise BundleError(f"{name} has {array.ndim} axes, not {axes}", hint="export the model again")
    return np.asarray(array, np.float32)


def _cut(vectors: Floats, dimensions: int | None) -> Floats:
    if dimensions is None:
        return vectors
    width = vectors.shape[1]
    if (arguments.count(dimensions, "dimensions", f"give a whole number from 1 to {width}") or 1) > width:
        raise InputError(
            f"cannot shorten vectors of {vectors.shape[1]} numbers to {dimensions}",
            hint=f"give dimensions from 1 to {vectors.shape[1]}",
        )
    return vectors[:, :dimensions]


def _unit(vectors: Floats) -> Floats:
    """Each vector by its length; one of length zero stays (torch.nn.functional.normalize's epsilon)."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    scaled: Floats = vectors / np.maximum(norms, np.float32(1e-12))[:, None]
    return scaled
