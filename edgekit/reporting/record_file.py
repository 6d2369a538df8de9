"""A Record as JSON and back. A file that does not follow the schema exactly is refused, with the place of the fault.

Whether its figures are consistent is checked in `edgekit.reporting.record_checks`.
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
from edgekit.errors import BundleError, RecordError
from edgekit.reporting.record import SCHEMA, Record, Row
from edgekit.reporting.record_checks import faults, mixed
from edgekit.text_table import plain

SCHEMA_FILE = Path(__file__).with_name("schema.json")
AGAIN = "make it again with `edgekit bench -o FILE.json`"
Kind = TypeVar("Kind", Record, Row)
# Fields of a check that are null in JSON where they are not finite: outputs of another shape differ by infinity.
_NULLS = {("difference",): math.inf, ("agreement", "loss"): math.inf, ("agreement", "value"): math.nan}


def encode(record: Record) -> bytes:
    """The JSON of a record, one row a line, so that `diff` can compare two files."""
    rows = ",\n".join(_text(row) for row in record.rows)
    head, tail = _text(replace(record, rows=())).split('"rows":[]', 1)
    return f'{head}"rows":[\n{rows}\n]{tail}\n'.encode(errors="replace")  # a folder's name may not be valid Unicode


def read(path: Path) -> Record:
    """The record in a file. Raises RecordError, with the number and the name of a row that is not valid."""
    try:
        content = strict_json.read(path, limits.RECORD_BYTES)
    except BundleError as error:
        raise RecordError(error.message, hint=AGAIN, file=str(path)) from error
    try:
        return _record(content)
    except RecordError as error:
        raise RecordError(f"{path.name}: {error.message}", hint=error.hint, file=str(path)) from None


def schema() -> bytes:
    """The JSON Schema of a record, built from the dataclasses; stored as schema.json beside this file.

    The bytes are the same for every msgspec: before 0.23 it kept the indentation of docstrings and left out the
    default of a mapping.
    """
    document = msgspec.json.schema(Record)
    for kind in document["$defs"].values():
        kind["additionalProperties"] = kind.get("additionalProperties", False)
        if "description" in kind:
            kind["description"] = inspect.cleandoc(kind["description"])
        for part in kind["properties"].values():
            if part.get("default") == {}:
                del part["default"]
    document["$defs"]["Record"]["properties"]["schema"] = {"const": SCHEMA}
    for name, parts in (("Check", ["difference"]), ("Measure", ["loss", "value"])):
        for part in parts:
            document["$defs"][name]["properties"][part] = {"type": ["number", "null"]}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{SCHEMA.replace('/', ':')}"}
    return msgspec.json.format(msgspec.json.encode(head | document, order="deterministic"), indent=1) + b"\n"


def _text(value: Any) -> str:
    """The JSON of a value; a number that is not finite is null."""
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _record(content: dict[str, Any]) -> Record:
    _check_schema(content.get("schema"))
    rows = content.get("rows")
    if not isinstance(rows, list):
        raise RecordError("it has no list `rows`", hint=AGAIN)
    if len(rows) > limits.RECORD_ROWS:
        raise RecordError(f"it has {len(rows)} rows; {limits.RECORD_ROWS} are allowed", hint="split it")
    whole = _converted(content | {"rows": []}, Record)
    checked = []
    for number, row in enumerate(rows, start=1):
        try:
            one = _converted(row, Row)
        except RecordError as error:
            raise _of_row(number, _name(row), error.message) from None
        for fault in faults(one):
            raise _of_row(number, one.name, fault)
        checked.append(one)
    for number, fault in mixed(checked):
        raise _of_row(number, checked[number - 1].name, fault)
    if whole.planned is not None and whole.planned < len(checked):
        raise RecordError(f"it has {len(checked)} rows, and {whole.planned} were planned", hint=AGAIN)
    return replace(whole, rows=tuple(checked))


def _check_schema(name: object) -> None:
    if name == SCHEMA:
        return
    match = re.fullmatch(r"edgekit\.bench/([1-9][0-9]{0,5})", name) if isinstance(name, str) else None
    if match and int(match[1]) > int(SCHEMA.rpartition("/")[2]):
        raise RecordError(f"its schema is {name}; this version reads {SCHEMA}", hint="install a newer edgekit")
    schema_text = "it has no schema" if name is None else f"its schema is {ascii(name)[:80]}"
    raise RecordError(f"{schema_text}: it is not a record of `edgekit bench`", hint=AGAIN)


def _converted(value: Any, kind: type[Kind]) -> Kind:
    """`value` as the dataclass `kind`. Raises RecordError for an unknown field or a number that is not finite."""
    for place in _infinite(value, "$"):
        raise RecordError(f"{place} is not a finite number", hint=AGAIN)
    value = _restored(value)
    try:
        converted = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise RecordError(str(error), hint=AGAIN) from None
    for place in _unknown(value, msgspec.to_builtins(converted), "$"):
        raise RecordError(f"{place} is not a field of {SCHEMA}", hint=AGAIN)
    return converted


def _restored(row: Any) -> Any:
    """A row with the values of `_NULLS` where its check has null. A malformed row is returned unchanged."""
    check = row.get("check") if isinstance(row, dict) else None
    if not isinstance(check, dict):
        return row
    agreement = check.get("agreement")
    copied = check | ({"agreement": dict(agreement)} if isinstance(agreement, dict) else {})
    for path, value in _NULLS.items():
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


def _unknown(raw: Any, parsed: Any, place: str) -> Iterator[str]:
    """The places of fields that `raw` has and the parsed value does not."""
    if isinstance(raw, dict) and isinstance(parsed, dict):
        for key, inner in raw.items():
            if key not in parsed:
                yield f"{place}.{key}"[:300]
            else:
                yield from _unknown(inner, parsed[key], f"{place}.{key}")
    elif isinstance(raw, list):
        for number, (inner, item) in enumerate(zip(raw, parsed)):
            yield from _unknown(inner, item, f"{place}[{number}]")


def _name(row: Any) -> str:
    """A name for a row that may be malformed."""
    if not isinstance(row, dict):
        return "not an object"
    parts = [row.get(key) for key in ("bundle", "variant", "test")]
    return " ".join(part for part in parts if isinstance(part, str)) or "without a name"


def _of_row(number: int, name: str, fault: str) -> RecordError:
    short = name if len(name) <= 120 else f"{name[:120]}…"
    return RecordError(f"row {number} ({short}): {fault}", hint=AGAIN)
