"""A Record as JSON and back: what is read is exactly a Record, or is refused with the place where it is not.

Knows the form; whether the figures in it can be true is `edgekit.reporting.record_checks`'s.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit import limits
from edgekit.bundle import strict_json
from edgekit.cli.console import plain
from edgekit.errors import BundleError, RecordError
from edgekit.reporting.record import SCHEMA, Record, Row
from edgekit.reporting.record_checks import faults, mixed

SCHEMA_FILE = Path(__file__).with_name("schema.json")
AGAIN = "make it again with `edgekit bench -o FILE.json`"
# What a check may not have been able to say: outputs of another shape differ by infinity, which JSON does not have.
Kind = TypeVar("Kind", Record, Row)
_UNKNOWN = {("difference",): math.inf, ("agreement", "loss"): math.inf, ("agreement", "value"): math.nan}


def encode(record: Record) -> bytes:
    """The JSON of a record, a row a line, so that two of them can be compared line by line."""
    rows = ",\n".join(_text(row) for row in record.rows)
    head, tail = _text(replace(record, rows=())).split('"rows":[]', 1)
    return f'{head}"rows":[\n{rows}\n]{tail}\n'.encode(errors="replace")  # a folder's name need not be Unicode


def read(path: Path) -> Record:
    """The record in a file. Raises RecordError, with the number and the name of a row that is at fault."""
    try:
        found = strict_json.read(path, limits.RECORD_BYTES)
    except BundleError as error:
        raise RecordError(error.message, hint=AGAIN, file=str(path)) from error
    try:
        return _record(found)
    except RecordError as error:
        raise RecordError(f"{path.name}: {error.message}", hint=error.hint, file=str(path)) from None


def schema() -> bytes:
    """The JSON Schema of a record, from the dataclasses themselves; published as schema.json beside this file.

    The same bytes with every msgspec: before 0.23 it left a docstring's lines indented as they are in the code, and
    did not give the default of a mapping.
    """
    made = msgspec.json.schema(Record)
    for kind in made["$defs"].values():
        kind["additionalProperties"] = kind.get("additionalProperties", False)
        if "description" in kind:
            kind["description"] = inspect.cleandoc(kind["description"])
        for part in kind["properties"].values():
            if part.get("default") == {}:
                del part["default"]
    made["$defs"]["Record"]["properties"]["schema"] = {"const": SCHEMA}
    for name, parts in (("Check", ["difference"]), ("Measure", ["loss", "value"])):
        for part in parts:
            made["$defs"][name]["properties"][part] = {"type": ["number", "null"]}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{SCHEMA.replace('/', ':')}"}
    return msgspec.json.format(msgspec.json.encode(head | made, order="deterministic"), indent=1) + b"\n"


def _text(value: Any) -> str:
    """As `--json` has it: a number that is not finite is null."""
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _record(found: dict[str, Any]) -> Record:
    _check_schema(found.get("schema"))
    rows = found.get("rows")
    if not isinstance(rows, list):
        raise RecordError("it has no list of rows", hint=AGAIN)
    if len(rows) > limits.RECORD_ROWS:
        raise RecordError(f"it has {len(rows)} rows; {limits.RECORD_ROWS} are allowed", hint="split it")
    whole = _converted(found | {"rows": []}, Record)
    made = []
    for number, row in enumerate(rows, start=1):
        try:
            one = _converted(row, Row)
        except RecordError as error:
            raise _of_row(number, _name(row), error.message) from None
        for fault in faults(one):
            raise _of_row(number, one.name, fault)
        made.append(one)
    for number, fault in mixed(made):
        raise _of_row(number, made[number - 1].name, fault)
    return replace(whole, rows=tuple(made))


def _check_schema(said: object) -> None:
    if said == SCHEMA:
        return
    known = re.fullmatch(r"edgekit\.bench/([1-9][0-9]{0,5})", said) if isinstance(said, str) else None
    if known and int(known[1]) > int(SCHEMA.rpartition("/")[2]):
        raise RecordError(f"its schema is {said}, and {SCHEMA} is what is read here", hint="it needs a newer edgekit")
    told = "has no schema" if said is None else f"has the schema {ascii(said)[:80]}"
    raise RecordError(f"it {told}, so it is no record of `edgekit bench`", hint=AGAIN)


def _converted(value: Any, kind: type[Kind]) -> Kind:
    """`value` as that dataclass, with all of its fields and no others, and no number that is not finite."""
    for place in _infinite(value, "$"):
        raise RecordError(f"{place} is not a finite number", hint=AGAIN)
    value = _restored(value)
    try:
        made = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise RecordError(str(error), hint=AGAIN) from None
    for place in _unknown(value, msgspec.to_builtins(made), "$"):
        raise RecordError(f"{place} is not a field of {SCHEMA}", hint=AGAIN)
    return made


def _restored(row: Any) -> Any:
    """A row with what `_UNKNOWN` says where its check has null; what is malformed is left for the reader to refuse."""
    check = row.get("check") if isinstance(row, dict) else None
    if not isinstance(check, dict):
        return row
    agreement = check.get("agreement")
    copied = check | ({"agreement": dict(agreement)} if isinstance(agreement, dict) else {})
    for path, value in _UNKNOWN.items():
        holder = copied if len(path) == 1 else copied.get(path[0])
        if isinstance(holder, dict) and holder.get(path[-1], 0) is None:
            holder[path[-1]] = value
    return row | {"check": copied}


def _infinite(value: Any, place: str) -> Iterator[str]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        if isinstance(inner, (dict, list)):
            yield from _infinite(inner, f"{place}.{key}"[:300])
        elif isinstance(inner, float) and not math.isfinite(inner):
            yield f"{place}.{key}"[:300]


def _unknown(given: Any, kept: Any, place: str) -> Iterator[str]:
    """Where `given` says more than was understood of it."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, inner in given.items():
            if key not in kept:
                yield f"{place}.{key}"[:300]
            else:
                yield from _unknown(inner, kept[key], f"{place}.{key}")
    elif isinstance(given, list):
        for number, (inner, known) in enumerate(zip(given, kept)):
            yield from _unknown(inner, known, f"{place}[{number}]")


def _name(row: Any) -> str:
    """What can be said of a row that is none."""
    if not isinstance(row, dict):
        return "no object"
    parts = [row.get(key) for key in ("bundle", "variant", "test")]
    return " ".join(part for part in parts if isinstance(part, str)) or "without a name"


def _of_row(number: int, name: str, fault: str) -> RecordError:
    shown = name if len(name) <= 120 else f"{name[:120]}…"
    return RecordError(f"row {number} ({shown}): {fault}", hint=AGAIN)
