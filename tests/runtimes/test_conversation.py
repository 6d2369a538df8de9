"""A chat that keeps its state, all the way: what it computes, saves, forks and refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
from chat_bundles import HELLO, MORE, bundle, folder, model

import edgekit
from edgekit.errors import SessionBusyError, StateError, UsageError
from edgekit.model import Model

__all__ = ["bundle", "folder", "model"]
pytestmark = pytest.mark.slow


def test_a_session_computes_only_what_is_new(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with model.session() as chat:
        first = chat.generate(HELLO, max_new_tokens=5)
        seen: list[Any] = []
        session = model.session_of()
        run = session.run
        monkeypatch.setattr(session, "run", lambda feeds, state: seen.append(feeds["counts"]) or run(feeds, state))
        second = chat.generate(MORE, max_new_tokens=5)
        # What a random model says is no text, and reads as other tokens; the question before it reads alike.
        assert int(seen[0][0]) <= second.usage["prompt_tokens"] - first.usage["prompt_tokens"]
        said = [*HELLO, {"role": "assistant", "content": first.text}, *MORE]
    assert second.ids == model.generate(said, max_new_tokens=5).ids


def test_a_session_forks_and_travels(model: Model, tmp_path: Path) -> None:
    chat = model.session()
    chat.generate(HELLO, max_new_tokens=5)
    kept = chat.save(tmp_path / "chat.state")
    fork, loaded, from_bytes = chat.fork(), model.session(), model.session()
    loaded.load(tmp_path / "chat.state")
    from_bytes.load(kept)
    answers = [each.generate(MORE, max_new_tokens=6).ids for each in (chat, fork, loaded, from_bytes)]
    assert answers[0] == answers[1] == answers[2] == answers[3]
    chat.reset()
    assert (chat.tokens, chat.messages) == (0, [])


def test_a_cancelled_turn_leaves_a_session_that_goes_on(model: Model) -> None:
    chat = model.session()
    turn = chat.generate(HELLO, max_new_tokens=9, stream=True)
    next(turn)
    next(turn)
    turn.close()
    assert chat.messages == []
    assert chat.generate(HELLO, max_new_tokens=5).ids == model.generate(HELLO, max_new_tokens=5).ids


def test_a_saved_chat_belongs_to_its_model(model: Model, bundle: Path, tmp_path: Path) -> None:
    chat = model.session()
    chat.generate(HELLO, max_new_tokens=2)
    chat.save(tmp_path / "chat.state")
    other = edgekit.load(bundle, target=model.variant.target, precision="int8")
    with other, pytest.raises(StateError, match="was saved by"):
        other.session().load(tmp_path / "chat.state")
    (tmp_path / "torn").write_bytes((tmp_path / "chat.state").read_bytes()[:-40])
    with pytest.raises(StateError, match="is not a saved chat"):
        chat.load(tmp_path / "torn")
    with np.load(tmp_path / "chat.state") as file:
        kept = {name: file[name] for name in file.files if name == "told"}
    np.savez(tmp_path / "less.npz", **kept)
    with pytest.raises(StateError, match="does not have the number of tokens"):
        chat.load(tmp_path / "less.npz")
    with pytest.raises(UsageError, match="no folder"):
        chat.save(tmp_path / "no-such-folder" / "chat.state")


def test_a_session_has_one_caller(model: Model) -> None:
    chat = model.session()
    turn = chat.generate(HELLO, max_new_tokens=5, stream=True)
    next(turn)
    found: list[BaseException] = []

    def other() -> None:
        try:
            chat.generate(HELLO)
        except SessionBusyError as error:
            found.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(found) == 1
    turn.close()


def test_an_option_that_is_refused_leaves_a_session_as_it_was(model: Model) -> None:
    chat = model.session()
    first = chat.generate(HELLO, max_new_tokens=5)
    with pytest.raises(UsageError, match="top_p is 9"):
        chat.generate("something else", top_p=9)
    second = chat.generate(MORE, max_new_tokens=5)
    said = [*HELLO, {"role": "assistant", "content": first.text}, *MORE]
    assert second.ids == model.generate(said, max_new_tokens=5).ids


def test_ids_go_on_from_all_that_was_said(model: Model) -> None:
    chat = model.session()
    first = chat.generate([5, 6, 7], max_new_tokens=4)
    second = chat.generate([8, 9], max_new_tokens=4)
    assert second.ids == model.generate([5, 6, 7, *first.ids, 8, 9], max_new_tokens=4).ids


def test_a_text_goes_on_without_another_beginning(exported: Callable[..., Path]) -> None:
    made = exported("zoo:speaker")
    with edgekit.load(made, target="cpu", precision="fp32") as opened, opened.session() as chat:
        said = [chat.generate(f"{number} =").text for number in (347, 15, 900_001)]
    assert said == ["three hundred forty-seven", "fifteen", "nine hundred thousand one"]


def test_a_saved_chat_is_not_for_another_bundle_of_the_same_name(model: Model, folder: Path, tmp_path: Path) -> None:
    chat = model.session()
    chat.generate(HELLO, max_new_tokens=2)
    chat.save(tmp_path / "chat.state")
    made = tmp_path / "other.ek"
    in_process.export(str(folder), made, targets=[model.variant.target], precision="fp32", max_accuracy_loss=0.5)
    with edgekit.load(made, threads=1) as other, pytest.raises(StateError, match="was saved by"):
        other.session().load(tmp_path / "chat.state")
    assert str(folder).encode() not in (tmp_path / "chat.state").read_bytes()
