"""Labels as configs have them: right, or refused where nobody can tell which score is whose."""

from __future__ import annotations

from typing import Any

import pytest

from edgekit.errors import BundleError
from edgekit.exporters._labels import labels


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"id2label": {"0": "no", "1": "yes"}}, ["no", "yes"]),
        ({"id2label": {"1": "yes", "0": "no"}, "num_labels": 2}, ["no", "yes"]),
        ({"id2label": {"0": 5, "1": None}}, ["5", "None"]),
        ({"id2label": {"0": "a", "1": "a"}}, ["a", "a"]),
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({}, ["LABEL_0", "LABEL_1"]),
    ],
)
def test_labels_in_the_order_of_the_scores(config: dict[str, Any], names: list[str]) -> None:
    assert labels(config) == names


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"0": "a", "2": "c", "5": "f"}}, "names the ids 0, 2, 5; the model has 0 to 2"),
        ({"id2label": {"1": "a", "2": "b"}}, "names the ids 1, 2; the model has 0 to 1"),
        ({"id2label": {"0": "a"}, "num_labels": 3}, "names the ids 0; the model has 0 to 2"),
        ({"id2label": {"a": "b"}}, "id2label is {'a': 'b'}"),
        ({"id2label": ["a", "b"]}, r"id2label is \['a', 'b'\]"),
        ({"num_labels": "three"}, "num_labels is 'three'"),
        ({"num_labels": 10**9}, "num_labels is 1000000000"),
    ],
)
def test_labels_that_nobody_can_place(config: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        labels(config)
    assert caught.value.hint
