"""Make a `Source` of an ONNX file with named states, or of a torch module.

    hn=h0: what the output `hn` of one step gives, the input `h0` of the next one takes

Knows names of ports; what is made of the graph is `exporters/_onnx_file/exporter.py`'s, and how a module is traced is
`exporters/_recurrent/module.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit import registry
from edgekit.core import Progress, Source
from edgekit.errors import UnsupportedError, UsageError

FILE = "model.onnx"


def resolve(model: str, path: Path, states: Mapping[str, str]) -> Source:
    """An ONNX file with `states` (input -> output), its names checked and its bytes sound.

    Raises UsageError for a name that it has not, UnsupportedError where no state is named, BundleError.
    """
    from edgekit.bundle import onnx_file

    folder = path.parent.absolute()
    beside = [entry.name for entry in folder.iterdir() if entry.is_file()]
    facts = onnx_file.check(folder, path.name, beside)
    has = f"its inputs are {', '.join(facts.inputs)}; its outputs {', '.join(facts.outputs)}"
    if not states:
        raise UnsupportedError(
            f"{path.name}: EdgeKit can export an ONNX file only if it has states",
            hint=f"name each state with --state OUT=IN; {has}",
        )
    _check_names(states, list(facts.inputs), list(facts.outputs), has)
    return Source(model, registry.ONNX_FILE, folder, "", {"file": path.name, "states": dict(states)})


def sizes(source: Source) -> dict[str, int]:
    """Bytes of the tensors that lie beside the file, by name, and of the file."""
    from edgekit.bundle import onnx_file

    name = source.config["file"]
    beside = {tensor.tensor: tensor.size for tensor in onnx_file.read(source.folder, name).external}
    return beside | {name: (source.folder / name).stat().st_size}


def traced(module: Any, example: Any, states: Mapping[str, str] | None, folder: Path, say: Progress) -> Source:
    """A torch module as an ONNX file in `folder`, with the proof of what it computes beside it.

    Raises UsageError, UnsupportedError, VerificationError.
    """
    from importlib import import_module

    if not states or example is None:
        raise UsageError(
            "exporting a torch module needs example_inputs and states",
            hint='export(module, "out.ek", example_inputs=(x, h), states={"h": "h_next"}), named as in its forward()',
        )
    trace = import_module("edgekit.exporters._recurrent.module").trace
    trace(module, example, states, folder / FILE, lambda what: say("trace", what))
    return Source(type(module).__name__, registry.ONNX_FILE, folder, "", {"file": FILE, "states": dict(states)})


def _check_names(states: Mapping[str, str], inputs: list[str], outputs: list[str], has: str) -> None:
    for into, out in states.items():
        for name, known, what in ((into, inputs, "input"), (out, outputs, "output")):
            if name not in known:
                raise UsageError(f"the state {out}={into}: there is no {what} {name!r}", hint=has)
    if len(set(states.values())) < len(states):
        raise UsageError("two states name the same output", hint=has)
    rest = [name for name in inputs if name not in states], [name for name in outputs if name not in states.values()]
    for names, what in zip(rest, ("input", "output")):
        if len(names) != 1:
            said = f"{len(names)} {what}s that are not states ({', '.join(names)})" if names else f"no other {what}"
            raise UnsupportedError(f"the graph has {said}, and must have one", hint=f"name every state; {has}")
