"""Exporter for decoder-only language models without a file of their own: traced with torch.

What the rest of EdgeKit sees of it. Whether a model is such a one is read from transformers' own list, without
importing it; whether the traced graph is right is proved by transformers' own answers, in `proof.npz` beside the
graph, for each row of text by itself: whoever runs the graph holds it against them. Knows no architecture.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgekit import registry
from edgekit.core import QUANTIZED, Recipe, Source
from edgekit.errors import UnsupportedError

from .._decoder.chat import ChatReference, chat_reference, chat_settings
from .._decoder.exporter import GENERATION, TASK, token_ids
from .._json_files import read_object
from .._trace import transformers_model
from .._trace.tokenizer import write_tokenizer
from .._trace.trace import quiet

if TYPE_CHECKING:
    from edgekit.core import Array, Graph, Say

FILE, TRACED, PROOF = "model.onnx", "fp32", "proof-model.npz"  # TRACED: the folder of the float graph
CAUSAL = re.compile(r"^MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict\(\s*\[(.*?)^\s*\]\s*\)", re.M | re.S)
# A config's words for how many positions there are, and for how far attention reaches.
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "n_ctx")
WINDOWS = ("sliding_window", "window_size", "attention_window")
PARTS = ("vision_config", "audio_config", "text_config")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
UNKNOWN_CONTEXT = 2048  # of models without a table of positions that do not say how long they were trained
LONGEST_WINDOW = 8192  # beyond which transformers' own answers would take hours
PIECE = 512  # tokens of a long text at once


@dataclass(frozen=True)
class AnyDecoder:
    """The exporter of all architectures without a file of their own."""

    tasks: ClassVar[tuple[str, ...]] = (TASK,)
    needs_torch: ClassVar[bool] = True
    quantizes: ClassVar[bool] = True
    as_stored: ClassVar[bool] = False
    kind: ClassVar[str] = "decoder"
    precision: ClassVar[str] = "int4"
    group_sizes: ClassVar[Mapping[str, int | None]] = {}

    def knows(self, arch: str) -> bool:
        """Whether transformers has a causal language model of that `model_type`."""
        return arch in known()

    def refuse(self, arch: str, config: Mapping[str, Any]) -> None:
        """Raises UnsupportedError for what cannot be traced, as far as a config.json tells by itself."""
        name = str(next(iter(config.get("architectures") or ()), ""))
        if name and not name.endswith(("ForCausalLM", "LMHeadModel")):
            raise unable(arch, f"is {name} here, no decoder-only language model")
        parts = [part for part in PARTS if config.get(part) is not None]
        if parts:
            raise unable(arch, f"is made of several models ({parts[0]})")
        if config.get("is_encoder_decoder") or config.get("add_cross_attention"):
            raise unable(arch, "has an encoder, or attends to one")
        if any(type(count) is int and count > 1 for count in map(config.get, EXPERTS)):
            raise unable(arch, "is a mixture of experts")

    def task(self, source: Source) -> str:
        return TASK

    def settings(self, source: Source, task: str, folder: Path) -> dict[str, Any]:
        """What the device must know of the model, as `Decoder.settings` says it of a built one.

        Raises UnsupportedError for what cannot be traced, as far as a config tells.
        """
        with quiet():
            config = transformers_model.config_of(source)
            _refuse(source, config)
        write_tokenizer(source, folder)
        generation = read_object(source.folder / "generation_config.json")
        names = ("eos_token_id", "bos_token_id", "pad_token_id")
        stated = {name: getattr(config, name, None) for name in names}
        stated |= {name: generation[name] for name in names if generation.get(name) is not None}
        return {
            "tokenizer": "tokenizer.json",
            **chat_settings(source.folder),
            "context_length": _context(config),
            "vocab_size": int(config.vocab_size),
            "eos_ids": token_ids(stated, "eos_token_id"),
            "bos_id": next(iter(token_ids(stated, "bos_token_id")), None),
            "pad_id": next(iter(token_ids(stated, "pad_token_id")), None),
            "generation": {key: generation[key] for key in GENERATION if generation.get(key) is not None},
        }

    def chat_reference(self, source: Source) -> ChatReference | None:
        """What transformers renders of a chat; None where it cannot read the tokenizer."""
        return None if source.random else chat_reference(source.folder)

    def graphs(self, source: Source, task: str, recipe: Recipe, folder: Path, say: Say) -> tuple[Graph, ...]:
        """The portable graph, in model.onnx; traced once for all recipes whose folders lie side by side.

        Raises UnsupportedError, VerificationError.
        """
        import onnx_ir as ir

        from .graph import describe
        from .quantize import quantize

        home = folder.parent / TRACED
        if not (home / FILE).is_file():
            home.mkdir(exist_ok=True)
            with quiet():
                _trace(source, home / FILE, say)
        model = ir.load(home / FILE)
        if recipe.weights in QUANTIZED:
            say("quantizing")
            quantize(model, recipe)
        if folder != home:
            ir.save(model, folder / FILE, external_data=f"{FILE}.data")
        return (describe(model, FILE),)

    def reference(self, source: Source, task: str, folder: Path, say: Say) -> tuple[Graph, ...]:
        """The float graph as it was traced."""
        return self.graphs(source, task, Recipe(), folder, say)


EXPORTER = AnyDecoder()


@cache
def known() -> frozenset[str]:
    """Every `model_type` for which transformers has a causal language model, with underscores.

    Read from transformers' source: to import it takes seconds, and torch.
    """
    found = importlib.util.find_spec("transformers")
    homes = (found.submodule_search_locations or []) if found else []
    files = [Path(home) / "models/auto/modeling_auto.py" for home in homes]
    text = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    table = CAUSAL.search(text)
    names = re.findall(r'\(\s*"([\w-]+)"', table[1]) if table else []
    return frozenset(name.replace("-", "_") for name in names)


def _refuse(source: Source, config: Any) -> None:
    """As `AnyDecoder.refuse`, with transformers' own defaults, and what only its classes tell."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.cache_utils import get_layer_types_and_kwargs

    EXPORTER.refuse(source.arch, config.to_dict())
    if getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "_is_stateful", False):
        raise unable(source.arch, "keeps a recurrent state instead of keys and values")
    try:
        kinds = {*get_layer_types_and_kwargs(config)[0]}
    except ValueError as error:
        raise unable(source.arch, "has layers that transformers knows no cache for", cause=str(error)) from error
    if strange := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise unable(source.arch, f"has layers of the kind {strange[0]!r}")
    ropes = getattr(config, "rope_parameters", None) or {}
    turns = {str(each.get("rope_type")) for each in (ropes, *ropes.values()) if isinstance(each, Mapping)}
    if changing := sorted(turns & {"dynamic", "longrope"}):
        raise unable(source.arch, f"turns by angles that change with the text's length (rope_type {changing[0]!r})")


def unable(arch: str, why: str, cause: str = "") -> UnsupportedError:
    """The refusal, with the nearest name that there is."""
    hint = registry.suggest(arch, registry.names("exporters")) or "`edgekit list architectures` shows what there is"
    return UnsupportedError(f"{arch} {why}, which EdgeKit cannot trace", hint=hint, cause=cause)


def _context(config: Any) -> int:
    stated = [value for value in (getattr(config, name, None) for name in CONTEXT) if type(value) is int and value > 0]
    return stated[0] if stated else UNKNOWN_CONTEXT


def _trace(source: Source, path: Path, say: Callable[[str], None]) -> None:
    """The graph in `path`, written last, and the proof beside it."""
    from .graph import settle
    from .torch_module import caches, load, program

    say("loading weights")
    model = load(source)
    say("computing the reference in torch")
    stated, context = {getattr(model.config, name, None) for name in WINDOWS}, _context(model.config)
    cases = proof_cases(context, sorted(window for window in stated if isinstance(window, int)))
    try:
        held = caches(model)
        _write_proof(path.with_name(PROOF), model, cases, int(model.config.vocab_size))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        why = "does not run with a cache of keys and values"  # whatever a model's own code trips over then
        raise unable(source.arch, why, cause=f"{type(error).__name__}: {error}"[:2000]) from error
    say("tracing with torch.onnx.export")
    made = program(model, held, context)
    settle(made.model, held, context)
    made.save(str(path), external_data=True)


def proof_cases(context: int, windows: Sequence[int]) -> list[list[list[int]]]:
    """Texts to be held against: each a list of calls, each a list of how many new tokens every row of the batch has.

    A prompt, single tokens, several tokens on what is there, rows of unequal lengths, and beyond each window.
    """
    cases = [[[9], [1], [1], [1], [6]], [[1], [4], [1]], [[7, 3], [1, 1], [1, 1], [2, 5], [1, 1], [1, 1]]]
    for window in windows:
        if 0 < window < context and window <= LONGEST_WINDOW:
            whole, rest = divmod(min(window + 12, context - 3), PIECE)
            cases.append([*([[PIECE]] * whole), *([[rest]] if rest else []), [1], [1], [1]])
    fitting = [[call for n, call in enumerate(case) if longest(case[: n + 1]) <= context] for case in cases]
    return [case for case in fitting if case]


def longest(case: Sequence[Sequence[int]]) -> int:
    """Tokens of the longest row after these calls."""
    return max(map(sum, zip(*case, strict=True)))


def _write_proof(file: Path, model: Any, cases: Sequence[Sequence[Sequence[int]]], vocabulary: int) -> None:
    """Feeds of a decoder's session and transformers' logits, call by call; `first` is 1 where a text begins."""
    from .torch_module import answers

    random, number = np.random.default_rng(0), 0
    kept: dict[str, Array] = {}
    for case in cases:
        rows = [random.integers(0, vocabulary, sum(counts)).tolist() for counts in zip(*case)]
        found = [answers(model, row, counts) for row, counts in zip(rows, zip(*case), strict=True)]
        done = [0] * len(rows)
        for call, counts in enumerate(case):
            ids, outputs = np.zeros((len(rows), max(counts)), np.int64), min(*counts, 9)
            for row, count in enumerate(counts):
                ids[row, :count] = rows[row][done[row] : done[row] + count]
                done[row] += count
            kept |= {
                f"{number}/in/first": np.asarray(call == 0),
                f"{number}/in/input_ids": ids,
                f"{number}/in/counts": np.asarray(counts, np.int64),
                f"{number}/in/logit_positions": np.stack([np.arange(count - outputs, count) for count in counts]),
                f"{number}/out/logits": np.stack([of[call][-outputs:] for of in found]),
            }
            number += 1
    np.savez(file, **dict[str, Any](kept))
