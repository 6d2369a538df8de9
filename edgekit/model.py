"""The device's way: a bundle, opened on a target, with the methods that its head serves.

    with edgekit.load("minilm.ek", target="openvino", threads=2) as model:
        vectors = model.embed(["a", "b"])

Never converts, never downloads. Knows no architecture and no engine: ingest, loop, head and target are files that the
bundle names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np

from edgekit import bundle as bundles
from edgekit import compiled, device, registry
from edgekit.core import Bundle, Session, Variant
from edgekit.errors import DeviceError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from edgekit.core import Array, Floats, Piece, Result

    Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]

log = logging.getLogger("edgekit")

Texts = str | Sequence[Any]
PART = 256  # texts that are tokens at the same time


def load(
    folder: str | Path,
    *,
    target: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    verify: Literal["always", "once", "never"] = "once",
) -> Model:
    """The bundle in `folder`, ready to run. `precision`: "int8", …; None takes the fastest that was measured.

    `threads`: how many the engine may use; None is as many as this process has cores and quota for. `verify`: when
    the digests of the files are checked: "always", "once" or "never".
    Raises BundleError, DeviceError when the target is not on this machine, UsageError for a variant that is not there.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", hint="give 1 or more")
    found = bundles.read(Path(folder), verify=verify)
    variant = choose(found, target, precision)
    return Model(found, variant, threads or device.threads())


def choose(bundle: Bundle, target: str, precision: str | None) -> Variant:
    """The variant to run: those asked for, on a target that this machine has, the fastest first.

    Raises DeviceError when this machine has not the target, UsageError when the bundle has no such variant.
    """
    if target != "auto" and (missing := probe(target)) is not None:
        raise missing
    asked = [
        variant
        for variant in bundle.variants
        if target in ("auto", variant.target) and precision in (None, variant.recipe.weights, variant.recipe.name)
    ]
    if not asked:
        have = ", ".join(variant.name for variant in bundle.variants)
        wanted = "/".join(filter(None, [target if target != "auto" else "", precision]))
        raise UsageError(f"{bundle.name} has no variant {wanted!r}", hint=f"it has {have}; export again for another")
    why = {variant.target: probe(variant.target) for variant in asked}
    able = [variant for variant in asked if why[variant.target] is None]
    if not able:
        raise next(error for error in why.values() if error is not None)
    best = min(able, key=lambda variant: variant.measured.get("milliseconds") or float("inf"))
    if len(able) > 1:
        log.info("picked %s of %s: the fastest when the bundle was made", best.name, ", ".join(v.name for v in able))
    return best


def probe(target: str) -> DeviceError | None:
    """Why a target cannot run on this machine; None if it can."""
    found = registry.find("targets", target).probe()
    return None if found.available else DeviceError(f"no {target} on this machine: {found.why}", hint=found.hint)


class Model:
    """A bundle that is open on a device. Threads may share it; it is a context manager, as it owns memory."""

    def __init__(self, bundle: Bundle, variant: Variant, threads: int) -> None:
        self.bundle, self.variant, self.threads = bundle, variant, threads
        self._head: ModuleType = registry.find("heads", bundle.head)
        self._settings = self._head.open(bundle.folder, bundle.settings)
        self._ingest = registry.find("ingest", bundle.ingest).open(bundle.folder, bundle.settings)
        self._loop: ModuleType = registry.find("loops", bundle.loop)
        (graph,) = variant.graphs
        self.engine: Session = registry.find("targets", variant.target).open(
            bundle.folder,
            graph,
            variant.recipe,
            threads=threads,
            cache=compiled.folder(bundle, variant),
            options=variant.options,
        )

    @property
    def placement(self) -> str:
        """What really runs it, as the engine says: "CPUExecutionProvider", "CPU"."""
        return self.engine.placement

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods below that this model serves, its own first."""
        found: tuple[str, ...] = self._head.METHODS
        return found

    def embed(
        self, texts: Texts, *, dimensions: int | None = None, prompt: str | None = None, truncate: bool = False
    ) -> Floats:
        """One vector a text: float32 (n, d), of unit length if the model says so.

        `dimensions` keeps the first so many numbers (Matryoshka, arXiv:2205.13147) and makes the length 1 again.
        `prompt` names one of the model's prompts. `truncate` cuts what is too long, which is an InputError otherwise.
        """
        self._serves("embed")
        parts = (
            self._head.answers(self._gather(encodings, dimensions=dimensions), encodings, self._settings)
            for encodings in self._encode(texts, truncate, prompt)
        )
        return joined(parts, 1 if isinstance(texts, str) else len(texts))

    def similarity(self, a: Texts, b: Texts, *, prompt: str | None = None, truncate: bool = False) -> Floats:
        """How alike each of `a` is to each of `b`: float32 (n, m), by the model's own measure (cosine, dot)."""
        self._serves("similarity")
        left = self.embed(a, prompt=prompt, truncate=truncate)
        right = self.embed(b, prompt=prompt, truncate=truncate)
        found: Floats = self._head.similarity(left, right, self._settings)
        return found

    def classify(self, texts: Texts, *, top_k: int | None = None, truncate: bool = False) -> Any:
        """Labels with scores, best first: a list of Label for a string, a list of these for a list."""
        return self._answer("classify", texts, truncate, top_k=top_k)

    def tag(self, texts: Texts, *, truncate: bool = False) -> Any:
        """Labelled spans with their places in the text: a list of Span for a string, a list of these for a list."""
        return self._answer("tag", texts, truncate)

    def fill(self, texts: Texts, *, top_k: int = 5, truncate: bool = False) -> Any:
        """For each mask in a text its best tokens: a list of lists of Token; for a list of texts a list of these."""
        return self._answer("fill", texts, truncate, top_k=top_k)

    def rerank(self, query: str, documents: Sequence[str], *, top_k: int | None = None, truncate: bool = False) -> Any:
        """The documents' positions and scores, the most relevant first: a list of Ranked.

        A cross-encoder reads query and document together; an embedding model compares their vectors.
        """
        if "similarity" in self.methods:
            scores = self.similarity(query, documents, truncate=truncate)[0] if len(documents) else np.empty(0)
            return registry.find("heads", "classes").ranked(scores, top_k)
        self._serves("rerank")
        pairs = [(query, document) for document in documents]
        return self._head.rerank(self.numbers(pairs, truncate=truncate), self._settings, top_k=top_k)

    @overload
    def generate(self, prompt: Prompt, *, stream: Literal[False] = False, **options: Any) -> Result: ...
    @overload
    def generate(self, prompt: Prompt, *, stream: Literal[True], **options: Any) -> Iterator[Piece]: ...
    def generate(self, prompt: Prompt, *, stream: bool = False, **options: Any) -> Result | Iterator[Piece]:
        """What the model says next: to a text to go on from, chat messages, or token ids.

        `options` are those of `edgekit.runtimes.sampling.Sampling` (temperature, top_k, seed, …; greedy without a
        temperature), `max_new_tokens`, `stop` (texts) and `stop_ids`. With `stream`, pieces as they come; closing the
        iterator cancels. Raises InputError for a prompt that does not fit, UsageError for an option that is wrong.
        """
        writer = self._writer()
        answer: Result | Iterator[Piece] = (writer.pieces if stream else writer.result)(prompt, options)
        return answer

    async def agenerate(self, prompt: Prompt, **options: Any) -> AsyncIterator[Piece]:
        """`generate(stream=True)` for asyncio: each step in a thread, cancelled within one run of the engine."""
        stopped = threading.Event()
        pieces = self._writer().pieces(prompt, options, stopped)
        try:
            while True:
                step = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
                try:
                    piece = await asyncio.shield(step)
                except asyncio.CancelledError:
                    stopped.set()
                    while not step.done():  # nobody else may have the engine's state; nor if cancelled once more
                        with contextlib.suppress(asyncio.CancelledError):
                            await asyncio.wait([step])
                    raise
                if piece is None:
                    return
                yield piece
        finally:
            pieces.close()

    def session(self) -> Any:
        """A chat that keeps its state from turn to turn: `edgekit.runtimes.generation.Conversation`, which has
        `generate reset fork save load`, and is for one caller at a time."""
        name = f"{self.variant.name} of bundle {bundles.fingerprint(self.bundle)[:16]}"
        return import_module("edgekit.runtimes.generation").Conversation(self._writer(name))

    def run(self, items: Any, **options: Any) -> Iterator[Any]:
        """The first of `methods`, in its generic form: one answer an item, in order."""
        if self.methods[0] == "generate":
            yield from self._writer().results([items] if isinstance(items, str) else items, options)
            return
        yield from getattr(self, self.methods[0])([items] if isinstance(items, str) else items, **options)

    def numbers(self, items: Sequence[Any], *, truncate: bool = False) -> list[Array]:
        """What the head computes before it becomes an answer, an array an item: what goldens and the gate compare."""
        return [array for encodings in self._encode(items, truncate) for array in self._gather(encodings)]

    def tokens(self, items: Sequence[Any], *, truncate: bool = False) -> list[Array]:
        """The token ids of each item, int64 (t,)."""
        return [np.asarray(one.ids, np.int64) for encodings in self._encode(items, truncate) for one in encodings]

    def close(self) -> None:
        """Free the engine's memory; twice is once."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        target, precision = self.variant.target, self.variant.recipe.name
        return partial(load, self.bundle.folder, target=target, precision=precision, threads=self.threads), ()

    def _writer(self, name: str = "") -> Any:
        """`name`: what states that are saved belong to."""
        self._serves("generate")
        writer = import_module("edgekit.runtimes.generation").Writer
        return writer(self.engine, self._ingest, self.bundle.settings, name)

    def _serves(self, method: str) -> None:
        if method not in self.methods:
            raise UnsupportedError(
                f"{self.bundle.name} is made for {self.bundle.task} and has no {method}()",
                hint=f"it has: {', '.join(self.methods)}",
            )

    def _encode(self, texts: Texts, truncate: bool, prompt: str | None = None) -> Iterator[list[Any]]:
        """The texts as tokens, a part at a time, so that a long list needs no more memory; one part for no texts."""
        items, offsets = [texts] if isinstance(texts, str) else texts, getattr(self._head, "OFFSETS", False)
        for first in range(0, max(1, len(items)), PART):
            part = items[first : first + PART]
            yield self._ingest.encode(part, truncate=truncate, prompt=prompt, offsets=offsets, first=first)

    def _gather(self, encodings: list[Any], **options: Any) -> list[Array]:
        found: list[Array] = self._loop.gather(
            self.engine, self._ingest, self._head, self._settings, encodings, **options
        )
        return found

    def _answer(self, method: str, texts: Texts, truncate: bool, **options: Any) -> Any:
        self._serves(method)
        found: list[Any] = []
        for encodings in self._encode(texts, truncate):
            found += self._head.answers(self._gather(encodings), encodings, self._settings, **options)
        return found[0] if isinstance(texts, str) else found


def joined(parts: Iterator[Floats], rows: int) -> Floats:
    """The parts under one another, as (rows, d): each is let go as soon as it is in its place."""
    first = next(parts)
    if len(first) == rows:
        return first
    found = np.empty((rows, *first.shape[1:]), first.dtype)
    found[: len(first)] = first
    end = len(first)
    for part in parts:
        found[end : end + len(part)] = part
        end += len(part)
    return found
