"""Compare a graph with the reference implementation's recorded inputs and outputs.

`proof-NAME.npz` has arrays `N/in/INPUT` and `N/out/OUTPUT` for call number N of graph NAME. Calls of a decoder or a
stream that are not the `first` of a text or series go on with the state that the call before left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import registry
from edgekit.core import Recipe
from edgekit.errors import UnsupportedError, VerificationError
from edgekit.machine import device
from edgekit.workbench import graph as graphs

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays, Graph
    from edgekit.session import Session

# Largest difference from the reference, as a share of the reference's largest number.
ALLOWED = {"fp32": 1e-4, "bf16": 6e-2, "fp16": 6e-2}
STEPS = 6  # of a stream, that are fed one by one, and at once


def proof_of(folder: Path, name: str) -> Path:
    """Where the proof of graph `name` lies."""
    return folder / f"proof-{name}.npz"


def prove_all(sessions: Mapping[str, Session], folder: Path, recipe: Recipe, variant: str) -> float | None:
    """The largest difference of any graph that has a proof; None where none has. Raises VerificationError."""
    proofs = {name: proof_of(folder, name) for name in sessions if proof_of(folder, name).is_file()}
    found = [prove(sessions[name], file, recipe.of(name), variant) for name, file in proofs.items()]
    return max(found, default=None)


def prove(session: Session, file: Path, recipe: Recipe, name: str) -> float:
    """Run the proof's feeds and return the largest difference, as a share of the reference's largest number.

    Raises VerificationError when it is beyond what the precision allows, naming output and shape.
    """
    import numpy as np

    largest, state = 0.0, None
    for feeds, expected in read_proof(file):
        first = feeds.pop("first", True)
        outputs, state = session.run(feeds, None if first else state)
        for port, wanted in expected.items():
            scale = max(float(np.abs(wanted).max()), 1e-6)
            difference = float(np.abs(outputs[port] - wanted).max()) / scale
            if not difference <= ALLOWED[recipe.weights]:
                shape = {key: list(value.shape) for key, value in feeds.items()}
                raise VerificationError(
                    f"{name}: output {port!r} differs from the original model by {difference:.2g} of its largest value",
                    hint=f"{ALLOWED[recipe.weights]:.0e} is allowed; nothing was published. Please report the model",
                    shapes=shape,
                    variant=name,
                )
            largest = max(largest, difference)
    return largest


def read_proof(file: Path) -> Iterator[tuple[dict[str, Array], Arrays]]:
    """(feeds, reference outputs) of each call."""
    import numpy as np

    with np.load(file, allow_pickle=False) as arrays:
        for number in sorted({int(key.split("/")[0]) for key in arrays.files}):
            sides: dict[str, dict[str, Any]] = {"in": {}, "out": {}}
            for key in arrays.files:
                index, side, name = key.split("/", 2)
                if int(index) == number:
                    sides[side][name] = arrays[key]
            yield sides["in"], sides["out"]


def hold_against_torch(
    portable: Sequence[Graph], folder: Path, targets: Sequence[str], say: Callable[[str], None]
) -> None:
    """Run each traced graph as it is, and each target's form of it, on its proof.

    Raises UnsupportedError where one does not give what torch gave.
    """
    for graph in portable:
        if not proof_of(folder, graph.name).is_file():
            continue
        say("comparing the graph with the original model")
        _hold("cpu", folder, graph, "the graph")
        for target in targets:
            say(f"comparing the graph for {target} with the original model")
            _hold(target, folder, compiled(target, folder, graph), f"its form for {target}")


def compiled(target: str, folder: Path, graph: Graph) -> Graph:
    """The target's form of a float graph, written beside it."""
    model = registry.find("targets", target).compile(graphs.load(folder / graph.path), Recipe(), kind=graph.kind)
    form = folder / f"{target}-{Path(graph.path).stem}.onnx"
    form.write_bytes(graphs.to_bytes(model))
    return graphs.describe(model, graph.name, form.name, {}, graph.states, kind=graph.kind)


def _hold(target: str, folder: Path, form: Graph, name: str) -> None:
    session = registry.find("targets", target).open(folder, form, Recipe(), threads=device.threads())
    try:
        prove(session, proof_of(folder, form.name), Recipe(), name)
    except VerificationError as error:
        refusal = UnsupportedError(
            f"the exported graph does not compute what the model does: {error.message}",
            hint="nothing was published; export the model in another form, or choose another one",
        )
        refusal.details.update(error.details)
        raise refusal from error
    finally:
        session.close()


def check_steps(folder: Path, graph: Graph) -> None:
    """Fed step by step, a stream's graph must give what it gives for the whole: else states are named wrongly.

    Nothing is checked of a graph that takes one number of steps only. Raises VerificationError.
    """
    import numpy as np

    port = next(port for port in graph.inputs if port.name == "x")
    rows, steps, wide = port.shape
    if isinstance(steps, int):
        return
    size = [axis if isinstance(axis, int) else 2 for axis in (rows, STEPS, wide)]
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    session = registry.find("targets", "cpu").open(folder, graph, Recipe(), threads=device.threads())
    try:
        whole = session.run(_stream_feeds(graph, x))[0]["y"].copy()
        state: Any = None
        results: list[Array] = []
        for step in range(STEPS):
            outputs, state = session.run(_stream_feeds(graph, np.ascontiguousarray(x[:, step : step + 1])), state)
            results.append(outputs["y"].copy())
    finally:
        session.close()
    stepwise = np.concatenate(results, axis=1) if whole.ndim == 3 else results[-1]
    difference = float(np.abs(stepwise - whole).max()) / max(float(np.abs(whole).max()), 1e-6)
    if not difference <= ALLOWED["fp32"]:
        raise VerificationError(
            "step by step, the outputs differ from those of one run over the whole series "
            f"by {difference:.2g} of the largest value",
            hint="check that each state names its own input, states of equal shape are easily confused; "
            f"they are {', '.join(f'{state.out}={state.into}' for state in graph.states)}",
        )


def _stream_feeds(graph: Graph, x: Array) -> dict[str, Array]:
    import numpy as np

    feeds = {"x": x}
    if "counts" in graph.fed:
        feeds["counts"] = np.full(len(x), x.shape[1], np.int64)
    return feeds
