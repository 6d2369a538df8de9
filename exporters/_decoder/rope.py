"""Rotary position embeddings: compute the tables of cosines and sines from a config.

The formulas are those of transformers' `modeling_rope_utils.py`, in float32 where it computes in float32. Knows no
architecture and no graph.

Tables end at the context length. `dynamic` scaling begins beyond `max_position_embeddings`, which is the context
length for it: up to there it is no scaling at all, and longer prompts are refused by the loop, not computed otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import BundleError, UnsupportedError

from .config import AGAIN, Config

if TYPE_CHECKING:
    from edgekit.core import Floats

# Positions that a table holds at most: beyond, the tables of a model with a million positions weigh half a gigabyte,
# and its KV cache would not fit on a device.
LONGEST = 131_072


@dataclass(frozen=True)
class Rope:
    """One kind of rotation. `long`: frequencies that count as soon as any position reaches `switch` (longrope)."""

    frequencies: Floats  # (rotary_dim / 2,)
    scale: float = 1.0  # of cosines and sines: yarn's and longrope's attention factor
    long: Floats | None = None
    switch: int = 0

    @property
    def dim(self) -> int:
        """How many of a head's features are rotated."""
        return 2 * len(self.frequencies)

    def tables(self, positions: int, *, long: bool = False) -> tuple[Floats, Floats]:
        """Cosines and sines, float32 (positions, dim / 2)."""
        frequencies = self.long if long and self.long is not None else self.frequencies
        angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
        scale = np.float32(self.scale)
        return np.cos(angles) * scale, np.sin(angles) * scale


def parameters(config: Config, theta: float) -> dict[str, Any]:
    """What the config says of rotation, in one dict: `rope_parameters` (transformers 5) or the older keys.

    `theta` is the architecture's default base. Raises BundleError where it is not an object.
    """
    found = config.object("rope_scaling") or config.object("rope_parameters")
    if any(isinstance(value, dict) for value in found.values()):
        raise UnsupportedError(
            "config.json has a rotation for each kind of layer, which this architecture does not have", hint=AGAIN
        )
    made = dict(found)
    made.setdefault("rope_type", made.get("type", "default"))
    made.setdefault("rope_theta", config.get("rope_theta") or theta)
    if config.get("partial_rotary_factor") is not None:
        made.setdefault("partial_rotary_factor", config.get("partial_rotary_factor"))
    original = config.get("original_max_position_embeddings") or made.get("original_max_position_embeddings")
    made["original_max_position_embeddings"] = original or config.get("max_position_embeddings")
    return made


def rope(told: Mapping[str, Any], head_dim: int, context: int, *, partial: bool) -> Rope:
    """The rotation that `parameters` describe; `context` is `max_position_embeddings`.

    `partial`: the architecture rotates a part of each head if the config says so. Raises UnsupportedError for a type
    that is not known, BundleError for parameters that are missing or make no sense.
    """
    kind = told["rope_type"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise UnsupportedError(
            f"the rotary embedding {kind!r:.60} is not known",
            hint=f"known: {', '.join(KINDS)}; a model with another one would be wrong, so it is not exported",
            key="rope_type",
        )
    values = Config(told)
    share = values.number("partial_rotary_factor") if "partial_rotary_factor" in told else 1.0
    dim = int(head_dim * share)
    if share != 1 and not partial:
        raise UnsupportedError(
            f"config.json sets partial_rotary_factor to {share}, which this architecture does not have", hint=AGAIN
        )
    if not 0 < dim <= head_dim or dim % 2:
        raise BundleError(f"config.json rotates {dim} of the {head_dim} features of a head", hint=AGAIN)
    base = values.number("rope_theta")
    if base <= 1:
        raise BundleError(f"config.json: rope_theta is {base}, not above 1", hint=AGAIN)
    return KINDS[kind](values, base, dim, context)


def context_length(told: Mapping[str, Any], stated: int) -> int:
    """Positions that the model is made for: yarn's configs often keep `max_position_embeddings` of the pretraining."""
    values = Config(told)
    factor = values.number_or_none("factor") if told["rope_type"] == "yarn" else None
    return stated if factor is None else max(stated, int(factor * values.size("original_max_position_embeddings")))


def _powers(base: float, dim: int) -> Floats:
    """base^(2 i / dim), float32."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (np.float32(base) ** exponents).astype(np.float32)


def _default(told: Config, base: float, dim: int, context: int) -> Rope:
    return Rope(np.float32(1) / _powers(base, dim))


def _linear(told: Config, base: float, dim: int, context: int) -> Rope:
    return Rope(np.float32(1) / _powers(base, dim) / np.float32(told.above_zero("factor")))


def _llama3(told: Config, base: float, dim: int, context: int) -> Rope:
    """Slow frequencies are divided by `factor`, fast ones stay, those between are mixed (Llama 3.1)."""
    plain = np.float32(1) / _powers(base, dim)
    factor, original = told.above_zero("factor"), told.size("original_max_position_embeddings")
    low, high = told.above_zero("low_freq_factor"), told.above_zero("high_freq_factor")
    if high <= low:
        raise BundleError("config.json: high_freq_factor is not above low_freq_factor", hint=AGAIN)
    wavelength = np.float32(2 * math.pi) / plain
    smooth = (original / wavelength - low) / (high - low)
    mixed = (1 - smooth) * plain / factor + smooth * plain
    scaled = np.where(wavelength > original / low, plain / factor, plain)
    between = (wavelength >= original / high) & (wavelength <= original / low)
    return Rope(np.where(between, mixed, scaled).astype(np.float32))


def _yarn(told: Config, base: float, dim: int, context: int) -> Rope:
    """arXiv:2309.00071: interpolate what turns slower than `beta_slow` in the original length, keep what is faster."""
    original = told.size("original_max_position_embeddings")
    factor = context / original if told.get("factor") is None else told.above_zero("factor")
    powers = _powers(base, dim)

    def dimension(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = (dimension(told.above_zero(key) if told.get(key) else usual) for key, usual in _BETAS)
    if told.get("truncate") is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / (high - low or 0.001), 0, 1)
    mixed = ramp / (np.float32(factor) * powers) + (1 - ramp) / powers
    return Rope(mixed.astype(np.float32), _yarn_scale(told, factor))


def _yarn_scale(told: Config, factor: float) -> float:
    stated = told.number_or_none("attention_factor")
    if stated is not None:
        return stated

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    one, all_dims = told.number_or_none("mscale"), told.number_or_none("mscale_all_dim")
    return scale(one) / scale(all_dims) if one and all_dims else scale(1)


_BETAS = (("beta_fast", 32.0), ("beta_slow", 1.0))


def _longrope(told: Config, base: float, dim: int, context: int) -> Rope:
    """arXiv:2402.13753: a divisor for each frequency; one set up to the original length, another beyond."""
    original = told.size("original_max_position_embeddings")
    factor = context / original if told.get("factor") is None else told.above_zero("factor")
    scale = told.number_or_none("attention_factor")
    if scale is None:
        scale = math.sqrt(1 + math.log(factor) / math.log(original)) if min(factor, original) > 1 else 1.0
    powers = _powers(base, dim)
    short, long = (np.float32(1) / (_factors(told, key, dim) * powers) for key in ("short_factor", "long_factor"))
    return Rope(short, scale, long, original)


def _factors(told: Config, key: str, dim: int) -> Floats:
    found = told.get(key)
    if not isinstance(found, list) or len(found) != dim // 2 or not all(_positive(factor) for factor in found):
        raise BundleError(f"config.json: {key} is not a list of {dim // 2} numbers above 0", hint=AGAIN)
    return np.asarray(found, np.float32)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


KINDS: dict[str, Callable[[Config, float, int, int], Rope]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _default,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
}
