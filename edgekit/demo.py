"""The demo: the zoo's models exported for every target of this machine, verified, measured, and told on one page.

    made = demo("edgekit-demo")      # the bundles, and made.report, a self-contained HTML file
    print(made)                      # a row per variant

Everything that it shows was computed in the run that shows it. `edgekit.answers` knows the zoo's tasks,
`edgekit.report` what the figures mean.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgekit
from edgekit import device, files, page, registry, report, tasks, zoo
from edgekit.answers import ANSWER, TELL, choose
from edgekit.core import Bundle, Measure, Progress
from edgekit.errors import UsageError, VerificationError
from edgekit.report import Report, Row, Subject

if TYPE_CHECKING:
    from edgekit.model import Model
    from edgekit.zoo import HeldOut

PRECISIONS = ("fp32", "int8")
PAGE = "report.html"
BLOCK, ROUNDS = 50, 14  # runs of one text: enough for a p99, and the variants take turns
BATCH, BATCHES = 32, 15
PATIENCE = 1.5  # seconds after which a variant gets no further turn
BUSY = 0.5  # load per core from which on the machine was not ours alone
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
    """What came of it; `rows` are the report's figures, and as text the whole is a table."""

    report: Path
    seconds: float
    rows: list[dict[str, Any]]

    def __str__(self) -> str:
        return f"{report.table(self.rows)}\n\n{self.report}"


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
    subjects = tuple(_subject(part, bundle, say) for part, bundle in made)
    seconds = time.perf_counter() - begun
    found = Report(
        title="EdgeKit demo",
        made=date.today().isoformat(),
        seconds=seconds,
        subjects=subjects,
        environment=environment(load),
        method=METHOD,
        commands=tuple(line for part in PARTS for line in _commands(part)),
        warnings=_warnings(load),
        about=ABOUT,
    )
    target = place / PAGE
    files.replace_file(target, page.html(found).encode(errors="replace"))
    if found.failed:
        raise VerificationError(
            f"{found.failed[0]} does not repeat its known answers on this machine",
            hint=f"{target} has the figures; try another variant, and report it",
            report=str(target),
            variants=found.failed,
        )
    if open_browser and not show(target):
        say("report", f"there is no screen to show {target} on")
    return Demo(target, seconds, found.rows())


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
    return file.is_file() and page.GENERATOR.encode() in file.read_bytes()[:2000]


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


def _subject(part: Part, bundle: Bundle, say: Progress) -> Subject:
    """A bundle verified, its variants measured on all held-out texts, and what the one to ship answered."""
    test = zoo.heldout(part.model, part.task)
    rows, answers = _measure(part, bundle, test, say)
    subject = Subject(
        bundle=part.name,
        source=f"zoo:{part.model}",
        task=part.task,
        what=part.what,
        metric=test.metric,
        texts=len(test.inputs),
        trained=test.trained,
        rows=rows,
    )
    shown = rows.index(subject.pick() or rows[0])
    told = TELL[part.task](test, answers[shown])
    return replace(
        subject,
        examples=tuple(choose(told)),
        answered_by=rows[shown].variant,
        asked=len(told),
        wrong=sum(not example.right for example in told),
    )


def _measure(part: Part, bundle: Bundle, test: HeldOut, say: Progress) -> tuple[tuple[Row, ...], list[Any]]:
    """A row per variant, and what each variant answered."""
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
        answers = [answer(model, test.inputs) for model in models]
        latencies = take_turns(models, answer, test.inputs, each=1, turn=BLOCK, turns=ROUNDS)
        batches = take_turns(models, answer, test.inputs, each=BATCH, turn=1, turns=BATCHES)
    rows = tuple(
        Row(
            variant=variant.name,
            bytes=variant.measured["bytes"],
            accuracy=zoo.score(test, given),
            agreement=Measure(*(variant.measured[name] for name in ("metric", "agreement", "loss"))),
            latencies=tuple(seconds * 1e3 for seconds in single),
            per_second=BATCH / statistics.median(many),
            check=checks.get(variant.name),
        )
        for variant, given, single, many in zip(bundle.variants, answers, latencies, batches, strict=True)
    )
    return rows, answers


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


def environment(load: float) -> tuple[tuple[str, str], ...]:
    """The machine and the versions that matter, without its name or its user's. `load` is what it was before."""
    here = device.describe()
    engines = [registry.find("targets", name).probe() for name in registry.names("targets")]
    used = [f"{engine.engine} {engine.version} ({engine.target})" for engine in engines if engine.available]
    tools = [f"{tool} {version(tool)}" for tool in TOOLS]
    facts = {
        "processor": here.cpu,
        "features": " ".join(here.features) or here.features_why,
        "cores": f"{here.cores}, {here.affinity} for this process, {here.threads} threads used",
        "CPU quota": f"{here.quota:g} cores" if here.quota else "none",
        "memory": report.size(here.memory),
        "memory limit": report.size(here.memory_limit) if here.memory_limit else "none",
        "system": f"{here.system} {here.kernel}, {here.machine}, {here.libc}",
        "load": f"{load:.1f} before, {os.getloadavg()[0]:.1f} after (processes that wanted to run, last minute)",
        "engines": ", ".join(used),
        "software": ", ".join([f"EdgeKit {edgekit.__version__}", f"Python {platform.python_version()}", *tools]),
    }
    return tuple(facts.items())


def show(target: Path) -> bool:
    """Open the page in a browser; False where there is no screen to show it on."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False  # webbrowser would start a browser for terminals, and wait for its end
    import webbrowser

    return webbrowser.open(target.resolve().as_uri())


ABOUT = (
    "Tiny models that were really trained went from their Hugging Face folders to ONNX, as float32 and as int8, for "
    "each engine on this machine; every variant then answered, here and without torch, texts that training never saw."
)
METHOD = (
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
