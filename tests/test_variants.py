"""Which of a bundle's variants is taken: by what was measured here where that says it, else by what the bundle says."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import measured_rows
import pytest
from measured_rows import figure, row
from small_bundles import make

import edgekit
from edgekit.bundle import manifest
from edgekit.cli.main import main
from edgekit.core import Bundle, Recipe
from edgekit.measuring.environment import describe
from edgekit.reporting.record import Environment
from edgekit.variants import choose


@pytest.fixture(scope="module")
def here() -> Environment:
    return describe(0.0, None)


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle of one graph in three variants, of which its maker found fp32 the fastest, then int8, then int4."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = make(tmp_path / "small.ek", "text-classification")
    found = manifest.read(folder)
    (first,) = found.variants
    variants = tuple(
        replace(first, recipe=Recipe(weights=name), measured={**first.measured, "milliseconds": float(number)})
        for number, name in enumerate(("fp32", "int8", "int4"), 1)
    )
    manifest.write(replace(found, variants=variants), folder, {})
    return manifest.read(folder)


def remember(bundle: Bundle, here: Environment, *rows: tuple[str, float], **others: object) -> None:
    digest = manifest.fingerprint(bundle)
    made = [row(name, digest, figures={"latency": figure(seconds)}, **others) for name, seconds in rows]
    measured_rows.remember(here, *made)


def test_a_caller_who_waits_for_one_answer_decides(three: Bundle, here: Environment) -> None:
    digest = manifest.fingerprint(three)
    rows = [
        row(name, digest, scenario=scenario, test=test, figures={"latency": figure(seconds)})
        for scenario, test, times in (("offline", "batch 32", (0.1, 0.2)), ("single-stream", "single", (0.4, 0.3)))
        for name, seconds in zip(("cpu/int8", "cpu/int4"), times)
    ]
    measured_rows.remember(here, *rows)
    assert choose(three, "auto", None).variant.name == "cpu/int4"


def test_the_fastest_that_was_measured_here(three: Bundle, here: Environment, caplog: pytest.LogCaptureFixture) -> None:
    remember(three, here, ("cpu/int8", 0.2), ("cpu/int4", 0.1))
    with caplog.at_level(logging.INFO, "edgekit"):
        chosen = choose(three, "auto", None)
    assert chosen.variant.name == "cpu/int4"
    assert chosen.why == "the fastest of 2 measured on this machine on 2026-11-22, in single"
    assert f"picked cpu/int4 of cpu/fp32, cpu/int8, cpu/int4: {chosen.why}" in caplog.text
    assert choose(three, "cpu", None) == chosen
    assert choose(three, "auto", "int8").why == "the only one that was asked for and runs on this machine"


def test_of_one_alone_nothing_is_known(three: Bundle, here: Environment) -> None:
    remember(three, here, ("cpu/int4", 0.1))
    chosen = choose(three, "auto", None)
    assert (chosen.variant.name, chosen.why) == ("cpu/fp32", "the fastest when the bundle was made")


def test_only_the_same_test_is_compared(three: Bundle, here: Environment) -> None:
    remember(three, here, ("cpu/int8", 0.001), test="batch 32", scenario="offline")
    remember(three, here, ("cpu/int4", 0.1))
    assert choose(three, "auto", None).variant.name == "cpu/fp32"
    remember(three, here, ("cpu/int8", 0.2), ("cpu/int4", 0.3), threads=1)
    assert choose(three, "auto", None).variant.name == "cpu/int8"
    remember(three, here, ("cpu/fp32", 0.9), ("cpu/int8", 0.8))  # a test that all three had counts more
    assert choose(three, "auto", None).variant.name == "cpu/int4"


def test_a_wrong_one_is_not_taken_while_there_is_another(three: Bundle, here: Environment) -> None:
    remember(three, here, ("cpu/int4", 0.1), invalid="outputs moved")
    remember(three, here, ("cpu/int8", 0.2), ("cpu/fp32", 0.3))
    chosen = choose(three, "auto", None)
    assert chosen.variant.name == "cpu/int8"
    assert chosen.why.endswith("; cpu/int4 gave wrong answers here")
    assert choose(three, "auto", "int4").variant.name == "cpu/int4"  # who asks for it gets it


def test_where_all_are_wrong_the_fastest_is_taken(three: Bundle, here: Environment) -> None:
    remember(three, here, ("cpu/fp32", 0.3), ("cpu/int8", 0.2), ("cpu/int4", 0.1), invalid="outputs moved")
    assert choose(three, "auto", None).variant.name == "cpu/int4"


def test_the_bundles_fastest_is_passed_over_where_it_was_wrong_here(three: Bundle, here: Environment) -> None:
    remember(three, here, ("cpu/fp32", 0.1), invalid="outputs moved")
    chosen = choose(three, "auto", None)
    assert chosen.variant.name == "cpu/int8"
    assert chosen.why == "the fastest when the bundle was made; cpu/fp32 gave wrong answers here"


def test_a_model_and_the_command_say_why(three: Bundle, here: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    remember(three, here, ("cpu/int8", 0.2), ("cpu/int4", 0.1))
    with edgekit.load(three.folder) as model:
        assert model.chosen_by.startswith("the fastest of 2 measured on this machine")
    assert main(["run", str(three.folder), "a text", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target_chosen"].startswith("the fastest of 2 measured")
    assert main(["run", str(three.folder), "a text", "-v"]) == 0
    assert "picked cpu/int4" in capsys.readouterr().err
