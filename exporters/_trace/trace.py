"""Trace a torch module to an ONNX file with named, free axes, and record reference outputs as proof.

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
                hint="the tracer removed it, so the graph would be wrong for padded rows; nothing was published",
            )
        for position, axis in enumerate(axes):
            if isinstance(axis, str) and isinstance(found[name][position], int):
                raise VerificationError(
                    f"axis {axis!r} of input {name!r} became fixed at {found[name][position]}",
                    hint="the traced graph would be right for that length only; nothing was published",
                )


def proof_feeds(tracing: Tracing) -> Iterator[dict[str, torch.Tensor]]:
    for seed, sizes in enumerate(tracing.shapes, start=1):
        yield tracing.feed(sizes, seed)


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
