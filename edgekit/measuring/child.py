"""The measured process: opens one variant and runs it when the parent process requests it.

    serve(order, say)      the worker's job, see `edgekit.workbench.worker`

It says one value when the model is open, has run once and is warm, then answers requests that come on stdin, a JSON
line each: `run` some runs, `sustain` for some seconds, `finish`. Between them the other side stops this process.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import model as models
from edgekit.checks import samples
from edgekit.core import Check
from edgekit.measuring import process_memory, scenarios, timing
from edgekit.measuring.configuration import Test
from edgekit.measuring.disturbance import Watch
from edgekit.reporting.record import Accuracy, Phase

if TYPE_CHECKING:
    from edgekit.core import Bundle, Variant
    from edgekit.model import Model

Say = Callable[[Any], None]
HOSTS = ("cpu", "openvino")  # targets whose engine has no memory of its own
ITEMS = 400  # held-out inputs that are asked at most, where each has a right answer of its own
WINDOWS = 120  # of a sustained run, at most
SHORTEST = 0.5  # seconds of a window


def serve(order: dict[str, Any], say: Say) -> dict[str, Any]:
    """Open, run once, warm up, and answer requests until `finish`, whose answer is the result.

    `order`: `folder`, `target`, `precision`, `threads`, `test`, `items` (its inputs, apart from their arrays, which
    are in the file `arrays`), `file` (the user's, for prompts), `spawned` (the monotonic
    clock when this process was asked for) and `patience` (for the warm-up; None: the first run is all).
    """
    import msgspec

    subject = Subject(order)
    opened: dict[str, Any] = msgspec.to_builtins(subject.opened())
    if order["patience"] is None:
        return opened
    say(opened)
    with subject.model:
        say(subject.warm_up(order["patience"]))
        for line in sys.stdin:
            request = json.loads(line)
            if request["do"] == "finish":
                break
            say(subject.run(request["count"]) if request["do"] == "run" else subject.sustain(request["seconds"]))
        phases = subject.ran()
        held, why = device_memory(subject.model.variant.target)
        check, accuracy = gate(subject.model)
    phases.append(process_memory.phase("closed"))
    return {
        "phases": msgspec.to_builtins(phases),
        "check": msgspec.to_builtins(check),
        "accuracy": msgspec.to_builtins(accuracy),
        "device": held,
        "device_why": why,
    }


def device_memory(target: str) -> tuple[int | None, str]:
    """Bytes that this process holds on a device of its own, or why that is not known."""
    from edgekit.measuring.nvml import gpu_memory

    if target in HOSTS:
        return None, "it computes in the host's memory"
    try:
        return gpu_memory(os.getpid()), ""
    except OSError as error:
        return None, str(error)


class Subject:
    """A model on the scales."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._spawned = order["spawned"]
        self._looking = 0.0  # seconds spent on measuring memory: nobody's start-up
        self._phases = [self._phase("imported")]
        begun = time.perf_counter()
        self.model: Model = models.load(
            order["folder"], target=order["target"], precision=order["precision"], threads=order["threads"],
            prove="never",  # its answers are checked when it was timed
        )  # fmt: skip
        self._load = time.perf_counter() - begun
        self._phases.append(self._phase("loaded"))
        self._test = Test(**order["test"])
        file = order["file"] and Path(order["file"])
        begun = time.perf_counter()
        items = samples.read(Path(order["arrays"]), order["items"])
        self._scenario = scenarios.open(self.model, self._test, items, file)
        self._looking += time.perf_counter() - begun  # making inputs is not starting up
        self._done = 0
        self._hertz: int | None = None

    def opened(self) -> dict[str, Any]:
        """What is known after the first run."""
        scenario, model = self._scenario, self.model
        item = scenario.item(self._next(1))
        begun = time.perf_counter()
        last = None
        for last in scenario.run(item):  # noqa: B007 (the last one is looked at below)
            pass
        first = time.perf_counter() - begun
        start = time.monotonic() - self._spawned - self._looking
        states = scenario.states(last)
        del last, item
        self._phases.append(self._phase("first run"))
        return {
            "load": self._load,
            "first": first,
            "start": start,
            "phases": self._phases,
            "placement": model.placement,
            "weights_mapped": _mapped(model.bundle, model.variant),
            "libraries": process_memory.libraries(),
            "states": states,
            "facts": scenario.facts,
            "per": scenario.per,
            "each": scenario.each,
            "yields": scenario.yields,
        }

    def warm_up(self, patience: float) -> dict[str, Any]:
        """Runs that do not count, until they are alike."""
        begun = time.perf_counter()
        values, settled = timing.warm_up(lambda number: self._timed(1)[0][-1], patience)
        return {
            "runs": len(values),
            "seconds": time.perf_counter() - begun,
            "settled": settled,
            "values": values,
            "rss": process_memory.resident(),
        }

    def run(self, count: int) -> dict[str, Any]:
        """`count` runs in a row: their quantities, what disturbed them, and the memory held after them."""
        gc.collect()
        with Watch(before=self._hertz) as watch:
            begun = time.perf_counter()
            runs = self._timed(count)
            seconds = time.perf_counter() - begun
        self._hertz = watch.hertz
        values: dict[str, list[float]] = {}
        for came in runs:
            for name, found in self._scenario.tell(came).items():
                values.setdefault(name, []).extend(found)
        rss = process_memory.resident()
        return {"values": values, "seconds": seconds, "seen": watch.seen, "rss": rss}

    def sustain(self, seconds: float) -> dict[str, Any]:
        """On and on: what was made in each window, for each second of running. A window ends with a run; there is one,
        however short the time was."""
        window = max(SHORTEST, seconds / WINDOWS)
        scenario, rates = self._scenario, list[float]()
        made, spent = 0, 0.0
        with Watch(before=self._hertz) as watch:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                spent += self._timed(1)[0][-1]
                made += scenario.each * scenario.yields
                if spent >= window:
                    rates.append(made / spent)
                    made, spent = 0, 0.0
        if spent and not rates:
            rates.append(made / spent)
        self._hertz = watch.hertz
        return {"window": window, "rates": rates, "seen": watch.seen}

    def ran(self) -> list[Phase]:
        """Memory after the runs, before anything else is asked of the model."""
        return [process_memory.highest(), process_memory.phase("after runs")]

    def _timed(self, count: int) -> list[list[float]]:
        scenario = self._scenario
        stamps = timing.timed(scenario.item, scenario.run, self._next(count), count, scenario.yields)
        return list(timing.split(stamps, scenario.yields))

    def _next(self, count: int) -> int:
        """The number of the first of so many runs; no number comes twice."""
        first, self._done = self._done, self._done + count
        return first

    def _phase(self, name: str) -> Phase:
        begun = time.perf_counter()
        found = process_memory.phase(name)
        self._looking += time.perf_counter() - begun
        return found


def gate(model: Model) -> tuple[Check | None, Accuracy | None]:
    """Is what was timed right? The bundle's goldens, if it has any, and of a zoo model its own metric."""
    from edgekit.verify import check

    checked = None if model.bundle.goldens is None else check(model)
    return checked, _accuracy(model)


def _accuracy(model: Model) -> Accuracy | None:
    from edgekit import zoo
    from edgekit.measuring.inputs import ZOO, held_out
    from edgekit.zoo import metrics

    bundle = model.bundle
    if bundle.source.random or not held_out(bundle):
        return None
    test = zoo.heldout(bundle.source.id.removeprefix(ZOO), bundle.task)
    if len(test.expected) == len(test.inputs):  # otherwise an answer is right or wrong only among all the others
        test = replace(test, inputs=_some(test.inputs), expected=_some(test.expected))
    value = zoo.score(test, metrics.answers(model.run(list(test.inputs))))
    return Accuracy(metric=test.metric, value=value, trained=test.trained, items=len(test.expected))


def _some(rows: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(rows[at * len(rows) // ITEMS] for at in range(ITEMS)) if len(rows) > ITEMS else tuple(rows)


def _mapped(bundle: Bundle, variant: Variant) -> int | None:
    """What is mapped of the bundle's own files, and of what an engine keeps compiled for its graphs."""
    from edgekit.cache import compile_cache

    kept = [compile_cache.folder(bundle, variant, graph) for graph in variant.graphs]
    parts = [process_memory.mapped(place) for place in (bundle.folder, *kept) if place is not None]
    return None if None in parts else sum(part for part in parts if part is not None)
