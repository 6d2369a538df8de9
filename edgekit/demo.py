"""The demo: the zoo's models exported for every target of this machine, verified, measured, and told on one page.

    made = demo("edgekit-demo")      # the bundles, and made.report, a self-contained HTML file
    print(made)                      # a row per variant

Everything that it shows was computed in the run that shows it. `edgekit.answers` knows the zoo's tasks,
`edgekit.record` what the figures mean.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgekit
from edgekit import device, files, registry, report, tasks, zoo
from edgekit.answers import ANSWER, TELL, choose
from edgekit.core import Bundle, Check, Progress, Variant
from edgekit.errors import UsageError, VerificationError
from edgekit.record import NEEDED, QUANTITIES, SCHEMA, Accuracy, Environment, Figure, Record, Row, Subject
from edgekit.reporting import advice
from edgekit.reporting.page import GENERATOR

if TYPE_CHECKING:
    from edgekit.model import Model
    from edgekit.zoo import HeldOut

PRECISIONS = ("fp32", "int8")
PAGE = "report.html"
BLOCK, ROUNDS = 50, 14  # runs of one text: enough for a p99, and the variants take turns
BATCH, BATCHES = 32, 15
PATIENCE = 1.5  # seconds after which a variant gets no further turn
BUSY = 0.5  # load per core from which on the machine was not ours alone
SHARED = (
    "system",
    "kernel",
    "libc",
    "machine",
    "cpu",
    "features",
    "cores",
    "affinity",
    "quota",
    "memory",
    "memory_limit",
)
TOOLS = ("numpy", "tokenizers", "onnx", "torch", "transformers")


@dataclass(frozen=True)
class Part:
    """One bundle of the demo."""

    model: str
    task: str
    what: str

    @property
    def name(self) -> str:
        return f"{self.model}-{tasks.find(self.task).method}.ek"


PARTS = (
    Part("parity", "text-classification", "Tells odd numbers from even ones, written in words or in digits."),
    Part("parity", "feature-extraction", "Given a number in words, finds the same number in digits among all others."),
    Part("spotter", "token-classification", "Finds numbers in sentences: cardinals, ordinals and years."),
)


@dataclass(frozen=True)
class Demo:
    """What came of it: the page, and the record that it tells; as text the whole is a table."""

    report: Path
    record: Record

    def __str__(self) -> str:
        return f"{report.table(self.record)}\n\n{self.report}"


def demo(folder: str | Path = "edgekit-demo", *, open_browser: bool = False, progress: Progress | None = None) -> Demo:
    """Make the bundles and their report in `folder`, which is new, empty, or an earlier demo's.

    `open_browser`: show the page, where there is a screen. Raises UsageError for a folder that holds anything else,
    VerificationError, after the report was written, when a variant does not repeat its known answers; and what an
    export raises.
    """
    place = claim(Path(folder))
    say = progress or (lambda stage, what: None)
    begun, load = time.perf_counter(), os.getloadavg()[0]
    made = [(part, _export(part, place, say)) for part in PARTS]
    measured = [_measured(part, bundle, say) for part, bundle in made]
    found = Record(
        schema=SCHEMA,
        title="EdgeKit demo",
        made=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=time.perf_counter() - begun,
        commands=tuple(line for part in PARTS for line in _commands(part)),
        environment=environment(load),
        rows=tuple(row for rows, _ in measured for row in rows),
        subjects=tuple(subject for _, subject in measured),
        method=METHOD,
        warnings=_warnings(load),
    )
    target = place / PAGE
    report.write(found, target)
    failed = [f"{row.bundle} {row.variant}" for row in found.rows if row.invalid and row.scenario == "single-stream"]
    if failed:
        raise VerificationError(
            f"{failed[0]} does not repeat its known answers on this machine",
            hint=f"{target} has the figures; try another variant, and report it",
            report=str(target),
            variants=failed,
        )
    if open_browser and not show(target):
        say("report", f"there is no screen to show {target} on")
    return Demo(target, found)


def claim(folder: Path) -> Path:
    """The folder, made if need be, without its old page. Raises UsageError unless it is a demo's or nobody's."""
    ours = {PAGE, *(part.name for part in PARTS), *(_texts(part) for part in PARTS)}
    try:
        if folder.is_symlink():
            raise UsageError(f"{folder} is a symbolic link", hint="name the folder itself with -o")
        folder.mkdir(exist_ok=True)
        for name in sorted(os.listdir(folder)):
            leftover = any(name.startswith(f".{known}.") for known in ours)  # of a demo that was killed
            if not leftover and (name not in ours or (name == PAGE and not _is_page(folder / name))):
                raise UsageError(f"{folder} holds {name!r}, which no demo made", hint="choose a new folder with -o")
        (folder / PAGE).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot use {folder}: {error.strerror}", hint="choose another folder with -o") from error
    return folder


def _is_page(file: Path) -> bool:
    return file.is_file() and GENERATOR.encode() in file.read_bytes()[:2000]


def _texts(part: Part) -> str:
    """The file with the samples that the export measures with."""
    return f"{part.model}.txt"


def _export(part: Part, folder: Path, say: Progress) -> Bundle:
    from edgekit.export import export

    samples = folder / _texts(part)
    files.replace_file(samples, "\n".join(zoo.heldout(part.model, part.task).calibration).encode())
    return export(
        f"zoo:{part.model}",
        folder / part.name,
        task=part.task,
        precision=PRECISIONS,
        calibration=samples,
        force=True,
        progress=lambda stage, what: say(f"{part.name} {stage}", what),
    )


def _measured(part: Part, bundle: Bundle, say: Progress) -> tuple[list[Row], Subject]:
    """A bundle verified, its variants measured on all held-out texts, and what the one to ship answered."""
    test = zoo.heldout(part.model, part.task)
    rows, answers = _measure(part, bundle, test, say)
    best = advice.judge(rows).best
    shown = best.variant if best else bundle.variants[0].name
    told = TELL[part.task](test, answers[shown])
    subject = Subject(
        bundle=part.name,
        what=part.what,
        examples=tuple(choose(told)),
        answered_by=shown,
        asked=len(told),
        wrong=sum(not example.right for example in told),
    )
    return rows, subject


def _measure(part: Part, bundle: Bundle, test: HeldOut, say: Progress) -> tuple[list[Row], dict[str, Any]]:
    """Two rows for each variant, and what each variant answered."""
    from edgekit.model import load
    from edgekit.verify import verify

    say(f"{part.name} verify", "known answers on this device")
    checks = {check.variant: check for check in verify(bundle.folder)}
    answer = ANSWER[part.task]
    with ExitStack() as opened:
        models = [
            opened.enter_context(load(bundle.folder, target=variant.target, precision=variant.recipe.name))
            for variant in bundle.variants
        ]
        say(f"{part.name} measure", f"{len(test.inputs)} texts, {len(models)} variants")
        answers = {model.variant.name: answer(model, test.inputs) for model in models}
        latencies = take_turns(models, answer, test.inputs, each=1, turn=BLOCK, turns=ROUNDS)
        batches = take_turns(models, answer, test.inputs, each=BATCH, turn=1, turns=BATCHES)
    rows = []
    for model, single, many in zip(models, latencies, batches, strict=True):
        variant = model.variant
        row = _row(part, bundle, variant, checks[variant.name])
        met = Accuracy(
            metric=test.metric,
            value=zoo.score(test, answers[variant.name]),
            trained=test.trained,
            items=len(test.inputs),
        )
        row = replace(row, accuracy=met, placement=model.placement, threads=model.threads)
        offline = {"throughput": figure("throughput", [BATCH / seconds for seconds in many])}
        rows.append(replace(row, figures={"latency": figure("latency", single)}))
        rows.append(
            replace(row, scenario="offline", test=f"batch {BATCH}", parameters={"batch": BATCH}, figures=offline)
        )
    return rows, answers


def _row(part: Part, bundle: Bundle, variant: Variant, check: Check) -> Row:
    """What is known of a variant before its time is taken."""
    from edgekit.bundle import fingerprint

    return Row(
        bundle=part.name,
        digest=fingerprint(bundle),
        source=f"zoo:{part.model}",
        task=part.task,
        random=bundle.source.random,
        variant=variant.name,
        target=variant.target,
        precision=variant.recipe.weights,
        recipe=variant.recipe.name,
        placement="",
        threads=device.threads(),
        scenario="single-stream",
        test="single",
        parameters={"batch": 1},
        options=variant.options,
        bytes=variant.measured["bytes"],
        check=check,
        invalid="" if check.ok else check.why,
    )


def figure(quantity: str, values: Sequence[float]) -> Figure:
    """A quantity over its runs, without an interval."""
    ordered = sorted(values)
    ranked = {
        f"p{rank}": ordered[math.ceil(len(ordered) * rank / 100) - 1] if len(ordered) >= needed else None
        for rank, needed in NEEDED.items()
    }
    return Figure(
        unit=QUANTITIES[quantity][0],
        n=len(ordered),
        median=statistics.median(ordered),
        low=None,
        high=None,
        mean=statistics.fmean(ordered),
        min=ordered[0],
        max=ordered[-1],
        stdev=statistics.stdev(ordered) if len(ordered) > 1 else None,
        outliers=0,
        values=tuple(values),
        **ranked,
    )


def take_turns(
    models: Sequence[Model],
    answer: Callable[[Model, Sequence[str]], Any],
    texts: Sequence[str],
    *,
    each: int,
    turn: int,
    turns: int,
) -> list[list[float]]:
    """Seconds that each model took for `each` texts: `turn` runs, then the next model, `turns` times.

    All get the same texts in the same order. The first turn of each is a warm-up and does not count; who has used up
    `PATIENCE` gets no further turn.
    """
    found: list[list[float]] = [[] for _ in models]
    for number in range(-1, turns):
        for model, taken in zip(models, found):
            if sum(taken) > PATIENCE:
                continue
            for run in range(turn):
                first = (number * turn + run) * each % len(texts)
                some = [texts[(first + at) % len(texts)] for at in range(each)]
                begun = time.perf_counter()
                answer(model, some)
                taken.append(time.perf_counter() - begun)
            if number < 0:
                taken.clear()
    return found


def environment(load: float) -> Environment:
    """The machine and the versions that matter, without its name or its user's. `load` is what it was before."""
    here = device.describe()
    engines = [registry.find("targets", name).probe() for name in registry.names("targets")]
    return Environment(
        **{name: getattr(here, name) for name in SHARED},
        governor=None,
        frequencies=(),
        hypervisor=None,
        gpu=(),
        load_before=load,
        load_after=os.getloadavg()[0],
        bandwidth=None,
        engines={engine.target: f"{engine.engine} {engine.version}" for engine in engines if engine.available},
        software={
            "edgekit": edgekit.__version__,
            "python": platform.python_version(),
            **{tool: version(tool) for tool in TOOLS},
        },
    )


def show(target: Path) -> bool:
    """Open the page in a browser; False where there is no screen to show it on."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False  # webbrowser would start a browser for terminals, and wait for its end
    import webbrowser

    return webbrowser.open(target.resolve().as_uri())


METHOD = (
    "Tiny models that were really trained went from their Hugging Face folders to ONNX, as float32 and as int8, for "
    "each engine on this machine; every variant then answered, here and without torch, texts that training never saw.",
    "Latency is from text to answer, tokenizer included: one held-out text at a time, a different one each run. The "
    f"variants take turns of {BLOCK} runs in one process, after a warm-up turn, up to {BLOCK * ROUNDS} runs or "
    f"{PATIENCE:g} seconds each. Texts per second is the median of up to {BATCHES} batches of {BATCH}.",
    "A percentile is given only where the sample carries it: 64 runs for p90, 662 for p99.",
    "Accuracy is exact, on all held-out texts: training saw neither them nor the numbers in them. Agreement was "
    "measured when the bundle was made, on other texts, against torch's float32 answers.",
    "Verified means that the bundle's known answers came out again on this device, within the tolerance beside the "
    "largest difference. To ship is the fastest variant that is verified and within half a point of the accuracy that "
    "the trained weights have under torch; among medians within 5 % it is the smallest.",
    "Memory is not on this page: it is honest only with a process per variant, and here they share one.",
)


def _commands(part: Part) -> list[str]:
    chosen = " ".join(f"--precision {precision}" for precision in PRECISIONS)
    return [
        f"edgekit export zoo:{part.model} -o {part.name} --task {part.task} {chosen} --calibration {_texts(part)}",
        f"edgekit verify {part.name}",
    ]


def _warnings(load: float) -> tuple[str, ...]:
    if load < BUSY * device.affinity():
        return ()
    cores = device.affinity()
    return (
        f"The machine was busy before the demo began (load {load:.1f} on {cores} cores), so latencies and texts per "
        "second say little; accuracy, sizes and checks do not depend on it.",
    )
