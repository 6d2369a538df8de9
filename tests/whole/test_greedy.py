"""Every architecture that is built, from a Hugging Face folder to answers: token for token those of transformers.

Random weights make near ties, and of those nobody can say which is right. So each prompt is one that transformers
answers with a margin: at every step its first token is ahead of the second by SURE of the logits' standard deviation,
fifty times what two float32 computations of them differ by. Answers of a few tokens over and over are not taken either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
import tiny_chat
from built_decoders import architectures, trained

import edgekit
from edgekit import registry
from edgekit.exporters._decoder.rope import KINDS
from edgekit.model import Model

HERE = [name for name in ("cpu", "openvino") if registry.find("targets", name).probe().available]
NEW = 24  # tokens of each answer
SURE, VARIED, TRIES = 1e-3, 4, 30
CONTEXT, CHUNK, WINDOW = 256, 100, 16
SEGMENTS = 8  # pairs of features that the rotation of a tiny head turns
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "longrope": {
        "short_factor": [1 + n / SEGMENTS for n in range(SEGMENTS)],
        "long_factor": [2.0 + n for n in range(SEGMENTS)],
        "original_max_position_embeddings": CONTEXT,
    },
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


@dataclass(frozen=True)
class Case:
    """What is set in the config, and what of it is taken back for `plain`, which must answer otherwise."""

    arch: str
    changes: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    embedding: float = 0.15


def turned(kind: str) -> Case:
    """A Llama with this rotation. Up to the context length `dynamic` is the default."""
    longer = {"max_position_embeddings": 2 * CONTEXT} if kind == "longrope" else {}
    told, usual = (
        {"rope_type": kind, "rope_theta": 10_000.0, **ROPES[kind]},
        {"rope_type": "default", "rope_theta": 1e4},
    )
    plain = {} if kind == "dynamic" else {"rope_parameters": usual}
    return Case("llama", {"rope_parameters": told, **longer}, plain)


GRANITE = {"embedding_multiplier": 2.0, "attention_multiplier": 0.4, "residual_multiplier": 0.6, "logits_scaling": 0.5}
CASES = {
    **{arch: Case(arch) for arch in ("gpt2", "llama", "qwen2", "qwen3", "phi3", "olmo2")},
    **{arch: Case(arch) for arch in ("mamba", "mamba2", "falcon_mamba", "lfm2", "falcon_h1")},
    **{f"llama, {kind}": turned(kind) for kind in ROPES},
    "mistral": Case("mistral", {"sliding_window": WINDOW}, {"sliding_window": None}),
    "gemma3_text": Case(  # five layers with a window, one without, a rotation for each
        "gemma3_text",
        {"num_hidden_layers": 6, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW},
        {"sliding_window": CONTEXT},
        embedding=0.03,
    ),
    "granite": Case("granite", GRANITE, {**dict.fromkeys(GRANITE, 1.0), "attention_multiplier": 0.25}),
    "smollm3": Case("smollm3", {"no_rope_layer_interval": 2}, {"no_rope_layers": [1, 1]}),
}
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Asked:
    text: str
    ids: list[int]  # of all that was said
    answer: list[int]


@dataclass(frozen=True)
class Made:
    models: dict[str, Model]  # by the target
    singles: list[Asked]
    long: Asked
    second: Asked  # behind the first of `singles` and its answer


def without(folder: Path, plain: dict[str, Any]) -> Any:
    """transformers' model of the same weights, with these in its config."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    for name, value in plain.items():
        setattr(config, name, value)
    return AutoModelForCausalLM.from_pretrained(folder, config=config).eval()


@cache
def spoken() -> Any:
    return tiny_chat.make_tokenizer()


def generated(torch_model: Any, ids: Sequence[int]) -> tuple[list[int], float]:
    """transformers' greedy tokens, and by how many standard deviations the first was ahead where it was least."""
    import torch

    given = torch.tensor([list(ids)])
    found = torch_model.generate(
        given,
        attention_mask=torch.ones_like(given),
        do_sample=False,
        max_new_tokens=NEW,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits = torch.cat(found.logits)
    best = logits.topk(2).values
    return found.sequences[0, len(ids) :].tolist(), float(((best[:, 0] - best[:, 1]) / logits.std(-1)).min())


def pick(torch_model: Any, words: int, seed: int, before: Sequence[int] = ()) -> Asked:
    """A text of so many words whose answer has NEW tokens, VARIED of them different, each chosen with a margin."""
    known, tokenizer = " ".join(tiny_chat.CORPUS).split(), spoken()
    draw = np.random.default_rng(seed)
    for _ in range(TRIES):
        text = " " + " ".join(draw.choice(known, words))
        ids = [*before, *tokenizer.encode(text).ids]
        answer, margin = generated(torch_model, ids)
        if len(answer) == NEW and margin >= SURE and len(set(answer)) >= VARIED:
            return Asked(text, ids, answer)
    raise AssertionError(f"none of {TRIES} prompts can be asked: draw the weights otherwise")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For so small a model a second thread of torch's costs ten times what it saves."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    case, home = CASES[request.param], tmp_path_factory.mktemp("greedy")
    changes = {"max_position_embeddings": CONTEXT, **case.changes}
    _, model = trained(home / "model", case.arch, embedding=case.embedding, **changes)
    spoken().save(str(home / "model" / "tokenizer.json"))
    (home / "model" / "tokenizer_config.json").write_text("{}")
    singles = [pick(model, words, seed) for seed, words in enumerate((3, 12, 1))]
    second = pick(model, 4, 3, [*singles[0].ids, *singles[0].answer])
    long = pick(model, 70, 4)
    assert CHUNK < len(long.ids) <= CONTEXT - NEW
    if case.plain:  # a window, a rotation or a factor that nobody heard would prove nothing
        assert generated(without(home / "model", case.plain), long.ids)[0] != long.answer
    in_process.export(str(home / "model"), home / "made.ek", targets=HERE, precision="fp32")
    with ExitStack() as opened:
        models = {name: opened.enter_context(edgekit.load(home / "made.ek", target=name, threads=1)) for name in HERE}
        yield Made(models, singles, long, second)


@pytest.fixture(params=HERE)
def model(request: pytest.FixtureRequest, made: Made) -> Model:
    return made.models[request.param]


def test_every_architecture_and_every_rotation_is_asked() -> None:
    assert {case.arch for case in CASES.values()} == set(architectures())
    assert {"default", *ROPES} == set(KINDS)


def test_a_prompt(model: Model, made: Made) -> None:
    for asked in made.singles:
        found = model.generate(asked.text, temperature=0, max_new_tokens=NEW)
        assert list(found.ids) == asked.answer
        assert found.usage == {"prompt_tokens": len(asked.ids), "new_tokens": NEW}


def test_three_prompts_of_different_lengths_at_once(model: Model, made: Made) -> None:
    assert len({len(asked.ids) for asked in made.singles}) == 3
    found = model.run([asked.text for asked in made.singles], temperature=0, max_new_tokens=NEW)
    assert [list(answer.ids) for answer in found] == [asked.answer for asked in made.singles]


def test_a_prompt_of_several_chunks(model: Model, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(model.generate(made.long.text, temperature=0, max_new_tokens=NEW).ids) == made.long.answer
    monkeypatch.setattr(model.session_of(), "chunk_tokens", CHUNK)
    assert list(model.generate(made.long.text, temperature=0, max_new_tokens=NEW).ids) == made.long.answer
    both = model.run([made.singles[0].text, made.long.text], temperature=0, max_new_tokens=NEW)
    assert [list(answer.ids) for answer in both] == [made.singles[0].answer, made.long.answer]


def test_a_second_turn_goes_on_from_the_first(model: Model, made: Made) -> None:
    with model.session() as chat:
        first = chat.generate(made.singles[0].text, temperature=0, max_new_tokens=NEW)
        assert list(first.ids) == made.singles[0].answer
        held = chat.tokens
        second = chat.generate(made.second.text, temperature=0, max_new_tokens=NEW)
    assert held == len(made.singles[0].ids) + NEW - 1
    assert list(second.ids) == made.second.answer
    assert list(model.generate(made.second.ids, temperature=0, max_new_tokens=NEW).ids) == made.second.answer
