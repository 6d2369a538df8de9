"""The data of a benchmark: its figures, and the environment that they depend on.

The JSON of a Record, schema `edgekit.bench/1`, has exactly these fields under these names. All times are in seconds,
all sizes in bytes; None means "not measured". Data only: `edgekit.bench` fills it, `edgekit.report` writes it. The
docstrings of its classes are the descriptions in schema.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgekit.core import QUANTIZED, Check
from edgekit.core import SCENARIOS as SCENARIOS

SCHEMA = "edgekit.bench/1"
TITLE = "EdgeKit benchmark"  # of a record that has no title of its own

# Percentile -> the runs that it takes: fewer, and one time in 770 (three sigma) none of them lies beyond it, so that
# the largest would be called the percentile. n > log(0.0013) / log(rank / 100).
NEEDED = {90: 64, 95: 130, 99: 662}

# Every quantity that a row may have in `figures`: its unit, and whether less of it is better.
QUANTITIES = {
    "load": ("s", True),  # the bundle opened, in a fresh process, its files and compiled form at hand
    "load_cold": (
        "s",
        True,
    ),  # with nothing compiled kept, and its files not in memory where the kernel lets go of them
    "first": ("s", True),  # the first run after it
    "start": ("s", True),  # from the process's start to its first result
    "latency": ("s", True),  # one input to its answer
    "throughput": ("1/s", False),  # items, many at a time
    "step": ("s", True),  # one sample or chunk of a stream, or one step of a diffusion
    "rtf": ("", True),  # real-time factor: seconds of computing for a second of signal
    "ttft": ("s", True),  # from the prompt to the first token, tokenizing included
    "tpot": ("s", True),  # (end - first token) / (n - 1)
    "itl": ("s", True),  # the gaps between tokens, one by one
    "prefill": ("tokens/s", False),
    "decode": ("tokens/s", False),
}
PHASES = ("imported", "loaded", "first run", "peak", "after runs", "closed")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One quantity over repeated runs. A percentile that the sample does not carry is None."""

    unit: str
    n: int  # runs, or gaps between tokens
    median: float
    low: float | None  # of a 95 % bootstrap confidence interval of the median
    high: float | None
    mean: float
    min: float
    max: float
    stdev: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    outliers: int  # beyond Tukey's outer fences, three interquartile ranges from the quartiles
    values: tuple[float, ...] = ()  # in the order in which they were measured; of very many, evenly spread ones


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Memory of the process when something had just been done, as the kernel counts it. `name`: one of PHASES."""

    name: str
    rss: int | None
    pss: int | None  # shared pages by their share
    uss: int | None  # that nobody else has
    anonymous: int | None  # of rss: no file's


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run was expected to take at most, before anything was allocated: peak RSS of a fresh process."""

    base: int  # Python, numpy and the engine
    libraries: int  # their code: how much of it is resident, the kernel decides
    weights: int
    states: int  # caches and cells, at the lengths of this test
    arena: int  # activations
    spike: int  # beyond the rest, while the model is opened
    total: int
    margin: int = 0  # by which the total is larger than its parts, so that it is not too low


@dataclass(frozen=True, kw_only=True)
class Memory:
    """`slope`: bytes of RSS for 100 runs, over `slope_runs` of them."""

    phases: tuple[Phase, ...] = ()
    peak_rss: int | None = None  # the kernel's own high-water mark
    slope: float | None = None
    slope_runs: int = 0
    weights_on_disk: int | None = None
    weights_mapped: int | None = None
    libraries: int | None = None  # shared libraries' pages
    states: int | None = None  # what the session says that its state takes
    states_expected: int | None = None  # by formula
    device: int | None = None
    device_why: str = ""  # why that is None
    forecast: Forecast | None = None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The task's own metric, 0 to 1, on `items` inputs that training never saw; `trained`: what the weights have under
    torch."""

    metric: str
    value: float
    trained: float | None
    items: int


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Of the timed runs, by a counter of the whole package or device; None where there is none, and `why`."""

    joules: float | None = None
    per: str = ""  # "run", "token"
    each: float | None = None  # joules for one of these
    source: str = ""  # "RAPL package", "NVML", a file's name
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Sustained:
    """Throughput while it ran on and on: for each of `seconds` long windows what was done in it, each second."""

    seconds: float  # of a window
    unit: str
    rates: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Runs before those that count: until the last five vary by less than 5 %, or ten seconds are over."""

    runs: int
    seconds: float
    settled: bool
    values: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant of one bundle in one test, measured in a process of its own."""

    bundle: str
    digest: str  # the bundle's fingerprint
    source: str
    task: str
    random: bool  # the weights are made up: speed and memory mean something, answers nothing
    variant: str  # "cpu/int4-g32-rtn"
    target: str
    precision: str
    recipe: str
    placement: str
    threads: int
    scenario: str
    test: str  # short, for tables: "pp512+tg128", "single", "batch 32"
    parameters: dict[str, int | float | str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)  # of the engine, the bundle's own
    replicate: int = 0  # which of the repeated measurements, from 0
    bytes: int | None = None  # what a device must keep to run it
    bytes_per_token: int | None = None  # read for one token: weights and caches
    figures: dict[str, Figure] = field(default_factory=dict)
    memory: Memory | None = None
    check: Check | None = None  # known answers, in the process that was timed
    goldens: int | None = None  # how many of them
    accuracy: Accuracy | None = None
    energy: Energy | None = None
    sustained: Sustained | None = None
    warmup: Warmup | None = None
    disturbed: tuple[str, ...] = ()  # what else was going on, in words
    invalid: str = ""  # why this row may not win a comparison

    @property
    def name(self) -> str:
        """What a person tells rows by: `qwen3.ek cpu/int4-g32-rtn pp512+tg128`."""
        return f"{self.bundle} {self.variant} {self.test}"

    @property
    def quantized(self) -> bool:
        return self.precision in QUANTIZED


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The device, without its name or its user's."""

    system: str
    kernel: str
    libc: str
    machine: str
    cpu: str
    features: tuple[str, ...]
    cores: int
    affinity: int
    quota: float | None
    memory: int | None
    memory_limit: int | None
    governor: str | None
    frequencies: tuple[int, ...]  # Hz, a core's each, before the first row
    hypervisor: str | None
    gpu: tuple[str, ...]  # names with driver
    load_before: float
    load_after: float
    bandwidth: float | None  # bytes a second read from memory by as many threads as the rows have
    engines: dict[str, str]  # "cpu": "onnxruntime 1.31.1"
    software: dict[str, str]


@dataclass(frozen=True)
class Example:
    """One text, what is right and what the model said; `marks` are places in the text, start and end in characters."""

    text: str
    expected: str
    got: str
    right: bool
    marks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a reader should know of one bundle beside its figures."""

    bundle: str
    what: str
    examples: tuple[Example, ...] = ()
    answered_by: str = ""  # the variant whose answers the examples are
    asked: int | None = None  # how many questions it answered in all
    wrong: int | None = None  # and how many of them not exactly right


@dataclass(frozen=True, kw_only=True)
class Record:
    """One benchmark of one device."""

    schema: str
    title: str
    made: str  # UTC, as 2026-11-22T18:59:49Z
    seconds: float
    commands: tuple[str, ...]  # that make it again
    environment: Environment
    rows: tuple[Row, ...]
    subjects: tuple[Subject, ...] = ()
    method: tuple[str, ...] = ()  # how it was measured, in paragraphs
    warnings: tuple[str, ...] = ()
    planned: int | None = None  # rows that were to be measured

    @property
    def partial(self) -> bool:
        """Whether the measurement was interrupted, or is not finished."""
        return self.planned is not None and len(self.rows) < self.planned
