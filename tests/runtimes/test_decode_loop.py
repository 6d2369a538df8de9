"""The loop over a real decoder: tiny, random, in the portable form, against transformers' own generate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_decoders import build, prompts, trained
from portable_session import Held, PortableSession

from edgekit.errors import ResourceError, StateError
from edgekit.runtimes.loops.decode import Step, decode
from edgekit.runtimes.sampling import Choice, Chooser, Sampling

NEW = 12


class Greedy:
    """A row that takes the likeliest token, so many times, or up to one of the ends."""

    def __init__(self, ids: Sequence[int], count: int = NEW, ends: Sequence[int] = ()) -> None:
        self.ids, self.most, self.stops = ids, count, ends
        self.chosen: list[int] = []
        self._chooser = Chooser(Sampling())

    def choose(self, logits: Any) -> Choice:
        choice = self._chooser.choose(logits)
        self.chosen.append(choice.id)
        return choice

    def ends(self, choice: Choice) -> bool:
        return len(self.chosen) >= self.most or choice.id in self.stops


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma3_text"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """The folder of the graph, the graph, and transformers' model."""
    folder = tmp_path_factory.mktemp(request.param)
    windows = {"mistral": {"sliding_window": 6}, "gemma3_text": {"sliding_window": 6, "head_dim": 16}}
    source, model = trained(folder, request.param, **windows.get(request.param, {}))
    return folder, build(source, folder), model


@pytest.fixture
def session(made: tuple[Path, Any, Any]) -> PortableSession:
    return PortableSession(made[0], made[1])


@pytest.fixture(scope="module")
def expected(made: tuple[Path, Any, Any]) -> Any:
    """transformers' greedy tokens behind a prompt."""
    import torch

    def tokens(ids: Sequence[int], count: int = NEW) -> list[int]:
        given = torch.tensor([list(ids)])
        model = made[2]
        model.generation_config.eos_token_id = None
        out = model.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=count)
        return list(out[0, len(ids) :].tolist())

    return tokens


def answers(session: Any, rows: Sequence[Greedy], state: Any = None) -> list[Step]:
    return list(decode(session, rows, state))


def test_greedy_is_that_of_transformers(session: PortableSession, expected: Any) -> None:
    for ids in prompts([1, 5, 30]):
        row = Greedy(ids)
        steps = answers(session, [row])
        assert row.chosen == expected(ids)
        assert [step.choices[0].id for step in steps] == row.chosen
        assert steps[-1].state.lengths.tolist() == [len(ids) + NEW - 1]  # the last was chosen, and not fed


def test_a_batch_of_unequal_prompts_is_each_by_itself(session: PortableSession, expected: Any) -> None:
    ids = prompts([3, 17, 1, 9])
    rows = [Greedy(each, count) for each, count in zip(ids, (NEW, 2, 7, 1))]
    answers(session, rows)
    assert [row.chosen for row in rows] == [expected(each, row.most) for each, row in zip(ids, rows)]


def test_rows_that_have_ended_leave_the_batch(session: PortableSession) -> None:
    answers(session, [Greedy(ids, count) for ids, count in zip(prompts([4, 4, 4]), (2, 5, 3))])
    assert session.runs == [(3, 4), (3, 1), (2, 1), (1, 1), (1, 1)]


def test_a_row_ends_at_a_token(session: PortableSession, expected: Any) -> None:
    (ids,) = prompts([6])
    tokens = expected(ids)
    row = Greedy(ids, ends=[tokens[3]])
    answers(session, [row])
    assert row.chosen == tokens[: tokens.index(tokens[3]) + 1]


@pytest.mark.parametrize("chunk", [1, 4, 7, 40])
def test_a_prompt_in_chunks_is_the_same_prompt(session: PortableSession, expected: Any, chunk: int) -> None:
    session.chunk_tokens = chunk
    rows = [Greedy(ids) for ids in prompts([40, 23])]
    answers(session, rows)
    assert [row.chosen for row in rows] == [expected(row.ids) for row in rows]
    assert max(width for _, width in session.runs) <= chunk


def test_a_state_is_gone_on_from(session: PortableSession, expected: Any) -> None:
    (ids,) = prompts([20])
    *_, last = answers(session, [Greedy(ids)])
    whole = [*ids, *expected(ids), *prompts([5], seed=1)[0]]
    session.runs.clear()
    new = whole[int(last.state.lengths[0]) :]
    row = Greedy(new)
    answers(session, [row], last.state)
    assert row.chosen == expected(whole)
    assert session.runs[0] == (1, 6)  # the token that was not fed, and five new ones


def test_a_state_forks_is_cut_and_travels(session: PortableSession, expected: Any) -> None:
    (ids,) = prompts([20])
    *_, last = answers(session, [Greedy(ids)])
    fork = session.fork(last.state)
    saved = session.save(fork)
    answers(session, [Greedy([7])], session.fork(fork))
    for state in (session.trim(fork, [10]), session.trim(session.load(saved), [10])):
        row = Greedy(ids[10:])
        answers(session, [row], state)
        assert row.chosen == expected(ids)
    with pytest.raises(StateError):
        session.trim(fork, [100])
    with pytest.raises(StateError):
        session.load({**saved, "past_key_values.0.key": saved["past_key_values.0.key"][:, :, 1:]})
    assert session.nbytes(fork) == sum(cache.nbytes for cache in fork.caches.values()) + fork.mask.nbytes


def test_closing_stops_before_the_next_run(session: PortableSession, expected: Any) -> None:
    (ids,) = prompts([6])
    row = Greedy(ids)
    steps = decode(session, [row])
    for _ in range(3):
        step = next(steps)
    steps.close()
    assert len(session.runs) == 3
    assert row.chosen == expected(ids)[:3]
    assert isinstance(step.state, Held)
    assert step.state.lengths.tolist() == [6 + 2]
    again = Greedy(ids)
    answers(session, [again])
    assert again.chosen == expected(ids)


def test_nothing_runs_before_it_is_asked_for(session: PortableSession) -> None:
    steps = decode(session, [Greedy([5])])
    assert session.runs == []
    steps.close()


def test_what_a_session_raises_comes_through(session: PortableSession, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = decode(session, [Greedy([5])])
    next(steps)

    def fail(*args: Any) -> None:
        raise ResourceError("out of memory")

    monkeypatch.setattr(session, "run", fail)
    with pytest.raises(ResourceError, match="out of memory"):
        next(steps)


def test_sampled_rows_do_not_depend_on_their_company(session: PortableSession) -> None:
    class Sampled(Greedy):
        def __init__(self, ids: Sequence[int], number: int) -> None:
            super().__init__(ids)
            self._chooser = Chooser(Sampling(temperature=1, seed=3), ids, row=number)

    ids = prompts([3, 8, 5])
    together = [Sampled(each, number) for number, each in enumerate(ids)]
    answers(session, together)
    for number, each in enumerate(ids):
        alone = Sampled(each, number)
        answers(session, [alone])
        assert alone.chosen == together[number].chosen


def test_logits_are_those_of_the_last_real_token(session: PortableSession) -> None:
    """In a padded batch too: a row's padding is neither read nor remembered."""
    seen: list[Any] = []

    class Watching(Greedy):
        def choose(self, logits: Any) -> Choice:
            seen.append(np.array(logits))
            return super().choose(logits)

    ids = prompts([9, 2])
    answers(session, [Watching(each, 1) for each in ids])
    batch, seen = seen, []
    for each in ids:
        answers(session, [Watching(each, 1)])
    np.testing.assert_allclose(batch, seen, atol=1e-4)


def test_a_short_prompt_is_answered_while_a_long_one_is_read(session: PortableSession, expected: Any) -> None:
    session.chunk_tokens = 8
    rows = [Greedy(ids, 4) for ids in prompts([1, 60, 2])]
    steps = answers(session, rows)
    assert [row.chosen for row in rows] == [expected(row.ids, 4) for row in rows]
    assert max(width for _, width in session.runs) <= 8
    assert list(steps[0].choices) == [0]
