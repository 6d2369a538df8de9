"""Run bundles as a device does, and write down what came out: started by walk.py, natively and under emulation.

    python device_half.py BUNDLES OUT [--resume OTHER]

For each bundle and variant: `verify`, an open model proven at its load, each of its methods on two golden inputs, and
a session that is saved to OUT after two turns and goes on. With --resume a session that OTHER, another machine's OUT,
saved goes on here. Writes OUT/answers.json. Knows no task: methods are called by their signatures.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit.bundle import manifest
from edgekit.checks import samples
from edgekit.machine import device
from edgekit.results import Result
from edgekit.text_table import plain

TOKENS = 8  # of an answer: emulation is slow
ITEMS = 2
LETTERS = 20  # of a turn: the zoo's contexts are short


def run(bundles: Path, out: Path, other: Path | None) -> dict[str, Any]:
    """What this machine is, and the outcome of each `BUNDLE VARIANT`."""
    outcomes: dict[str, Any] = {}
    for folder in sorted(bundles.glob("*.ek")):
        checks = {check.variant: check for check in edgekit.verify(folder)}
        for variant in manifest.read(folder).variants:
            name = f"{folder.name} {variant.name}"
            try:
                outcomes[name] = outcome(folder, variant, checks[variant.name], out / mangled(name), other)
            except Exception as error:  # written down as this variant's outcome, which fails the walk
                traceback.print_exc()
                outcomes[name] = {"error": f"{type(error).__name__}: {error}"}
    return {
        "cpu": device.cpu_model(),
        "features": sorted(device.cpu_features()),
        "outcomes": outcomes,
        "extremes": extremes(bundles / "extremes.onnx"),
    }


def extremes(file: Path) -> str:
    """How many sums of products of the largest bytes are wrong, of one row and of many; empty if none is."""
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    weights = np.load(file.with_suffix(".npz"))["b"].astype(np.int64)
    wrong = 0
    for count in (1, 2, 3, 4, 33):
        rows = np.random.default_rng(count).choice(np.array([0, 255], np.uint8), (count, len(weights)))
        rows[0] = 255
        (sums,) = session.run(None, {"a": rows})
        wrong += int((sums != (rows.astype(np.int64) - 128) @ weights).sum())
    return f"{wrong} sums are wrong" if wrong else ""


def outcome(folder: Path, variant: Any, check: Any, state: Path, other: Path | None) -> dict[str, Any]:
    goldens = manifest.read(folder).goldens
    assert goldens is not None
    with edgekit.load(folder, target=variant.target, precision=variant.recipe.name, prove="always") as model:
        items = [model.item(sample) for sample in samples.read(folder / goldens.file, goldens.inputs)[:ITEMS]]
        found: dict[str, Any] = {"verify": check.why, "methods": {}}
        for name in ("run", *model.methods):
            method = getattr(model, name)
            is_async = inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)
            if name not in ("session", "streams") and not is_async:
                found["methods"][name] = plain_answer(called(method, items, model))
        if "session" in model.methods:
            found["saved"] = saved(model, items, state)
            if other is not None:
                found["resumed"] = resumed(model, items, other / state.name)
    return found


def called(method: Any, items: list[Any], model: Any) -> Any:
    """The method's answer to the first items, with only what it requires."""
    parameters = inspect.signature(method).parameters.values()
    required = [each for each in parameters if each.default is each.empty and each.kind <= each.POSITIONAL_OR_KEYWORD]
    limit = {"max_new_tokens": TOKENS} if "generate" in model.methods else {}
    answer = method(*(argument(each, items) for each in required), **limit)
    return list(itertools.islice(answer, 20)) if isinstance(answer, Iterator) else answer


def argument(parameter: inspect.Parameter, items: list[Any]) -> Any:
    """A sample for `x`, all items where several are needed, else the first item."""
    if parameter.name == "x":
        return items[0][0]
    several = parameter.name == "items" or str(parameter.annotation).startswith("Sequence")
    return items if several else items[0]


def saved(model: Any, items: list[Any], state: Path) -> Any:
    """A session of two turns, saved; and what it says next."""
    with model.session() as session:
        turn(session, items, 0)
        session.save(state)
        return plain_answer(turn(session, items, 1))


def resumed(model: Any, items: list[Any], state: Path) -> Any:
    """What another machine's session says next, here."""
    with model.session() as session:
        session.load(state)
        return plain_answer(turn(session, items, 1))


def turn(session: Any, items: list[Any], number: int) -> Any:
    if hasattr(session, "step"):
        return [session.step(sample) for sample in items[0][3 * number : 3 * number + 3]]
    return session.generate(items[number][:LETTERS], max_new_tokens=TOKENS)


def plain_answer(answer: Any) -> Any:
    """An answer as JSON, without what differs from run to run."""
    if isinstance(answer, list):
        return [plain_answer(each) for each in answer]
    return {"text": answer.text, "ids": list(answer.ids)} if isinstance(answer, Result) else plain(answer)


def mangled(name: str) -> str:
    return name.replace(" ", "-").replace("/", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    report = run(args.bundles, args.out, args.resume)
    (args.out / "answers.json").write_text(json.dumps(report), encoding="utf-8")
    sys.exit(any("error" in outcome for outcome in report["outcomes"].values()))


if __name__ == "__main__":
    main()
