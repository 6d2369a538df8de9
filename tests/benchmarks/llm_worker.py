"""One contender of peers_llm.py in its own interpreter: loads a decoder, then answers JSON lines with JSON lines.

    python llm_worker.py '{"loader": "transformers", "model": "FOLDER", "threads": 2}'

Knows how each library is asked to go on from token ids, greedily and past any end token. Only the contender's own
library is imported, and only when it is loaded.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from worker import memory, serve

Tokens = Callable[[list[int], int], Iterator[int]]  # prompt, how many -> the tokens as they come


def load_edgekit(spec: dict[str, Any]) -> Tokens:
    import edgekit

    model = edgekit.load(spec["model"], target=spec["target"], threads=spec["threads"])

    def tokens(prompt: list[int], count: int) -> Iterator[int]:
        for piece in model.generate(prompt, stream=True, max_new_tokens=count, min_new_tokens=count):
            yield from piece.ids

    return tokens


def load_genai(spec: dict[str, Any]) -> Tokens:
    import onnxruntime_genai as og  # type: ignore[import-not-found,unused-ignore]

    config = og.Config(spec["model"])
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": spec["threads"]}}}}))
    model = og.Model(config)

    def tokens(prompt: list[int], count: int) -> Iterator[int]:
        length = len(prompt) + count
        options = og.GeneratorParams(model)
        options.set_search_options(do_sample=False, max_length=length, min_length=length)
        generator = og.Generator(model, options)
        generator.append_tokens(prompt)
        for _ in range(count):
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])

    return tokens


def load_openvino(spec: dict[str, Any]) -> Tokens:
    import queue
    import threading

    import numpy as np
    import openvino_genai as ov  # type: ignore[import-not-found,unused-ignore]
    from openvino import Tensor

    pipeline = ov.LLMPipeline(spec["model"], "CPU", INFERENCE_NUM_THREADS=spec["threads"])

    class Streamer(ov.StreamerBase):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.came: queue.SimpleQueue[int] = queue.SimpleQueue()

        def write(self, token: int | list[int]) -> Any:
            for one in token if isinstance(token, list) else [token]:
                self.came.put(one)
            return ov.StreamingStatus.RUNNING

        def end(self) -> None:
            """There is nothing to flush."""

    def tokens(prompt: list[int], count: int) -> Iterator[int]:
        ids = np.array([prompt], np.int64)
        config = ov.GenerationConfig(max_new_tokens=count, min_new_tokens=count, ignore_eos=True, do_sample=False)
        streamer = Streamer()
        inputs = ov.TokenizedInputs(Tensor(ids), Tensor(np.ones_like(ids)))
        run = threading.Thread(target=pipeline.generate, args=(inputs, config, streamer))
        run.start()
        for _ in range(count):
            yield streamer.came.get(timeout=120)
        run.join()

    return tokens


def load_llama(spec: dict[str, Any]) -> Tokens:
    import itertools

    from llama_cpp import Llama  # type: ignore[import-not-found,unused-ignore]

    model = Llama(
        f"{spec['model']}/q4_0.gguf", n_ctx=spec.get("context", 1024), n_batch=512, verbose=False,
        n_threads=spec["threads"], n_threads_batch=spec["threads"],
    )  # fmt: skip

    def tokens(prompt: list[int], count: int) -> Iterator[int]:
        model.reset()
        yield from map(int, itertools.islice(model.generate(prompt, temp=0.0), count))

    return tokens


def load_transformers(spec: dict[str, Any]) -> Tokens:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(spec["threads"])
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.bfloat16)

    def tokens(prompt: list[int], count: int) -> Iterator[int]:
        with torch.inference_mode():
            ids, cache = torch.tensor([prompt]), None
            for _ in range(count):
                found = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, ids = found.past_key_values, found.logits[:, -1].argmax(-1, keepdim=True)
                yield int(ids)

    return tokens


LOADERS = {
    "edgekit": load_edgekit,
    "genai": load_genai,
    "openvino": load_openvino,
    "llama": load_llama,
    "transformers": load_transformers,
}


def prompt(seed: int, length: int) -> list[int]:
    """Token ids of no meaning; every seed has its own, so that no cache of prompts helps."""
    chance = random.Random(seed)
    return [chance.randrange(300, 30_000) for _ in range(length)]


def answer(tokens: Tokens, request: dict[str, Any]) -> dict[str, Any]:
    """Seconds from the call to each token, the CPU seconds of prompt and reply, and the tokens."""
    if request["do"] == "memory":
        return memory()
    given, came, found = prompt(request["seed"], request["prompt"]), [], []
    begun, cpu = time.perf_counter(), [time.process_time()]
    for token in tokens(given, request["new"]):
        came.append(time.perf_counter() - begun)
        found.append(token)
        if len(found) == 1:
            cpu.append(time.process_time())
    cpu.append(time.process_time())
    return {"came": came, "tokens": found, "cpu_prompt": cpu[1] - cpu[0], "cpu_reply": cpu[2] - cpu[1]}


def first(tokens: Tokens) -> list[float]:
    """What a library puts off until it is asked belongs to loading it."""
    return [float(one) for one in tokens(prompt(0, 8), 2)]


if __name__ == "__main__":
    serve(LOADERS, first, answer)
