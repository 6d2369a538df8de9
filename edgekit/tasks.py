"""What a model can be exported for: each task with the ingest, loop and head that serve it on the device.

The one table where a task's name meets the parts of the runtime. Knows no architecture; whether a given model can do
a task is the exporter's knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit import registry
from edgekit.errors import UnsupportedError


@dataclass(frozen=True)
class Task:
    """`name` is Hugging Face's; ingest, loop and head are file names under runtimes/; `method` is the Model's."""

    name: str
    ingest: str
    loop: str
    head: str
    method: str
    description: str
    aliases: tuple[str, ...] = ()


TASKS = (
    Task(
        name="feature-extraction",
        ingest="text",
        loop="once",
        head="embedding",
        method="embed",
        description="a vector per text: search, clustering, similarity",
        aliases=("sentence-similarity", "sentence-embedding", "embedding", "embeddings"),
    ),
    Task(
        name="text-classification",
        ingest="text",
        loop="once",
        head="classes",
        method="classify",
        description="labels with scores for each text: sentiment, topic, intent",
        aliases=("sequence-classification", "sentiment-analysis"),
    ),
    Task(
        name="text-ranking",
        ingest="text",
        loop="once",
        head="classes",
        method="rerank",
        description="documents in the order of their relevance to a query",
        aliases=("rerank", "reranking", "cross-encoder"),
    ),
    Task(
        name="token-classification",
        ingest="text",
        loop="once",
        head="spans",
        method="tag",
        description="labelled spans of a text: names, parts of speech",
        aliases=("ner", "named-entity-recognition", "pos"),
    ),
    Task(
        name="text-generation",
        ingest="chat",
        loop="decode",
        head="tokens",
        method="generate",
        description="text that goes on from a prompt, or answers in a chat",
        aliases=("causal-lm", "text2text", "chat"),
    ),
    Task(
        name="fill-mask",
        ingest="text",
        loop="once",
        head="fill",
        method="fill",
        description="the likeliest words for the mask in a text",
        aliases=("masked-lm",),
    ),
    Task(
        name="time-series-forecasting",
        ingest="series",
        loop="stream",
        head="forecast",
        method="forecast",
        description="what comes next in a series of samples, with a range where the model gives one",
        aliases=("forecasting", "forecast"),
    ),
    Task(
        name="time-series-classification",
        ingest="series",
        loop="stream",
        head="labels",
        method="classify",
        description="labels with scores for each sample, or for a series: faults, gestures, activities",
        aliases=("series-classification",),
    ),
    Task(
        name="anomaly-detection",
        ingest="series",
        loop="stream",
        head="anomaly",
        method="detect_anomalies",
        description="how unusual each sample of a series is, and whether that is too much",
        aliases=("time-series-anomaly-detection",),
    ),
    Task(
        name="time-series-regression",
        ingest="series",
        loop="stream",
        head="values",
        method="predict",
        description="numbers for each sample, or for a series: a state that cannot be measured, a control signal",
        aliases=("series-regression",),
    ),
)


def find(name: str) -> Task:
    """The task of that name or alias. Raises UnsupportedError with the nearest name if there is none."""
    by_name = {known: task for task in TASKS for known in (task.name, *task.aliases)}
    if name not in by_name:
        hint = registry.suggest(name, list(by_name)) or f"known: {', '.join(task.name for task in TASKS)}"
        raise UnsupportedError(f"no task named {name!r}", hint=hint)
    return by_name[name]
