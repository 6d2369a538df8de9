"""One step of a recurrent model: 2 LSTM layers of 128, beside torch and a bare loop over ONNX Runtime.

    python tests/benchmarks/streams.py -o streams.json

One process, one thread, in turns: in every round each contender goes through the same samples, one at a time, from
where it was, and in the end all must have said the same. `session` is edgekit's session, `step` what a caller of a
Stream waits for: samples checked and normalized, results in the caller's units. `bare` is ONNX Runtime on the same file
with the states as numpy arrays from one call to the next. Ratios are taken within a round; their medians are given.
Then 256 streams: one `Streams.step` for all, beside 256 calls of `Stream.step`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _harness import machine, publish, say, table

import edgekit
from edgekit.model import Model

FEATURES, HIDDEN, LAYERS, RESULTS = 8, 128, 2, 2
STEPS, ROUNDS, STREAMS = 500, 15, 256
Step = Callable[[Any], Any]


def modules() -> tuple[Any, Any]:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return torch.nn.LSTM(FEATURES, HIDDEN, LAYERS).eval(), torch.nn.Linear(HIDDEN, RESULTS).eval()


def save(folder: Path, lstm: Any, head: Any) -> None:
    """The modules as a folder that edgekit exports."""
    from safetensors.torch import save_file

    parts = {"rnn": lstm, "head": head}
    tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "lstm",
        "input_size": FEATURES,
        "hidden_size": HIDDEN,
        "num_layers": LAYERS,
        "head": "regression",
        "per": "step",
        "features": [f"x{number}" for number in range(FEATURES)],
        "outputs": [f"y{number}" for number in range(RESULTS)],
    }
    (folder / "config.json").write_text(json.dumps(config))


def torch_steps(lstm: Any, head: Any) -> dict[str, Step]:
    import torch

    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = lstm, head

        def forward(self, x: Any, h: Any, c: Any) -> Any:
            y, (h, c) = self.lstm(x, (h, c))
            return self.head(y), h, c

    def stepping(module: Any) -> Step:
        state = [torch.zeros(LAYERS, 1, HIDDEN)] * 2

        def step(x: Any) -> Any:
            with torch.inference_mode():
                y, *state[:] = module(torch.from_numpy(x)[None, None], *state)
                return y[0, 0].numpy()

        return step

    zeros = torch.zeros(LAYERS, 1, HIDDEN)
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(One().eval(), (torch.zeros(1, 1, FEATURES), zeros, zeros)))
    return {"torch, eager": stepping(One().eval()), "torch.jit": stepping(traced)}


def bare(model: Model) -> Step:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    (graph,) = model.variant.graphs
    engine = onnxruntime.InferenceSession(model.bundle.folder / graph.path, options)
    outputs = [port.name for port in graph.outputs]
    shapes = {port.name: [1 if axis == "batch" else axis for axis in port.shape] for port in graph.inputs}
    state = {each.into: np.zeros(shapes[each.into], np.float32) for each in graph.states}
    counts = {"counts": np.ones(1, np.int64)} if "counts" in graph.fed else {}

    def step(x: Any) -> Any:
        found = dict(zip(outputs, engine.run(outputs, {"x": x[None, None], **counts, **state})))
        state.update({each.into: found[each.out] for each in graph.states})
        return found["y"][0, 0]

    return step


def session(model: Model) -> Step:
    engine: Any = model.session_of()
    state = engine.start(1)
    counts = {"counts": np.ones(1, np.int64)} if "counts" in model.variant.graphs[0].fed else {}

    def step(x: Any) -> Any:
        return engine.run({"x": x[None, None], **counts}, state)[0]["y"][0, 0]

    return step


@contextmanager
def contenders(folder: Path) -> Iterator[dict[str, Step]]:
    lstm, head = modules()
    (folder / "source").mkdir()
    save(folder / "source", lstm, head)
    edgekit.export(str(folder / "source"), folder / "made.ek", targets=["cpu", "openvino"], precision="fp32")
    with (
        edgekit.load(folder / "made.ek", target="cpu", threads=1) as cpu,
        edgekit.load(folder / "made.ek", target="openvino", threads=1) as openvino,
    ):
        yield {
            "bare ONNX Runtime": bare(cpu),
            "edgekit cpu, session": session(cpu),
            "edgekit cpu, step": cpu.session().step,
            "edgekit openvino, session": session(openvino),
            "edgekit openvino, step": openvino.session().step,
            **torch_steps(lstm, head),
        }


def timed(step: Step, samples: Any) -> tuple[float, Any]:
    """Microseconds a step, and what the last one said."""
    begun = time.perf_counter()
    for x in samples:
        found = step(x)
    return (time.perf_counter() - begun) / len(samples) * 1e6, np.array(found)


def many(folder: Path, draw: np.random.Generator) -> list[float]:
    """How many times sooner 256 streams are through one step together than one by one, by round."""
    with edgekit.load(folder / "made.ek", target="cpu", threads=1) as model:
        alone, together = [model.session() for _ in range(STREAMS)], model.streams()
        keys = [together.add() for _ in range(STREAMS)]
        ratios = []
        for _ in range(ROUNDS):
            samples = draw.normal(0, 1, (STREAMS, FEATURES)).astype(np.float32)
            begun = time.perf_counter()
            single = [stream.step(x) for stream, x in zip(alone, samples)]
            middle = time.perf_counter()
            found = together.step(dict(zip(keys, samples)))
            ratios.append((middle - begun) / (time.perf_counter() - middle))
            np.testing.assert_allclose([found[key] for key in keys], single, atol=1e-4)
        return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    args, before, draw = parser.parse_args(), machine(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as made:
        folder, took = Path(made), dict[str, list[float]]()
        with contenders(folder) as steps:
            for number in range(ROUNDS + 1):
                samples = draw.normal(0, 1, (STEPS, FEATURES)).astype(np.float32)
                ran = {name: timed(step, samples) for name, step in steps.items()}
                for name, (microseconds, last) in ran.items():
                    np.testing.assert_allclose(last, ran["torch, eager"][1], atol=1e-4, err_msg=name)
                    if number:  # the first is for warming up
                        took.setdefault(name, []).append(microseconds)
                say(f"round {number} of {ROUNDS}")
        batched = many(folder, draw)
    base = took["bare ONNX Runtime"]
    rows = [(name, median(found), median(a / b for a, b in zip(found, base))) for name, found in took.items()]
    text = table(("", "µs a step", "to bare ONNX Runtime"), rows)
    text += f"\n\n{STREAMS} streams in one step: {median(batched):.1f} times sooner than one by one"
    result = {
        "schema": "edgekit.benchmarks.streams/1",
        "microseconds": took,
        "batched": batched,
        "machine": {**before, "load_after": os.getloadavg()},
    }
    publish(args, text, result)


if __name__ == "__main__":
    main()
