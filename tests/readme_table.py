"""The tables of README.md that are made from files: architectures from exporters/, methods from runtimes/tasks/.

    python tests/readme_table.py          writes them into README.md, between their markers

A line in `MODELS` names examples of an architecture; without one its row has none.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit import registry
from edgekit.core import PRECISIONS
from edgekit.errors import UnsupportedError
from edgekit.exporters._decoder.exporter import Decoder
from edgekit.quantize.recipes import recipe

README = Path(__file__).parents[1] / "README.md"
NAMES = ("architectures", "methods")  # of the tables
# `model_type` as config.json spells it, where the file's name cannot.
SPELLING = {"deberta_v2": "deberta-v2", "xlm_roberta": "xlm-roberta"}
# Exporter file -> models of this architecture, as a user types them.
MODELS: dict[str, tuple[str, ...]] = {
    "beit": ("microsoft/beit-base-patch16-224", "microsoft/beit-base-patch16-224-pt22k-ft22k"),
    "bert": ("sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5", "cross-encoder/ms-marco-MiniLM-L6-v2"),
    "convnext": ("facebook/convnext-tiny-224", "facebook/convnext-base-224"),
    "convnextv2": ("facebook/convnextv2-tiny-1k-224", "facebook/convnextv2-nano-22k-224"),
    "deberta_v2": ("MoritzLaurer/DeBERTa-v3-base-mnli-fever-anli", "mixedbread-ai/mxbai-rerank-xsmall-v1"),
    "deit": ("facebook/deit-base-distilled-patch16-224", "facebook/deit-tiny-distilled-patch16-224"),
    "dinov2": ("facebook/dinov2-small", "facebook/dinov2-base", "facebook/dinov2-small-imagenet1k-1-layer"),
    "distilbert": ("distilbert/distilbert-base-uncased-finetuned-sst-2-english", "distilbert/distilbert-base-uncased"),
    "efficientnet": ("google/efficientnet-b0", "google/efficientnet-b1"),
    "falcon_h1": ("tiiuae/Falcon-H1-0.5B-Instruct", "tiiuae/Falcon-H1-1.5B-Instruct"),
    "falcon_mamba": ("tiiuae/falcon-mamba-7b", "tiiuae/falcon-mamba-7b-instruct"),
    "gemma3_text": ("google/gemma-3-270m-it", "google/gemma-3-1b-it"),
    "gpt2": ("openai-community/gpt2", "distilbert/distilgpt2"),
    "granite": ("ibm-granite/granite-3.1-2b-instruct", "ibm-granite/granite-3.3-2b-instruct"),
    "gru": ("zoo:motor",),
    "lfm2": ("LiquidAI/LFM2-350M", "LiquidAI/LFM2-1.2B"),
    "llama": (
        "meta-llama/Llama-3.2-1B-Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    ),
    "lstm": ("zoo:sunspots",),
    "mamba": ("state-spaces/mamba-130m-hf", "state-spaces/mamba-370m-hf"),
    "mamba2": ("AntonV/mamba2-130m-hf", "mistralai/Mamba-Codestral-7B-v0.1"),
    "mistral": ("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-v0.1"),
    "mobilenet_v1": ("google/mobilenet_v1_1.0_224", "google/mobilenet_v1_0.75_192"),
    "mobilenet_v2": ("google/mobilenet_v2_1.0_224", "google/mobilenet_v2_1.4_224"),
    "mobilevit": ("apple/mobilevit-small", "apple/mobilevit-x-small"),
    "modernbert": ("answerdotai/ModernBERT-base", "nomic-ai/modernbert-embed-base"),
    "mpnet": ("sentence-transformers/all-mpnet-base-v2", "sentence-transformers/multi-qa-mpnet-base-dot-v1"),
    "nomic_bert": ("nomic-ai/nomic-embed-text-v1.5", "nomic-ai/nomic-embed-text-v1"),
    "olmo2": ("allenai/OLMo-2-0425-1B", "allenai/OLMo-2-0425-1B-Instruct"),
    "phi3": ("microsoft/Phi-3-mini-4k-instruct", "microsoft/Phi-3.5-mini-instruct", "microsoft/Phi-4-mini-instruct"),
    "qwen2": ("Qwen/Qwen2.5-0.5B-Instruct", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
    "qwen3": ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"),
    "regnet": ("facebook/regnet-y-040", "facebook/regnet-y-008"),
    "resnet": ("microsoft/resnet-50", "microsoft/resnet-18", "zoo:digits"),
    "rnn": ("a folder with config.json and safetensors, see `exporters/_recurrent/exporter.py`",),
    "roberta": ("FacebookAI/roberta-base", "sentence-transformers/all-distilroberta-v1"),
    "smollm3": ("HuggingFaceTB/SmolLM3-3B", "HuggingFaceTB/SmolLM3-3B-Base"),
    "swin": ("microsoft/swin-tiny-patch4-window7-224", "microsoft/swin-base-patch4-window7-224"),
    "vit": ("google/vit-base-patch16-224", "google/vit-base-patch16-224-in21k"),
    "xlm_roberta": ("FacebookAI/xlm-roberta-base", "intfloat/multilingual-e5-base", "BAAI/bge-reranker-v2-m3"),
}


def computes(exporter: Any, target: str) -> list[str]:
    """The precisions in which the target runs what the exporter makes."""
    if target == "cuda" and getattr(exporter, "recurrent", Decoder.recurrent) is not Decoder.recurrent:
        return []  # a decoder with states of a fixed size, which cuda refuses
    module = registry.find("targets", target)
    known = (
        getattr(module, "DECODER_PRECISIONS", module.PRECISIONS) if exporter.kind == "decoder" else module.PRECISIONS
    )
    return [name for name in PRECISIONS if name in known and _exported(exporter, name)]


def _exported(exporter: Any, precision: str) -> bool:
    try:
        recipe(precision, blocks=exporter.quantizes, usual=exporter.group_sizes)
    except UnsupportedError:
        return False
    return True


def architectures() -> str:
    """One Markdown table for each group of architectures with the same tasks."""
    targets = registry.names("targets")
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for name in registry.names("exporters"):
        exporter = registry.exporter(name)
        row = [
            f"`{SPELLING.get(name, name)}`",
            ", ".join(model if " " in model else f"`{model}`" for model in MODELS.get(name, ())),
            *(", ".join(computes(exporter, target)) or "no" for target in targets),
            "traced" if exporter.needs_torch else "built",
        ]
        groups.setdefault(tuple(exporter.tasks), []).append(row)
    head = ["architecture", "models, for example", *targets, "graph"]
    return "\n\n".join(f"{_heading(tasks)}\n\n{_markdown(head, rows)}" for tasks, rows in groups.items())


def _heading(tasks: Sequence[str]) -> str:
    return f"**{', '.join(tasks)}**"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def methods() -> str:
    """Each task with the methods of its class."""
    rows = [
        [f"`{task.name}`", ", ".join(f"`{name}`" for name in registry.task(task.name).METHODS)]
        for task in registry.tasks()
    ]
    return _markdown(["task", "methods"], rows)


def split(text: str, name: str) -> tuple[str, str, str]:
    """README.md before, between and after the markers of a table."""
    start, end = f"<!-- {name}: python tests/readme_table.py -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(start)
    middle, found, after = rest.partition(end)
    assert found, f"README.md has no markers for the table of {name}"
    return before + start, middle, end + after


def main() -> int:
    """Write the tables into README.md."""
    text = README.read_text(encoding="utf-8")
    for name in NAMES:
        before, _, after = split(text, name)
        text = f"{before}\n\n{globals()[name]()}\n\n{after}"
    README.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
