"""Export a model to a verified bundle, or publish nothing.

`edgekit.workbench.stages` has the stages. This file imports nothing heavy, as `import edgekit` imports it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit import distribution
from edgekit.core import Progress
from edgekit.errors import DeviceError, UnsupportedError, UsageError, VerificationError

if TYPE_CHECKING:
    from edgekit.core import Bundle, Method, Precision, Target
    from edgekit.workbench.plan import EngineOptions

# Packages that each way to a graph needs: the first is the extra `export-lm`, the others are in `export`.
BUILDING = ("onnx", "onnx_ir")
MODULES = ("torch", *BUILDING, "onnxscript")
ONNX = (*BUILDING, "onnxscript")
TRACING = ("torch", "transformers", "optimum", "requests", "safetensors", *BUILDING, "onnxscript")


def export(
    model: Any,
    output: str | Path,
    *,
    task: str | None = None,
    targets: Sequence[Target] = (),
    precision: Precision | Literal["auto"] | Sequence[Precision] = (),
    method: Method | None = None,
    group_size: int | None = None,
    engine_options: EngineOptions | None = None,
    calibration: str | Path | None = None,
    max_accuracy_loss: float | None = None,
    dimensions: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    memory_limit: int | None = None,
    time_limit: float | None = None,
    force: bool = False,
    offline: bool = False,
    states: Mapping[str, str] | None = None,
    inputs: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    example_inputs: Any = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export a model to a bundle in the folder `output`. After a failure the folder is unchanged.

    `model`: a hub id, a folder, `zoo:NAME`, `random:CONFIG`, an .onnx file, or a torch.nn.Module that reads a series
    step by step: its `forward(x, h, ...)` returns the results and the new states. `states` maps input names to output
    names, `{"h": "h_next"}` (modules and .onnx files only). `example_inputs`: a module's float32 tensors by position or
    by name, x (batch, time, features). Of an .onnx file, `inputs` holds the inputs that never change, `{"sr": 16000}`,
    and `shapes` fixes axes of the others, `{"x": ("batch", 576)}`: a number is a length, a name a free axis. An .onnx
    file without states becomes a network from arrays to arrays (task raw).

    Every combination of `targets` and `precision` becomes a variant; the default is every target of this machine, in
    int4 for language models and int8 for other models. `engine_options` are kept in the bundle and used wherever it
    runs: `{"openvino": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "64"}}`. `max_accuracy_loss`: the largest loss of a
    quantized variant, by the task's measure (1 - mean cosine, share of other labels); beyond it nothing is published.
    `calibration`: a file or folder with samples of your own. `dimensions`: the bundle's default Matryoshka cut.
    `memory_limit`: bytes for each worker. `time_limit`: seconds for each stage, by default 15 minutes, and 20 minutes
    more per GB of weights. Raises any EdgeKitError.
    """
    from edgekit import limits
    from edgekit.bundle import publish, safe_files, user_files
    from edgekit.machine import device
    from edgekit.source import onnx_file
    from edgekit.workbench import plan as planning
    from edgekit.workbench import stages

    place = safe_files.path_of(output, "output")
    samples = None if calibration is None else safe_files.path_of(calibration, "calibration")
    if memory_limit is not None and (type(memory_limit) is not int or memory_limit < 1):
        raise UsageError(f"memory_limit is {memory_limit!r:.60}", hint="give a number of bytes: 4 << 30 is 4 GiB")
    if max_accuracy_loss is not None and not 0 <= max_accuracy_loss <= 1:
        raise UsageError(f"--max-accuracy-loss is {max_accuracy_loss}", hint="give a share from 0 to 1: 0.02")
    if time_limit is not None and not 0 < time_limit < math.inf:
        raise UsageError(f"--time-limit is {time_limit}", hint="give the seconds that a stage may take: 3600")
    _require(BUILDING)
    publish.check(place, force=force)  # before a model is downloaded
    if samples is not None:
        user_files.check_input(samples, "--calibration")
    say = progress or (lambda stage, what: None)
    with contextlib.ExitStack() as stack:
        model = str(model) if isinstance(model, Path) else model
        if not isinstance(model, str):
            _require(MODULES)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-")))
            model, states = onnx_file.traced(model, example_inputs, states, folder, say), None
        plan = planning.plan(
            model,
            task=task,
            targets=targets,
            precision=(precision,) if isinstance(precision, str) else precision,
            method=method,
            group_size=group_size,
            engine_options=engine_options,
            revision=revision,
            trust_remote_code=trust_remote_code,
            offline=offline,
            states=states,
            inputs=inputs,
            shapes=shapes,
        )
        _require(_needed(plan.source.arch))
        planning.check_memory(plan, memory_limit, device.available_memory())
        work = stack.enter_context(publish.into(place, force=force))
        publish.need(work, plan.disk_needed)
        for missing in plan.left_out:
            say("plan", missing)
        seconds = time_limit or limits.STAGE_SECONDS + limits.STAGE_SECONDS_PER_GB * plan.weight_bytes / 1e9
        bench = stages.Workbench(plan, work, memory_limit or device.available_memory(), seconds, say)
        try:
            bundle = stages.make(bench, samples, dimensions, max_accuracy_loss)
        except (UnsupportedError, VerificationError) as error:
            if not planning.may_fall_back(plan, precision, method, group_size):
                raise
            say("plan", f"quantization is left out: {error.message}")
            stages.clear(bench)
            float_plan = planning.plan(
                plan.source, task=plan.task, targets=targets, precision=("fp32",), engine_options=engine_options
            )
            bundle = stages.make(replace(bench, plan=float_plan), samples, dimensions, max_accuracy_loss)
    return replace(bundle, folder=place)


def _needed(arch: str) -> Sequence[str]:
    from edgekit import registry

    if arch in (registry.ONNX_FILE, registry.ONNX_NETWORK):
        return ONNX
    return TRACING if registry.exporter(arch).needs_torch else BUILDING


def _require(needed: Sequence[str]) -> None:
    """Check that the packages are installed, before any work is done; imports none. Raises DeviceError."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        kind, extra = ("this model", "export") if "torch" in needed else ("a model", "export-lm")
        raise DeviceError(
            f"exporting {kind} needs {', '.join(missing)}, not installed here",
            hint=f"{distribution.install(extra)}; or export on another machine",
        )
