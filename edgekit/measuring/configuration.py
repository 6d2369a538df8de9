"""The tests of a benchmark, and which of them a bundle can take.

    Test("llm", prompt=512, generate=128).name     "pp512+tg128"
    plan(bundle, ...)                              the tests for one bundle

Values only: opens nothing, measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from edgekit import registry
from edgekit.core import Bundle
from edgekit.errors import UsageError

PROMPT, GENERATE, BATCH = 512, 128, 32
SHARE = 4  # of a context that is too short for these: one part in so many is generated


@dataclass(frozen=True)
class Test:
    """One way to use a model. `prompt`, `generate` and `depth` are tokens of a language model; `depth` were read before
    the prompt came. `batch`: rows, items or streams at once."""

    scenario: str
    prompt: int = 0
    generate: int = 0
    depth: int = 0
    batch: int = 1

    @property
    def name(self) -> str:
        """Short, for tables: `pp512+tg128`, `single`, `batch 32`, `stream`."""
        if self.scenario == "offline":
            return f"batch {self.batch}"
        said = {"llm": f"pp{self.prompt}+tg{self.generate}", "single-stream": "single"}.get(
            self.scenario, self.scenario
        )
        return said + (f" d{self.depth}" if self.depth else "") + (f" batch {self.batch}" if self.batch > 1 else "")

    @property
    def parameters(self) -> dict[str, int | float | str]:
        """What the record says of it; nothing that this scenario has not."""
        said = {"prompt": self.prompt, "generate": self.generate, "depth": self.depth} if self.tokens else {}
        return {**said, "batch": self.batch}

    @property
    def tokens(self) -> int:
        """The longest that a row of a language model gets; 0 of anything else."""
        return self.depth + self.prompt + self.generate if self.scenario == "llm" else 0


def plan(
    bundle: Bundle,
    scenario: str = "auto",
    *,
    prompt: Sequence[int] = (),
    generate: Sequence[int] = (),
    depth: Sequence[int] = (0,),
    batch: Sequence[int] = (),
) -> tuple[list[Test], list[str]]:
    """The bundle's tests, and what should be said of them. What is not given is 512 and 128 tokens, or what the context
    holds; 1 row, or 32 of many at a time.

    Raises UsageError for a scenario that the bundle is not made for.
    """
    kind = registry.task(bundle.task)
    streams = all(graph.kind == "stream" for variant in bundle.variants for graph in variant.graphs)
    usual = tuple(name for name in kind.SCENARIOS if name != "stream" or streams)
    able = usual + kind.MORE_SCENARIOS
    if scenario != "auto" and scenario not in able:
        raise UsageError(f"{bundle.name} ({bundle.task}) has no {scenario!r} test", hint=f"it has {', '.join(able)}")
    warnings: list[str] = []
    tests: list[Test] = []
    for chosen in usual if scenario == "auto" else (scenario,):
        if chosen == "llm":
            tests += _llm(bundle, prompt, generate, depth, batch or (1,), warnings)
        elif chosen == "offline":
            tests += [Test(chosen, batch=rows) for rows in batch or (BATCH,)]
        elif chosen == "stream":
            tests += [Test(chosen, batch=rows) for rows in batch or (1,)]
        else:
            tests.append(Test(chosen))
    return tests, warnings


def _llm(
    bundle: Bundle,
    prompt: Sequence[int],
    generate: Sequence[int],
    depth: Sequence[int],
    batch: Sequence[int],
    warnings: list[str],
) -> list[Test]:
    """Every combination; lengths that were not asked for are cut to what the context holds."""
    tests = []
    context = int(bundle.settings["context_length"])
    for before, rows in product(depth, batch):
        room = context - before
        news = generate or (min(GENERATE, max(1, room // SHARE)),)
        for new in news:
            for read in prompt or (min(PROMPT, max(1, room - new)),):
                tests.append(Test("llm", prompt=read, generate=new, depth=before, batch=rows))
        if not (prompt and generate) and room < PROMPT + GENERATE:
            shortened = f"{tests[-1].prompt} prompt + {tests[-1].generate} new tokens"
            warnings.append(f"{bundle.name} only holds {context} tokens, so the test was shortened to {shortened}.")
    return tests
