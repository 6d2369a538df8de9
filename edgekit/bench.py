"""The benchmark: bundles, every variant of them that this machine can run, in the tests that their loops have.

    record = edgekit.bench("minilm.ek", targets=["cpu", "openvino"])
    record.to_html("report.html")

Each row is measured in a fresh process, the variants of a bundle take turns, and every one is held against its known
answers in the process that was timed. `edgekit.measuring` has the parts; `edgekit.reporting.record` holds the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.core import Progress
    from edgekit.reporting.record import Record


def bench(
    bundles: str | Path | Sequence[str | Path],
    *,
    targets: Sequence[str] = (),
    precisions: Sequence[str] = (),
    scenario: str = "auto",
    prompt: Sequence[int] = (),
    generate: Sequence[int] = (),
    depth: Sequence[int] = (0,),
    batch: Sequence[int] = (),
    repetitions: int | None = None,
    threads: int | None = None,
    quick: bool = False,
    sustain: float | None = None,
    replicate: int = 1,
    inputs: str | Path | None = None,
    memory_limit: int | None = None,
    meter: str | Path | None = None,
    progress: Progress | None = None,
) -> Record:
    """Speed, memory and correctness of bundles on this device.

    `bundles`: folders, or models that are exported first (`random:CONFIG`, `zoo:NAME`). `targets`, `precisions`: of the
    variants to measure; none: all that this machine can run. `prompt`, `generate`, `depth`: numbers of tokens of a
    language model, every combination is a test; none: 512 and 128, or what the context holds. `batch`: rows or items at
    once. `repetitions`: runs, instead of as many as ten seconds hold. `sustain`: seconds that each then runs on and on.
    `replicate`: how often all is measured again. `inputs`: a file of texts, one a line, or of series, in CSV.
    `memory_limit`: bytes that no row may need. `meter`: an external power meter's CSV.

    A variant that fails is a row that says why (`invalid`). Raises UsageError, BundleError, DeviceError where nothing
    can be measured at all.
    """
    from edgekit.measuring.campaign import Asked, run

    asked = Asked(
        bundles=[bundles] if isinstance(bundles, str | Path) else list(bundles),
        targets=tuple(targets),
        precisions=tuple(precisions),
        scenario=scenario,
        prompt=tuple(prompt),
        generate=tuple(generate),
        depth=tuple(depth),
        batch=tuple(batch),
        repetitions=repetitions,
        threads=threads,
        quick=quick,
        sustain=sustain,
        replicate=replicate,
        inputs=None if inputs is None else Path(inputs),
        memory_limit=memory_limit,
        meter=None if meter is None else Path(meter),
    )
    return run(asked, progress or (lambda stage, what: None))
