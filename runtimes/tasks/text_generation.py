"""Text generation: continue a prompt, or answer in a chat."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack, overload

import numpy as np

from edgekit.model import Model

from ..asyncio_wait import wait_for
from ..conversation import Conversation, TextGenerator
from ..heads import tokens
from ..heads.tokens import GenerationOptions
from ..ingest import chat, chat_check
from ..loops import decode
from ..samples import texts as samples

if TYPE_CHECKING:
    from edgekit.core import Array, Bundle, Exporter
    from edgekit.results import Piece, Result

    from ..ingest.chat import Prompt

ALIASES = ("causal-lm", "text2text", "chat")
TIMED_TOKENS = 12  # of the answer that `seconds` times


class TextGeneration(Model):
    """A language model: `generate` answers once, `session()` keeps a chat's state."""

    INPUT = "chat"
    SETTINGS = (chat.Settings,)
    METHODS = ("generate", "agenerate", "session")
    SCENARIOS = ("llm",)
    ALONE = True
    head: ClassVar[ModuleType] = tokens
    # Largest mean divergence from the reference in nats.
    BUDGET: ClassVar[Mapping[str, float]] = {"fp32": 1e-3, "bf16": 2e-2, "fp16": 2e-2, "int8": 2e-2, "int4": 2e-1}

    def prepare(self) -> None:
        self._ingest = chat.open(self.bundle.folder, self.settings)

    @classmethod
    def check_export(cls, bundle: Bundle, exporter: Exporter) -> list[str]:
        """The chat template, rendered and compared with transformers where the exporter can."""
        ingest, source = chat.open(bundle.folder, bundle.settings), bundle.settings.get("chat_template")
        if ingest.template is None or not isinstance(source, str):
            return []
        find_reference = getattr(exporter, "chat_reference", None)
        return chat_check.check(ingest, source, find_reference(bundle.source) if find_reference else None)

    @overload
    def generate(
        self, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[GenerationOptions]
    ) -> Result: ...
    @overload
    def generate(
        self, prompt: Prompt, *, stream: Literal[True], **options: Unpack[GenerationOptions]
    ) -> Iterator[Piece]: ...
    def generate(
        self, prompt: Prompt, *, stream: bool = False, **options: Unpack[GenerationOptions]
    ) -> Result | Iterator[Piece]:
        """Generate text after `prompt`: a text to continue, chat messages, or token ids.

        `options`: max_new_tokens, stop, stop_ids, and sampling options (temperature, top_k, seed, …; greedy without a
        temperature). For chat messages also what the model's template reads: tools, documents, enable_thinking, and
        others by name in chat_template_kwargs. In a text, control tokens are letters, except for marks of
        fill-in-the-middle (`<|fim_prefix|>`); parse_special=True reads them all.
        With `stream`, pieces as they come; closing the iterator cancels.
        Raises InputError for a prompt that does not fit, UsageError for an option that is wrong.
        """
        generator = self.generator()
        if stream:
            return generator.pieces(prompt, options)
        return generator.result(prompt, options)

    async def agenerate(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> AsyncIterator[Piece]:
        """`generate(stream=True)` for asyncio: each step in a thread, cancelled within one run of the engine."""
        stopped = threading.Event()
        pieces: Any = self.generator().pieces(prompt, options, stopped)
        try:
            while (piece := await wait_for(partial(next, pieces, None), stopped)) is not None:
                yield piece
        finally:
            pieces.close()

    def session(self, **options: Unpack[GenerationOptions]) -> Conversation:
        """Open a conversation that keeps its state between turns: `generate`, `reset`, `fork`, `save`, `load`.

        `options`, those of `generate`, hold for each turn that does not give its own. Raises UsageError.
        """
        return Conversation(self.generator(self._state_name()), options)

    def run(self, items: Any, **options: Any) -> Iterator[Result]:
        yield from self.generator().results([items] if isinstance(items, str) else items, options)

    def generator(self, name: str = "") -> TextGenerator:
        """The open decoder with its tokenizer. `name`: what states that are saved belong to."""
        return TextGenerator(self.session_of(), self._ingest, self.settings, name)

    @classmethod
    def samples(cls, bundle: Bundle, file: Path | None = None, option: str = "--calibration") -> list[Any]:
        """The user's prompts, or our texts joined to prompts that are read as long ones are."""
        if file:
            return list(samples.read(file, option))
        ingest = chat.open(bundle.folder, bundle.settings)

        def count(text: str) -> int:
            return len(ingest.encode([text], truncate=True)[0].ids)

        return list(samples.prompts(samples.TEXTS, count, min(samples.PROMPT, ingest.context // 2)))

    def encode(self, samples: Sequence[Any]) -> list[Array]:
        """The token ids of each prompt, int64 (tokens,)."""
        return [np.asarray(one.ids, np.int64) for one in self._ingest.encode(samples, truncate=True)]

    def outputs(self, samples: Sequence[Any]) -> list[Array]:
        """The logits behind the last tokens of each prompt, float16 (positions, vocabulary).

        A decoder is fed as an answer is generated: what comes before in chunks, these tokens one by one. A plain graph
        (the reference, whose float32 weights are read from the file in every run) reads several prompts at once.
        """
        graph, prompts = self.graph(), self.encode(samples)
        if graph.kind == "decoder":
            return decode.last_logits(self.session_of(), prompts, tokens.positions, tokens.numbers)
        return decode.prompt_logits(self.session_of(), graph, prompts, tokens.positions, tokens.numbers)

    def together(self, samples: Sequence[Any]) -> list[Array]:
        """The logits that `outputs` has, of all prompts in one batch, as answers to a list are generated."""
        if self.graph().kind != "decoder":
            return self.outputs(samples)
        return decode.batch_logits(self.session_of(), self.encode(samples), tokens.positions, tokens.numbers)

    def seconds(self, samples: Sequence[Any]) -> float:
        """The time for one token of an answer to the shortest sample."""
        room = max(1, int(self.settings["context_length"]) - TIMED_TOKENS)
        prompt: list[int] = min(self.encode(samples), key=len)[:room].tolist()
        timings = self.generate(prompt, max_new_tokens=TIMED_TOKENS, min_new_tokens=TIMED_TOKENS).timings
        return timings.get("tpot", timings["ttft"])
