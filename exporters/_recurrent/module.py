"""Export a torch module with explicit states to ONNX, and record its outputs as proof.

`forward(x, h, …)` gives the results and the new states. Which axes are free is found by trying: the module is run with
another batch and another number of steps, and what it takes is what the graph will take. Where torch writes out each
step (a loop in Python), the graph takes one step at a time. Traces through `_trace`; whoever runs the graph holds it
against `proof.npz`: calls in order, from states of zeros, the module's own answers beside them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UnsupportedError, UsageError, VerificationError

from .._trace import trace as tracer
from .torch_cells import as_nodes

if TYPE_CHECKING:
    import torch

    Axis = int | str

TRIES = 64  # ways to read the axes, of modules with many states of square shapes
# Calls of a proof, a row of calls for each text: so many rows, and so many steps a call.
CALLS = ((2, (4, 1, 3)), (1, (1, 1, 5)))
REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, NotImplementedError)


@dataclass(frozen=True)
class Axes:
    """How the module's inputs are to be read: an axis name (free) or a length for each axis, `x` first."""

    inputs: dict[str, tuple[Axis, ...]]

    def sizes(self, batch: int, time: int) -> dict[str, tuple[int, ...]]:
        lengths = {"batch": batch, "time": time}
        return {
            name: tuple(axis if isinstance(axis, int) else lengths[axis] for axis in axes)
            for name, axes in self.inputs.items()
        }


def trace(module: Any, example: Any, states: Mapping[str, str], path: Path, say: Callable[[str], None]) -> None:
    """The graph in `path`, and the proof beside it. The module is left as it is.

    Raises UsageError for inputs and states that do not fit the module, UnsupportedError where it cannot be traced,
    VerificationError where the tracer changed an input.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"the model is a {type(module).__name__}, neither a name nor a torch.nn.Module",
            hint='a path is a name too: export("./folder", "out.ek")',
        )
    module = copy.deepcopy(module).to("cpu", torch.float32).eval().requires_grad_(False)
    inputs = _named(module, example, states)
    with tracer.quiet(), torch.inference_mode():
        ways = [axes for axes in (_axes(module, inputs, single) for single in (False, True)) if axes]
    if not ways:
        raise UnsupportedError(
            "the module does not take a batch of another size, or its states change their shapes",
            hint="give x (batch, time, features), or one step (batch, features), and each state as it comes back",
        )
    say("tracing with torch.onnx.export")
    with tracer.quiet():
        axes = _export(as_nodes(copy.deepcopy(module)), ways, states, path, say)
    with torch.inference_mode():
        np.savez(path.with_name("proof-model.npz"), **dict[str, Any](_proof(module, axes, states)))


def _named(module: torch.nn.Module, example: Any, states: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The example's tensors by the names of forward's parameters, x first."""
    import torch

    known = list(inspect.signature(module.forward).parameters)
    given = dict(example) if isinstance(example, Mapping) else dict(zip(known, _several(example)))
    unknown = [name for name in (*given, *states) if name not in known]
    missing = [name for name in states if name not in given]
    if unknown or missing:
        what = f"forward() has no {unknown[0]!r}" if unknown else f"example_inputs lack the state {missing[0]!r}"
        raise UsageError(what, hint=f"forward() takes {', '.join(known)}; states go from input to output")
    rest = [name for name in given if name not in states]
    if len(rest) != 1:
        raise UsageError(
            f"{len(rest)} inputs are not states ({', '.join(rest)})",
            hint="a stream has one; name every state in `states`",
        )
    for name, value in given.items():
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            said = str(getattr(value, "dtype", type(value).__name__))
            raise UsageError(f"the example of {name!r} is {said}", hint="give float32 tensors")
    if given[rest[0]].ndim not in (2, 3):
        raise UsageError(
            f"the example of {rest[0]!r} has the shape {list(given[rest[0]].shape)}",
            hint="give (batch, time, features), or (batch, features) of a single step",
        )
    return {name: given[name] for name in (*rest, *states)}


def _several(example: Any) -> Sequence[Any]:
    return example if isinstance(example, Sequence) else (example,)


def _axes(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], single: bool) -> Axes | None:
    """The first way to read the axes in which the module takes another batch and another time, or a `single` step."""
    x, *rest = inputs
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    last = shapes[x][-1]
    orders = [("batch", "time"), ("time", "batch")] if len(shapes[x]) == 3 else [("batch",)]
    tried = 0
    for order in orders:
        lengths = dict(zip(order, shapes[x]))
        named: tuple[Axis, ...] = tuple(1 if single and name == "time" else name for name in order)
        places = [[at for at, size in enumerate(shapes[name]) if size == lengths["batch"]] for name in rest]
        for chosen in product(*places):
            tried += 1
            found: dict[str, tuple[Axis, ...]] = {x: (*named, last)}
            for name, at in zip(rest, chosen, strict=True):
                found[name] = tuple("batch" if place == at else size for place, size in enumerate(shapes[name]))
            axes = Axes(found)
            if _takes(module, axes, lengths["batch"] + 1, lengths.get("time", 1) + 2):
                return axes
            if tried == TRIES:
                return None
    return None


def _takes(module: torch.nn.Module, axes: Axes, batch: int, time: int) -> bool:
    """Whether the module runs on these sizes, and each state comes back in its own shape."""
    try:
        _, *states = _run(module, _random(axes, batch, time, 0))
    except REFUSALS:
        return False
    wanted = list(axes.sizes(batch, time).values())[1:]
    return [tuple(state.shape) for state in states] == wanted


def _run(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    found = module(**inputs)
    return found if isinstance(found, tuple) else (found,)


def _random(axes: Axes, batch: int, time: int, seed: int) -> dict[str, torch.Tensor]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, generator=generator) for name, size in axes.sizes(batch, time).items()}


def _export(
    module: torch.nn.Module, ways: Sequence[Axes], states: Mapping[str, str], path: Path, say: Callable[[str], None]
) -> Axes:
    """The file, in the first of the `ways` that can be traced, which is returned."""
    *others, last = ways
    for axes in others:
        try:
            return _export_as(module, axes, states, path)
        except (UnsupportedError, VerificationError) as error:
            say(f"it cannot be traced for any number of steps, so for one at a time: {error.cause or error.message}")
    return _export_as(module, last, states, path)


def _export_as(module: torch.nn.Module, axes: Axes, states: Mapping[str, str], path: Path) -> Axes:
    tracing = tracer.Tracing(
        _by_position(module, list(axes.inputs)),
        axes.inputs,
        {"y": (), **{out: axes.inputs[into] for into, out in states.items()}},
        lambda sizes, seed: _random(axes, sizes["batch"], sizes["time"], seed),
        (),
    )
    program = tracer.export(tracing)
    tracer.check(program.model, tracing)
    program.save(str(path), external_data=True)
    return axes


def _by_position(module: torch.nn.Module, names: Sequence[str]) -> torch.nn.Module:
    import torch

    class ByPosition(torch.nn.Module):
        """Takes its inputs in the order of `names`."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: torch.Tensor) -> Any:
            return self.module(**dict(zip(names, inputs)))

    return ByPosition()


def _proof(module: torch.nn.Module, axes: Axes, states: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Arrays by name: feeds as a stream takes them, (batch, time, features), and results."""
    x, order = next(iter(axes.inputs)), next(iter(axes.inputs.values()))
    number, turned = 0, order[0] != "batch"
    for batch, calls in CALLS:
        held = {name: value * 0 for name, value in _random(axes, batch, 1, 0).items() if name != x}
        for call, time in enumerate(calls):
            value = _random(axes, batch, time, number)[x]
            y, *after = _run(module, {x: value, **held})
            held = dict(zip(states, after, strict=True))
            rows = value.transpose(0, 1) if turned else value if value.ndim == 3 else value[:, None]
            results = y.transpose(0, 1) if turned and y.ndim == 3 else y[:, None] if value.ndim == 2 else y
            yield f"{number}/in/first", np.asarray(call == 0)
            yield f"{number}/in/x", np.ascontiguousarray(rows.numpy())
            yield f"{number}/out/y", np.ascontiguousarray(results.numpy())
            number += 1
