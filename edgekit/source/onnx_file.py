"""ONNX files with states that the user names, and torch modules, which become such files: from them to a `Source`.

    hn=h0: what the output `hn` of one step gives, the input `h0` of the next one takes

Knows names of ports; what is made of the graph is `exporters/_onnx_file/exporter.py`'s, and how a module is traced is
`exporters/_recurrent/module.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import registry
from edgekit.core import Progress, Recipe, Source
from edgekit.errors import UnsupportedError, UsageError, VerificationError

if TYPE_CHECKING:
    from edgekit.core import Array, Graph

FILE, PROOF = "model.onnx", "proof.npz"
STEPS = 6  # that are fed one by one, and at once
NEAR = 1e-4  # of the largest number


def source(model: str, path: Path, states: Mapping[str, str]) -> Source:
    """An ONNX file with `states` (input -> output), its names checked and its bytes sound.

    Raises UsageError for a name that it has not, UnsupportedError where no state is named, BundleError.
    """
    from edgekit.bundle import onnx_file

    folder = path.parent.absolute()
    beside = [entry.name for entry in folder.iterdir() if entry.is_file()]
    facts = onnx_file.check(folder, path.name, beside, hard_links=True)
    has = f"its inputs are {', '.join(facts.inputs)}; its outputs {', '.join(facts.outputs)}"
    if not states:
        raise UnsupportedError(
            f"{path.name}: EdgeKit takes over an ONNX file only with states yet", hint=f"--state OUT=IN for each; {has}"
        )
    _check_names(states, list(facts.inputs), list(facts.outputs), has)
    return Source(model, registry.GIVEN, folder, "", {"file": path.name, "states": dict(states)})


def sizes(found: Source) -> dict[str, int]:
    """Bytes of the tensors that lie beside the file, by name, and of the file."""
    from edgekit.bundle import onnx_file

    name = found.config["file"]
    beside = {tensor.tensor: tensor.size for tensor in onnx_file.read(found.folder, name).external}
    return beside | {name: (found.folder / name).stat().st_size}


def traced(module: Any, example: Any, states: Mapping[str, str] | None, folder: Path, say: Progress) -> Source:
    """A torch module as an ONNX file in `folder`, with the proof of what it computes beside it.

    Raises UsageError, UnsupportedError, VerificationError.
    """
    from importlib import import_module

    if not states or example is None:
        raise UsageError(
            "a module is exported with example_inputs and states",
            hint='export(module, "out.ek", example_inputs=(x, h), states={"h": "h_next"}), named as in its forward()',
        )
    trace = import_module("edgekit.exporters._recurrent.module").trace
    trace(module, example, states, folder / FILE, lambda what: say("trace", what))
    return Source(type(module).__name__, registry.GIVEN, folder, "", {"file": FILE, "states": dict(states)})


def check_steps(file: Path, graph: Graph, threads: int) -> None:
    """Fed step by step, the graph must give what it gives for the whole: else states are named wrongly.

    Nothing is checked of a graph that takes one number of steps only. Raises VerificationError.
    """
    import numpy as np

    rows, steps, wide = graph.inputs[0].shape
    if isinstance(steps, int):
        return
    size = [axis if isinstance(axis, int) else 2 for axis in (rows, STEPS, wide)]
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    session = registry.find("targets", "cpu").open(file.parent, graph, Recipe(), threads=threads)
    try:
        whole = session.run({"x": x})[0]["y"].copy()
        state: Any = None
        found: list[Array] = []
        for step in range(STEPS):
            outputs, state = session.run({"x": np.ascontiguousarray(x[:, step : step + 1])}, state)
            found.append(outputs["y"].copy())
    finally:
        session.close()
    answered = np.concatenate(found, axis=1) if whole.ndim == 3 else found[-1]
    difference = float(np.abs(answered - whole).max()) / max(float(np.abs(whole).max()), 1e-6)
    if not difference <= NEAR:
        raise VerificationError(
            f"fed step by step, the graph differs from itself fed at once by {difference:.2g} of its largest number",
            hint="is each state named with its own input? states of one shape are easily exchanged; "
            f"they are {', '.join(f'{state.out}={state.into}' for state in graph.states)}",
        )


def _check_names(states: Mapping[str, str], inputs: list[str], outputs: list[str], has: str) -> None:
    for into, out in states.items():
        for name, known, what in ((into, inputs, "input"), (out, outputs, "output")):
            if name not in known:
                raise UsageError(f"the state {out}={into}: there is no {what} {name!r}", hint=has)
    if len(set(states.values())) < len(states):
        raise UsageError("two states come out of one output", hint=has)
    rest = [name for name in inputs if name not in states], [name for name in outputs if name not in states.values()]
    for names, what in zip(rest, ("input", "output")):
        if len(names) != 1:
            said = f"{len(names)} {what}s that are no states ({', '.join(names)})" if names else f"no {what} but states"
            raise UnsupportedError(f"the graph has {said}, and a stream has one", hint=f"name every state; {has}")
