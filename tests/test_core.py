"""The nouns: what they refuse, and what follows from them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import edgekit
from edgekit import core, registry, results
from edgekit.core import Bundle, Graph, Port, Recipe, Source, State, Variant


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


def test_the_types_name_what_there_is() -> None:
    assert set(get_args(core.Target)) == set(registry.names("targets"))
    assert set(get_args(core.Precision)) == {
        precision for name in registry.names("targets") for precision in registry.find("targets", name).PRECISIONS
    } | {"fp16"}


def test_results_and_errors_are_public() -> None:
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    errors = {each.__name__ for each in _kinds(edgekit.EdgeKitError)}
    assert errors <= set(edgekit.__all__)
    assert {each for each in vars(results) if each[0].isupper()} - {"Mapping", "TYPE_CHECKING"} <= set(edgekit.__all__)


def _kinds(base: type) -> Iterator[type]:
    if base.__module__ == "edgekit.errors":
        yield base
        for each in base.__subclasses__():
            yield from _kinds(each)


def test_a_bundle_is_shown_in_one_line(tmp_path: Path) -> None:
    source = Source(id="a/b", arch="bert", folder=tmp_path, revision="", config={"hidden_size": 384})
    bundle = Bundle(tmp_path / "x.ek", source, ("feature-extraction",), {}, (Variant("cpu", Recipe(), ()),))
    assert repr(bundle) == f"Bundle('{tmp_path}/x.ek', bert, feature-extraction, variants: cpu/fp32)"


def test_a_traceback_shows_the_hint() -> None:
    shown = "".join(traceback.format_exception(edgekit.UsageError("too long", hint="cut it")))
    assert shown.endswith("UsageError: too long\nhint: cut it\n")
