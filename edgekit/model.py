"""Load a bundle and run it on a target.

    with edgekit.load("minilm.ek", target="openvino", threads=2) as model:
        vectors = model.embed(["a", "b"])

`load` never converts and never downloads. It returns the class of the bundle's task (`runtimes/tasks/`), which has
only that task's methods. This file knows no architecture, no engine and no modality.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, get_args

from edgekit import limits, registry
from edgekit.bundle import manifest, safe_files
from edgekit.checks import first_load
from edgekit.checks.first_load import Prove
from edgekit.errors import BundleError, NoSuchMethodError, UnsupportedError, UsageError, VerificationError
from edgekit.machine import device
from edgekit.sessions import Sessions
from edgekit.variants import Chosen, able, choose

if TYPE_CHECKING:
    from msgspec import Struct

    from edgekit.core import Array, Bundle, Exporter, Graph, Measure, Target, Variant
    from edgekit.session import Session

log = logging.getLogger("edgekit")
Verify = Literal["always", "once", "never"]
BYTES = "give a number of bytes: 1 << 30 is 1 GiB"
TIMED, ROUNDS = 8, 5  # items and rounds of `seconds`
ENOUGH = 5.0  # seconds of timing, after which no round begins


def load(
    folder: str | Path,
    *,
    task: str | None = None,
    target: Target | Literal["auto"] = "auto",
    precision: str | None = None,
    threads: int | None = None,
    verify: Verify = "once",
    prove: Prove = "first",
    memory_limit: int | None = None,
) -> Model:
    """Open the bundle in `folder` as a model of its first task, or of the one that `task` names.

    `precision`: "int8", or a recipe as in "int8-dynamic"; None takes the variant that was measured as the fastest on
    this machine, else the bundle's own order (`chosen_by` says which). `threads`: for the engine; None takes all cores
    that this process may use. `verify`: when the digests of the files are checked. `prove`: when the variant's known
    answers are checked on this device: at its first load here ("first"), at every load, or never. With target "auto" a
    variant that is wrong here gives way to another. `memory_limit`: bytes that this process may take, by forecast;
    inputs are then bounded to what fits.

    Raises BundleError, DeviceError when the target is not on this machine, UsageError for a variant that is not there,
    VerificationError for one that is wrong on this device, UnsupportedError for a task that the bundle does not have,
    ResourceError where nothing fits into the limit.
    """
    _check_call(threads, memory_limit)
    if prove not in get_args(Prove):
        raise UsageError(f"prove is {prove!r:.60}", hint=f"give one of {', '.join(get_args(Prove))}")
    bundle = manifest.read(safe_files.path_of(folder, "folder"), verify=verify)
    if task is not None and registry.task_name(task) not in bundle.tasks:
        raise UnsupportedError(
            f"{bundle.name} does not have the task {task}", hint=f"its tasks are: {', '.join(bundle.tasks)}"
        )
    kind: type[Model] = registry.task(registry.task_name(task) if task else bundle.task)
    wrong: list[str] = []
    while True:
        chosen = choose(bundle, target, precision, without=wrong)
        try:
            return _proven(kind, bundle, chosen, threads or device.threads(), prove, memory_limit)
        except VerificationError as error:
            wrong.append(chosen.variant.name)
            if target != "auto" or not able(bundle, target, precision, without=wrong):
                raise
            log.warning("%s; another variant is taken", error.message)


def _proven(
    kind: type[Model], bundle: Bundle, chosen: Chosen, threads: int, prove: Prove, memory_limit: int | None
) -> Model:
    """The variant, open and proven on this device. Raises VerificationError where it is wrong here."""
    variant = chosen.variant
    proven = first_load.is_proven(bundle, variant, prove)
    if memory_limit is not None:
        from edgekit.forecast import bounded

        bundle = bounded(bundle, variant, memory_limit)
    model = kind(bundle, variant, threads, chosen_by=chosen.why)
    model.memory_limit = memory_limit
    if proven:
        return model
    try:
        first_load.check(model)
    except BaseException:
        model.close()
        raise
    return model


def _check_call(threads: Any, memory_limit: Any) -> None:
    if memory_limit is not None and (type(memory_limit) is not int or memory_limit < 1):
        raise UsageError(f"memory_limit is {memory_limit!r:.60}", hint=BYTES)
    if threads is None:
        return
    if type(threads) is not int or not 1 <= threads <= limits.THREADS:
        raise UsageError(f"threads is {threads!r:.60}", hint=f"give a whole number from 1 to {limits.THREADS}")
    if threads > (cores := device.affinity()):
        log.warning("%d threads on %d cores are slower than %d", threads, cores, cores)


class Model:
    """A bundle that is open on a device: the base of every task's class.

    Threads may share it. It owns the engine's memory: use it in a `with`, or call `close()`.

    A task's class says what it reads and does (`INPUT`, `METHODS`, `SCENARIOS`), and answers what gate, goldens, verify
    and bench ask of any task: `samples`, `encode`, `outputs`, `compare`. A sample is a JSON value, in which arrays and
    bytes may stand.
    """

    INPUT: ClassVar[str] = ""  # what `edgekit run` reads for it: "text", "pair", "chat", "series", "image", …
    METHODS: ClassVar[tuple[str, ...]] = ()  # its own first: the one that `run` calls
    SCENARIOS: ClassVar[tuple[str, ...]] = ("single-stream", "offline")  # those of `bench`, the first decides
    MORE_SCENARIOS: ClassVar[tuple[str, ...]] = ()  # measured only if they are asked for
    # Largest loss of `compare` for each precision, unless the user gives another.
    BUDGET: ClassVar[Mapping[str, float]] = {"fp32": 1e-4, "bf16": 5e-3, "fp16": 5e-3, "int8": 2e-2, "int4": 5e-2}
    head: ClassVar[ModuleType]  # of runtimes/heads: outputs to answers, and how near outputs are to others
    SETTINGS: ClassVar[tuple[type[Struct], ...]] = ()  # what each setting may be, those of its head aside
    ALONE: ClassVar[bool] = False  # an item's outputs never depend on the others of its call

    READER: ClassVar[int] = 0  # bytes in memory of the packages that read its input, beside a tokenizer's

    @classmethod
    def check_export(cls, bundle: Bundle, exporter: Exporter) -> list[str]:
        """Check, at export, settings that no output shows; return what is worth a warning. Raises EdgeKitErrors."""
        return []

    memory_limit: int | None = None  # that bounds the lengths of inputs

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        threads: int,
        *,
        sessions: Mapping[str, Session] | None = None,
        chosen_by: str = "",
    ) -> None:
        """`sessions`: graphs that are open already, by name. `chosen_by`: why this variant, for a person."""
        self.bundle, self.variant, self.threads, self.chosen_by = bundle, variant, threads, chosen_by
        self.settings: dict[str, Any] = bundle.settings
        self.sessions: Mapping[str, Session] = {}
        self._check_output()
        self.prepare()
        self.sessions = Sessions(bundle, variant, threads) if sessions is None else sessions
        if len(variant.graphs) == 1:  # whatever is asked needs it
            self.session_of(variant.graphs[0].name)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        target: Target | Literal["auto"] = "auto",
        precision: str | None = None,
        threads: int | None = None,
        verify: Verify = "once",
        prove: Prove = "first",
        memory_limit: int | None = None,
    ) -> Self:
        """Open the bundle in `folder` as this class. Parameters and errors are those of `edgekit.load`."""
        model = load(
            folder, task=registry.task_of(cls), target=target, precision=precision, threads=threads, verify=verify,
            prove=prove, memory_limit=memory_limit,
        )  # fmt: skip
        assert isinstance(model, cls)
        return model

    @classmethod
    def settings_structs(cls) -> tuple[type[Struct], ...]:
        """The structs that declare every setting of the task: those of `SETTINGS`, and its head's."""
        head = getattr(cls, "head", None)
        return cls.SETTINGS if head is None else (*cls.SETTINGS, head.Settings)

    def prepare(self) -> None:
        """Read what the task needs of the bundle's settings and files. Raises BundleError. The engine is not open."""

    @classmethod
    def samples(cls, bundle: Bundle, file: Path | None = None, option: str = "--calibration") -> list[Any]:
        """Inputs to judge a bundle on: the user's in `file`, else ours. `option`: for messages about the file.

        Raises UsageError for a file that holds none.
        """
        raise NotImplementedError(f"{cls.__name__}.samples")

    @staticmethod
    def item(sample: Any) -> Any:
        """A sample, as the methods take it."""
        return sample

    def encode(self, samples: Sequence[Any]) -> list[Array]:
        """What the graphs are fed for each sample: token ids, pixels' bits. What is too long is cut."""
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def outputs(self, samples: Sequence[Any]) -> list[Array]:
        """What is compared for each sample: vectors, logits, boxes. What is too long is cut."""
        raise NotImplementedError(f"{type(self).__name__}.outputs")

    def together(self, samples: Sequence[Any]) -> list[Array]:
        """`outputs`, but computed side by side, as the task's methods compute a list of items."""
        return self.outputs(samples)

    @classmethod
    def compare(
        cls,
        reference: Sequence[Array],
        candidate: Sequence[Array],
        settings: Mapping[str, Any],
        samples: Sequence[Any] = (),
    ) -> Measure:
        """How near `candidate` is to `reference`, both from `outputs` for these samples: by the head's measure."""
        measure: Measure = cls.head.compare(reference, candidate, settings)
        return measure

    @classmethod
    def workload(cls, samples: Sequence[Any]) -> list[Any]:
        """Those of the samples that `bench` times."""
        return list(samples)

    def answer(self, items: Sequence[Any]) -> Any:
        """What a user gets for one item, or for several in one call: what `bench` times."""
        return getattr(self, self.METHODS[0])(items[0] if len(items) == 1 else list(items))

    def seconds(self, samples: Sequence[Any]) -> float:
        """Median time of one item from input to output, warmed up: the gate's latency."""
        timed = list(samples[:TIMED])
        self.outputs(timed)
        found: list[float] = []
        for _ in range(ROUNDS):
            if sum(found) > ENOUGH:
                break
            for sample in timed:
                start = time.perf_counter()
                self.outputs([sample])
                found.append(time.perf_counter() - start)
        return statistics.median(found)

    def run(self, items: Any, **options: Any) -> Iterator[Any]:
        """The first of `METHODS` in its generic form: one answer an item, in order."""
        several = [items] if isinstance(items, str | bytes | PathLike) else list(items)
        yield from getattr(self, self.METHODS[0])(several, **options)

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods that this bundle serves, the task's own first."""
        return self.METHODS

    @property
    def placement(self) -> str:
        """What runs it, as the engine says: "CPUExecutionProvider", "CPU"."""
        if isinstance(self.sessions, Sessions):
            return self.sessions.placement
        return ", ".join(dict.fromkeys(session.placement for session in self.sessions.values()))

    def graph(self, name: str = "model") -> Graph:
        """The graph of that name. Raises BundleError where the variant has none."""
        for graph in self.variant.graphs:
            if graph.name == name:
                return graph
        names = ", ".join(graph.name for graph in self.variant.graphs)
        raise BundleError(f"{self.variant.name} has no graph {name!r}, only {names}", hint="export the model again")

    def _with_width(self) -> dict[str, Any]:
        """The settings, with the last axis of the output that they name as `width`; 0 where it is free."""
        shapes = {port.name: port.shape for port in self.graph().outputs}
        last = next(iter(shapes.get(str(self.settings.get("output")), ())[-1:]), 0)
        return {"width": last if isinstance(last, int) else 0, **self.settings}

    def session_of(self, name: str = "model") -> Any:
        """The graph's session, opened now if it is not."""
        return self.sessions[name]

    def close(self) -> None:
        """Free the engine's memory; twice is once."""
        for session in [self.sessions] if isinstance(self.sessions, Sessions) else self.sessions.values():
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.bundle.folder)!r}, {self.variant.name}, threads={self.threads})"

    def __reduce__(self) -> tuple[Any, ...]:
        target = cast("Target", self.variant.target)
        recipe = self.variant.recipe.name
        again = partial(type(self).load, self.bundle.folder, target=target, precision=recipe, threads=self.threads)
        return partial(again, memory_limit=self.memory_limit), ()

    def __getattr__(self, name: str) -> Any:
        """A method that another task has is a clear error."""
        if name.startswith("_") or name not in registry.task_methods():
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise NoSuchMethodError(
            f"{self.bundle.name} is made for {', '.join(self.bundle.tasks)} and has no {name}()",
            hint=f"it has: {', '.join(self.methods)}",
        )

    def _check_output(self) -> None:
        """Raise BundleError where the setting `output`, which heads read, names no output of the variant's graphs."""
        name = self.settings.get("output")
        known = [port.name for graph in self.variant.graphs for port in graph.outputs]
        if name is not None and name not in known:
            raise BundleError(
                f"the setting output is {name!r:.80}, and the graph gives {', '.join(known)}",
                hint="export the model again",
            )

    def _state_name(self) -> str:
        """What saved states belong to."""
        return f"{self.variant.name} of bundle {manifest.fingerprint(self.bundle)[:16]}"
