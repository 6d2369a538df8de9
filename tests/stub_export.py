"""A stand-in for an exporter that takes no time: publishes a small, real bundle. Also run as a script, to be killed.

python stub_export.py TARGET SEED.onnx TAG [--force] [--pause] [--rounds N] [--read]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from edgekit import bundle, files, publish
from edgekit.core import Bundle, Graph, Port, Recipe, Source, State, Variant
from edgekit.errors import BusyError, EdgeKitError


def make_graph(folder: Path) -> Path:
    """y = x + w, with w in weights.bin; made once, because the onnx package takes longer to load than all the rest."""
    import onnx

    weight = onnx.TensorProto(name="w", dims=[4], data_type=onnx.TensorProto.FLOAT, data_location="EXTERNAL")
    weight.external_data.add(key="location", value="weights.bin")
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:], [weight])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)])
    (folder / "weights.bin").write_bytes(bytes(range(16)))
    (folder / "seed.onnx").write_bytes(model.SerializeToString())
    return folder / "seed.onnx"


def describe(folder: Path) -> Bundle:
    """The bundle around that graph."""
    graph = Graph(
        "model",
        "cpu/model.onnx",
        (Port("x", "float32", ("batch", 4)),),
        (Port("y", "float32", ("batch", 4)),),
        (State("x", "y", axis=0),),
        {"batch": (1, 3)},
    )
    return Bundle(
        folder,
        Source("zoo:stub", "stub", Path("/home/somebody/stub"), "", {"model_type": "stub", "hidden_size": 4}),
        "embed",
        "text",
        "once",
        "embedding",
        {"pooling": "mean", "normalize": True, "labels": {"0": "nein", "1": "ja"}},
        (Variant("cpu", Recipe("int4", group_size=32, method="rtn"), (graph,), {}, {"size": 12.5}),),
    )


def fill(work: Path, seed: Path, tag: str) -> None:
    """Three files and their manifest: the graph, its weights, and a text that tells one export from another."""
    (work / "cpu").mkdir()
    files.write_file(work / "cpu" / "model.onnx", seed.read_bytes())
    files.write_file(work / "cpu" / "weights.bin", seed.with_name("weights.bin").read_bytes())
    files.write_file(work / "tokenizer.json", tag.encode())
    bundle.write(describe(work), work, {"python": "3"})


def export_to(target: Path, seed: Path, tag: str, *, force: bool = False) -> None:
    with publish.into(target, force=force) as work:
        fill(work, seed, tag)


def tag_of(target: Path) -> str | None:
    """The text in a bundle that is whole; None where there is nothing. A half one raises."""
    if not os.path.lexists(target):
        return None
    bundle.read(target, verify="always")
    assert sorted(files.walk(target)) == ["cpu/model.onnx", "cpu/weights.bin", "edgekit.json", "tokenizer.json"]
    return (target / "tokenizer.json").read_text()


def command(*arguments: object) -> list[str]:
    """This file as a program."""
    return [sys.executable, __file__, *map(str, arguments)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", type=Path)
    parser.add_argument("seed", type=Path)
    parser.add_argument("tag")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--pause", action="store_true", help="say so and wait for a signal, once all is written")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--read", action="store_true", help="read the target until stdin closes, write nothing")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if options.read:
            read_until_told(options.target)
            return 0
        for number in range(options.rounds):
            export(options, f"{options.tag}-{number}" if options.rounds > 1 else options.tag)
    except EdgeKitError as error:
        print(error.code, error.message, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def export(options: argparse.Namespace, tag: str) -> None:
    while True:
        try:
            with publish.into(options.target, force=options.force) as work:
                fill(work, options.seed, tag)
                if options.pause:
                    print("ready", flush=True)
                    signal.pause()
            return
        except BusyError:
            if options.rounds == 1:
                raise
            time.sleep(0.002)


def read_until_told(target: Path) -> None:
    """Prints how many reads went well; any other ends with the reader's error."""
    told: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
    print("ready", flush=True)
    count = 0
    while not told:
        bundle.read(target, verify="always")
        count += 1
    print(count, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
