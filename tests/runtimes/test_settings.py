"""The type and the range of each setting: what no exporter writes is refused before a task sees it."""

from __future__ import annotations

from typing import Any

import pytest
import series_bundles
import small_bundles

from edgekit import registry
from edgekit.bundle.settings import check
from edgekit.errors import BundleError, UnsupportedError

TASKS = [task.name for task in registry.tasks()]
SERIES = {"features": ["a", "b"], "per": "step", "outputs": ["y"]}
CHAT = {"context_length": 64, "vocab_size": 300, "eos_ids": [2]}
IMAGE = {"output": "logits", "labels": ["a"], "image": [{"step": "rescale", "factor": 0.5}]}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_declares_its_settings(task: str) -> None:
    structs = registry.task(task).settings_structs()
    assert structs
    assert all(struct.__struct_config__.forbid_unknown_fields for struct in structs)
    with pytest.raises(BundleError, match="the setting 'made_up' is not one of"):
        check((task,), {"made_up": 1}, "")
    with pytest.raises(BundleError, match="missing required field"):
        check((task,), {}, "")


@pytest.mark.parametrize(
    ("task", "settings", "changes", "message"),
    [
        ("text-classification", "text", {"max_length": 0}, r"Expected `int` >= 1 - at `\$\.settings\.max_length`"),
        ("text-classification", "text", {"max_length": True}, "Expected `int"),
        ("text-classification", "text", {"max_length": 1 << 40}, "Expected `int` <= "),
        ("text-classification", "text", {"pad_id": -1}, "Expected `int` >= 0"),
        ("text-classification", "text", {"labels": []}, "Expected `array` of length >= 1"),
        ("text-classification", "text", {"labels": ["a", 1]}, r"at `\$\.settings\.labels\[1\]`"),
        ("text-classification", "text", {"problem": "mulri"}, "Invalid enum value 'mulri'"),
        ("text-classification", "text", {"inputs": ["input_ids", "input_ids"]}, "one or more different names"),
        ("text-classification", "text", {"inputs": ["ids"]}, "Invalid enum value 'ids'"),
        ("text-classification", "text", {"default_prompt": "q"}, "the default prompt 'q' is not among the prompts"),
        ("feature-extraction", "text", {"dense": [{"weight": 3}]}, r"settings\.dense\[0\]\.weight`"),
        ("feature-extraction", "text", {"dense": [{"weight": "w", "activation": "x"}]}, "Invalid enum value 'x'"),
        ("feature-extraction", "text", {"dimensions": 1.5}, "Expected `int"),
        ("feature-extraction", "text", {"normalize": 1}, "Expected `bool`, got `int`"),
        ("fill-mask", "text", {"mask_id": None}, "Expected `int`, got `null`"),
        ("time-series-regression", SERIES, {"features": ["a", "a"]}, "two features have one name"),
        ("time-series-regression", SERIES, {"normalize": {"mean": [0], "std": [1]}}, "`normalize` needs 2 means"),
        ("time-series-regression", SERIES, {"denormalize": {"mean": [0], "std": [0]}}, "Expected `float` >= 1e-30"),
        ("time-series-regression", SERIES, {"denormalize": {"mean": [0, 0], "std": [1, 1]}}, "needs 1 means"),
        ("time-series-regression", SERIES, {"rate": 0}, "Expected `float` >= 1e-09"),
        ("time-series-regression", SERIES, {"chunk_steps": 0}, "Expected `int` >= 1"),
        ("time-series-forecasting", SERIES, {"quantiles": [0.9, 0.1]}, "not rising"),
        ("time-series-forecasting", SERIES, {"quantiles": [0.0]}, "Expected `float` > 0"),
        ("time-series-forecasting", SERIES, {"horizon": 1 << 17, "outputs": ["a", "b"]}, "has 262144 numbers"),
        ("time-series-forecasting", SERIES, {"denormalize": {"mean": [0, 0], "std": [1, 1]}}, "needs 1 means"),
        ("anomaly-detection", SERIES, {"outputs": ["a", "b"]}, "2 anomaly scores per sample"),
        ("anomaly-detection", SERIES, {"threshold": "1"}, "Expected `float | null`, got `str`"),
        ("text-generation", CHAT, {"eos_ids": [-1]}, r"settings\.eos_ids\[0\]`"),
        ("text-generation", CHAT, {"generation": {"top_p": 2.0}}, "generation: top_p is 2.0"),
        ("text-generation", CHAT, {"generation": {"max_new_tokens": 0}}, "Expected `int` >= 1"),
        ("text-generation", CHAT, {"special_tokens": {"bos_token": 1}}, "Expected `str`, got `int`"),
        ("image-classification", IMAGE, {"image": [{"step": "turn"}]}, "image step 0 is 'turn'"),
    ],
)
def test_a_setting_out_of_its_range(task: str, settings: Any, changes: dict[str, Any], message: str) -> None:
    if settings == "text":
        settings = {"output": "out", **small_bundles.SETTINGS[task]}
    check((task,), settings, "")
    with pytest.raises(BundleError, match=message) as caught:
        check((task,), {**settings, **changes}, "export again")
    assert caught.value.exit_code == 6


def test_tasks_of_one_bundle_share_settings() -> None:
    both = {**small_bundles.SETTINGS["feature-extraction"], **small_bundles.SETTINGS["fill-mask"], "output": "out"}
    check(("feature-extraction", "fill-mask"), both, "")
    with pytest.raises(BundleError, match="the setting 'mask_"):
        check(("feature-extraction",), both, "")
    with pytest.raises(UnsupportedError, match="no task named 'fill'"):
        check(("fill",), both, "")


@pytest.mark.parametrize("head", series_bundles.SETTINGS)
def test_a_forecast_may_state_a_scale_for_each_result(head: str) -> None:
    scale = {"mean": [0.0] * 6, "std": [1.0] * 6}
    settings = {**SERIES, **series_bundles.SETTINGS[head], "denormalize": scale}
    if head == "forecast":
        check((series_bundles.TASKS[head],), settings, "")
    else:
        with pytest.raises(BundleError, match="`denormalize` needs"):
            check((series_bundles.TASKS[head],), settings, "")
