"""Raw network: named arrays in, named arrays out, for an ONNX file of any kind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
import numpy as np

from edgekit import limits
from edgekit.core import Measure
from edgekit.errors import InputError
from edgekit.model import Model

from .. import settings as types
from ..samples import arrays as samples

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays, Bundle, Port

ALIASES = ("network",)


class PortSettings(types.Settings):
    """An input or output of the network: numpy's dtype, and a length or a name for each axis."""

    name: types.Name
    dtype: types.Name
    shape: Annotated[list[types.Size | types.Name], msgspec.Meta(max_length=limits.TENSOR_RANK)]


class Settings(types.Settings):
    """What the bundle says of the network's arrays."""

    inputs: Annotated[list[PortSettings], msgspec.Meta(min_length=1, max_length=limits.SETTING_ITEMS)]
    outputs: Annotated[list[PortSettings], msgspec.Meta(min_length=1, max_length=limits.SETTING_ITEMS)]


class Raw(Model):
    """Arrays to arrays."""

    INPUT = "arrays"
    METHODS = ("predict",)
    SETTINGS = (Settings,)
    ALONE: ClassVar[bool] = True
    BUDGET: ClassVar[Mapping[str, float]] = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3, "int8": 5e-2, "int4": 1e-1}

    def predict(self, inputs: Arrays | Sequence[Arrays]) -> Any:
        """Run the network on arrays by input name, `{"x": array}`; returns `{"y": array}`, a list for a list.

        An array has the dtype of its input; lists of numbers and other dtypes are taken where no value changes.
        Raises InputError naming the input whose name, dtype or shape does not fit.
        """
        if isinstance(inputs, Mapping):
            return self._one(inputs, "")
        if isinstance(inputs, str | bytes | np.ndarray) or not isinstance(inputs, Sequence):
            raise InputError(
                f"inputs are {type(inputs).__name__}, not a mapping",
                hint=f"give arrays by name: {{{self.graph().inputs[0].name!r}: array}}",
            )
        return [self._one(each, f"inputs[{number}]: ") for number, each in enumerate(inputs)]

    def run(self, items: Any, **options: Any) -> Iterator[dict[str, Array]]:
        yield from self.predict([items] if isinstance(items, Mapping) else list(items), **options)

    @classmethod
    def samples(cls, bundle: Bundle, file: Path | None = None, option: str = "--calibration") -> list[Any]:
        """Arrays made up by dtype and shape, with the user's own behind them."""
        ports = bundle.settings["inputs"]
        return samples.read(file, ports, option) if file else samples.made_up(ports)

    @staticmethod
    def item(sample: Any) -> Any:
        """A sample's arrays by input."""
        return samples.arrays(sample)

    def encode(self, samples: Sequence[Any]) -> list[Array]:
        """A digest of each sample's arrays, uint8 (32,)."""
        return [np.frombuffer(_digest(self._feeds(self.item(sample), "")), np.uint8) for sample in samples]

    def outputs(self, samples: Sequence[Any]) -> list[Array]:
        """All outputs of each sample, one behind the other, (numbers,): floats, where the network gives any."""
        found = []
        for sample in samples:
            outputs = self._one(self.item(sample), "")
            # The index of the largest float changes at once where two are near, and is large where floats are small.
            outputs = {name: y for name, y in outputs.items() if y.dtype.kind == "f"} or outputs
            wide = any(array.dtype.itemsize > 4 for array in outputs.values())
            flat = [np.ravel(array).astype(np.float64 if wide else np.float32) for array in outputs.values()]
            found.append(np.concatenate(flat))
        return found

    @classmethod
    def compare(
        cls,
        reference: Sequence[Array],
        candidate: Sequence[Array],
        settings: Mapping[str, Any],
        samples: Sequence[Any] = (),
    ) -> Measure:
        """The root mean square of the difference by that of the reference, over all samples; infinite for NaN."""
        if any(a.shape != b.shape for a, b in zip(reference, candidate, strict=True)):
            return Measure("relative error", float("inf"), float("inf"))
        a, b = (np.concatenate([np.asarray(each, np.float64) for each in arrays]) for arrays in (reference, candidate))
        error = float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-12))
        error = error if np.isfinite(error) else float("inf")
        return Measure("relative error", error, error)

    def _one(self, inputs: Arrays, what: str) -> dict[str, Array]:
        outputs, _ = self.session_of().run(self._feeds(inputs, what))
        return dict(outputs)

    def _feeds(self, inputs: Arrays, what: str) -> dict[str, Array]:
        """The arrays as the graph takes them. Raises InputError."""
        ports = {port.name: port for port in self.graph().inputs}
        if not isinstance(inputs, Mapping) or set(inputs) != set(ports):
            names = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
            takes = ", ".join(f"{port.name} {port.dtype} {list(port.shape)}" for port in ports.values())
            raise InputError(f"{what}the inputs are {names or 'empty'}", hint=f"give arrays by name: {takes}")
        feeds = {name: _array(inputs[name], port, what) for name, port in ports.items()}
        lengths: dict[str, tuple[int, str]] = {}
        for name, port in ports.items():
            for axis, length in zip(port.shape, feeds[name].shape):
                if isinstance(axis, str) and lengths.setdefault(axis, (length, name))[0] != length:
                    other, first = lengths[axis]
                    raise InputError(
                        f"{what}{name} has {length} of {axis!r}, and {first} has {other}",
                        hint="axes of one name have one length",
                    )
        return feeds


def _array(value: Any, port: Port, what: str) -> Array:
    """A value as the port's array. Raises InputError."""
    wanted = f"expected {port.dtype} {list(port.shape)}"
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{what}{port.name} is not an array", hint=wanted, cause=str(error)) from error
    if array.dtype.kind not in "biuf":
        kind = "text" if array.dtype.kind in "SU" else array.dtype.name
        raise InputError(f"{what}{port.name} holds {kind}, not numbers", hint=wanted)
    shape = tuple(array.shape)
    if len(shape) != len(port.shape) or any(isinstance(a, int) and a != b for a, b in zip(port.shape, shape)):
        raise InputError(f"{what}{port.name} has the shape {list(shape)}", hint=wanted)
    with np.errstate(all="ignore"):
        kept = np.ascontiguousarray(array.astype(port.dtype, copy=False)).reshape(shape)
    floats = kept.dtype.kind == "f" and array.dtype.kind == "f"  # a float loses digits, as everywhere
    if floats and np.isinf(kept).sum() == np.isinf(array).sum():
        return kept
    with np.errstate(all="ignore"):
        same = np.array_equal(kept.astype(array.dtype), array)
    if not same:
        raise InputError(f"{what}{port.name} is {array.dtype.name}, whose values {port.dtype} cannot hold", hint=wanted)
    return kept


def _digest(feeds: Arrays) -> bytes:
    digest = hashlib.sha256()
    for name, array in feeds.items():
        digest.update(f"{name} {array.dtype.name} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.digest()
