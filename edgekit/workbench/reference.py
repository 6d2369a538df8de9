"""The road by building: a graph written from config and weights, without torch, for `edgekit.export`.

Knows no architecture; the exporter writes the graph. The reference is the same graph in float32, run as it is, before
any target's form of it, with weights as their files have them where the exporter can; that it computes what
transformers does is proved by its tests, for every architecture, as the workbench of a user may have no torch. Where
the exporter traces, the proof is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgekit import device, memory_pages, registry
from edgekit.core import Bundle, Graph, Recipe, Source, Variant
from edgekit.errors import UnsupportedError, VerificationError
from edgekit.source import onnx_file
from edgekit.workbench import graph, plan
from edgekit.workbench.gate import as_item, prove

if TYPE_CHECKING:
    from edgekit.core import Array
    from edgekit.export import Reference, Workbench

TOGETHER = 1024  # tokens of the reference's prompts in one run


def prepare(bench: Workbench, bundle: Bundle, items: list[Any]) -> Reference:
    """The samples' tokens and the unquantized graph's answers to them, none where weights are made up.

    Raises BundleError for weights that do not fit the config, UnsupportedError for what the exporter does not know.
    """
    from edgekit.export import SCRATCH, Reference
    from edgekit.verify import read_arrays

    scratch = bench.work / SCRATCH
    ingest = registry.find("ingest", bundle.ingest).open(bench.work, bundle.settings)
    tokens = [np.asarray(one.ids, np.int64) for one in ingest.encode(items, truncate=True)]
    build = {"source": bench.source(), "scratch": str(scratch)}
    traced = bench.plan.traced
    if bundle.source.random and not traced:
        return Reference([], tokens, 0, build, {})
    order = build | {
        "bundle": msgspec.to_builtins(bundle, enc_hook=str),
        "samples": items,
        "tokens": [ids.tolist() for ids in tokens],
        "answers": str(scratch / "reference.npz"),
        "prove": sorted({choice.target for choice in bench.plan.choices}),
        "as_stored": plan.as_stored(
            registry.exporter(bundle.source.arch), (choice.recipe for choice in bench.plan.choices)
        ),
    }
    made = bench.run("edgekit.workbench.reference:work", "reference", order)
    answers = read_arrays(scratch / "reference.npz", ["reference"], len(items))["reference"]
    return Reference(answers, tokens, made["bytes"], build | {"built": made["built"]}, {})


def work(payload: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The worker's job: build the reference, run it on the samples' tokens, keep what the head makes of them.

    Unless weights are to be `as_stored`, a variant may be made of it: `built` of the result then has its states and its
    kind.
    """
    from edgekit.verify import write_arrays

    source = Source(**payload["source"] | {"folder": Path(payload["source"]["folder"])})
    bundle = msgspec.convert(payload["bundle"], Bundle, dec_hook=lambda kind, value: kind(value))
    exporter, scratch, finished = registry.exporter(source.arch), Path(payload["scratch"]), {}
    if payload["as_stored"]:
        file = scratch / "reference.onnx"
        built = exporter.reference(source, file, say)
    else:
        file = scratch / "fp32.onnx"
        built = exporter.build(source, Recipe(), file, say)
        finished = {"fp32": msgspec.to_builtins((built.states, built.kind))}
    if file.with_name("proof.npz").is_file():  # the exporter traced it
        hold_against_torch(file, built, payload["prove"], say)
    if source.arch == registry.GIVEN:
        say("holding steps against the whole")
        onnx_file.check_steps(file, built, device.threads())
    say("computing the reference")
    if bundle.loop == "decode":
        found = _prompts(bundle, built, file, payload["tokens"])
    else:
        found = _items(bundle, built, file, payload["samples"])
    write_arrays(Path(payload["answers"]), {"reference": found})
    size = sum(path.stat().st_size for path in file.parent.glob(f"{file.stem}.*"))
    return {"bytes": size, "built": finished}


def _prompts(bundle: Bundle, built: Graph, file: Path, prompts: Sequence[Sequence[int]]) -> list[Array]:
    """What the head makes of each prompt, read at once by the graph as it is; several together, as each run reads all
    weights from the file."""
    head = registry.find("heads", bundle.head)
    # Mapped, not packed, and given back: the float32 weights of a large model need not fit into memory.
    options = {"session.disable_prepacking": "1"}
    session = registry.find("targets", "cpu").open(
        file.parent, replace(built, states=(), kind="plain"), Recipe(), threads=device.threads(), options=options
    )
    try:
        found: list[Array] = []
        with memory_pages.giving_back(file.parent):
            for rows in together(prompts):
                positions = [head.positions(len(ids)) for ids in rows]
                logits = session.run(feeds(built, rows, positions))[0]["logits"]
                numbers = (each[: len(asked)] for each, asked in zip(logits, positions, strict=True))
                found += [head.numbers(each, bundle.settings) for each in numbers]
        return found
    finally:
        session.close()


def _items(bundle: Bundle, built: Graph, file: Path, items: Sequence[Any]) -> list[Array]:
    """What a device would answer, did it run the graph as it is."""
    from edgekit.model import Model

    plain = replace(built, path=file.relative_to(bundle.folder).as_posix())
    with Model(bundle, Variant("cpu", Recipe(), (plain,)), device.threads()) as model:
        return model.numbers([as_item(item) for item in items], truncate=True)


def hold_against_torch(file: Path, built: Graph, targets: Sequence[str], say: Callable[[str], None]) -> None:
    """Run the traced graph as it is, and each target's form of it, on the proof that lies beside it.

    Raises UnsupportedError where one does not give what torch gave.
    """
    say("holding the traced graph against torch")
    _prove("cpu", file, built, "the traced graph")
    for target in targets:
        say(f"holding its form for {target} against torch")
        compiled = registry.find("targets", target).compile(graph.load(file), Recipe(), kind=built.kind)
        form = file.with_name(f"{target}-proof.onnx")
        form.write_bytes(graph.to_bytes(compiled))
        described = graph.describe(compiled, "proof", form.name, {}, built.states, built.kind)
        _prove(target, form, described, f"its form for {target}")


def _prove(target: str, file: Path, form: Graph, name: str) -> None:
    session = registry.find("targets", target).open(file.parent, form, Recipe(), threads=device.threads())
    try:
        prove(session, file.with_name("proof.npz"), Recipe(), name)
    except VerificationError as error:
        refusal = UnsupportedError(
            f"this model cannot be traced: {error.message}",
            hint="nothing was published; choose a model of another architecture",
        )
        refusal.details.update(error.details)
        raise refusal from error
    finally:
        session.close()


def together(prompts: Sequence[Sequence[int]]) -> Iterator[Sequence[Sequence[int]]]:
    """The prompts in order, as many at a time as make no more than TOGETHER tokens with what pads them."""
    rows: list[Sequence[int]] = []
    for ids in prompts:
        if rows and (len(rows) + 1) * max(map(len, [*rows, ids])) > TOGETHER:
            yield rows
            rows = []
        rows.append(ids)
    if rows:
        yield rows


def feeds(graph: Graph, prompts: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> dict[str, Array]:
    """Prompts from an empty past: what the portable graph of a decoder takes. Rows are padded on the right, ids and
    positions with zeros."""
    counts = np.array([len(ids) for ids in prompts], np.int64)
    places = np.arange(counts.max())
    known = {
        "input_ids": _rows(prompts),
        "counts": counts,
        "position_ids": np.minimum(places, counts[:, None] - 1),
        "attention_mask": (places < counts[:, None]).astype(np.int64),
        "logit_positions": _rows(positions),
    }
    given, sizes = {}, {"batch": len(prompts), "past": 0}
    for port in graph.inputs:
        shape = [axis if isinstance(axis, int) else sizes.get(axis, 0) for axis in port.shape]
        given[port.name] = known[port.name] if port.name in known else np.zeros(shape, port.dtype)
    return given


def _rows(lists: Sequence[Sequence[int]]) -> Array:
    """int64 (lists, the longest)."""
    found = np.zeros((len(lists), max(map(len, lists))), np.int64)
    for row, numbers in zip(found, lists, strict=True):
        row[: len(numbers)] = numbers
    return found
