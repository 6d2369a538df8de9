"""The scenarios of a benchmark, each a function that returns a Scenario: its items, its run, and its metrics.

A run is a generator, as every loop is: it yields when something has come, and the clock of `timing` looks at nothing
else. So a loop that gives an image's steps or a text's segments is measured by a function here that yields as it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgekit.measuring import inputs
from edgekit.measuring.configuration import Test

if TYPE_CHECKING:
    from edgekit.model import Model
    from edgekit.session import DecoderSession, StreamSession

Values = dict[str, list[float]]


@dataclass(frozen=True)
class Scenario:
    """`item(number)` makes what run `number` is about, outside the clock; `run` yields `yields` times.

    `tell` makes quantities (`edgekit.reporting.record.QUANTITIES`) from the seconds of a run's results since its start.
    `per` names what is made, `each` how many of it a result is. `states` gives the bytes that the session says its
    state takes, from the last result. `facts`: what else the record's parameters should say.
    """

    item: Callable[[int], Any]
    run: Callable[[Any], Iterator[Any]]
    tell: Callable[[Sequence[float]], Values]
    yields: int = 1
    per: str = "run"
    each: int = 1
    states: Callable[[Any], int | None] = lambda last: None
    facts: dict[str, int | float | str] = field(default_factory=dict)


def open(model: Model, test: Test, given: Sequence[Any], file: Path | None = None) -> Scenario:
    """The Scenario of a test. `given`: `inputs.items` as JSON has them; `file`: the user's, that prompts are made of.

    Raises UsageError for lengths that do not fit the model, or a file that holds nothing.
    """
    if test.scenario == "llm":
        return llm(model, test, file)
    ways = {"single-stream": single_stream, "offline": offline, "stream": stream}
    return ways[test.scenario](model, test, [model.item(sample) for sample in given])


def single_stream(model: Any, test: Test, given: Sequence[Any]) -> Scenario:
    """One input, and the next when the answer has come."""

    def run(item: Any) -> Iterator[Any]:
        yield model.answer([item])

    rate, steps = model.bundle.settings.get("rate"), _steps(model, given)

    def tell(came: Sequence[float]) -> Values:
        factor = {"rtf": [came[0] * rate / steps]} if rate and steps else {}
        return {"latency": [came[0]], **factor}

    return Scenario(lambda number: given[number % len(given)], run, tell, facts={"steps": steps} if steps else {})


def offline(model: Any, test: Test, given: Sequence[Any]) -> Scenario:
    """Many inputs at once: how many are done in a second."""

    def item(number: int) -> list[Any]:
        return [given[(number * test.batch + at) % len(given)] for at in range(test.batch)]

    def run(items: list[Any]) -> Iterator[Any]:
        yield model.answer(items)

    return Scenario(item, run, lambda came: {"throughput": [test.batch / came[0]]}, per="item", each=test.batch)


def llm(model: Any, test: Test, file: Path | None) -> Scenario:
    """Prompts in, tokens out: `batch` rows, each after `depth` tokens that were read before.

    A row goes on past an end token until it has as many as were asked for. What was read before is kept, and every run
    goes on from a copy: to cut a state back would cost an engine something that no user pays.
    """
    decode = import_module("edgekit.runtimes.loops.decode").decode
    tokens = import_module("edgekit.runtimes.heads.tokens")
    inputs.check(model.bundle, test.tokens)
    generator, engine = model.generator(), cast("DecoderSession", model.session_of())
    prompts = inputs.Prompts(model, test.prompt, file, begin=not test.depth)
    wish = tokens.wish(generator.settings, {"max_new_tokens": test.generate, "min_new_tokens": test.generate})
    before = _read_before(engine, prompts.ids(-1, test.depth), test.tokens) if test.depth else None

    def item(number: int) -> Any:
        texts = [prompts[number * test.batch + row] for row in range(test.batch)]
        return texts, None if before is None else _rows(engine, before, test.batch)

    def run(given: Any) -> Iterator[Any]:
        texts, state = given
        encoded = generator.ingest.encode(texts, begin=state is None)
        rows = [tokens.Answer(one.ids, one.ids, generator.ingest, wish, row) for row, one in enumerate(encoded)]
        with closing(decode(generator.session, rows, state)) as steps:
            yield from steps

    def tell(came: Sequence[float]) -> Values:
        first, last, more = came[0], came[-1], len(came) - 1
        found = {"ttft": [first], "prefill": [test.batch * test.prompt / first]}
        if more:
            found |= {"tpot": [(last - first) / more], "decode": [test.batch * more / (last - first)]}
            found["itl"] = [later - earlier for earlier, later in pairwise(came)]
        return found

    def states(last: Any) -> int:
        return engine.nbytes(last.state)

    return Scenario(item, run, tell, test.generate, "token", test.batch, states, {"prompt_form": prompts.form})


def stream(model: Any, test: Test, given: Sequence[Any]) -> Scenario:
    """A sample in, its result out, and the next: one stream, or `batch` of them side by side."""
    rows = [row for one in given for row in one]
    rate = model.bundle.settings.get("rate")
    step: Callable[[int], Any]
    if test.batch == 1:
        own = model.session()
        step = own.step
        item: Callable[[int], Any] = lambda number: rows[number % len(rows)]  # noqa: E731 (the other is one, too)
    else:
        streams = model.streams()
        keys = [streams.add() for _ in range(test.batch)]
        step = streams.step
        item = lambda number: {key: rows[(number + key) % len(rows)] for key in keys}  # noqa: E731

    def run(sample: Any) -> Iterator[Any]:
        yield step(sample)

    def tell(came: Sequence[float]) -> Values:
        return {"step": [came[0]], **({"rtf": [came[0] * rate]} if rate else {})}

    def states(last: Any) -> int:
        session = cast("StreamSession", model.session_of())
        return session.nbytes(session.start(test.batch))

    return Scenario(item, run, tell, per="sample", each=test.batch, states=states)


def _steps(model: Any, given: Sequence[Any]) -> int:
    """Samples of each series, where all have as many; 0 where they have not, or are none."""
    lengths = {len(one) for one in given} if model.settings.get("chunk_steps") else set()
    return lengths.pop() if len(lengths) == 1 else 0


def _read_before(engine: DecoderSession, ids: Sequence[int], capacity: int) -> Any:
    """A state of one row that holds these tokens, read as `decode` reads a prompt, and room for more."""
    padded = import_module("edgekit.runtimes.loops.decode").padded
    state = engine.start(1, capacity)
    for first in range(0, len(ids), engine.chunk_tokens):
        _, state = engine.run(padded([ids[first : first + engine.chunk_tokens]]), state)
    return state


def _rows(engine: DecoderSession, state: Any, count: int) -> Any:
    """A copy of a state of one row, with the row so many times."""
    copied = engine.fork(state)
    return copied if count == 1 else engine.rows(copied, [0] * count)
