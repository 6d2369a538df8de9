"""GroupQueryAttention of ONNX Runtime, one new token: its kernels on the CPU, and what makes it choose each.

    python tests/benchmarks/attention_kernels.py --held 100 576 2000 8000

Of Qwen3-0.6B's shape (16 heads, 8 of keys and values, 128 wide), with a cache for each of `--layers` layers. All
choices in one process, in turns, after the last-level cache was filled with something else; a ratio is taken within a
round and the median over rounds is given. `tiled`: as it comes. `written`: with a sink of minus infinity, so that
probabilities are written down. `scaled`: queries are scaled before, and the attention's own scale is 1. `one scale`:
of an int8 cache, instead of one for each channel; queries are rounded to 8 bits as well, but with `--exact-queries`.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort
from _harness import machine, say, table
from onnx import TensorProto, helper

from edgekit.targets._ort.decoder_int8_cache import QUICK

HEADS, KV_HEADS, DIM = 16, 8, 128
CACHES = {"float32": (TensorProto.FLOAT, np.float32), "int8": (TensorProto.INT8, np.int8)}
CHOICES = {
    "tiled": (False, False, False),
    "scaled": (False, True, False),
    "written": (True, False, False),
    "written, scaled": (True, True, False),
    "written, scaled, one scale": (True, True, True),
}
OTHERS = 40_000_000  # numbers that are read between the turns


def model(cache: str, held: int, sink: bool, scaled: bool, one: bool) -> bytes:
    kept, value = CACHES[cache][0], helper.make_tensor_value_info
    past = [KV_HEADS, held + 1, DIM]
    inputs = [
        value("q", TensorProto.FLOAT, [1, 1, HEADS * DIM]),
        value("k", TensorProto.FLOAT, [1, 1, KV_HEADS * DIM]),
        value("v", TensorProto.FLOAT, [1, 1, KV_HEADS * DIM]),
        value("past_k", kept, [1, *past]),
        value("past_v", kept, [1, *past]),
        value("lengths", TensorProto.INT32, [1]),
        value("total", TensorProto.INT32, []),
    ]
    names = [each.name for each in inputs] + [""] * 7
    told: dict[str, Any] = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "scale": 1.0 if scaled else DIM**-0.5}
    if sink:
        names[11] = "sink"
        inputs.append(value("sink", TensorProto.FLOAT, [HEADS]))
    if cache == "int8":
        names[12:] = ["scale_k", "scale_v"]
        inputs += [value(name, TensorProto.FLOAT, [1] if one else [KV_HEADS, 1, DIM, 1]) for name in names[12:]]
        kind = "PER_TENSOR" if one else "PER_CHANNEL"
        told |= {"k_quant_type": kind, "v_quant_type": kind, "kv_cache_bit_width": 8}
    outputs = [value("out", TensorProto.FLOAT, [1, 1, HEADS * DIM])]
    outputs += [value(name, kept, [1, *past]) for name in ("new_k", "new_v")]
    node = helper.make_node("GroupQueryAttention", names, ["out", "new_k", "new_v"], domain="com.microsoft", **told)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", inputs, outputs)
    return helper.make_model(graph, opset_imports=opsets, ir_version=11).SerializeToString()


class Attention:
    """A session, with a binding and caches for each layer."""

    def __init__(self, cache: str, choice: str, held: int, layers: int, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        sink, scaled, one = CHOICES[choice]
        self.session = ort.InferenceSession(model(cache, held, sink, scaled, one), options)
        self.kept: list[Any] = []
        self.bindings = [self._layer(np.random.default_rng(layer), cache, held, scaled, one) for layer in range(layers)]

    def _layer(self, drawn: np.random.Generator, cache: str, held: int, scaled: bool, one: bool) -> Any:
        def normal(*shape: int) -> Any:
            return drawn.standard_normal(shape, np.float32)

        feeds = {
            "q": normal(1, 1, HEADS * DIM) * np.float32(DIM**-0.5 if scaled else 1),
            "k": normal(1, 1, KV_HEADS * DIM),
            "v": normal(1, 1, KV_HEADS * DIM),
            "lengths": np.array([held], np.int32),
            "total": np.array(held + 1, np.int32),
            "sink": np.full(HEADS, -np.inf, np.float32),
        }
        scale = np.full((1,) if one else (KV_HEADS, 1, DIM, 1), 1 / 30, np.float32)
        feeds |= {"scale_k": scale, "scale_v": scale}
        binding = self.session.io_binding()
        for name in {each.name for each in self.session.get_inputs()} & feeds.keys():
            binding.bind_cpu_input(name, feeds[name])
        for past, new in (("past_k", "new_k"), ("past_v", "new_v")):
            wide = 30 if cache == "int8" else 1
            array = (normal(1, KV_HEADS, held + 1, DIM) * wide).astype(CACHES[cache][1])
            self.kept.append(array)
            where = "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            binding.bind_input(past, *where)
            binding.bind_output(new, *where)
        binding.bind_output("out", "cpu")
        return binding

    def step(self) -> float:
        """Seconds for a layer."""
        begun = time.perf_counter()
        for binding in self.bindings:
            self.session.run_with_iobinding(binding)
        return (time.perf_counter() - begun) / len(self.bindings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held", nargs="+", type=int, default=[576], help="tokens in the caches")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--exact-queries", action="store_true", help="do not round queries where a cache has one scale")
    args = parser.parse_args()
    os.environ[QUICK] = str(int(not args.exact_queries))
    say(f"{machine()['cpu']}, {args.threads} threads, ONNX Runtime {ort.__version__}")
    others, rows = np.ones(OTHERS, np.float32), []
    for held in args.held:
        for cache in CACHES:
            names = [name for name, (*_, one) in CHOICES.items() if cache == "int8" or not one]
            made = {name: Attention(cache, name, held, args.layers, args.threads) for name in names}
            rounds = [{name: (others.sum(), each.step())[1] for name, each in made.items()} for _ in range(args.rounds)]
            for name in names:
                ratio = median(each[name] / each["tiled"] for each in rounds)
                rows.append([held, cache, name, 1e6 * median(each[name] for each in rounds), ratio])
    print(table(["tokens held", "cache", "kernel", "microseconds a layer", "of tiled"], rows))


if __name__ == "__main__":
    main()
