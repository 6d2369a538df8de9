"""Records written and read back: what is read is exactly what was written, and anything else is refused by its row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_records import check, encoder, figure, record, row, typical
from property_tests import examples

from edgekit import limits, report
from edgekit.core import Measure
from edgekit.errors import RecordError, ResourceError, UsageError
from edgekit.reporting import record_file
from edgekit.reporting.record import NEEDED, QUANTITIES, Accuracy, Figure, Record
from edgekit.reporting.record_checks import faults

NUMBER = st.floats(min_value=0, max_value=1e300, allow_nan=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def written(folder: Path, made: Record) -> Path:
    path = folder / "bench.json"
    report.write(made, path)
    return path


def changed(folder: Path, change: Callable[[Any], Any], made: Record | None = None) -> Path:
    """A file in which somebody changed something."""
    path = written(folder, made or typical())
    found = json.loads(path.read_bytes())
    change(found)
    path.write_text(json.dumps(found))
    return path


# There and back


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    made = typical()
    assert report.read(written(tmp_path, made)) == made
    assert report.read(written(tmp_path, record())) == record()


def test_a_row_is_a_line(tmp_path: Path) -> None:
    lines = written(tmp_path, typical()).read_text(encoding="utf-8").splitlines()
    assert [line.startswith('{"bundle"') for line in lines] == [False, *[True] * len(typical().rows), False]


@examples(60)
@given(
    values=st.lists(NUMBER, min_size=1, max_size=150),
    name=TEXT,
    options=st.dictionaries(TEXT, TEXT, max_size=3),
    number=st.integers(0, 2**62),
    warning=TEXT,
)
def test_any_record_survives(
    tmp_path: Path, values: list[float], name: str, options: dict[str, str], number: int, warning: str
) -> None:
    found = {"latency": figure("latency", values)}
    one = row(bundle=name, figures=found, options=options, bytes=number, disturbed=(warning,))
    assert report.read(written(tmp_path, record(one, warnings=(warning,)))) == record(one, warnings=(warning,))


def test_outputs_of_another_shape_differ_by_infinity(tmp_path: Path) -> None:
    nothing = Measure("cosine", math.nan, math.inf)
    wrong = replace(check("cpu/fp32", ok=False, why="shape"), difference=math.inf, agreement=nothing)
    path = written(tmp_path, record(row(check=wrong, invalid="shape")))
    assert json.loads(path.read_bytes())["rows"][0]["check"]["difference"] is None
    (found,) = report.read(path).rows
    assert found.check is not None
    assert found.check.difference == math.inf
    assert found.check.agreement.loss == math.inf
    assert math.isnan(found.check.agreement.value)


# The schema


def test_the_published_schema_is_that_of_the_code() -> None:
    assert record_file.SCHEMA_FILE.read_bytes() == record_file.schema(), "write record_file.schema() into schema.json"


def test_every_output_is_valid_under_the_schema() -> None:
    schema = json.loads(record_file.SCHEMA_FILE.read_bytes())
    wrong = replace(check("cpu/fp32", ok=False), difference=math.inf)
    for made in (typical(), record(), record(row(check=wrong, invalid="x", figures={}, memory=None, warmup=None))):
        assert list(invalid(json.loads(record_file.encode(made)), schema, schema["$defs"])) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(schema="edgekit.bench/2"),
        lambda found: found.update(extra=1),
        lambda found: found.pop("environment"),
        lambda found: found["rows"][0].update(threads="two"),
        lambda found: found["rows"][0]["figures"]["latency"].update(median=None),
        lambda found: found["rows"][0]["check"].update(ok=None),
    ],
)
def test_the_schema_refuses(change: Callable[[Any], Any]) -> None:
    schema = json.loads(record_file.SCHEMA_FILE.read_bytes())
    found = json.loads(record_file.encode(typical()))
    change(found)
    assert list(invalid(found, schema, schema["$defs"]))


def invalid(value: Any, schema: Any, defs: Any, place: str = "$") -> list[str]:
    """What JSON Schema says against a value, as far as msgspec's schemas go: each keyword that they use, no other."""
    known = {"$ref", "anyOf", "const", "type", "properties", "required", "additionalProperties", "items", "default"}
    known |= {"title", "description", "$schema", "$id", "$defs", "prefixItems", "minItems", "maxItems"}
    assert set(schema) <= known, schema
    if "$ref" in schema:
        return invalid(value, defs[schema["$ref"].rpartition("/")[2]], defs, place)
    if "anyOf" in schema:
        return [] if any(not invalid(value, each, defs, place) for each in schema["anyOf"]) else [place]
    if "const" in schema:
        return [] if value == schema["const"] else [place]
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    kinds["null"] = type(None)
    named = schema.get("type", list(kinds))
    named = [named] if isinstance(named, str) else named
    if not any(isinstance(value, kinds[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in named):
        return [place]
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return [place]
        kinds = schema.get("prefixItems", [schema["items"]] * len(value))
        rows = enumerate(zip(value, kinds))
        return [each for at, (item, kind) in rows for each in invalid(item, kind, defs, f"{place}[{at}]")]
    if not isinstance(value, dict):
        return []
    found = [f"{place}.{name}" for name in schema.get("required", ()) if name not in value]
    for name, item in value.items():
        inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        found += [f"{place}.{name}"] if inner is False else invalid(item, inner, defs, f"{place}.{name}")
    return found


# What is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ("[]", "holds a JSON list"),
        ("{}", "has no schema"),
        ('{"schema": 1}', "its schema is 1"),
        ('{"schema": "edgekit.bench/0"}', "not a record of `edgekit bench`"),
        ('{"schema": "edgekit.bench/1"}', "no list `rows`"),
        ('{"schema": "edgekit.bench/1", "rows": []}', "missing required field"),
        ('{"schema": "edgekit.bench/1", "schema": "edgekit.bench/1"}', "appears twice"),
        ('{"schema": "edgekit.bench/1\\ud800"}', "lone surrogate"),
        ("[" * 100_000, "not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
    ],
)
def test_no_record(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecordError, match=said) as caught:
        report.read(path)
    assert caught.value.exit_code == 6
    assert caught.value.message.startswith("bench.json")
    assert caught.value.details["file"] == str(path)


def test_a_newer_one_wants_a_newer_edgekit(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda found: found.update(schema="edgekit.bench/7"))
    with pytest.raises(RecordError, match=r"edgekit\.bench/7") as caught:
        report.read(path)
    assert "install a newer edgekit" in caught.value.hint


def test_fewer_rows_than_planned_are_a_partial_record(tmp_path: Path) -> None:
    path = written(tmp_path, record(row(), planned=3))
    assert report.read(path).partial
    assert not report.read(written(tmp_path, record(row(), planned=1))).partial
    with pytest.raises(RecordError, match="it has 1 rows, and 0 were planned"):
        report.read(written(tmp_path, record(row(), planned=0)))


def test_torn_at_any_place(tmp_path: Path) -> None:
    path = written(tmp_path, record(row(figures={})))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError, match="not valid JSON"):
            report.read(path)


def test_missing_folder_and_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(RecordError, match="missing, or not a regular file"):
            report.read(path)
    path = written(tmp_path, typical())
    monkeypatch.setattr(limits, "RECORD_BYTES", 1000)
    with pytest.raises(RecordError, match="longer than the 1000 bytes"):
        report.read(path)


def test_too_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORD_ROWS", 3)
    with pytest.raises(RecordError, match="15 rows; 3 are allowed"):
        report.read(written(tmp_path, typical()))


def of(number: int, *path: str) -> Callable[[Any], Any]:
    """Where in a file: `of(2, "figures", "latency")`."""

    def find(found: Any) -> Any:
        found = found["rows"][number]
        for name in path:
            found = found[name]
        return found

    return find


LATENCY = of(2, "figures", "latency")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f["rows"].__setitem__(2, 7), "row 3 .*: Expected `object`"),
        (lambda f: of(2)(f).pop("threads"), "row 3 .minilm.ek openvino/fp32 single.: .*missing required field"),
        (lambda f: of(2)(f).update(threads="2"), "row 3 .*Expected `int`, got `str`"),
        (lambda f: of(2)(f).update(threads=True), "row 3 .*Expected `int`, got `bool`"),
        (lambda f: of(2)(f).update(speed=3), r"row 3 .*\$.speed is not a field"),
        (lambda f: LATENCY(f).update(p50=1), r"row 3 .*\$.figures.latency.p50 is not a field"),
        (lambda f: LATENCY(f).update(median=math.nan), r"row 3 .*\$.figures.latency.median is not a finite"),
        (lambda f: LATENCY(f)["values"].append(math.inf), r"row 3 .*values.700 is not a finite"),
        (lambda f: of(2)(f).update(scenario="warp"), "row 3 .*unknown scenario 'warp'"),
        (lambda f: of(2)(f).update(threads=0), "row 3 .*0 threads"),
        (lambda f: of(2)(f).update(replicate=-1), "row 3 .*replicate -1"),
        (lambda f: of(2)(f).update(bytes=-1), "row 3 .*-1 bytes"),
        (lambda f: of(2, "figures")(f).update(warp=LATENCY(f)), "row 3 .*unknown quantity 'warp'"),
        (lambda f: LATENCY(f).update(unit="ms"), "row 3 .*is in 'ms'; its unit is 's'"),
        (lambda f: LATENCY(f).update(n=699), "row 3 .*699 runs, 700 values"),
        (lambda f: LATENCY(f).update(min=-1), "row 3 .*no quantity can be negative"),
        (lambda f: LATENCY(f).update(low=None), "row 3 .*an interval with one end"),
        (lambda f: LATENCY(f).update(p90=1e-9), "row 3 .*its median .* is above its p90"),
        (lambda f: LATENCY(f).update(high=99.0), "row 3 .*its high 99 is above its max"),
        (lambda f: LATENCY(f).update(max=99.0), "row 3 .*median, min or max does not fit its values"),
        (lambda f: LATENCY(f).update(mean=LATENCY(f)["median"]), "row 3 .*mean does not fit its values"),
        (lambda f: LATENCY(f).update(n=800, max=LATENCY(f)["p99"]), "row 3 .*values outside its min and max"),
        (lambda f: of(8, "figures", "ttft")(f).update(p90=1.0), "row 9 .*p90 of 10 runs; it needs 64"),
        (lambda f: of(2, "memory", "phases")(f)[0].update(name="x"), "row 3 .*unknown memory phase 'x'"),
        (lambda f: of(2, "memory", "phases")(f)[0].update(name="loaded"), "row 3 .*a duplicate memory phase"),
        (lambda f: of(2, "memory")(f).update(peak_rss=-1), "row 3 .*negative amount of memory"),
        (lambda f: of(2, "accuracy")(f).update(value=98.2), "row 3 .*98.2; it must be between 0 and 1"),
        (lambda f: of(2, "accuracy")(f).update(items=0), "row 3 .*of 0 items"),
        (lambda f: of(2, "check")(f).update(variant="cpu/x"), "row 3 .*check is for 'cpu/x'"),
        (lambda f: of(2, "check")(f).update(ok=False), "row 3 .*not marked invalid"),
        (lambda f: of(2, "check")(f).update(agreement=3), "row 3 .*Expected `object`, got `int`"),
        (lambda f: of(9, "sustained")(f).update(seconds=0), "row 10 .*a window without duration"),
        (lambda f: f["rows"].append(f["rows"][2]), "row 16 .*a duplicate: row 3"),
        (lambda f: f["environment"].update(host="mine"), r"environment.host is not a field"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        report.read(changed(tmp_path, change))


def test_a_name_of_any_length_makes_a_short_error(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    with pytest.raises(RecordError) as caught:
        report.read(changed(tmp_path, lambda found: of(0)(found).update(bundle=long, threads=0)))
    assert len(caught.value.message) < 300


@examples(100)
@given(values=st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=100))
def test_what_a_sample_says_is_never_refused(values: list[float]) -> None:
    assert list(faults(row(figures={"latency": figure("latency", values)}))) == []


def test_every_quantity_and_every_percentile_can_be_sound() -> None:
    many = [1.0 + n / 1000 for n in range(max(NEEDED.values()))]
    figures = {name: figure(name, many) for name in QUANTITIES}
    assert all(isinstance(found, Figure) and found.p99 for found in figures.values())
    assert list(faults(row(figures=figures, accuracy=Accuracy(metric="m", value=1.0, trained=None, items=1)))) == []


# Writing


@pytest.mark.parametrize("name", ["report.pdf", "report", ".json"])
def test_another_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="does not end in"):
        report.check_path(tmp_path / name)


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        report.check_path(tmp_path / "folder.json")
    with pytest.raises(UsageError, match="there is no folder"):
        report.check_path(tmp_path / "no" / "a.json")
    with pytest.raises(UsageError, match="cannot write /proc"):
        report.check_path(Path("/proc/a.json"))


def test_methods_of_the_record_keep_to_their_suffix(tmp_path: Path) -> None:
    made = record(*encoder())
    made.to_json(tmp_path / "a.json")
    made.to_csv(str(tmp_path / "a.csv"))
    made.to_markdown(tmp_path / "a.md")
    made.to_html(tmp_path / "a.html")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "a.csv", "a.md", "a.html"}
    with pytest.raises(UsageError, match=r"a\.json does not end in \.html") as caught:
        made.to_html(tmp_path / "a.json")
    assert "a.html" in caught.value.hint


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.json"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ResourceError, match=r"cannot write .*a\.json"):
            report.write(typical(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
