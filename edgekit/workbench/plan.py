"""Plan an export before anything heavy is loaded: source, task, and every variant with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit import registry
from edgekit.bundle.safe_files import size_text
from edgekit.core import QUANTIZED, Availability, Exporter, Recipe, Source, check_options
from edgekit.errors import DeviceError, ResourceError, UnsupportedError, UsageError
from edgekit.quantize.recipes import recipe as recipe_for
from edgekit.source import resolve
from edgekit.source.onnx_file import Shapes

EngineOptions = Mapping[str, Mapping[str, str]]  # target -> option -> value


@dataclass(frozen=True)
class Choice:
    """One variant that will be made, and why."""

    target: str
    recipe: Recipe
    reason: str
    options: dict[str, str]  # for the engine, beyond what the target does by itself

    @property
    def name(self) -> str:
        return f"{self.target}/{self.recipe.name}"


@dataclass(frozen=True)
class Plan:
    """`left_out`: combinations that were asked for together and cannot be, with the reason. Sizes in bytes."""

    source: Source
    task: str
    choices: tuple[Choice, ...]
    left_out: tuple[str, ...]
    weight_bytes: int
    memory_needed: int
    disk_needed: int

    @property
    def variants(self) -> list[tuple[str, str]]:
        return [(choice.name, choice.reason) for choice in self.choices]


def plan(
    model: str | Source,
    *,
    task: str | None = None,
    targets: Sequence[str] = (),
    precision: Sequence[str] = (),
    method: str | None = None,
    group_size: int | None = None,
    engine_options: EngineOptions | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    offline: bool = False,
    states: Mapping[str, str] | None = None,
    inputs: Mapping[str, Any] | None = None,
    shapes: Shapes | None = None,
) -> Plan:
    """`states` (input -> output), constant `inputs` and `shapes` are an ONNX file's.

    Raises SourceError, UnsupportedError, UsageError, DeviceError, BundleError (bad weights)."""
    if isinstance(model, Source):
        found = model
    else:
        found = resolve.resolve(
            model,
            revision=revision,
            offline=offline,
            trust_remote_code=trust_remote_code,
            states=states,
            inputs=inputs,
            shapes=shapes,
        )
    exporter: Exporter = registry.exporter(found.arch)
    wanted = registry.task_name(task or exporter.task(found))
    if wanted not in exporter.tasks:
        raise UnsupportedError(
            f"{found.arch} cannot be exported for the task {wanted}", hint=f"its tasks are: {', '.join(exporter.tasks)}"
        )
    why_float = exporter.why_float(found) if hasattr(exporter, "why_float") else ""
    recipes = [
        recipe_for(name, method=method, group_size=group_size, blocks=exporter.quantizes, usual=exporter.group_sizes)
        for name in _precisions(precision, "fp32" if why_float else exporter.precision)
    ]
    if why_float and any(recipe.weights in QUANTIZED for recipe in recipes):
        raise UnsupportedError(f"{why_float}, and is not quantized again", hint="use --precision fp32, or auto")
    choices, left_out = _choices(_targets(targets), recipes, engine_options or {}, exporter.kind, bool(precision))
    if why_float:
        left_out = (*left_out, f"{exporter.precision}: {why_float}")
    sizes = {} if found.random else resolve.sizes(found)
    size = sum(sizes.values())
    return Plan(
        found,
        wanted,
        choices,
        left_out,
        weight_bytes=size,
        memory_needed=_memory(exporter.needs_torch, size, max(sizes.values(), default=0)),
        disk_needed=_written(exporter, recipes) * size + 50_000_000,
    )


def may_fall_back(made: Plan, precision: str | Sequence[str], method: str | None, group_size: int | None) -> bool:
    """Whether a quantization that fails may be left out: nobody asked for it, and no one knew the file before.

    A file of the user's has weights that no exporter has seen; other models have a default that was tried.
    """
    chosen = [precision] if isinstance(precision, str) else list(precision)
    quantized = any(choice.recipe.weights in QUANTIZED for choice in made.choices)
    asked = method or group_size or any(name in QUANTIZED for name in chosen)
    return quantized and not asked and made.source.arch in (registry.ONNX_FILE, registry.ONNX_NETWORK)


def keeps_floats(exporter: Exporter, recipes: Iterable[Recipe]) -> bool:
    """Whether an export writes the weights as float32: for a float variant, or to quantize or compare them."""
    return not exporter.as_stored or any(recipe.weights not in QUANTIZED for recipe in recipes)


def _written(exporter: Exporter, recipes: Sequence[Recipe]) -> int:
    """How many times as much as the weights, which may be stored in 16 bits, an export writes at most."""
    return 6 if exporter.quantizes and keeps_floats(exporter, recipes) else 3


def _memory(needs_torch: bool, size: int, largest: int) -> int:
    """Bytes that an export takes: a built model goes by one tensor at a time."""
    if not needs_torch:
        return 4 * largest + 1_000_000_000
    # torch's float32 copy of weights that may be stored as float16, the tracer's constants, and torch itself.
    return 4 * size + 1_200_000_000


def _precisions(asked: Sequence[str], usual: str) -> list[str]:
    wanted = [usual if name == "auto" else name for name in asked] or [usual]
    return list(dict.fromkeys(wanted))


def _targets(asked: Sequence[str]) -> list[str]:
    """Those asked for, each of which must be here; without any, all that this machine has."""
    if asked:
        found = {name: registry.find("targets", name).probe() for name in asked}
        for availability in found.values():
            if not availability.available:
                raise _missing(availability)
        return list(found)
    here = [name for name in registry.names("targets") if registry.find("targets", name).probe().available]
    if not here:
        raise DeviceError("no target runs on this machine", hint="pip install onnxruntime")
    return here


def _missing(availability: Availability) -> DeviceError:
    return DeviceError(
        f"target {availability.target} cannot run on this machine: {availability.why}",
        hint=availability.hint or "export on a machine that has this target: each bundle is run before it is published",
    )


def _choices(
    targets: Sequence[str], recipes: Sequence[Recipe], engine_options: EngineOptions, kind: str, asked_for: bool
) -> tuple[tuple[Choice, ...], tuple[str, ...]]:
    """Every target in every precision that it computes. A precision that none of them has is an error."""
    for name, options in engine_options.items():
        if name not in targets:
            raise UsageError(
                f"--engine-option is for {name}, and the bundle is for {', '.join(targets)}",
                hint=f"add --target {name}, or leave the option out",
            )
        check_options(options, registry.find("targets", name).OPTIONS, name, UsageError)
    reason = "asked for" if asked_for else "the default for this kind of model"
    choices, left_out = [], []
    for recipe in recipes:
        able = [name for name in targets if recipe.weights in _computes(name, kind)]
        if not able:
            have = _computes(targets[0], kind)
            raise UnsupportedError(
                f"{' and '.join(targets)} cannot compute in {recipe.weights}",
                hint=f"{targets[0]} has {', '.join(have)}; `edgekit list targets` shows the others",
            )
        choices += [Choice(name, recipe, reason, dict(engine_options.get(name, {}))) for name in able]
        left_out += [f"{name} does not compute in {recipe.weights}" for name in targets if name not in able]
    return tuple(choices), tuple(left_out)


def _computes(target: str, kind: str) -> Sequence[str]:
    """A target's precisions, which may be others for decoders."""
    module = registry.find("targets", target)
    found: Sequence[str] = module.PRECISIONS
    return getattr(module, "DECODER_PRECISIONS", found) if kind == "decoder" else found


def check_memory(made: Plan, limit: int | None, available: int | None) -> None:
    """Raise ResourceError where the export would need more memory than it may have. `limit` is the user's."""
    allowed = limit if limit is not None else available and int(available * 0.9)
    if allowed is not None and made.memory_needed > allowed:
        raise ResourceError(
            f"this export needs about {size_text(made.memory_needed)} of memory, and {size_text(allowed)} is allowed",
            hint="raise --memory-limit" if limit is not None else "export on a machine with more memory",
            needed=made.memory_needed,
            allowed=allowed,
        )
