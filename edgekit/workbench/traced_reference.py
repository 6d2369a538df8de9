"""The road by tracing: torch's graph and torch's own answers, for `edgekit.export`.

Knows no architecture; what is traced is the exporter's, and `exporters/_trace/trace.py` does it in a worker process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import registry
from edgekit.workbench.gate import read_proof

if TYPE_CHECKING:
    from edgekit.core import Bundle
    from edgekit.export import Reference, Workbench


def prepare(bench: Workbench, bundle: Bundle, items: list[Any]) -> Reference:
    """The traced graph in the scratch folder, the orders to build and gate variants of it, and torch's answers.

    Raises UnsupportedError where the model cannot be traced, VerificationError where the graph is not the module.
    """
    from edgekit.export import SCRATCH, Reference

    scratch, head, loop = bench.work / SCRATCH, registry.find("heads", bundle.head), registry.find("loops", bundle.loop)
    # As tokens, by the very ingest that the device will use, in the very batches that the answers are asked in.
    ingest = registry.find("ingest", bundle.ingest).open(bench.work, bundle.settings)
    encodings = ingest.encode(items, truncate=True, offsets=getattr(head, "OFFSETS", False))
    made = enumerate(loop.batches(Recorded(()), ingest, head, encodings))
    feeds: dict[str, Any] = {f"{n}/{name}": array for n, batch in made for name, array in batch.feeds.items()}
    np.savez(scratch / "samples.npz", **feeds)
    order = {
        "source": bench.source(),
        "task": bundle.task,
        "graph": str(scratch / "model.onnx"),
        "samples": str(scratch / "samples.npz"),
    }
    proven = bench.run("edgekit.exporters._trace.trace:work", "trace", order)["proven"]
    recorded = Recorded([found for _, found in read_proof(scratch / "reference.npz")])
    return Reference(
        answers=loop.gather(recorded, ingest, head, head.open(bench.work, bundle.settings), encodings),
        tokens=[np.asarray(encoding.ids, np.int64) for encoding in encodings],
        size=bench.bytes(f"{SCRATCH}/model.onnx"),
        build={"traced": order["graph"], "samples": order["samples"], "proven": proven},
        gate={"proof": str(scratch / "proof.npz"), "traced": f"{SCRATCH}/model.onnx"},
    )


class Recorded:
    """A Session that answers what was recorded, in order: torch's outputs go through the device's own loop and head."""

    placement = "recorded"
    length_step = 1
    batch_tokens = 512

    def __init__(self, outputs: Any) -> None:
        self._outputs = iter(outputs)

    def run(self, feeds: Any, states: Any = None) -> tuple[Any, Any]:
        return next(self._outputs), None

    def close(self) -> None:
        """There is nothing to free."""
