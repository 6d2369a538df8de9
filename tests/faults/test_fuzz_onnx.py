"""Model files that are damaged at random: an error of ours, or a file that opens and runs.

An .onnx file goes the way that a bundle's does, with right digests: the walk of its bytes, then the engine. That part
runs in a child with a limit of memory and time, as an engine may crash; a crash is a failure that names the seed.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import series_bundles
import small_bundles
from property_tests import cases

from edgekit.bundle import manifest
from edgekit.errors import BundleError, EdgeKitError

MEMORY = 8 << 30  # bytes of address space, most of it the engine's libraries
SECONDS = 600


def damaged(good: bytes, seed: int) -> bytes:
    """The file with some bytes changed, cut out or doubled."""
    chance, bad = random.Random(seed), bytearray(good)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(bad))
        match chance.randrange(4):
            case 0:
                bad[at] = chance.randrange(256)
            case 1:
                bad[at] ^= 1 << chance.randrange(8)
            case 2:
                del bad[at : at + chance.choice((1, 1, 4, 64))]
            case _:
                bad[at:at] = bad[at : at + chance.choice((1, 4, 64))]
        bad = bad or bytearray(b"\0")
    return bytes(bad)


def serve(folder: Path, seeds: range) -> None:
    """The child's side: tell each seed before it is tried, and what came of it."""
    from edgekit.model import load

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    model = folder / "model.onnx"
    good, bundle = model.read_bytes(), manifest.read(folder)
    x: Any = ["a text"] if bundle.task == "feature-extraction" else [series_bundles.series(5)]
    for seed in seeds:
        print(json.dumps(["try", seed]), flush=True)
        model.write_bytes(damaged(good, seed))
        try:
            manifest.write(bundle, folder, {})
            with np.errstate(all="ignore"), load(folder, target="cpu", threads=1, verify="never") as opened:
                list(opened.run(x))
        except EdgeKitError as error:
            error.message.encode()
            print(json.dumps(["refused", seed, type(error).__name__]), flush=True)
        else:
            print(json.dumps(["ran", seed]), flush=True)


def outcomes(folder: Path, seeds: range) -> list[list[Any]]:
    """What came of each seed. A child that dies or raises fails the test with the last seed that it told."""
    done = subprocess.run(
        [sys.executable, __file__, str(folder), str(seeds.start), str(seeds.stop)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(series_bundles.__file__).parent)},
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert done.returncode == 0, f"{done.returncode} after {said[-1:]}: {done.stderr[-3000:]}"
    return [line for line in said if line[0] != "try"]


@pytest.mark.parametrize("kind", ["text", "series"])
def test_fuzz_of_a_graph(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnxruntime")
    make = small_bundles.make if kind == "text" else series_bundles.make
    count = cases(60, 500)
    found = outcomes(make(tmp_path / "x.ek"), range(count))
    assert len(found) == count
    assert {line[0] for line in found} == {"ran", "refused"}


def test_a_name_that_is_not_unicode_in_a_message_of_the_engine(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = series_bundles.make(tmp_path / "x.ek")
    assert outcomes(made, range(180, 181)) == [["refused", 180, "BundleError"]]


def test_fuzz_of_safetensors(tmp_path: Path) -> None:
    from edgekit.source import safetensors

    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"a": "b"}})
    good = len(header).to_bytes(8, "little") + header.encode() + bytes(24)
    path, refused = tmp_path / "x.safetensors", 0
    for seed in range(cases(300, 3000)):
        path.write_bytes(damaged(good, seed))
        try:
            for tensor in safetensors.header(path):
                safetensors.is_nonfinite(path, tensor)
        except BundleError as error:
            error.message.encode()
            refused += 1
    assert refused > cases(300, 3000) // 2


if __name__ == "__main__":
    serve(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])))
