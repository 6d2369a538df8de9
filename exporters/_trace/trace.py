"""A torch module of ours -> an ONNX file with named, free axes, and the reference answers that prove it.

The only place that calls `torch.onnx`. Always the dynamo exporter: the TorchScript one was seen to write wrong
graphs without an error. Runs in a worker process (`edgekit.workbench.worker`). Knows no architecture: an exporter's
file hands it a `Tracing`.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core import Source
from edgekit.errors import UnsupportedError, VerificationError

if TYPE_CHECKING:
    import torch

OPSET = 23  # the first with Attention, and the newest that every engine reads
SAMPLE = {"batch": 3, "sequence": 7, "time": 5}  # every free axis at least 3, and all different


@dataclass(frozen=True)
class Tracing:
    """What an exporter's file gives: a module of ours, `forward(*feeds)`, and how to feed it.

    `inputs` and `outputs`: name -> one axis name (free) or length (fixed) per axis. `feed(sizes, seed)` makes inputs
    for these axis lengths, with at least one padded row where there is padding. `shapes`: axis lengths that the
    tracer never sees, at which the graph must give what the module gives; batch 1 is among them.
    """

    module: torch.nn.Module
    inputs: dict[str, tuple[str | int, ...]]
    outputs: dict[str, tuple[str | int, ...]]
    feed: Callable[[Mapping[str, int], int], dict[str, torch.Tensor]]
    shapes: tuple[Mapping[str, int], ...]


def work(payload: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The worker's job: trace `payload["graph"]`, and answer the proof's and the goldens' feeds in torch.

    Returns the axis lengths that `proof.npz` holds. Raises UnsupportedError, VerificationError.
    """
    from edgekit import registry

    source = Source(**payload["source"] | {"folder": Path(payload["source"]["folder"])})
    exporter = registry.find("exporters", source.arch).EXPORTER
    say("loading weights")
    with quiet():
        tracing = exporter.trace(source, payload["task"])
        say("tracing with torch.onnx.export")
        program = export(tracing)
    target = Path(payload["graph"])
    check(program.model, tracing)
    program.save(str(target), external_data=True)
    say("computing the reference in torch")
    answer(tracing, target.parent / "proof.npz", proof_feeds(tracing))
    if payload.get("samples"):
        answer(tracing, target.parent / "reference.npz", read_feeds(Path(payload["samples"])))
    return {"proven": {axis: [size[axis] for size in tracing.shapes] for axis in tracing.shapes[0]}}


def export(tracing: Tracing) -> Any:
    """The module as a torch.onnx.ONNXProgram. Raises UnsupportedError when it cannot be traced."""
    import torch

    sample = tracing.feed(SAMPLE, 0)
    axes = {
        name: {i: axis for i, axis in enumerate(of) if isinstance(axis, str)} for name, of in tracing.inputs.items()
    }
    try:
        return torch.onnx.export(
            tracing.module,
            tuple(sample[name] for name in tracing.inputs),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(tracing.inputs),
            output_names=list(tracing.outputs),
            # A tuple: the module takes its inputs by position, in this order.
            dynamic_shapes=(tuple(axes.values()),),
            verbose=False,
        )
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.UserError) as error:
        raise UnsupportedError(
            "torch.onnx could not trace this model",
            hint="the text under `cause` names the line and the op; control flow that depends on data cannot be traced",
            cause=str(error.__cause__ or error)[:4000],
        ) from error


def check(model: Any, tracing: Tracing) -> None:
    """Every input is still there and every free axis still free. Raises VerificationError naming what is not."""
    found = {value.name: value.shape for value in model.graph.inputs}
    used = {value.name for value in model.graph.inputs if value.uses()}
    for name, axes in tracing.inputs.items():
        if name not in found or name not in used:
            raise VerificationError(
                f"the traced graph does not use input {name!r}",
                hint="the exporter dropped it, so the graph would be wrong for padded rows; nothing was published",
            )
        for position, axis in enumerate(axes):
            if isinstance(axis, str) and isinstance(found[name][position], int):
                raise VerificationError(
                    f"axis {axis!r} of input {name!r} froze at {found[name][position]}",
                    hint="the traced graph would be right for that length only; nothing was published",
                )


def proof_feeds(tracing: Tracing) -> Iterator[dict[str, torch.Tensor]]:
    for seed, sizes in enumerate(tracing.shapes, start=1):
        yield tracing.feed(sizes, seed)


def read_feeds(file: Path) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of an .npz whose arrays are named `N/input`."""
    import numpy as np
    import torch

    with np.load(file, allow_pickle=False) as arrays:
        batches = sorted({int(key.split("/")[0]) for key in arrays.files})
        for batch in batches:
            names = [key for key in arrays.files if key.startswith(f"{batch}/")]
            yield {key.split("/")[1]: torch.from_numpy(arrays[key]) for key in names}


def answer(tracing: Tracing, file: Path, feeds: Iterator[dict[str, torch.Tensor]]) -> None:
    """Run the module on each feed and keep feeds (`N/in/NAME`) and outputs (`N/out/NAME`)."""
    import numpy as np
    import torch

    kept: dict[str, Any] = {}
    with torch.inference_mode():
        for number, feed in enumerate(feeds):
            outputs = tracing.module(*(feed[name] for name in tracing.inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            kept |= {f"{number}/in/{name}": feed[name].numpy() for name in tracing.inputs}
            kept |= {
                f"{number}/out/{name}": value.numpy() for name, value in zip(tracing.outputs, outputs, strict=True)
            }
    np.savez(file, **kept)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's notes on missing vision operators and the like out of the worker's log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
