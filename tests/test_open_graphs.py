"""The open graphs of a variant: opened late and once, released, closed together, the last opened first."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit import registry
from edgekit.core import Bundle, Graph, Port, Recipe, Source, Variant
from edgekit.errors import ClosedError
from edgekit.sessions import Sessions

PORTS = (Port("x", "float32", ("batch",)),), (Port("y", "float32", ("batch",)),)
RECIPE = Recipe(weights="int8", method="dynamic", graphs={"vae": "fp32"})


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to a stub target's sessions, in order."""
    told: list[str] = []

    def open(folder: Path, graph: Graph, recipe: Recipe, **options: Any) -> Any:
        told.append(f"open {graph.name} in {recipe.weights}")
        return SimpleNamespace(placement="stub", close=lambda: told.append(f"close {graph.name}"))

    monkeypatch.setattr(registry, "find", lambda kind, name: SimpleNamespace(open=open))
    return told


@pytest.fixture
def sessions(tmp_path: Path, events: list[str]) -> Sessions:
    graphs = tuple(Graph(name, f"{name}.onnx", *PORTS) for name in ("text", "unet", "vae"))
    variant = Variant("stub", RECIPE, graphs)
    bundle = Bundle(tmp_path, Source("m", "stub", tmp_path, "", {}), ("text-to-image",), {}, (variant,))
    return Sessions(bundle, variant, 1)


def test_a_graph_is_opened_when_it_is_first_used(sessions: Sessions, events: list[str]) -> None:
    assert events == []
    assert (len(sessions), list(sessions), sessions.placement) == (3, ["text", "unet", "vae"], "")
    assert sessions["unet"] is sessions["unet"]
    assert events == ["open unet in int8"]
    assert sessions.placement == "stub"


def test_each_graph_has_its_own_recipe(sessions: Sessions, events: list[str]) -> None:
    _ = sessions["vae"], sessions["text"]
    assert events == ["open vae in fp32", "open text in int8"]


def test_a_released_graph_is_opened_again(sessions: Sessions, events: list[str]) -> None:
    _ = sessions["text"]
    sessions.release("text")
    sessions.release("text")
    _ = sessions["text"]
    assert events == ["open text in int8", "close text", "open text in int8"]


def test_the_last_opened_is_closed_first(sessions: Sessions, events: list[str]) -> None:
    _ = sessions["text"], sessions["unet"]
    sessions.close()
    assert events[2:] == ["close unet", "close text"]
    with pytest.raises(ClosedError, match="is closed"):
        _ = sessions["vae"]


def test_a_graph_that_opens_while_all_are_closed_is_closed_too(
    sessions: Sessions, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = registry.find("targets", "stub").open

    def open(*args: Any, **options: Any) -> Any:
        session = slow(*args, **options)
        closing = threading.Thread(target=sessions.close)  # another thread does not wait for the engine
        closing.start()
        closing.join()
        return session

    monkeypatch.setattr(registry, "find", lambda kind, name: SimpleNamespace(open=open))
    with pytest.raises(ClosedError, match="is closed"):
        _ = sessions["unet"]
    assert events == ["open unet in int8", "close unet"]


def test_threads_open_a_graph_once(sessions: Sessions, events: list[str]) -> None:
    threads = [threading.Thread(target=lambda: sessions["unet"]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert events == ["open unet in int8"]


def test_a_name_that_no_graph_has(sessions: Sessions) -> None:
    with pytest.raises(KeyError):
        _ = sessions["audio"]
