"""The ONNX files of the package silero-vad: each becomes a bundle that streams, and agrees with ONNX Runtime.

They have what files of strangers have: old opsets, If nodes, a rate as an input, half floats, axes without names.
The package's own code puts the last 64 samples of a chunk in front of the next one; so does whoever feeds the bundle.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cli_calls import Call, call

import edgekit
from edgekit import registry
from edgekit.core import Recipe
from edgekit.source import resolve
from edgekit.workbench.prove import check_steps, hold_against_torch

__all__ = ["call"]
pytestmark = pytest.mark.slow
TARGETS = ("cpu", "openvino")
RATE, CHUNK, CONTEXT = 16000, 512, 64
STATE, WIDE = {"state": "stateN"}, {"input": ["batch", CHUNK + CONTEXT]}
FILES: dict[str, dict[str, Any]] = {
    "silero_vad.onnx": {"states": STATE, "inputs": {"sr": RATE}, "shapes": WIDE},
    "silero_vad_16k_op15.onnx": {"states": STATE, "inputs": {"sr": RATE}, "shapes": WIDE},
    "silero_vad_16k_sequence.onnx": {"states": {"h": "hn", "c": "cn"}},
    "silero_vad_half.onnx": {"states": STATE, "shapes": WIDE},
    "silero_vad_op18_ifless.onnx": {"states": STATE, "inputs": {"sr": RATE}, "shapes": WIDE},
    "silero_vad_openvino_16k.onnx": {"states": STATE},
}


def silero(name: str) -> Path:
    """A file of the package, which is not imported: that needs torch."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        pytest.skip("the package silero-vad is not installed")
    return Path(spec.origin).with_name("data") / name


def windows(sound: Any) -> Iterator[Any]:
    """The chunks of a sound, each behind the end of the one before."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    for first in range(0, len(sound) - CHUNK + 1, CHUNK):
        yield padded[first : first + CONTEXT + CHUNK]


def voice(seconds: float = 2.0) -> Any:
    """Something like syllables between two silences: harmonics of a swaying pitch through three formants."""
    time = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 * (1 + 0.1 * np.sin(2 * np.pi * 0.9 * time))) / RATE
    sound = np.zeros(len(time))
    for k in range(1, 40):
        formants = ((700, 130, 1.0), (1220, 150, 0.5), (2600, 200, 0.2))
        gain = sum(peak / (1 + ((120 * k - centre) / width) ** 2) for centre, width, peak in formants)
        sound += gain / np.sqrt(k) * np.sin(k * phase)
    loud = (abs(time - seconds / 2) < seconds / 4) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * time) ** 2)
    noise = np.random.default_rng(0).normal(size=time.shape) * 0.002
    return (0.15 * sound * loud + noise).astype(np.float32)


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_what_onnx_runtime_gives(tmp_path: Path, name: str) -> None:
    """On both engines, from step to step."""
    source = resolve.resolve(str(silero(name)), **FILES[name])
    exporter = registry.exporter(source.arch)
    (graph,) = exporter.graphs(source, "any", Recipe(), tmp_path, lambda what: None)
    hold_against_torch([graph], tmp_path, TARGETS, lambda what: None)
    check_steps(tmp_path, graph)
    assert graph.inputs[0].shape[-1] == CHUNK + CONTEXT


def test_speech_is_found_as_by_the_file(tmp_path: Path, call: Call) -> None:
    """From the command line to a stream, with the state of the file kept by the bundle."""
    file = tmp_path / "vad.onnx"
    shutil.copyfile(silero("silero_vad.onnx"), file)
    words = ("--state", "stateN=state", "--input", "sr=16000", "--shape", "input=batch,576", "--precision", "fp32")
    made = call("export", file, "-o", tmp_path / "vad.ek", *words, "--target", "cpu", "--target", "openvino")
    assert made.code == 0, made.err
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    state, wanted = np.zeros((2, 1, 128), np.float32), []
    for x in windows(voice()):
        y, state = session.run(None, {"input": x[None], "state": state, "sr": np.array(RATE)})
        wanted.append(y[0])
    speech = np.ravel(wanted)
    assert speech.max() > 0.9 > 0.1 > speech[3]
    for target in TARGETS:
        with edgekit.load(tmp_path / "vad.ek", target=target) as model, model.session() as stream:
            found = [stream.step(x) for x in windows(voice())]
            np.testing.assert_allclose(found, wanted, atol=1e-4)
