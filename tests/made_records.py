"""Records as a benchmark makes them, made up: an encoder, a language model and a stream, on one device and another."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgekit.core import Check, Measure
from edgekit.record import (
    NEEDED,
    PHASES,
    QUANTITIES,
    SCHEMA,
    Accuracy,
    Energy,
    Environment,
    Example,
    Figure,
    Forecast,
    Memory,
    Phase,
    Record,
    Row,
    Subject,
    Sustained,
    Warmup,
)

HOSTILE = "</title></style></svg><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&\x00\u202e|`"


def figure(quantity: str, values: Sequence[float], **changed: Any) -> Figure:
    """What a sample says, by the rules of the record; the interval is some 2 % around the median."""
    ordered, middle = sorted(values), statistics.median(values)
    ranked = {
        f"p{rank}": ordered[-(-len(ordered) * rank // 100) - 1] if len(ordered) >= needed else None
        for rank, needed in NEEDED.items()
    }
    made = Figure(
        unit=QUANTITIES[quantity][0],
        n=len(values),
        median=middle,
        low=max(ordered[0], middle * 0.99),
        high=min(ordered[-1], middle * 1.01),
        mean=statistics.fmean(values),
        min=ordered[0],
        max=ordered[-1],
        stdev=statistics.stdev(values) if len(values) > 1 else None,
        **ranked,
        outliers=0,
        values=tuple(values),
    )
    return replace(made, **changed)


def sample(middle: float, count: int, seed: object = 0) -> list[float]:
    """Times as they come: most near the median, a tail of slow ones."""
    rng = random.Random(str(seed))
    return [middle * rng.lognormvariate(0.0, 0.04) * (1.6 if rng.random() < 0.02 else 1) for _ in range(count)]


def check(variant: str, *, ok: bool = True, why: str = "") -> Check:
    return Check(variant, ok, 1e-4 if ok else 0.8, 2e-2, Measure("label agreement", 0.998, 0.002), 0.01, 0.1, why)


def memory(base: int, weights: int, *, forecast: float = 1.05) -> Memory:
    """In bytes, phase after phase."""
    rss = dict(
        zip(PHASES, (base, base + weights, base + 1.3 * weights, base + 1.5 * weights, base + 1.45 * weights, base))
    )
    phases = tuple(
        Phase(name=name, rss=int(size), pss=int(size * 0.9), uss=int(size * 0.8), anonymous=int(size * 0.5))
        for name, size in rss.items()
    )
    peak = int(base + 1.5 * weights)
    total = int(peak * forecast)
    libraries = base // 2
    spike = total - base - weights - weights // 10 - weights // 20
    told = Forecast(
        base=base - libraries,
        libraries=libraries,
        weights=weights,
        states=weights // 10,
        arena=weights // 20,
        spike=spike,
        total=total,
    )
    return Memory(
        phases=phases,
        peak_rss=peak,
        slope=12_000.0,
        slope_runs=700,
        weights_on_disk=weights,
        weights_mapped=weights // 2,
        libraries=libraries,
        states=weights // 10,
        states_expected=weights // 10,
        device_why="no GPU",
        forecast=told,
    )


def row(variant: str = "cpu/fp32", milliseconds: float = 1.0, scenario: str = "single-stream", **changed: Any) -> Row:
    """One of `minilm.ek`, unless `changed` says otherwise; `milliseconds` is its latency, or its time per token."""
    target, recipe = variant.split("/", 1)
    rng_seed = changed.get("bundle", "minilm.ek"), variant, scenario
    per, tests = milliseconds / 1e3, {"single-stream": "single", "offline": "batch 32", "stream": "chunk 1"}
    figures: dict[str, Figure] = {"load": figure("load", [0.31]), "first": figure("first", [per * 3])}
    if scenario == "llm":
        figures |= {
            "ttft": figure("ttft", sample(per * 9, 10, rng_seed)),
            "tpot": figure("tpot", sample(per, 10, (1, rng_seed))),
            "itl": figure("itl", sample(per, 1270, (2, rng_seed))),
            "prefill": figure("prefill", [512 / t for t in sample(per * 9, 10, rng_seed)]),
            "decode": figure("decode", [1 / t for t in sample(per, 10, (1, rng_seed))]),
        }
    elif scenario == "offline":
        figures["throughput"] = figure("throughput", [1.4 / t for t in sample(per, 30, rng_seed)])
    elif scenario == "stream":
        figures |= {"step": figure("step", sample(per, 900, rng_seed)), "rtf": figure("rtf", [per * 50] * 5)}
    else:
        figures["latency"] = figure("latency", sample(per, 700, rng_seed))
    size = {"fp32": 90_900_000, "int8": 23_100_000, "int4": 14_800_000}.get(recipe.split("-")[0], 40_000_000)
    made = Row(
        bundle="minilm.ek",
        digest="5f0c" * 16,
        source="sentence-transformers/all-MiniLM-L6-v2",
        task="feature-extraction",
        random=False,
        variant=variant,
        target=target,
        precision=recipe.split("-")[0],
        recipe=recipe,
        placement="CPUExecutionProvider" if target == "cpu" else "CPU",
        threads=2,
        scenario=scenario,
        test=tests.get(scenario, "pp512+tg128"),
        parameters={"prompt": 512, "generate": 128} if scenario == "llm" else {"batch": 1},
        bytes=size,
        figures=figures,
        memory=memory(70_000_000 if target == "cpu" else 120_000_000, size),
        check=check(variant),
        energy=Energy(why="no counter that this user may read"),
        warmup=Warmup(runs=12, seconds=0.4, settled=True),
    )
    return replace(made, **changed)


def language_model(variant: str, milliseconds: float, tokens_bytes: int, **changed: Any) -> Row:
    told = {"bundle": "qwen3-0.6b.ek", "source": "random:qwen3.json", "task": "text-generation", "random": True}
    size = tokens_bytes + 60_000_000
    given: dict[str, Any] = {
        **told,
        "digest": "77aa" * 16,
        "bytes": size,
        "bytes_per_token": tokens_bytes,
        "memory": memory(90_000_000, size, forecast=0.97),
        **changed,
    }
    return row(variant, milliseconds, "llm", **given)


def environment(**changed: Any) -> Environment:
    made = Environment(
        system="Linux",
        kernel="6.12.0",
        libc="glibc 2.36",
        machine="x86_64",
        cpu="Example Xeon 8481C @ 2.70GHz",
        features=("avx2", "avx512_vnni", "amx_int8"),
        cores=2,
        affinity=2,
        quota=None,
        memory=16_700_000_000,
        memory_limit=None,
        governor=None,
        frequencies=(2_700_000_000, 2_700_000_000),
        hypervisor="KVM",
        gpu=(),
        load_before=0.1,
        load_after=1.9,
        bandwidth=21.5e9,
        engines={"cpu": "onnxruntime 1.31.1", "openvino": "openvino 2026.4.1"},
        software={"edgekit": "0.1.0", "python": "3.11.9", "numpy": "2.4.1"},
    )
    return replace(made, **changed)


def record(*rows: Row, **changed: Any) -> Record:
    made = Record(
        schema=SCHEMA,
        title="EdgeKit benchmark",
        made="2026-11-22T18:59:49Z",
        seconds=61.4,
        commands=("edgekit bench minilm.ek qwen3-0.6b.ek spotter.ek -o report.html",),
        environment=environment(),
        rows=rows,
        method=("Each row in a process of its own; the variants of a test take turns.",),
    )
    return replace(made, **changed)


def encoder() -> tuple[Row, ...]:
    """Four variants in two tests: one is wrong, one was disturbed."""
    rows = []
    for variant, milliseconds, accuracy in (
        ("cpu/fp32", 8.1, 0.982),
        ("openvino/fp32", 7.4, 0.982),
        ("cpu/int8-dynamic", 3.2, 0.979),
        ("openvino/int8-dynamic", 2.9, 0.981),
    ):
        met = Accuracy(metric="recall_at_1", value=accuracy, trained=0.982, items=1000)
        for scenario in ("single-stream", "offline"):
            rows.append(row(variant, milliseconds, scenario, accuracy=met))
    why = "outputs moved by 0.8, and 0.02 is allowed"
    for number, one in enumerate(rows):
        if one.variant == "openvino/int8-dynamic":
            rows[number] = replace(one, check=check(one.variant, ok=False, why=why), invalid=why)
        if one.variant == "cpu/fp32" and one.scenario == "offline":
            rows[number] = replace(one, disturbed=("others used 0.8 cores of 2 meanwhile",))
    return tuple(rows)


def typical(seed: float = 1.0) -> Record:
    """Three bundles on three targets; `seed` makes everything that much slower."""
    on_device = replace(memory(300_000_000, 90_000_000), device=612_000_000, device_why="")
    models = (
        language_model("cpu/int8", 41.0 * seed, 597_000_000),
        language_model("cpu/int4-g32-rtn", 27.0 * seed, 346_000_000),
        language_model("openvino/int8", 39.0 * seed, 597_000_000),
        language_model("openvino/int4-g32-rtn", 25.5 * seed, 346_000_000),
        language_model("cuda/int4-g32-rtn", 2.1 * seed, 346_000_000, memory=on_device),
    )
    rates = Sustained(seconds=5.0, unit="tokens/s", rates=tuple(37 / seed - min(n, 14) * 0.5 for n in range(36)))
    models = (models[0], replace(models[1], sustained=rates), *models[2:])
    told = {"bundle": "spotter-stream.ek", "digest": "ab12" * 16, "source": "zoo:sunspots", "task": "forecasting"}
    stream = (row("cpu/fp32", 0.021 * seed, "stream", **told), row("openvino/fp32", 0.048 * seed, "stream", **told))
    examples = (
        Example("ninety-two goats", "ninety-two", "ninety", False, ((0, 6),)),
        Example("a cat", "none", "none", True),
    )
    subject = Subject(
        bundle="minilm.ek",
        what="Sentence vectors of 384 numbers.",
        examples=examples,
        answered_by="cpu/int8-dynamic",
        asked=1000,
        wrong=22,
    )
    return record(*encoder(), *models, *stream, subjects=(subject,))
