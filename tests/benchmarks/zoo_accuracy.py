"""How well the zoo's models do on what they never saw, in every precision on every target of this machine.

    python tests/benchmarks/zoo_accuracy.py [MODEL]...

Exports each model for each of its tasks, asks every variant all held-out texts or series, and prints the task's own
metric.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from _harness import table

import edgekit
from edgekit import registry, zoo
from edgekit.source import resolve
from edgekit.zoo import metrics


def rows(name: str, task: str, folder: Path) -> list[list[str]]:
    """A row a variant: what the recipe measured in torch, and what the bundle does."""
    test = zoo.heldout(name, task)
    made_from = resolve.resolve(f"zoo:{name}")
    samples = folder / "samples"
    if features := made_from.config.get("features"):
        samples.write_text(series(test, features), encoding="utf-8")
    else:
        zoo.write_calibration(test, samples)
    quantizes = registry.exporter(made_from.arch).quantizes
    precisions = ("fp32", "int8", "int4") if quantizes else ("fp32", "int8")
    bundle = edgekit.export(
        f"zoo:{name}", folder / f"{name}-{task}.ek", task=task, precision=precisions, calibration=samples
    )
    found = []
    for variant in bundle.variants:
        with edgekit.load(bundle.folder, target=variant.target, precision=variant.recipe.name) as model:
            score = zoo.score(test, metrics.answers(model.run(list(test.inputs))))
        found.append([f"zoo:{name}", task, variant.name, test.metric, str(len(test.inputs)), f"{score:.4f}"])
    return found


def series(test: zoo.HeldOut, features: Sequence[str]) -> str:
    """Series of these features in CSV, with an empty line between them."""
    rows = ("\n".join(",".join(map(str, step)) for step in one) for one in test.calibration)
    return ",".join(features) + "\n" + "\n\n".join(rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = [
            row
            for name in sys.argv[1:] or zoo.names()
            for task in zoo.tasks(name)
            for row in rows(name, task, Path(folder))
        ]
    print(table(["model", "task", "variant", "metric", "inputs", "held out"], found))


if __name__ == "__main__":
    main()
