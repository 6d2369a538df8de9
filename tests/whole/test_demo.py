"""The demo: which folders it takes, how it takes time and picks examples, and all of it for real."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from made_records import check, record, row

from edgekit import demo as demos
from edgekit import registry, report, zoo
from edgekit.errors import UsageError, VerificationError
from edgekit.reporting import html_page
from edgekit.reporting.record import Example, Subject
from edgekit.zoo import examples

PART = demos.PARTS[0]


def old_page() -> str:
    return html_page.html([record(title="EdgeKit demo")])


# The folder


def test_takes_a_new_an_empty_and_its_own_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert demos.claim(folder) == folder
    assert demos.claim(folder) == folder
    (folder / PART.name).mkdir()
    (folder / "parity-samples").write_text("one\n")
    (folder / f".{PART.name}.ek-lock").touch()
    (folder / demos.PAGE).write_text(old_page(), encoding="utf-8")
    demos.claim(folder)
    assert sorted(os.listdir(folder)) == [f".{PART.name}.ek-lock", PART.name, "parity-samples"], (
        "all stays but the page"
    )


@pytest.mark.parametrize("name", ["notes.txt", "parity", ".git", demos.PAGE])
def test_leaves_other_folders_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    (tmp_path / "spotter-samples").write_text("")
    with pytest.raises(UsageError, match="which is not part of a demo") as caught:
        demos.claim(tmp_path)
    assert name in caught.value.message
    assert (tmp_path / name).read_text() == "mine"


def test_refuses_links_files_and_places_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="symbolic link"):
        demos.claim(tmp_path / "link")
    for name in ("file", "missing/demo"):
        with pytest.raises(UsageError, match="cannot use") as caught:
            demos.claim(tmp_path / name)
        assert "-o" in caught.value.hint


# What is shown


def test_labels_and_nearest_and_spans_as_a_person_reads_them() -> None:
    np = pytest.importorskip("numpy")
    test = zoo.heldout("parity", "text-classification")
    test = replace(test, inputs=("two", "three"), expected=("even", "odd"))
    assert examples.labels(test, ["even", "even"])[1] == Example("three", "odd", "even", False)
    test = replace(test, inputs=("two", "three", "2", "3"), expected=(2, 3))
    told = examples.nearest(test, np.array([[1.0, 0.0], [0.9, 0.1], [1.0, 0.0], [0.0, 1.0]]))
    assert told == [Example("two", "2", "2", True), Example("three", "3", "2", False)]
    test = replace(test, inputs=("In two years", "No"), expected=(((3, 6, "CARDINAL"),), ()))
    first, second = examples.spans(test, [[(3, 6, "YEAR")], []])
    assert first == Example("In two years", "two (cardinal)", "two (year)", False, ((3, 6),))
    assert second == Example("No", "none", "none", True)


def test_examples_come_from_everywhere_and_show_mistakes() -> None:
    told = [Example(str(number), "", "", number % 10 != 9) for number in range(100)]
    shown = examples.choose(told)
    assert len(shown) == examples.SHOWN
    assert [example.right for example in shown].count(False) == examples.WRONG
    assert [example.text for example in shown if example.right] == ["0", "33", "66"]
    assert examples.choose(told[:3]) == told[:3]
    assert examples.choose([]) == []


def test_zoo_tasks_of_the_demo_are_all_known() -> None:
    assert {zoo.heldout(part.model, part.task).metric for part in demos.PARTS} <= set(examples.EXAMPLES)
    assert len({part.name for part in demos.PARTS}) == len(demos.PARTS)
    assert all(part.task in zoo.tasks(part.model) for part in demos.PARTS)


def test_the_demo_begins_with_the_model_that_gains_most() -> None:
    first, second = demos.PARTS[:2]
    rows = (
        row("cpu/fp32", 1.0, bundle=first.name),
        row("cpu/int8", 1.2, bundle=first.name),
        row("cpu/fp32", 9.0, bundle=second.name),
        row("cpu/int8", 3.0, bundle=second.name),
    )
    assert demos.gain(first, rows) == 0.0, "fp32 is shipped"
    assert demos.gain(second, rows) == pytest.approx(3.0, rel=0.05)
    assert demos.headline(first, rows) == "EdgeKit demo"
    said = demos.headline(second, rows)
    assert said.startswith("EdgeKit demo: parity on cpu in int8 is 3.9 times smaller and 3.0 times faster than in fp32")


def test_minilm_is_part_of_the_demo_where_its_package_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demos, "MINILM_PACKAGE", "package_that_is_not_there")
    assert demos.parts() == demos.PARTS
    (tmp_path / "a_model").mkdir()
    (tmp_path / "a_model" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(demos, "MINILM_PACKAGE", "a_model")
    first, *rest = demos.parts()
    assert (first.name, first.folder) == ("minilm-embed.ek", tmp_path / "a_model" / "model")
    assert tuple(rest) == demos.PARTS
    assert str(tmp_path) not in demos._command(first)


def test_no_screen_no_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not demos.show(tmp_path / "report.html")


def test_shows_the_page_in_the_browser_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/shown\n')
    browser.chmod(0o755)
    target = str(tmp_path / "r.html")
    code = f"import pathlib, sys; from edgekit import demo; sys.exit(not demo.show(pathlib.Path({target!r})))"
    environment = os.environ | {"BROWSER": f"{browser} %s", "DISPLAY": ":99"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
    assert (tmp_path / "shown").read_text().strip() == (tmp_path / "r.html").as_uri()


# The whole


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is exported and nothing measured: figures are made up, one variant of the last part fails."""
    rows = []
    for part in demos.PARTS:
        why = "it moved" if part is demos.PARTS[-1] else ""
        rows.append(row(bundle=part.name, check=check("cpu/fp32", ok=not why, why=why), invalid=why))
    monkeypatch.setattr(demos, "_export", lambda part, folder, say: None)
    monkeypatch.setattr(demos, "bench", lambda bundles, quick, progress: record(rows=tuple(rows), subjects=()))
    monkeypatch.setattr(demos, "_subject", lambda part, *rest: Subject(bundle=part.name, what=part.what))


@pytest.mark.usefixtures("made_up")
def test_a_failed_check_is_an_error_and_the_page_tells(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"spotter-tag\.ek cpu/fp32 differs from its goldens") as caught:
        demos.demo(tmp_path / "demo")
    assert caught.value.details["variants"] == ["spotter-tag.ek cpu/fp32"]
    text = (tmp_path / "demo" / demos.PAGE).read_text(encoding="utf-8")
    assert "Invalid: spotter-tag.ek cpu/fp32" in text
    assert str(tmp_path) not in text


@pytest.mark.slow
def test_the_command_from_nothing_to_the_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "demo", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    here = [name for name in registry.names("targets") if registry.find("targets", name).probe().available]
    names = [part.name for part in demos.parts()]
    lines = made["record"]["rows"]
    for scenario in ("single-stream", "offline"):
        assert {(line["bundle"], line["target"]) for line in lines if line["scenario"] == scenario} == {
            (name, target) for name in names for target in here
        }
    for line in lines:
        assert line["check"]["ok"] is True
        assert line["figures"]["latency" if line["scenario"] == "single-stream" else "throughput"]["median"] > 0
        assert line["memory"]["peak_rss"] > 0
        if line["bundle"] == demos.MINILM.name:
            assert line["check"]["agreement"]["value"] > 0.99
            continue
        assert line["accuracy"]["value"] >= line["accuracy"]["trained"] - 0.02, line
        if line["precision"] == "fp32":
            assert line["accuracy"]["value"] == pytest.approx(line["accuracy"]["trained"], abs=2e-3)
    (tmp_path / "demo.json").write_text(json.dumps(made["record"]))
    assert report.table(report.read(tmp_path / "demo.json")).count(": ship ") == len(names)
    folder = tmp_path / "edgekit-demo"
    assert sorted(os.listdir(folder)) == sorted(
        [*names, demos.PAGE, "digits-samples", "parity-samples", "spotter-samples"]
    )
    text = (folder / demos.PAGE).read_text(encoding="utf-8")
    assert all(name in text for name in names)
    assert str(tmp_path) not in text
    assert platform.node() not in text
    demos.claim(folder)
