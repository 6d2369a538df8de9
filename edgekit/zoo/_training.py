"""What the zoo's recipes share: tokenizers, one deterministic training loop, and the files that a model consists of.

Knows no task and no data. One thread, one seed, no dropout: a recipe that is run twice gives the same bytes.
Imports torch, transformers and tokenizers inside functions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekit.zoo.metrics import METRICS

Answers = Callable[[str], Any]  # task -> one answer per held-out input
SEED = 1984
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def options(name: str, steps: int) -> argparse.Namespace:
    """The command line of a recipe: `--out` (the recipe's own folder unless given) and `--steps`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m edgekit.zoo.{name}.recipe", description=f"Train zoo:{name} again."
    )
    home = Path(__file__).parent / name
    parser.add_argument("--out", type=Path, default=home, help="folder to write (default: its place in the zoo)")
    parser.add_argument("--steps", type=int, default=steps, help="optimizer steps (default: %(default)s)")
    return parser.parse_args()


def be_deterministic(seed: int = SEED) -> None:
    """One thread and one seed; call before the model is made, since its first weights are drawn then."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def wordpiece(pieces: Sequence[str], max_length: int) -> Any:
    """A fast WordPiece tokenizer over `pieces`: lower case, split at spaces and punctuation, digits one by one."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {piece: at for at, piece in enumerate(dict.fromkeys((*SPECIALS, *pieces)))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), digits])
    ends = [(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)


def fit(model: Any, loss_at: Callable[[int], Any], *, steps: int, rate: float, decay: float = 0.01) -> None:
    """Minimize `loss_at(step)` with AdamW and this weight decay; the learning rate warms up to `rate`, then falls along
    a cosine to zero."""
    import torch

    warmup = max(1, steps // 20)

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    model.train()
    for step in range(steps):
        loss = loss_at(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}", file=sys.stderr, flush=True)
    model.eval()


def save(model: Any, processor: Any, folder: Path) -> None:
    """Write config.json, model.safetensors and the files of the tokenizer or image processor, as transformers has them.

    Those are tokenizer.json and tokenizer_config.json, or preprocessor_config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it for its owner only
    processor.save_pretrained(folder)


def recurrent(config: dict[str, Any]) -> Any:
    """A recurrent module with a linear head, as `exporters/_recurrent/exporter.py` describes it.

    It maps series (batch, time, features) to results of every step.
    """
    import torch

    class Recurrent(torch.nn.Module):  # type: ignore[misc]  # torch is not looked into
        def __init__(self) -> None:
            super().__init__()
            kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[config["model_type"]]
            self.rnn = kind(config["input_size"], config["hidden_size"], config["num_layers"], batch_first=True)
            count = len(config.get("labels") or config["outputs"])
            self.head = torch.nn.Linear(config["hidden_size"], count)
            self.config = config

        def forward(self, series: Any) -> Any:
            return self.head(self.rnn(series)[0])

    return Recurrent()


def save_recurrent(model: Any, folder: Path) -> None:
    """config.json and model.safetensors."""
    from safetensors.torch import save_file

    write_json(folder / "config.json", model.config)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)


def read_recurrent(folder: Path) -> Any:
    """What `save_recurrent` wrote, ready to be asked."""
    from safetensors.torch import load_file

    model = recurrent(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def write_json(path: Path, content: Any) -> None:
    """Readable JSON: long lists have a line per row, so that a change shows as the rows that changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_readable(content) + "\n", encoding="utf-8")


def _readable(value: Any, indent: str = "") -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{deeper}{json.dumps(key)}: {_readable(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and not all(isinstance(item, int) for item in value):
        rows = [deeper + json.dumps(item, ensure_ascii=False) for item in value]
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def write_card(
    chosen: argparse.Namespace, model: Any, about: dict[str, Any], data: dict[str, Any], answers: Answers
) -> None:
    """card.json: what the model is, what its weights are and how they came, and each task's metric on held-out `data`.

    `answers(task)` has the model answer every held-out input. Other versions of torch may end at other weights.
    """
    import torch
    import transformers

    held_out = data["tasks"].items()
    measured = {task: METRICS[held["metric"]](held["expected"], answers(task)) for task, held in held_out}
    print(measured, file=sys.stderr)
    weights = (chosen.out / "model.safetensors").read_bytes()
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    made_with = {
        "steps": chosen.steps,
        "seed": SEED,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    write_json(chosen.out / "card.json", {**about, "measured": measured, "weights": facts, "made_with": made_with})
