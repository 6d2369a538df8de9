"""The device's way: a bundle, opened on a target, with the methods that its head serves.

    with edgekit.load("minilm.ek", target="openvino", threads=2) as model:
        vectors = model.embed(["a", "b"])

Never converts, never downloads. Knows no architecture and no engine: ingest, loop, head and target are files that the
bundle names.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np

from edgekit import device, registry
from edgekit.asyncio_wait import wait_for
from edgekit.bundle import manifest
from edgekit.cache import compile_cache
from edgekit.core import Bundle, Variant
from edgekit.errors import InputError, UnsupportedError, UsageError
from edgekit.session import Session
from edgekit.variants import choose

if TYPE_CHECKING:
    from edgekit.core import Array, Floats
    from edgekit.results import Piece, Result

    Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]

Texts = str | Sequence[Any]
PART = 256  # texts that are tokens at the same time


def load(
    folder: str | Path,
    *,
    target: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    verify: Literal["always", "once", "never"] = "once",
    memory_limit: int | None = None,
) -> Model:
    """The bundle in `folder`, ready to run. `precision`: "int8", …; None takes the fastest, by what was measured on
    this machine where that says it (`chosen_by` of the Model).

    `threads`: how many the engine may use; None is as many as this process has cores and quota for. `verify`: when
    the digests of the files are checked: "always", "once" or "never". `memory_limit`: bytes that this process may take,
    by forecast; then a text may be no longer than one alone can be.
    Raises BundleError, DeviceError when the target is not on this machine, UsageError for a variant that is not there,
    ResourceError where nothing fits into the limit.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", hint="give 1 or more")
    found = manifest.read(Path(folder), verify=verify)
    variant, why = choose(found, target, precision)
    if memory_limit is not None:
        from edgekit.forecast import bounded

        found = bounded(found, variant, memory_limit)
    model = Model(found, variant, threads or device.threads(), why)
    model.memory_limit = memory_limit
    return model


class Model:
    """A bundle that is open on a device. Threads may share it; it is a context manager, as it owns memory."""

    memory_limit: int | None = None  # that bounds the lengths of texts

    def __init__(self, bundle: Bundle, variant: Variant, threads: int, chosen_by: str = "") -> None:
        """`chosen_by`: why this variant and no other, for a person; empty where its caller named it."""
        self.bundle, self.variant, self.threads, self.chosen_by = bundle, variant, threads, chosen_by
        self._head: ModuleType = registry.find("heads", bundle.head)
        self._settings = self._head.open(bundle.folder, bundle.settings)
        self._loop: ModuleType = registry.find("loops", bundle.loop)
        (graph,) = variant.graphs
        told = {"inputs": list(graph.fed), "batched": graph.batched, **bundle.settings}
        self._ingest = registry.find("ingest", bundle.ingest).open(bundle.folder, told)
        self.engine: Session = registry.find("targets", variant.target).open(
            bundle.folder,
            graph,
            variant.recipe,
            threads=threads,
            cache=compile_cache.folder(bundle, variant, graph),
            options=variant.options,
        )
        self._first_step = threading.Lock()
        self._own: Any = None  # the stream that step() is on

    @property
    def placement(self) -> str:
        """What really runs it, as the engine says: "CPUExecutionProvider", "CPU"."""
        return self.engine.placement

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods below that this model serves, its own first."""
        return (*self._head.METHODS, *getattr(self._loop, "METHODS", ()))

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

    def classify(self, items: Any, *, top_k: int | None = None, truncate: bool = False, timestamps: Any = None) -> Any:
        """Labels with scores, best first: a list of Label for a text or a series, a list of these for a list.

        Of a series whose every sample has a result, a list of these lists. `timestamps`: see `predict`.
        """
        if self.bundle.ingest == "series":
            return self._read("classify", items, timestamps, top_k=top_k)
        if timestamps is not None:
            raise UsageError("texts have no timestamps", hint="leave them out")
        return self._answer("classify", items, truncate, top_k=top_k)

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
            while (piece := await wait_for(partial(next, pieces, None), stopped)) is not None:
                yield piece
        finally:
            pieces.close()

    def predict(self, series: Any, *, timestamps: Any = None) -> Any:
        """A recurrent model's numbers for a series, float32 (time, outputs), or (outputs,) where only its end has any.

        A series is an array of floats (time, features), or (time,) of a model with one feature, or a list of numbers or
        rows; NaN is missing. A list of arrays is several series, and gets a list. `timestamps`, seconds or datetime64
        (time,), for each a series: it is resampled to the model's rate.
        Raises InputError for what is no series of this model, naming row and column.
        """
        return self._read("predict", series, timestamps)

    def forecast(self, series: Any, *, timestamps: Any = None) -> Any:
        """What comes after a series: a Forecast of float32 (horizon, outputs); a list of them for several series."""
        return self._read("forecast", series, timestamps)

    def detect_anomalies(self, series: Any, *, threshold: float | None = None, timestamps: Any = None) -> Any:
        """How unusual each sample of a series is: a list of Anomaly, or one where only its end has a score.

        `threshold` takes the place of the model's own. Series and `timestamps` as in `predict`.
        """
        return self._read("detect_anomalies", series, timestamps, threshold=threshold)

    def step(self, x: Any) -> Any:
        """The result after one more sample of the model's own stream; `session()` gives a stream of the caller's own.

        `x`: float (features,), or a number. The result is that of the first of `methods` for this sample.
        """
        with self._first_step:
            self._own = self._own or self._recurrent("step").open()
        return self._own.step(x)

    def stream(self, source: Iterable[Any], *, rate: float | None = None, timed: bool = False) -> Iterator[Any]:
        """A result for each sample of a stream that begins here, as it comes: nothing is read ahead, nothing is kept.

        `rate`: how many samples come a second; `timed`: each comes as a pair of its time in seconds and itself. Either
        brings the stream to the model's own rate. Closing the iterator cancels.
        """
        found: Iterator[Any] = self._recurrent("stream").results(source, rate, timed)
        return found

    async def astream(
        self, source: AsyncIterable[Any], *, rate: float | None = None, timed: bool = False
    ) -> AsyncIterator[Any]:
        """`stream` for asyncio: samples from an async iterator, each step in a thread, which is never left alone."""
        if not hasattr(source, "__aiter__"):
            raise InputError("astream takes an async iterator", hint="stream() takes any other")
        recurrent = self._recurrent("astream")
        reader = recurrent.ingest.reader(rate, timed=timed)
        with recurrent.open() as own:
            async for item in source:
                for sample in reader.push(item):
                    yield await wait_for(partial(own.step, sample))

    def session(self) -> Any:
        """What keeps its state from call to call, for one caller at a time, with `reset fork save load`.

        Of a language model a chat, `edgekit.runtimes.conversation.Conversation` with `generate`; of a recurrent one a
        stream, `edgekit.runtimes.stream.Stream` with `step` and `feed`.
        """
        if "generate" in self.methods:
            return import_module("edgekit.runtimes.conversation").Conversation(self._writer(self._state_name()))
        return self._recurrent("session").open()

    def streams(self) -> Any:
        """Many streams that are computed side by side, and join and leave at any time:
        `edgekit.runtimes.streams.Streams` with `add step feed remove reset fork save load`."""
        return import_module("edgekit.runtimes.streams").Streams(self._recurrent("streams"))

    def run(self, items: Any, **options: Any) -> Iterator[Any]:
        """The first of `methods`, in its generic form: one answer an item, in order."""
        if self.methods[0] == "generate":
            yield from self._writer().results([items] if isinstance(items, str) else items, options)
            return
        alone = self._ingest.alone(items) if self.bundle.ingest == "series" else isinstance(items, str)
        yield from getattr(self, self.methods[0])([items] if alone else items, **options)

    def numbers(self, items: Sequence[Any], *, truncate: bool = False) -> list[Array]:
        """What the head computes before it becomes an answer, an array an item: what goldens and the gate compare."""
        return [array for encodings in self._encode(items, truncate) for array in self._gather(encodings)]

    def tokens(self, items: Sequence[Any], *, truncate: bool = False) -> list[Array]:
        """The token ids of each item, int64 (t,); of a series its samples' bits."""
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
        again = partial(load, self.bundle.folder, target=target, precision=precision, threads=self.threads)
        return partial(again, memory_limit=self.memory_limit), ()

    def _writer(self, name: str = "") -> Any:
        """`name`: what states that are saved belong to."""
        self._serves("generate")
        writer = import_module("edgekit.runtimes.conversation").Writer
        return writer(self.engine, self._ingest, self.bundle.settings, name)

    def _recurrent(self, method: str) -> Any:
        """Raises UnsupportedError where the model cannot go on from a state, saying why."""
        if "step" not in self.methods:
            why = self.bundle.settings.get("why_not") or f"it is made for {self.bundle.task}"
            hint = f"it has: {', '.join(self.methods)}"
            raise UnsupportedError(f"{self.bundle.name} has no {method}(): {why}", hint=hint)
        recurrent = import_module("edgekit.runtimes.stream").Recurrent
        return recurrent(self.engine, self._ingest, self._head, self._settings, self._state_name())

    def _state_name(self) -> str:
        """What saved states belong to."""
        return f"{self.variant.name} of bundle {manifest.fingerprint(self.bundle)[:16]}"

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

    def _read(self, method: str, series: Any, timestamps: Any, **options: Any) -> Any:
        """The head's answer to one series, or a list of them to several."""
        self._serves(method)
        if alone := self._ingest.alone(series):
            series, timestamps = [series], None if timestamps is None else [timestamps]
        encodings = self._ingest.encode(series, timestamps=timestamps)
        gather = getattr(self._loop, "whole", self._loop.gather)
        numbers = gather(self.engine, self._ingest, self._head, self._settings, encodings)
        found = self._head.answers(numbers, encodings, self._settings, **options)
        return found[0] if alone else found

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
