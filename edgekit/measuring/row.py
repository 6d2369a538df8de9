"""Measure one variant in one test: open it, warm it up, time runs, check its outputs, return a Row.

Whatever one of them fails in is told in its row, and is not the end of the others. Knows nothing of turns.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec

from edgekit.bundle import safe_files
from edgekit.core import Bundle, Check, Progress, Variant
from edgekit.errors import CrashError, EdgeKitError
from edgekit.measuring import inputs, sizes, summaries, surroundings
from edgekit.measuring.configuration import Test
from edgekit.measuring.disturbance import Seen, tell
from edgekit.measuring.parent import WARM_UP, Subject
from edgekit.reporting.record import NEEDED, QUANTITIES, Accuracy, Forecast, Memory, Phase, Row, Sustained, Warmup

FELL = 0.1  # of what was made in a second, from the first quarter of a sustained run to its last: throttling


@dataclass(frozen=True)
class Way:
    """How to measure."""

    threads: int
    place: Path  # of logs; removed in the end
    quick: bool = False
    repetitions: int | None = None
    sustain: float | None = None
    file: Path | None = None
    meter: Path | None = None
    say: Progress = lambda stage, what: None

    @property
    def patience(self) -> float:
        return 1.0 if self.quick else WARM_UP

    @property
    def budget(self) -> float:
        """Seconds of runs that count."""
        return 1.0 if self.quick else 10.0

    @property
    def rounds(self) -> int:
        """Blocks that the runs come in: the variants take turns at them."""
        return 2 if self.quick else 5

    def runs(self, seconds: float, scenario: str) -> int:
        """How many, each of so many seconds: what the budget allows; enough for a p99 is enough."""
        if self.repetitions is not None:
            return self.repetitions
        least, most = (3, 64) if self.quick else (summaries.BOUNDED, NEEDED[99] + 38)
        most *= 5 if scenario == "stream" else 1  # a step is short, and rare slow ones matter
        return max(least, min(most, math.ceil(self.budget / max(seconds, 1e-9))))


@dataclass
class Weighing:
    """A subject, and what has been found of it so far."""

    bundle: Bundle
    name: str  # what the record calls the bundle
    digest: str
    variant: Variant
    test: Test
    way: Way
    failed: str = ""  # why there is nothing more to be found
    forecast: Forecast | None = None
    replicate: int = 0
    starts: int = 0  # more fresh processes to start, only for how long that takes
    runs: int = 0  # to do
    done: int = 0
    _subject: Subject | None = None
    _opened: dict[str, Any] = field(default_factory=dict)
    _warm: dict[str, Any] = field(default_factory=dict)
    _values: dict[str, list[float]] = field(default_factory=dict)
    _finished: dict[str, Any] = field(default_factory=dict)
    _sustained: dict[str, Any] = field(default_factory=dict)
    _blocks: list[Seen] = field(default_factory=list)
    _held: list[tuple[int, int]] = field(default_factory=list)  # runs done, bytes of RSS then

    def __post_init__(self) -> None:
        self._meter = surroundings.Meter(self.way.meter, gpu=self.variant.target == "cuda")

    @property
    def label(self) -> str:
        return f"{self.name} {self.variant.name} {self.test.name}"

    @property
    def peak(self) -> int:
        """Of RSS so far; 0 where it is not known."""
        return max((phase["rss"] or 0 for phase in self._opened.get("phases", [])), default=0)

    def open(self) -> None:
        """Start it, load, run once, warm up; then it waits."""
        if self.failed:
            return
        with self._telling():
            self.way.say(self.label, "open")
            if not self.replicate:
                self._try_starts()
            self._subject = subject = self._new(self.way.patience)
            self._opened = subject.hear()
            self._keep(self._opened)
            self._warm = subject.hear()
            subject.stop()
            self._hold(self._warm["rss"])
            self.runs = self.way.runs(median(self._warm["values"][-5:]), self.test.scenario)

    def block(self, count: int) -> None:
        """Some runs that count."""
        if self._subject is None or self.failed or not count:
            return
        with self._telling():
            self.way.say(self.label, f"runs {self.done + 1} to {self.done + count} of {self.runs}")
            with self._meter.block(self._opened["per"], lambda: self._made(count)):
                found = self._subject.ask(do="run", count=count)
            self.done += count
            for name, values in found["values"].items():
                self._values.setdefault(name, []).extend(values)
            self._blocks.append(found["seen"])
            self._hold(found["rss"])

    def sustain(self, seconds: float) -> None:
        """On and on for so long."""
        if self._subject is None or self.failed:
            return
        with self._telling():
            self.way.say(self.label, f"running without pause for {seconds:g} s")
            self._sustained = self._subject.ask(do="sustain", seconds=seconds)
            self._blocks.append(self._sustained["seen"])

    def finish(self) -> None:
        """Hold its answers against what is right, and end it."""
        if self._subject is None or self.failed:
            return
        with self._telling():
            self.way.say(self.label, "comparing with the goldens")
            self._finished = self._subject.finish()

    def close(self) -> None:
        if self._subject is not None:
            self._subject.close()

    def row(self) -> Row:
        """All that was found."""
        bundle, variant = self.bundle, self.variant
        check = msgspec.convert(self._finished.get("check"), Check | None)
        found = {name: summaries.figure(QUANTITIES[name][0], values) for name, values in self._values.items()}
        return Row(
            bundle=self.name,
            digest=self.digest,
            source=bundle.source.id,
            task=bundle.task,
            random=bundle.source.random,
            variant=variant.name,
            target=variant.target,
            precision=variant.recipe.weights,
            recipe=variant.recipe.name,
            placement=self._opened.get("placement", ""),
            threads=self.way.threads,
            scenario=self.test.scenario,
            test=self.test.name,
            parameters=self.test.parameters | self._opened.get("facts", {}),
            options=dict(variant.options),
            replicate=self.replicate,
            bytes=variant.measured.get("bytes") or sizes.weights(bundle, variant),
            bytes_per_token=sizes.token(bundle, variant, self._middle()) if self.test.tokens else None,
            figures={name: found[name] for name in QUANTITIES if name in found},
            memory=self._memory(),
            check=check,
            goldens=len(bundle.goldens.inputs) if check and bundle.goldens else None,
            accuracy=msgspec.convert(self._finished.get("accuracy"), Accuracy | None),
            energy=self._meter.total(),
            sustained=self._lasting(),
            warmup=self._warmup(),
            disturbed=(*tell(self._blocks), *self._fell()),
            invalid=self.failed or ("" if check is None or check.ok else f"wrong: {check.why}"),
        )

    def _try_starts(self) -> None:
        """How long it takes to open it in a fresh process: first with nothing at hand, then as it is every time after
        the first. The first of those only makes what is kept for the others."""
        if self.starts and forget(self.bundle):
            with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as empty:
                said = self._started({"XDG_CACHE_HOME": empty})
            self._values["load_cold"] = [said["load"]]
        self._started({})
        for _ in range(self.starts):
            self._keep(self._started({}))

    def _started(self, env: dict[str, str]) -> dict[str, Any]:
        with self._new(None, env) as subject:
            return subject.hear()

    def _new(self, patience: float | None, env: dict[str, str] | None = None) -> Subject:
        place = Path(tempfile.mkdtemp(dir=self.way.place))
        items = [] if self.test.scenario == "llm" else inputs.items(self.bundle, self.way.file)
        return Subject(
            self.bundle.folder, self.variant, self.test, self.way.threads, place, items=items,
            file=self.way.file, patience=patience, env=env,
        )  # fmt: skip

    def _keep(self, opened: dict[str, Any]) -> None:
        for name in ("load", "first", "start"):
            self._values.setdefault(name, []).append(opened[name])

    def _hold(self, rss: int | None) -> None:
        if rss is not None:
            self._held.append((self.done, rss))

    def _made(self, runs: int) -> int:
        """How many of what it makes come of so many runs."""
        return int(runs * self._opened["each"] * self._opened["yields"])

    def _middle(self) -> int:
        """Tokens that a row holds half-way through what it generates."""
        return self.test.tokens - self.test.generate // 2

    def _memory(self) -> Memory | None:
        if not self._opened:
            return None
        phases = msgspec.convert([*self._opened["phases"], *self._finished.get("phases", [])], tuple[Phase, ...])
        return Memory(
            phases=phases,
            peak_rss=next((phase.rss for phase in phases if phase.name == "peak"), None),
            slope=self._slope(),
            slope_runs=self.done if self._slope() is not None else 0,
            weights_on_disk=sizes.weights(self.bundle, self.variant),
            weights_mapped=self._opened["weights_mapped"],
            libraries=self._opened["libraries"],
            states=self._opened["states"],
            states_expected=self.forecast.states if self.forecast and self._opened["states"] is not None else None,
            device=self._finished.get("device"),
            device_why=self._finished.get("device_why", "it did not come so far"),
            forecast=self.forecast,
        )

    def _slope(self) -> float | None:
        """Bytes for 100 runs; None of fewer runs than that."""
        if self.done < 100 or len(self._held) < 3:
            return None
        return 100 * summaries.slope([float(rss) for _, rss in self._held], [float(runs) for runs, _ in self._held])

    def _warmup(self) -> Warmup | None:
        if not self._warm:
            return None
        return Warmup(
            runs=self._warm["runs"],
            seconds=self._warm["seconds"],
            settled=self._warm["settled"],
            values=tuple(summaries.spread(self._warm["values"], summaries.KEPT)),
        )

    def _lasting(self) -> Sustained | None:
        if not self._sustained:
            return None
        unit = f"{self._opened['per']}s/s"
        return Sustained(seconds=self._sustained["window"], unit=unit, rates=tuple(self._sustained["rates"]))

    def _fell(self) -> Iterator[str]:
        rates = self._sustained.get("rates", [])
        quarter = len(rates) // 4
        if quarter:
            share = 1 - fmean(rates[-quarter:]) / fmean(rates[:quarter])
            if share > FELL:
                yield f"throughput fell by {share:.0%} during the sustained run"

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """An error is what the row says, and the end of this subject."""
        try:
            yield
        except EdgeKitError as error:
            why = error.cause.splitlines()[-1] if isinstance(error, CrashError) and error.cause else error.hint
            self.failed = f"{error.message} ({why})" if why else error.message
            self.way.say(self.label, f"failed: {error.message}")
            self.close()


def forget(bundle: Bundle) -> bool:
    """Ask the kernel to let go of what it holds of the bundle's files. It keeps what others have mapped.

    False where no call does it (macOS, Windows).
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    for name in safe_files.walk(bundle.folder):
        descriptor = os.open(bundle.folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True
