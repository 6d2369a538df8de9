"""Read a classifier's labels and kind of problem from its config.json. Knows no modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.errors import BundleError

HINT = 'give each id from 0 on a name, in the order of the scores: {"0": "no", "1": "yes"}'
MOST = 1_000_000  # labels
PROBLEMS = {
    "single_label_classification": "single",
    "multi_label_classification": "multi",
    "regression": "regression",
}


def labels(config: Mapping[str, Any]) -> list[str]:
    """Labels by id; transformers' own default is two of them. A number for a name is written as text.

    Raises BundleError where ids are left out, or do not begin at 0: nobody can tell which score is whose.
    """
    stated = config.get("id2label") or {}
    try:
        names = {int(key): str(label) for key, label in stated.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise BundleError(f"config.json's id2label is {stated!r:.80}", hint=HINT) from error
    count = config.get("num_labels") or len(names) or 2
    if type(count) is not int or not 1 <= count <= MOST:
        raise BundleError(f"config.json's num_labels is {count!r:.80}", hint=f"a number from 1 to {MOST}")
    if names and sorted(names) != list(range(count)):
        ids = ", ".join(map(str, sorted(names)[:8]))
        raise BundleError(f"config.json's id2label names the ids {ids}; the model has 0 to {count - 1}", hint=HINT)
    return [names.get(number, f"LABEL_{number}") for number in range(count)]


def problem(config: Mapping[str, Any]) -> str:
    """The config's `problem_type` as the classes head names it: single (the default), multi or regression."""
    return PROBLEMS.get(str(config.get("problem_type")), "single")
