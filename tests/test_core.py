"""The nouns: what they refuse, and what follows from them."""

from __future__ import annotations

import pytest

from edgekit import core
from edgekit.core import Graph, Port, Recipe, State


def test_a_graph_says_its_kind() -> None:
    assert Graph("model", "model.onnx", (), ()).kind == "plain"
    with pytest.raises(ValueError, match="a graph of kind 'loop'"):
        Graph("model", "model.onnx", (), (), kind="loop")


def test_states_are_not_fed() -> None:
    ports = tuple(Port(name, "float32", ("batch",)) for name in ("x", "past", "cross"))
    graph = Graph("decoder", "d.onnx", ports, (), (State("past", "present", axis=0), State("cross")), kind="decoder")
    assert graph.fed == ("x",)
    assert graph.batched


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weights": "int3"}, "weights in 'int3'"),
        ({"group_size": 0}, "a group of 0 weights"),
        ({"graphs": {"vae": "int8"}}, "graph 'vae' in 'int8'"),
        ({"graphs": {"vae": "half"}}, "graph 'vae' in 'half'"),
    ],
)
def test_a_recipe_refuses(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Recipe(**options)  # type: ignore[arg-type]


def test_a_recipe_of_one_graph() -> None:
    recipe = Recipe(weights="int8", activations="int8", method="dynamic", graphs={"vae": "fp32"})
    assert recipe.name == "int8-dynamic-mixed"
    assert recipe.of("vae") == Recipe()
    assert recipe.of("unet").name == "int8-dynamic"
    plain = Recipe(weights="int8")
    assert plain.of("any") is plain


def test_results_are_found_among_the_nouns() -> None:
    """As the contract of the Python API says."""
    names = ("Anomaly", "Forecast", "Label", "Piece", "Ranked", "Result", "Span", "Token")
    assert all(getattr(core, name).__module__ == "edgekit.results" for name in names)
