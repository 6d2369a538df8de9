"""Run a user's ONNX file as it is, on ONNX Runtime, with its constant inputs: what every form of it is compared with.

Its half floats are float32 here as well, since no two engines round them alike. Knows no task.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import registry
from edgekit.core import Recipe
from edgekit.errors import EdgeKitError, UnsupportedError

from .prepare import beside, described, load, widen

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays, Graph, Source
    from edgekit.session import Session

    from .graph import Layout

STEPS = (3, 1, 1, 7)  # of the calls of a proof, each from the state that the one before left
SCALE = 0.5  # of the numbers that are fed
FREE = 2  # rows, where any number can be fed


class Original:
    """The file, open on the CPU; `run` takes its inputs that are not constant. A Session, without a state."""

    length_step, batch_tokens = 1, 512

    def __init__(self, session: Session, graph: Graph, constants: Arrays, halves: Collection[str]) -> None:
        """`halves`: the outputs that are float16 in the file, and are rounded to it."""
        self._session, self._constants, self._halves = session, constants, frozenset(halves)
        self._dtypes = {port.name: port.dtype for port in graph.inputs}
        self.placement = session.placement

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """Outputs by name. Raises UnsupportedError where the file does not take such inputs."""
        own = {name: array.astype(self._dtypes[name], copy=False) for name, array in feeds.items()}
        try:
            outputs, _ = self._session.run({**own, **self._constants})
        except EdgeKitError as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise UnsupportedError(
                f"the file does not run on sample inputs ({shapes}): {error.message}",
                hint="fix free axes with --shape INPUT=1,N, or give inputs of your own with --calibration FILE.npz",
                cause=error.cause,
            ) from error
        halves = {name: outputs[name].astype(np.float16) for name in outputs if name in self._halves}
        return {**outputs, **halves}, None

    def close(self) -> None:
        self._session.close()


@contextmanager
def opened(source: Source) -> Iterator[Original]:
    """The file of `source`, until the end of the block."""
    with TemporaryDirectory(prefix="edgekit-") as scratch:
        original = open_file(source, Path(scratch))
        try:
            yield original
        finally:
            original.close()


def open_file(source: Source, scratch: Path, *, rounded: bool = False) -> Original:
    """The file, in the folder `scratch` where it has half floats; `rounded`: outputs have the dtypes of the file.

    Raises UnsupportedError, BundleError.
    """
    import onnx_ir as ir

    model = load(source)
    halves = [str(port.name) for port in model.graph.outputs if rounded and port.dtype == ir.DataType.FLOAT16]
    widened = widen(model)
    file = beside(scratch, model, "original.onnx") if widened else source.folder / source.config["file"]
    graph = described(model, file.name)
    cpu = registry.find("targets", "cpu")
    session = cpu.open(file.parent, graph, Recipe(), threads=os.cpu_count() or 1)
    constants = {}
    for port in graph.inputs:
        if port.name in source.config.get("inputs", {}):
            dtype = np.dtype(port.dtype)
            array = np.asarray(source.config["inputs"][port.name]).astype(dtype)
            constants[port.name] = array.reshape((1,) * len(port.shape)) if array.size == 1 else array
    return Original(session, graph, constants, halves)


def prove(source: Source, layout: Layout, graph: Graph, file: Path) -> None:
    """Write what the file gives, step by step, as a proof of the stream `graph` (see `edgekit.workbench.prove`)."""
    x_port = next(port for port in graph.inputs if port.name == "x")
    rows, steps, wide = (axis if isinstance(axis, int) else 0 for axis in x_port.shape)
    batched = all("batch" in port.shape for port in graph.inputs)
    rows = rows or (FREE if batched else 1)
    ports = {port.name: port for port in graph.inputs}
    random = np.random.default_rng(0)
    state: dict[str, Array] = {}
    for each in graph.states:
        shape = [axis if isinstance(axis, int) else rows for axis in ports[each.into].shape]
        state[each.into] = np.zeros(shape, np.float32)
    arrays: dict[str, Any] = {}
    with opened(source) as original:
        for number, count in enumerate((steps,) * len(STEPS) if steps else STEPS):
            x = (SCALE * random.normal(size=(rows, count, wide))).astype(np.float32)
            outputs, _ = original.run({**layout.to_file(x), **state})
            arrays[f"{number}/in/x"], arrays[f"{number}/in/first"] = x, np.array(number == 0)
            arrays[f"{number}/out/y"] = layout.from_file(outputs, rows, count)
            state = {each.into: outputs[str(each.out)] for each in graph.states}
    np.savez(file, **arrays)
