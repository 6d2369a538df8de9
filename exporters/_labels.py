"""Read a classifier's labels and kind of problem from its config.json. Knows no modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROBLEMS = {
    "single_label_classification": "single",
    "multi_label_classification": "multi",
    "regression": "regression",
}


def labels(config: Mapping[str, Any]) -> list[str]:
    """Labels by id; transformers' own default is two of them."""
    names = {int(key): str(label) for key, label in (config.get("id2label") or {}).items()}
    count = int(config.get("num_labels") or len(names) or 2)
    return [names.get(number, f"LABEL_{number}") for number in range(count)]


def problem(config: Mapping[str, Any]) -> str:
    """The config's `problem_type` as the classes head names it: single (the default), multi or regression."""
    return PROBLEMS.get(str(config.get("problem_type")), "single")
