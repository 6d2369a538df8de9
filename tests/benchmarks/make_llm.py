"""Makes the files that one contender of peers_llm.py loads, each in the way that its own documentation says.

    python tests/benchmarks/make_llm.py weights|edgekit|edgekit-kv8|genai|openvino|openvino-head8|gguf MODEL OUT

`weights`: a Hugging Face folder of random bfloat16 weights for the config MODEL/config.json, always the same for a
config; MODEL is that folder for all others, which hold its weights in four bits, groups of 32, symmetric. `edgekit`:
our bundle; `edgekit-kv8`: with caches in 8 bits. `genai`: ONNX Runtime GenAI's model builder. `openvino`:
optimum-intel's export with every layer in four bits; `openvino-head8` with embedding and head in eight, as it does by
itself. `gguf`: llama.cpp's Q4_0, every layer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from make_peers import command

SEED = 20260901


def make_weights(model: Path, out: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from edgekit.source.stand_in_tokenizer import stand_in_tokenizer

    torch.manual_seed(SEED)
    config = AutoConfig.from_pretrained(model)
    for name in ("bos_token_id", "eos_token_id"):  # without which ONNX Runtime GenAI's builder refuses a model
        setattr(config, name, getattr(config, name) or 0)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    made.save_pretrained(out, max_shard_size="10GB")
    tokenizer = stand_in_tokenizer(config.vocab_size, wrap=False)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (out / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")


def make_edgekit(model: Path, out: Path, *more: str) -> None:
    # Made-up weights answer by chance: how far four bits go from sixteen says nothing of a model that was trained.
    options = ["--precision", "int4", "--target", "cpu", "--target", "openvino", "--max-accuracy-loss", "1"]
    _run([sys.executable, "-m", "edgekit", "export", model, "-o", out, *options, *more])


def make_edgekit_kv8(model: Path, out: Path) -> None:
    caches = ("cpu:kv_cache=int8", "openvino:KV_CACHE_PRECISION=u8")
    make_edgekit(model, out, *(word for cache in caches for word in ("--engine-option", cache)))


def make_genai(model: Path, out: Path) -> None:
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", model, "-o", out, "-p", "int4"]
    _run([*builder, "-e", "cpu", "-c", out.with_name(".genai"), "--extra_options", "int4_block_size=32"])


def make_openvino(model: Path, out: Path) -> None:
    _optimum(model, out, "--all-layers")


def make_openvino_head8(model: Path, out: Path) -> None:
    _optimum(model, out)


def _optimum(model: Path, out: Path, *more: str) -> None:
    form = ["--weight-format", "int4", "--group-size", "32", "--sym", "--ratio", "1.0", *more]
    command = [Path(sys.executable).with_name("optimum-cli"), "export", "openvino", "-m", model]
    _run([*command, "--task", "text-generation-with-past", *form, out])


def make_gguf(model: Path, out: Path) -> None:
    import llama_cpp
    from gguf_of import write

    out.mkdir()
    whole = out / "f16.gguf"
    write(model, whole)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.pure, options.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, True, 2
    if llama_cpp.llama_model_quantize(bytes(whole), bytes(out / "q4_0.gguf"), options):
        raise SystemExit("llama.cpp did not quantize it")
    whole.unlink()


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command)
    if done.returncode:
        raise SystemExit(done.returncode)


MAKERS = {
    "weights": make_weights,
    "edgekit": make_edgekit,
    "edgekit-kv8": make_edgekit_kv8,
    "genai": make_genai,
    "openvino": make_openvino,
    "openvino-head8": make_openvino_head8,
    "gguf": make_gguf,
}


if __name__ == "__main__":
    command(MAKERS, __doc__)
