"""What recurrent models are measured on: made series and the user's own, and which of the answers are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import registry
from edgekit.checks import goldens
from edgekit.errors import UnsupportedError, UsageError
from edgekit.quantize import recipes
from edgekit.runtimes.samples import series
from edgekit.runtimes.tasks._series import late

FEATURES = ["load", "sun"]
SCALE = {"mean": [10.0, -2.0], "std": [3.0, 0.5]}


def lengths(items: list[Any]) -> list[int]:
    return [len(item) for item in items]


def user(tmp_path: Path, text: str) -> list[Any]:
    file = tmp_path / "mine.csv"
    file.write_text(text, encoding="utf-8")
    return series.read(file, FEATURES)


def test_waves_are_of_the_models_size_and_the_same_everywhere() -> None:
    found = series.waves({"features": FEATURES, "normalize": SCALE})
    assert lengths(found) == [*series.SHORT, *[series.STEPS] * series.WAVES]
    assert len(series.SHORT) == goldens.COUNT
    again = series.waves({"features": FEATURES, "normalize": SCALE})
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))
    long = np.concatenate(found[-series.WAVES :])
    np.testing.assert_allclose(long.mean(0), SCALE["mean"], atol=0.3)
    np.testing.assert_allclose(long.std(0), SCALE["std"], rtol=0.2)


def test_waves_of_a_model_that_normalizes_nothing() -> None:
    long = series.waves({"features": FEATURES, "normalize": None})[-1]
    assert long.shape == (series.STEPS, 2)
    assert abs(long.mean()) < 0.2
    assert 0.7 < long.std() < 1.3


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    found = user(tmp_path, "time,sun,load\n0,1,5\n1,,6\n2,nan,7\n")
    np.testing.assert_array_equal(found[3][:4], [[5.0, 1.0], [6.0, np.nan], [7.0, np.nan], [5.0, 1.0]])
    assert lengths(found) == [*series.SHORT, series.STEPS]


def test_without_names_columns_are_the_features(tmp_path: Path) -> None:
    assert user(tmp_path, "1,2\n3,4\n")[1].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_an_empty_line_ends_a_series(tmp_path: Path) -> None:
    found = user(tmp_path, "load,sun\n1,1\n2,2\n\n\n8,8\n")
    assert (found[1].tolist(), found[2][0].tolist()) == ([[8.0, 8.0], [8.0, 8.0]], [1.0, 1.0])
    assert lengths(found)[-2:] == [series.STEPS, series.STEPS]


def test_a_long_file_is_cut_into_pieces_and_not_taken_whole(tmp_path: Path) -> None:
    found = user(tmp_path, "".join(f"{n},0\n" for n in range(20_500)))
    assert lengths(found) == [*series.SHORT, *[series.STEPS] * series.MOST]
    assert [item[0][0] for item in found[-2:]] == [14_000, 15_000]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("load,wind\n1,2\n", "the column 'sun' is not there"),
        ("1,2\n3\n", "line 2 has 1 cells"),
        ("1\n2\n", "line 1 has 1 cells"),
        ("load,sun\n1,2\n3,much\n", "line 3: 'much' in column 'sun' is not a number"),
        ("load,sun\n1,inf\n", "line 2: a number is infinite"),
        ("", "has no samples"),
        ("load,sun\n", "has no samples"),
        ('1,"2\n', "line 1 is not valid CSV"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        user(tmp_path, text)
    assert caught.value.hint


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        series.read(tmp_path / "nothing.csv", FEATURES)
    (tmp_path / "raw.csv").write_bytes(b"\xff\xfe1,2\n")
    with pytest.raises(UsageError, match="is not a CSV file"):
        series.read(tmp_path / "raw.csv", FEATURES)


def test_series_are_compared_where_errors_have_added_up() -> None:
    items = [[[0.0]] * 5, [[0.0]] * series.STEPS]
    answers = [np.zeros((5, 1)), np.arange(float(series.STEPS))[:, None]]
    assert [each[:, 0].tolist() for each in late(items, answers)] == [list(range(900, 1000))]
    ends = [np.ones((1, 1)), np.full((1, 1), 7.0)]
    assert [each.tolist() for each in late(items, ends)] == [[[7.0]]]


def test_all_is_compared_of_short_series() -> None:
    items, answers = [[[0.0]] * 5], [np.zeros((5, 1))]
    assert len(late(items, answers)[0]) == 5


def test_a_loss_counts_where_it_is_late() -> None:
    kind, items = registry.task("time-series-regression"), [[[0.0]] * 5, [[0.0]] * series.STEPS]
    reference = [np.ones((5, 1)), np.ones((series.STEPS, 1))]
    early = [np.zeros((5, 1)), np.ones((series.STEPS, 1))]
    assert kind.compare(reference, early, {}, items).loss == 0
    assert kind.compare(reference, early, {}).loss > 0


def test_a_built_model_has_its_own_usual_groups() -> None:
    usual = {"int8": None, "int4": 32}
    names = [
        recipes.recipe(precision, blocks=True, usual=usual, group_size=size).name
        for precision, size in (("int8", None), ("int8", 64), ("int4", None), ("int4", 16))
    ]
    assert names == ["int8-rtn", "int8-g64-rtn", "int4-g32-rtn", "int4-g16-rtn"]
    with pytest.raises(UnsupportedError, match="groups of 48"):
        recipes.recipe("int8", blocks=True, usual=usual, group_size=48)


@pytest.mark.parametrize("features", [1, 80, 257, 576, 40_000])
def test_short_series_of_many_features_are_shorter(features: int) -> None:
    """A bundle keeps them: so many numbers, and a row each, whatever their width."""
    names = [f"x{number}" for number in range(features)]
    lengths = series._shortened(len(names))
    assert len(lengths) == len(series.SHORT)
    assert (tuple(lengths) == series.SHORT) == (features <= 221)
    assert sum(lengths) * features <= max(series.NUMBERS, len(lengths) * features)
    assert min(lengths) >= 1
