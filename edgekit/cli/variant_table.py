"""A bundle's settings and variants as text: the same columns in the same order for `export` and `inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.bundle.safe_files import size_text
from edgekit.core import QUANTIZED
from edgekit.text_table import clean, table, wrapped

if TYPE_CHECKING:
    from edgekit.core import Variant

# The settings that a reader looks for first, with how they are said.
FACTS = {
    "context_length": "context of {} tokens",
    "max_length": "at most {} tokens",
    "vocab_size": "vocabulary of {}",
    "chat_template": "chat template",
    "labels": "{} labels",
    "features": "{} columns",
    "horizon": "horizon of {} steps",
    "rate": "{} samples/s",
    "pooling": "pooling {}",
    "dimensions": "{} dimensions",
    "output": "output {}",
}
SHOWN = 4  # of them, unless all settings are asked for
LEVEL = 1.05  # latencies within 5 % are equal


def settings_text(settings: Mapping[str, Any]) -> str:
    """The most important settings in a line; `-v` shows all of them."""
    known = {name: settings.get(name) for name in FACTS}
    facts = [FACTS[name].format(_count(value)) for name, value in known.items() if value not in (None, "", (), [], {})]
    return ", ".join(facts[:SHOWN])


def settings_table(settings: Mapping[str, Any]) -> str:
    """All settings that are not empty, one a line."""
    rows = [(name, short(value)) for name, value in settings.items() if value not in (None, "", (), [], {})]
    return table(("setting", "value"), rows)


def variant_table(variants: Sequence[Variant], *, all_figures: bool = False) -> str:
    """Latency and size of each variant, with those of fp32 in brackets, and how near it is to the reference.

    `all_figures`: the loss and the proven difference too.
    """
    metric = next((str(variant.measured["metric"]) for variant in variants if "metric" in variant.measured), "")
    near = "error" if "error" in metric else "agreement"
    options = ("engine options",) if any(variant.options for variant in variants) else ()
    more = ("loss", "proof_difference") if all_figures else ()
    rows = [
        (
            variant.name,
            _latency(variant.measured),
            _size(variant.measured),
            _agreement(variant.measured),
            *(short(variant.measured.get(name, "")) for name in more),
            *(" ".join(f"{name}={value}" for name, value in variant.options.items()) for _ in options),
        )
        for variant in variants
    ]
    heads = ("variant", "latency (fp32)", "size (fp32)", near, *(name.replace("_", " ") for name in more), *options)
    notes = "\n".join(map(wrapped, filter(None, (_explained(variants), *gains(variants)))))
    return "\n\n".join(filter(None, (table(heads, rows), notes)))


def gains(variants: Sequence[Variant]) -> Iterator[str]:
    """One line for each quantized variant: what quantization brought on the exporting machine."""
    for variant in variants:
        figures = variant.measured
        ours, theirs = figures.get("milliseconds"), figures.get("fp32_milliseconds")
        if variant.recipe.weights not in QUANTIZED or not ours or not theirs:
            continue
        ratio = theirs / ours
        speed = "as fast as fp32" if 1 / LEVEL < ratio < LEVEL else f"{ratio:.2f}x as fast as fp32"
        size, full = figures.get("bytes"), figures.get("fp32_bytes")
        smaller = f" and {full / size:.1f}x smaller" if size and full else ""
        verdict = "" if ratio >= LEVEL else "; use it for its size" if smaller else "; it brings nothing"
        yield f"{variant.name} is {speed}{smaller}{verdict}."


def short(value: object) -> str:
    """A float to four digits, a long list or mapping by its length."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple, dict)) and len(value) > 4:
        return f"({len(value)})"
    return clean(str(value))


def _count(value: object) -> str:
    """A number with separators, a list by its length, a text as it is."""
    if isinstance(value, (list, tuple, dict)):
        return str(len(value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else clean(str(value))


def _explained(variants: Sequence[Variant]) -> str:
    samples = next((variant.measured["samples"] for variant in variants if "samples" in variant.measured), None)
    if samples is None:
        return ""
    kinds = {graph.kind for variant in variants for graph in variant.graphs}
    item = "one generated token" if "decoder" in kinds else "one input"
    return f"Measured on the exporting machine: median latency of {item}, agreement with the model on {samples} inputs."


def _latency(figures: Mapping[str, Any]) -> str:
    return _with_before(*(_milliseconds(figures.get(name)) for name in ("milliseconds", "fp32_milliseconds")))


def _size(figures: Mapping[str, Any]) -> str:
    sizes = [figures.get(name) for name in ("bytes", "fp32_bytes")]
    return _with_before(*(size_text(size) if isinstance(size, int) else "" for size in sizes))


def _agreement(figures: Mapping[str, Any]) -> str:
    from edgekit.reporting import number_text

    if "agreement" not in figures:
        return ""
    return number_text.measure(clean(str(figures.get("metric", ""))), float(figures["agreement"]))


def _milliseconds(value: object) -> str:
    from edgekit.reporting import number_text

    return number_text.seconds(value / 1e3) if isinstance(value, (int, float)) else ""


def _with_before(now: str, before: str) -> str:
    return f"{now} ({before})" if now and before else now
